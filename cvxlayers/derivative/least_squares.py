"""The last resort: J element by element, by LU where it is regular after all, else by least squares of least norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, lsmr

from cvxlayers.derivative.operators import stack
from cvxlayers.derivative.system import System
from cvxlayers.program import Array

__all__ = ["LeastSquares", "solve"]

# Reciprocal condition number, of J scaled to rows and columns of size one, below which J counts as singular; and the
# singular values, relative to the largest, that count as zero.
_SINGULAR = 1e-12
# Up to this order J is decomposed; beyond, LSMR works with products alone.
_DENSE = 1500
_REFINEMENTS = 3


@dataclass(frozen=True)
class LeastSquares:
    """Solutions upper (n, B) and lower (m, B) of J z = r or J'z = r; the relative residual and whether J is singular.

    Where J is singular, z has the least norm among those that minimize |J z - r|: it is pinv(J) r, and pinv(J') is the
    transpose of pinv(J), so that forward and backward derivatives stay adjoint to each other.
    """

    upper: Array
    lower: Array
    residual: Array
    singular: NDArray[np.bool_]


def solve(system: System, upper: Array, lower: Array, transposed: bool) -> LeastSquares:
    """Solve J z = (upper, lower), or J'z, for every element of a (small) batch."""
    n = upper.shape[0]
    z = np.empty((n + lower.shape[0], system.batch))
    residual, singular = np.empty(system.batch), np.empty(system.batch, dtype=bool)
    right = np.concatenate([upper, lower])
    for i in range(system.batch):
        one = system.select(np.array([i]))
        z[:, i], residual[i], singular[i] = _solve_element(one, right[:, i], transposed)
    return LeastSquares(z[:n], z[n:], residual, singular)


def _solve_element(system: System, right: Array, transposed: bool) -> tuple[Array, float, bool]:
    if right.size > _DENSE:
        return _iterated(system, right, transposed)
    J = _matrix(system)
    if transposed:
        J = J.T
    if not (np.isfinite(J).all() and np.isfinite(right).all()):
        return np.full_like(right, np.nan), np.nan, True
    z = _regular(J, right)
    if z is not None:
        return z, _residual(J, z, right), False
    z = _least_norm(J, right)
    return z, _residual(J, z, right), True


def _matrix(system: System) -> Array:
    """J of a batch of one, (n + m, n + m)."""
    layout, structure = system.layout, system.layout.structure
    P = stack(layout.P, system.values.P[layout.source])[0]
    A = stack(structure.A, system.values.A)[0]
    D = np.diag(system.D.diagonal[:, 0])
    for rows, blocks in system.D.blocks:
        for k, indices in enumerate(rows):
            D[np.ix_(indices, indices)] = blocks[:, :, k, 0]
    return np.block([[P, A.T @ D], [A, D - np.eye(structure.m)]])


def _regular(J: Array, right: Array) -> Array | None:
    """J^-1 r by LU of the scaled matrix with refinement, or None where J is singular to working precision."""
    rows = np.abs(J).max(axis=1)
    if not rows.all():
        return None
    scaled = J / rows[:, None]
    columns = np.abs(scaled).max(axis=0)
    if not columns.all():
        return None
    scaled /= columns
    lu, pivots, info = lapack.dgetrf(scaled)
    if info or lapack.dgecon(lu, np.abs(scaled).sum(axis=0).max())[0] < _SINGULAR:
        return None
    z = np.zeros_like(right)
    for _ in range(_REFINEMENTS):
        z += lapack.dgetrs(lu, pivots, (right - J @ z) / rows)[0] / columns
    return z


def _least_norm(J: Array, right: Array) -> Array:
    """pinv(J) r."""
    U, sigma, Vt = np.linalg.svd(J)
    keep = sigma > _SINGULAR * sigma[0]
    return np.asarray(Vt[keep].T @ ((U[:, keep].T @ right) / sigma[keep]))


def _iterated(system: System, right: Array, transposed: bool) -> tuple[Array, float, bool]:
    """The least-norm solution by LSMR (Fong, Saunders 2011), for matrices too large to decompose."""
    n = system.layout.structure.n
    products = [_flat(system.times, n), _flat(system.transpose_times, n)]
    forward, backward = products[::-1] if transposed else products
    J = LinearOperator((right.size, right.size), matvec=forward, rmatvec=backward, dtype=np.float64)
    z = lsmr(J, right, atol=1e-14, btol=1e-14, conlim=1 / _SINGULAR, maxiter=10 * right.size)[0]
    rest = np.abs(right - forward(z)).max()
    return z, float(rest / max(np.abs(right).max(), np.finfo(float).tiny)), True


def _flat(product: Callable[[Array, Array], tuple[Array, Array]], n: int) -> Callable[[Array], Array]:
    return lambda z: np.concatenate(product(z[:n, None], z[n:, None]))[:, 0]


def _residual(J: Array, z: Array, right: Array) -> float:
    whole = np.abs(right).max() + (np.abs(J) @ np.abs(z)).max()
    return float(np.abs(right - J @ z).max() / whole) if whole else 0.0
