"""One element's system of the self-dual embedding: M of ``linearization``, its products, its dense and sparse factors.

What the solutions are measured with is diffcp's own derivative of the projection, D. The sparse matrix only makes
factors: it has this package's D, in which a wide second-order cone is diagonal but for two unknowns more (see
``conic_blocks``), and one unknown more for the border, so that it has few nonzeros where M has dense blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from diffcp import _diffcp
from diffcp import cones as diffcp_cones
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse.linalg import splu

from cvxlayers.cones import Cones, dual_derivative, from_scs_order, to_scs_order
from cvxlayers.derivative.factor.conic_blocks import ConicBlocks
from cvxlayers.program.once import once
from cvxlayers.program.structure import Array, Structure

__all__ = ["KINDS", "EmbeddingLayout", "Projection", "EmbeddingSystem"]

KINDS = frozenset({"zero", "nonneg", "second_order", "psd", "exponential"})
"""The kinds of cone that diffcp knows."""

SINGULAR = 1e-14
"""The reciprocal condition number below which the dense matrix counts as singular."""

SHIFT = 1e-13
"""What is added to the diagonal of the sparse matrix, relative to its largest entry: SuperLU of SciPy 1.17 hands BLAS
negative sizes after a pivot that is exactly zero."""

SINGULAR_SHIFTED = 1e-11
"""The smallest singular value, relative to the largest entry, below which the sparse matrix counts as singular. It is
estimated by one step of inverse iteration."""


@dataclass(frozen=True)
class EmbeddingLayout:
    """What depends on the structure alone: where the rows lie, and diffcp's cones.

    Rows before ``head`` are diffcp's; those of exponential cones follow. ``rows`` and ``back`` turn rows before
    ``head`` into diffcp's order and back. ``blocks`` says where the entries of D stand in the sparse matrix.
    """

    structure: Structure
    head: int
    rows: NDArray[np.intp]
    back: NDArray[np.intp]
    cones: list[Any]
    blocks: ConicBlocks

    @classmethod
    def of(cls, structure: Structure) -> EmbeddingLayout:
        K = structure.cones
        before = Cones(K.zero, K.nonneg, K.second_order, K.psd)
        named = {"z": before.zero, "l": before.nonneg, "q": list(before.second_order), "s": list(before.psd)}
        cones = diffcp_cones.parse_cone_dict_cpp(diffcp_cones.parse_cone_dict(named))
        return cls(structure, before.m, to_scs_order(before), from_scs_order(before), cones, ConicBlocks.of(K))

    @property
    def order(self) -> int:
        """The order of M."""
        return self.structure.n + self.structure.m + 1

    @property
    def filled(self) -> int:
        """How many nonzeros the sparse matrix has, at most."""
        return 2 * self.structure.A.nnz + self.blocks.rows.size + 4 * self.order

    def entries(self, v: Array) -> Array:
        """The entries of -D of which ``blocks`` says the places, (., B), for v (m, B)."""
        return np.concatenate(ConicBlocks.values(dual_derivative(self.structure.cones, v)))[self.blocks.source]

    def exponential_blocks(self, v: Array) -> Array:
        """D of each exponential cone, (3, 3, cones, B), for v (m, B)."""
        count = self.structure.cones.exponential
        if not count:
            return np.zeros((3, 3, 0, v.shape[1]))
        (_, blocks), *_ = dual_derivative(Cones(exponential=count), v[self.head :]).blocks
        return blocks


@dataclass(frozen=True)
class Projection:
    """D, the symmetric derivative of Proj_{K*}, for one element."""

    layout: EmbeddingLayout
    operator: Any
    point: Array
    blocks: Array

    @classmethod
    def at(cls, layout: EmbeddingLayout, v: Array, blocks: Array) -> Projection:
        point = np.ascontiguousarray(v[: layout.head][layout.rows])
        return cls(layout, _diffcp.dprojection(point, layout.cones, True), point, blocks)

    def times(self, w: Array) -> Array:
        """D w, (m,)."""
        head, out = self.layout.head, np.empty_like(w)
        out[:head] = self.operator.matvec(w[:head][self.layout.rows])[self.layout.back] if head else 0.0
        out[head:] = np.einsum("ijk,kj->ki", self.blocks, w[head:].reshape(-1, 3)).ravel()
        return out

    def dense(self) -> Array:
        """D, (m, m)."""
        head, back = self.layout.head, self.layout.back
        D = np.zeros((self.layout.structure.m,) * 2)
        if head:
            D[:head, :head] = _diffcp.dprojection_dense(self.point, self.layout.cones, True)[np.ix_(back, back)]
        for k in range(self.blocks.shape[2]):
            rows = slice(head + 3 * k, head + 3 * k + 3)
            D[rows, rows] = self.blocks[:, :, k]
        return D


@dataclass(frozen=True)
class EmbeddingSystem:
    """M + border for one element, with border = a Pi(z) z' / (|Pi(z)| |z|) and a the size of M.

    ``entries`` are those of ``Layout.entries``, where the sparse matrix is wanted.
    """

    A: sp.csc_array
    At: sp.csr_array
    b: Array
    c: Array
    x: Array
    y: Array
    v: Array
    D: Projection
    entries: Array | None

    @once
    def _border(self) -> tuple[Array, Array]:
        left, right = np.concatenate([self.x, self.y, [1.0]]), np.concatenate([self.x, self.v, [1.0]])
        norms = np.linalg.norm(left) * np.linalg.norm(right)
        squares = [2 * np.square(part).sum() for part in (self.A.data, self.b, self.c)]
        return left * (np.sqrt(np.sum(squares) / left.size) / norms), right

    def times(self, z: Array) -> Array:
        """(M + border) z, (n + m + 1,)."""
        n, (left, right) = self.x.size, self._border
        zx, zv, zw = z[:n], z[n:-1], z[-1]
        Dzv = self.D.times(zv)
        upper = self.At @ Dzv + self.c * zw
        lower = zv - Dzv - self.A @ zx + self.b * zw
        return np.concatenate([upper, lower, [-self.c @ zx - self.b @ Dzv]]) + left * (right @ z)

    def transpose_times(self, g: Array) -> Array:
        """(M + border)'g, (n + m + 1,)."""
        n, (left, right) = self.x.size, self._border
        gx, gv, gw = g[:n], g[n:-1], g[-1]
        upper = -(self.At @ gv) - self.c * gw
        lower = gv + self.D.times(self.A @ gx - gv - self.b * gw)
        return np.concatenate([upper, lower, [self.c @ gx + self.b @ gv]]) + right * (left @ g)

    @once
    def matrix(self) -> Array:
        n, D, (left, right) = self.x.size, self.D.dense(), self._border
        M = np.outer(left, right)
        M[:n, n:-1] += self.At @ D
        M[n:-1, :n] -= self.A.toarray()
        M[n:-1, n:-1] += np.eye(self.v.size) - D
        M[:n, -1] += self.c
        M[n:-1, -1] += self.b
        M[-1, :n] -= self.c
        M[-1, n:-1] -= D @ self.b
        return M

    @once
    def factor(self) -> tuple[Array, NDArray[np.int32], bool]:
        """The LU factors of the matrix, its pivots, and whether it is singular to working accuracy."""
        lu, pivots, info = lapack.dgetrf(self.matrix)
        reciprocal = 0.0 if info else lapack.dgecon(lu, np.abs(self.matrix).sum(axis=0).max())[0]
        return lu, pivots, not reciprocal > SINGULAR

    @once
    def expanded(self) -> sp.csc_array:
        """M + border with more unknowns, (du, dv, those of the blocks, dw, that of the border).

        With -D = -S - R E R' the elimination of the unknowns of [[-S, R], [R', E]] that come after v, this is, with
        K = [[I - S, R], [R', E]],

            [[0, A'[S, -R], c, l], [-[A; 0], K, [b; 0], l], [-c', -b'[S, -R], 0, l], [r', r', r', -1]].
        """
        blocks, n, m = self.D.layout.blocks, self.x.size, self.v.size
        size, (left, right) = m + blocks.extra, self._border
        below = np.zeros(blocks.extra)
        minus_D = sp.csr_array((self.entries, (blocks.rows, blocks.columns)), shape=(size, size))
        K = minus_D + sp.diags_array(np.concatenate([np.ones(m), below]))
        D = -minus_D[:m]
        rows = [
            [None, self.At @ D, _column(self.c), _column(left[:n])],
            [-sp.vstack([self.A, sp.csr_array((below.size, n))]), K,
             _column(self.b, below), _column(left[n:-1], below)],
            [_column(-self.c).T, _column(-(D.T @ self.b)).T, None, _column(left[-1:])],
            [_column(right[:n]).T, _column(right[n:-1], below).T, _column(right[-1:]), _column(-np.ones(1))],
        ]  # fmt: skip
        return sp.csc_array(sp.block_array(rows, format="csc"))

    @once
    def sparse(self) -> SparseFactor | None:
        """The factors of the expanded matrix, or None where it is nearly singular or not finite."""
        matrix = self.expanded
        size = np.abs(matrix.data).max()
        if not np.isfinite(size):
            return None
        matrix = sp.csc_array(matrix + SHIFT * size * sp.eye_array(matrix.shape[0]))
        try:
            factors = splu(matrix)
        except RuntimeError:  # "Factor is exactly singular"
            return None
        along = factors.solve(np.random.default_rng(0).standard_normal(matrix.shape[0]))
        smallest = np.linalg.norm(along) / np.linalg.norm(factors.solve(along, "T"))
        if not smallest > SINGULAR_SHIFTED * size:
            return None
        return SparseFactor(factors, self.D.layout.blocks.extra)


@dataclass(frozen=True)
class SparseFactor:
    """SuperLU's factors of ``System.expanded``, and how many unknowns it has between those of v and w."""

    factors: Any
    extra: int

    def solve(self, right: Array, transposed: bool) -> Array:
        """(M + border)^-1 right, or the transpose's."""
        right = np.concatenate([right[:-1], np.zeros(self.extra), right[-1:], [0.0]])
        z = self.factors.solve(right, "T" if transposed else "N")
        return np.concatenate([z[: z.size - self.extra - 2], z[-2:-1]])


def _column(*parts: Array) -> sp.csc_array:
    return sp.csc_array(np.concatenate(parts)[:, None])
