"""The last resort where refinement does not help: LU or, for singular systems, least squares of least norm.

With E = D^(1/2), which commutes with D, and rho = E dv, the system J (dx, dv) = (f, g) becomes symmetric:

    K (dx, rho) = (f, E g),    K = [[P, A'E], [E A, D - I]],    dy = D dv = E rho,    dv = A dx - g + dy.

The kernel of K has the directions dx that nothing fixes (P dx = 0, D A dx = 0) and the multipliers that constraints
share (D dv = dv, A'dv = 0), and no slacks, as J's would. Where there is a kernel, norms and residuals are measured in
the scales S of the system's units: S pinv(S K S) S takes the place of the inverse of K. It is symmetric, so that both
directions of the derivative, which apply it, are each other's adjoints even there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, lsmr

from cvxlayers.cones.projection import DualDerivative
from cvxlayers.derivative.operators import stack
from cvxlayers.derivative.system import System
from cvxlayers.program import Array

__all__ = ["DENSE", "LeastSquares", "solve"]

DENSE = 1500
"""Up to this order K is decomposed; beyond, LSMR works with products alone."""

# Reciprocal condition number of S K S below which K counts as singular, and its eigenvalues, relative to the largest,
# that count as zero.
_SINGULAR = 1e-12
_REFINEMENTS = 3
# Iterations of LSMR for each unknown, and at most.
_ITERATIONS, _MOST_ITERATIONS = 10, 10_000


@dataclass(frozen=True)
class LeastSquares:
    """dx (n, B) and dy = D dv (m, B), and the relative residual of the scaled system, (B,).

    Where K is singular, (dx, rho) has the least norm among those of least residual, both in the scales S.
    """

    dx: Array
    dy: Array
    residual: Array


def solve(system: System, f: Array, g: Array) -> LeastSquares:
    """Solve J (dx, dv) = (f, g) as well as it can be solved, for every element of a (small) batch."""
    dx, dy, residual = np.empty_like(f), np.empty_like(g), np.empty(system.batch)
    for i in range(system.batch):
        one = system.select(np.array([i]))
        columns, rows = one.units
        scale = np.concatenate([np.broadcast_to(columns[:, 0], f.shape[0]), np.broadcast_to(rows[:, 0], g.shape[0])])
        right = scale * np.concatenate([f[:, i : i + 1], one.root.matvec(g[:, i : i + 1])])[:, 0]
        z, residual[i] = _solve_element(one, scale, right)
        z *= scale
        dx[:, i] = z[: f.shape[0]]
        dy[:, i] = one.root.matvec(z[f.shape[0] :, None])[:, 0]
    return LeastSquares(dx, dy, residual)


def _solve_element(system: System, scale: Array, right: Array) -> tuple[Array, float]:
    """The solution of the scaled system, and its relative residual."""
    if right.size > DENSE:
        return _iterated(system, scale, right)
    K = scale[:, None] * _matrix(system) * scale
    if not (np.isfinite(K).all() and np.isfinite(right).all()):
        return np.full_like(right, np.nan), np.nan
    z = _regular(K, right)
    if z is None:
        z = _least_norm(K, right)
    whole = np.abs(right).max(initial=0.0) + (np.abs(K) @ np.abs(z)).max(initial=0.0)
    return z, float(np.abs(right - K @ z).max(initial=0.0) / whole) if whole else 0.0


def _matrix(system: System) -> Array:
    """K of a batch of one, (n + m, n + m)."""
    layout, structure = system.layout, system.layout.structure
    P = stack(layout.P, system.values.P[layout.source])[0]
    EA = _dense(system.root) @ stack(structure.A, system.values.A)[0]
    return np.block([[P, EA.T], [EA, _dense(system.D) - np.eye(structure.m)]])


def _dense(D: DualDerivative) -> Array:
    matrix = np.diag(D.diagonal[:, 0])
    for rows, blocks in D.blocks:
        for k, indices in enumerate(rows):
            matrix[np.ix_(indices, indices)] = blocks[:, :, k, 0]
    return matrix


def _regular(K: Array, right: Array) -> Array | None:
    """K^-1 r by LU with refinement, or None where K is singular to working precision."""
    lu, pivots, info = lapack.dgetrf(K)
    if info or lapack.dgecon(lu, np.abs(K).sum(axis=0).max())[0] < _SINGULAR:
        return None
    z = np.zeros_like(right)
    for _ in range(_REFINEMENTS):
        z += lapack.dgetrs(lu, pivots, right - K @ z)[0]
    return z


def _least_norm(K: Array, right: Array) -> Array:
    """pinv(K) r."""
    values, vectors = np.linalg.eigh(K)
    keep = np.abs(values) > _SINGULAR * np.abs(values).max()
    kept = vectors[:, keep]
    return np.asarray(kept @ ((kept.T @ right) / values[keep]))


def _iterated(system: System, scale: Array, right: Array) -> tuple[Array, float]:
    """The least-norm solution by LSMR (Fong, Saunders 2011), for matrices too large to decompose."""
    n = system.layout.structure.n

    def product(z: Array) -> Array:
        z = scale * z
        dx, rho = z[:n].reshape(-1, 1), z[n:].reshape(-1, 1)
        upper = system.P.times(dx) + system.A.transpose_times(system.root.matvec(rho))
        lower = system.root.matvec(system.A.times(dx)) + system.D.matvec(rho) - rho
        return scale * np.concatenate([upper, lower])[:, 0]

    K = LinearOperator((right.size, right.size), matvec=product, rmatvec=product, dtype=np.float64)
    steps = min(_ITERATIONS * right.size, _MOST_ITERATIONS)
    z = lsmr(K, right, atol=1e-14, btol=1e-14, conlim=1 / _SINGULAR, maxiter=steps)[0]
    rest, whole = np.abs(right - product(z)).max(), np.abs(right).max() + np.abs(z).max()
    return z, float(rest / whole) if whole else 0.0
