"""The symmetric quasi-definite form of M, which the sparse paths factorize: its pattern and its values.

With u = D dv and C nearly W^-1, but defined where D is singular,

    [[P + delta I, A'], [A, -C]] (dx, u) = (f, g),    dv = A dx - g + (I - eps) u.

Rows on which D is zero have u = 0, and are not coupled to the others; -C may be written with additional unknowns (see
``conic_blocks``).

The matrix is quasi-definite: it has triangular factors L diag(d) L' for every order of its rows (Vanderbei 1995), so
that one fill-reducing order serves all elements, and no pivoting is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from cvxlayers.derivative.factor.conic_blocks import ConicBlocks
from cvxlayers.derivative.factor.symbolic import structures
from cvxlayers.derivative.system.system import System, SystemLayout
from cvxlayers.program.structure import Array

__all__ = ["SUPERLU", "QuasiDefinite"]

Index = NDArray[np.intp]

SUPERLU = {"diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
"""SuperLU without pivoting."""


@dataclass(frozen=True)
class QuasiDefinite:
    """The nonzeros of the matrix, by column, rows and columns in the fill-reducing order.

    Attributes
    ----------
    indptr, indices : compressed columns
    source : (nnz,) int
        Where each value stands in the list that ``values`` makes.
    order : (n + m + .,) int
        The unknown, of (dx, u, additional ones), at each place.
    fill : int
        The number of nonzeros of both factors.
    """

    layout: SystemLayout
    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    source: Index
    order: Index
    fill: int

    @classmethod
    def of(cls, layout: SystemLayout) -> QuasiDefinite:
        rows, columns, source, size = _entries(layout)
        order, fill = _fill_reducing(rows, columns, size)
        place = np.empty(size, dtype=np.intp)
        place[order] = np.arange(size)
        rows, columns = place[rows], place[columns]
        sort = np.lexsort((rows, columns))
        indptr = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=size))]).astype(np.int32)
        return cls(layout, indptr, rows[sort].astype(np.int32), source[sort], order, fill)

    @property
    def columns(self) -> Index:
        """The column of each nonzero."""
        return np.repeat(np.arange(self.order.size), np.diff(self.indptr))

    def structures(self) -> list[Index]:
        """The rows below the diagonal in each column of the factor."""
        lower = self.indices >= self.columns
        return structures(self.indices[lower].astype(np.intp), self.columns[lower], self.order.size)

    def values(self, system: System) -> Array:
        """The list of which ``source`` speaks: P (both triangles), A, -C, and delta plus the diagonal of P; (., B)."""
        layout, (P, A) = self.layout, system.entries
        diagonal = np.full((layout.structure.n, system.batch), system.delta)
        on = np.flatnonzero(layout.P.rows == layout.P.columns)
        diagonal[layout.P.rows[on]] += P[on]
        if system.idle.any():
            A = A * ~system.idle[layout.structure.A.rows]
        return np.concatenate([diagonal, P, A, *ConicBlocks.values(system.C)])

    def right(self, system: System, f: Array, g: Array) -> Array:
        """The right-hand side (f, g, 0) in the fill-reducing order, (order, B)."""
        extra = np.zeros((self.order.size - f.shape[0] - g.shape[0], f.shape[1]))
        return np.concatenate([f, g * ~system.idle, extra])[self.order]

    def solution(self, system: System, z: Array, g: Array) -> tuple[Array, Array]:
        """dx and dv of a solution in the fill-reducing order."""
        solved = np.empty_like(z)
        solved[self.order] = z
        return self.split(system, solved, g)

    @staticmethod
    def split(system: System, z: Array, g: Array) -> tuple[Array, Array]:
        """dx and dv of a solution (dx, u, more unknowns)."""
        n, m = system.layout.structure.n, g.shape[0]
        dx, u = z[:n], z[n : n + m]
        return dx, system.A.times(dx) - g + (1.0 - system.delta) * u


def _entries(layout: SystemLayout) -> tuple[Index, Index, Index, int]:
    """Rows, columns and sources of the nonzeros, in the order of (dx, u, additional unknowns), and its length."""
    structure = layout.structure
    n, A, P = structure.n, structure.A, layout.P
    blocks = ConicBlocks.of(structure.cones)
    x, off, in_A = np.arange(n), np.flatnonzero(P.rows != P.columns), n + P.nnz + np.arange(A.nnz)
    return (
        np.concatenate([x, P.rows[off], n + A.rows, A.columns, n + blocks.rows]),
        np.concatenate([x, P.columns[off], A.columns, n + A.rows, n + blocks.columns]),
        np.concatenate([x, n + off, in_A, in_A, n + P.nnz + A.nnz + blocks.source]),
        n + structure.m + blocks.extra,
    )


def _fill_reducing(rows: Index, columns: Index, size: int) -> tuple[Index, int]:
    """SuperLU's minimum degree order, and the fill under it, for a dominant matrix of this pattern."""
    dominant = np.where(rows != columns, 1.0, 1.0 + 2.0 * rows.size)
    matrix = sp.csc_array((dominant, (rows, columns)), shape=(size, size))
    factors = splu(matrix, permc_spec="MMD_AT_PLUS_A", **SUPERLU)
    order = np.empty(size, dtype=np.intp)
    order[factors.perm_c] = np.arange(size)
    return order, int(factors.nnz)
