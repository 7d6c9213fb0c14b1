"""The cone K = K* of positive semidefinite matrices of order k, packed as in ``svec``: d = k (k + 1) / 2.

All functions work on v (d, L), one matrix for each lane. With the eigenvalues l and eigenvectors Q of v's matrix V,

    Proj_K(V) = Q diag(max(l, 0)) Q'        (Higham 1988),
    D[W] = Q (Omega o (Q' W Q)) Q',   Omega_ij = (max(l_i, 0) - max(l_j, 0)) / (l_i - l_j)     (Malick, Sendov 2006),

where o is the product by entries. Omega_ij is 1 for two positive and 0 for two negative eigenvalues, equal or not, and
the quotient has no cancellation for eigenvalues of opposite signs, so that repeated eigenvalues need no care.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.cones import smooth, svec
from cvxlayers.cones.arrays import Array, Flags, Index, largest
from cvxlayers.cones.blocks import BlockDerivative, Function
from cvxlayers.cones.kind import Kind, svec_length
from cvxlayers.cones.pieces import CLEAR, Piece

__all__ = [
    "KIND",
    "ROW_ORDERS",
    "PsdDerivative",
    "depth",
    "distance",
    "dual_distance",
    "enlarged",
    "exposed",
    "linearize_dual",
    "project",
    "project_dual",
    "recession",
]

KIND = Kind(
    "psd", "positive semidefinite", "order", rows=svec_length, degree=int,
    nonnegative=lambda d: np.cumsum(np.arange(1, svec.svec_order(d) + 1)) - 1,
    spectrum=lambda d: svec.svec_order(d) ** 2 + d,
)  # fmt: skip


@dataclass(frozen=True)
class PsdDerivative(BlockDerivative):
    """D, stored as the eigenvectors Q (L, k, k) and the weights Omega (L, k, k): products cost k^3, not k^4."""

    Q: Array
    Omega: Array
    gap: Array

    def times(self, w: Array) -> Array:
        W = _stack(svec.unpack(w))
        Qt = self.Q.swapaxes(1, 2)
        return _packed(self.Q @ (self.Omega * (Qt @ W @ self.Q)) @ Qt)

    def dense(self) -> Array:
        # D = U diag(Omega) U', where the columns of U are the packed q_i q_i' and (q_i q_j' + q_j q_i') / sqrt(2).
        rows, columns, factors = svec.triangle(self.Q.shape[1])
        left, right = self.Q[:, rows][:, :, rows], self.Q[:, columns][:, :, columns]
        mixed = self.Q[:, rows][:, :, columns] * self.Q[:, columns][:, :, rows]
        scale = 0.5 * factors[:, None] * np.where(rows == columns, 1.0, np.sqrt(2.0))
        U = (left * right + mixed) * scale
        half = U * np.sqrt(self.Omega[:, rows, columns])[:, None, :]
        D = half @ half.swapaxes(1, 2)
        return np.ascontiguousarray(np.moveaxis(0.5 * (D + D.swapaxes(1, 2)), 0, -1))

    def map(self, function: Function, numbers: Array) -> PsdDerivative:
        return replace(self, Omega=function(self.Omega, numbers[:, None, None]))

    def vanishes(self) -> Flags:
        return np.asarray((self.Omega == 0).all(axis=(1, 2)))

    def smoothed(self, v: Array, mu: float) -> PsdDerivative:
        values = self._eigenvalues(v)
        return replace(self, Omega=smooth.divided_difference(values[:, :, None], values[:, None, :], mu))

    def smoothed_projection(self, v: Array, mu: float) -> Array:
        values = smooth.phi(self._eigenvalues(v), mu)
        return _packed((self.Q * values[:, None, :]) @ self.Q.swapaxes(1, 2))

    def spectrum(self) -> Array:
        lanes, order, _ = self.Q.shape
        rows, columns, _ = svec.triangle(order)
        return np.concatenate([self.Q.reshape(lanes, order**2), self.Omega[:, rows, columns]], axis=1).T

    def _eigenvalues(self, v: Array) -> Array:
        """The eigenvalues (L, k) of the matrices packed in v (d, L), for the eigenvectors Q."""
        return np.asarray(np.einsum("lik,lij,ljk->lk", self.Q, _stack(svec.unpack(v)), self.Q, optimize=True))


def project(v: Array) -> Array:
    """Proj_K(v), (d, L)."""
    values, Q = _eigen(v)
    return _packed((Q * np.maximum(values, 0.0)[:, None, :]) @ Q.swapaxes(1, 2))


def project_dual(v: Array) -> Array:
    """Proj_{K*}(v) = Proj_K(v): the cone is its own dual."""
    return project(v)


def linearize_dual(v: Array) -> PsdDerivative:
    """The derivative of Proj_{K*} at v, as its eigenvectors and weights.

    Where eigenvalues are exactly zero, Omega is 1/2 between two of them: the mean of the limits from the two sides.
    """
    values, Q = _eigen(v)
    high = np.maximum(values, 0.0)
    size = np.abs(values)
    total = size[:, :, None] + size[:, None, :]
    # For signs that differ, |l_i - l_j| = |l_i| + |l_j|; for equal signs the same quotient gives 1 or 0.
    Omega = (high[:, :, None] + high[:, None, :]) / np.where(total == 0, 1.0, total)
    Omega[total == 0] = 0.5
    return PsdDerivative(Q, Omega, size.min(axis=1))


def distance(s: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    values, Q = _eigen(s)
    return largest(_packed((Q * np.minimum(values, 0.0)[:, None, :]) @ Q.swapaxes(1, 2)))


def dual_distance(y: Array) -> Array:
    """How far y is from K* = K."""
    return distance(y)


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``."""
    return [piece], svec.pack(np.eye(piece.data)) @ piece.map


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K: the matrices that are semidefinite on the kernel of Z."""
    sizes, vectors = np.linalg.eigh(svec.unpack(z))
    return _compressed(piece, vectors[:, sizes <= CLEAR * sizes.max()])


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp: SU = 0 for the range U of Y."""
    sizes, vectors = np.linalg.eigh(svec.unpack(y))
    inside = sizes > CLEAR
    if not inside.any():
        return [piece]
    basis = svec.unpack(np.eye(piece.map.shape[0]))
    zeros = np.einsum("ia,ijd->ajd", vectors[:, inside], basis).reshape(-1, basis.shape[2])
    return [Piece("zero", zeros.shape[0], zeros @ piece.map), *_compressed(piece, vectors[:, ~inside])]


def depth(v: Array) -> float:
    """How far v (d,) is inside: the least eigenvalue."""
    return float(np.linalg.eigvalsh(svec.unpack(v)).min(initial=np.inf))


def _compressed(piece: Piece, V: Array) -> list[Piece]:
    """V'SV positive semidefinite."""
    order = V.shape[1]
    if not order:
        return []
    rows = svec.pack(np.einsum("ia,ijd,jb->abd", V, svec.unpack(np.eye(piece.map.shape[0])), V)) @ piece.map
    return [Piece("nonneg" if order == 1 else "psd", order, rows)]


def _scs_order(order: int) -> Index:
    """SCS and diffcp pack the lower triangle column by column."""
    rows, columns, _ = svec.triangle(order)
    return np.lexsort((columns, rows))


ROW_ORDERS = {"SCS": _scs_order}
"""For solvers with another order: which of our rows, by number, stands in each of theirs."""


def _eigen(v: Array) -> tuple[Array, Array]:
    """Eigenvalues (L, k) and eigenvectors (L, k, k); the eigenvalues are NaN in lanes that are not finite."""
    finite = np.isfinite(v).all(axis=0)
    if finite.all():
        values, Q = np.linalg.eigh(_stack(svec.unpack(v)))
        return values, Q
    values, Q = np.linalg.eigh(_stack(svec.unpack(np.where(finite, v, 0.0))))
    values[~finite] = np.nan
    return values, Q


def _stack(X: Array) -> Array:
    """(k, k, L) to (L, k, k), contiguous for LAPACK."""
    return np.ascontiguousarray(np.moveaxis(X, -1, 0))


def _packed(X: Array) -> Array:
    """The vectors (d, L) of a stack of matrices (L, k, k)."""
    return svec.pack(np.moveaxis(X, 0, -1))
