"""Answers to full precision: closed forms, and Newton's method on the optimality conditions.

Each maps (data, weights w) to the solutions x and the gradients of the sum of w times x, elements along the first axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

__all__ = ["RIDGE", "Answer", "Array", "Ellipsoids", "Semidefinite", "project", "regress"]

Array = NDArray[np.float64]
Answer = tuple[tuple[Array, ...], tuple[Array, ...]]

RIDGE = 0.05
"""The weight of the squared norm in ``regress``."""


def project(data: tuple[Array, ...], weights: tuple[Array, ...]) -> Answer:
    """The projection of c onto the probability simplex.

    >>> project((np.array([[0.9, 0.5, -1.0]]),), (np.array([[1.0, 0.0, 0.0]]),))
    ((array([[0.7, 0.3, 0. ]]),), (array([[ 0.5, -0.5, -0. ]]),))
    """
    # x = max(c - tau, 0), with tau such that the sum is 1 (Held, Wolfe, Crowder 1974); on the support S the
    # derivative is I - 11'/|S|, elsewhere it is zero.
    (c,), (w,) = data, weights
    falling = -np.sort(-c, axis=1)
    excess = np.cumsum(falling, axis=1) - 1
    size = (falling * np.arange(1, c.shape[1] + 1) > excess).sum(axis=1, keepdims=True)
    x = np.maximum(c - np.take_along_axis(excess, size - 1, axis=1) / size, 0)
    on = x > 0
    return (x,), (on * (w - (on * w).sum(axis=1, keepdims=True) / size),)


def regress(data: tuple[Array, ...], weights: tuple[Array, ...], rounds: int = 50) -> Answer:
    """Logistic regression: the minimum of f(x) = sum_i log(1 + exp(-a_i'x)) / m + RIDGE x'x, for the rows a_i of A."""
    # Newton's method: f is smooth and strongly convex. With p_i = 1 / (1 + exp(a_i'x)): f' = 2 RIDGE x - A'p / m,
    # H = A' diag(p (1 - p)) A / m + 2 RIDGE I. Implicit differentiation of f' = 0: for r = H^-1 w, the gradient of
    # w'x in A is (p r' - p (1 - p) (A r) x') / m.
    (A,), (w,) = data, weights
    m, n = A.shape[1:]
    x = np.zeros(w.shape)
    for _ in range(rounds):
        p = 1 / (1 + np.exp(np.einsum("bij,bj->bi", A, x)))
        slope = 2 * RIDGE * x - np.einsum("bij,bi->bj", A, p) / m
        H = np.einsum("bij,bi,bik->bjk", A, p * (1 - p), A) / m + 2 * RIDGE * np.eye(n)
        x = x - np.linalg.solve(H, slope[..., None])[..., 0]
    r = np.linalg.solve(H, w[..., None])[..., 0]
    curved = p * (1 - p) * np.einsum("bij,bj->bi", A, r)
    return (x,), ((p[..., None] * r[:, None, :] - curved[..., None] * x[:, None, :]) / m,)


@dataclass(frozen=True)
class Ellipsoids:
    """The minimum of q'x subject to |F_i x + g_i| <= 1: Newton's method from Clarabel's point.

    Parameters
    ----------
    problem : cvxpy.Problem
        That problem.
    parameters : (q, F_1, ..., g_1, ...)
    x : cvxpy.Variable
    """

    # With u_i = F_i x + g_i, for the active i: q + sum_i lam_i F_i'u_i = 0, (u_i'u_i - 1) / 2 = 0, and lam_i > 0. The
    # Jacobian J in (x, lam) is symmetric. With J r = (w, 0): d(w'x) = -r'dF, where
    # dF = (dq + sum_i lam_i (dF_i'u_i + F_i'(dF_i x + dg_i)), u_i'(dF_i x + dg_i)).

    problem: cp.Problem
    parameters: tuple[cp.Parameter, ...]
    x: cp.Variable

    def __call__(self, data: tuple[Array, ...], weights: tuple[Array, ...]) -> Answer:
        """Solve element by element."""
        rows = [self._element(values, w) for *values, w in zip(*data, *weights, strict=True)]
        x, *gradients = (np.stack(column) for column in zip(*rows, strict=True))
        return (x,), tuple(gradients)

    def _element(self, values: list[Array], w: Array, rounds: int = 12) -> tuple[Array, ...]:
        q, count, n = values[0], len(values) // 2, w.size
        x, found = _clarabel(self.problem, self.parameters, values, self.x)
        duals = np.array([float(dual) for dual in found])
        active = np.flatnonzero(duals > 1e-5 * duals.max())
        all_F, all_g = np.stack(values[1 : count + 1]), np.stack(values[count + 1 :])
        F, g, lam = all_F[active], all_g[active], duals[active]
        for _ in range(rounds):
            u = F @ x + g
            G = np.einsum("ijk,ij->ik", F, u)
            J = np.block([[np.einsum("i,ijk,ijl->kl", lam, F, F), G.T], [G, np.zeros((lam.size, lam.size))]])
            step = np.linalg.solve(J, np.concatenate([q + G.T @ lam, ((u * u).sum(axis=1) - 1) / 2]))
            x, lam = x - step[:n], lam - step[n:]
        inside = np.linalg.norm(all_F @ x + all_g, axis=1) < 1 + 1e-9
        _converged(step, bool(lam.min() > 0 and inside.all()))
        r = np.linalg.solve(J, np.append(w, np.zeros(lam.size)))
        rx, rl = r[:n], r[n:]
        dg, dF = np.zeros((count, n)), np.zeros((count, n, n))
        dg[active] = -(lam[:, None] * (F @ rx) + rl[:, None] * u)
        dF[active] = np.einsum("ij,k->ijk", dg[active], x) - np.einsum("i,ij,k->ijk", lam, u, rx)
        return x, -rx, *dF, *dg


@dataclass(frozen=True)
class Semidefinite:
    """The minimum of tr(C X) subject to tr(A_i X) = b_i, X >> 0: Newton's method from Clarabel's point.

    Parameters
    ----------
    problem : cvxpy.Problem
        That problem, its last constraint X >> 0.
    parameters : (C, b)
    X : cvxpy.Variable
    A : (equations, k, k) array
        Symmetric.
    """

    # Optimality: tr(A_i X) = b_i, sum_i y_i A_i + S = (C + C')/2, (XS + SX)/2 = 0. At a nondegenerate, strictly
    # complementary solution the Jacobian of these equations is regular (Alizadeh, Haeberly, Overton 1998), so Newton
    # converges quadratically, and the adjoint of the Jacobian gives the gradient: F(z) - (b, C, 0) = 0 has
    # d(w'X) = r'(db, dC, 0) with J'r = (w, 0, 0). Symmetric matrices are written in an orthonormal basis E.

    problem: cp.Problem
    parameters: tuple[cp.Parameter, cp.Parameter]
    X: cp.Variable
    A: Array

    def __call__(self, data: tuple[Array, ...], weights: tuple[Array, ...]) -> Answer:
        """Solve element by element."""
        rows = [self._element(C, b, W) for C, b, W in zip(*data, *weights, strict=True)]
        X, dC, db = (np.stack(column) for column in zip(*rows, strict=True))
        return (X,), (dC, db)

    def _element(self, C: Array, b: Array, W: Array, rounds: int = 12) -> tuple[Array, Array, Array]:
        E = _basis(len(C))
        A = np.einsum("ijk,ejk->ie", self.A, E)
        p, n = A.shape
        c, w = np.einsum("jk,ejk->e", C, E), np.einsum("jk,ejk->e", W, E)
        X, duals = _clarabel(self.problem, self.parameters, (C, b), self.X)
        x, s = (np.einsum("jk,ejk->e", matrix, E) for matrix in (X, duals[-1]))
        y = np.linalg.lstsq(A.T, c - s, rcond=None)[0]
        for _ in range(rounds):
            by_x, by_s = _multiplication(x, E), _multiplication(s, E)
            J = np.block([
                [A, np.zeros((p, p)), np.zeros((p, n))],
                [np.zeros((n, n)), A.T, np.eye(n)],
                [by_s, np.zeros((n, p)), by_x],
            ])  # fmt: skip
            step = np.linalg.solve(J, np.concatenate([A @ x - b, A.T @ y + s - c, by_x @ s]))
            x, y, s = x - step[:n], y - step[n : n + p], s - step[n + p :]
        _converged(step, all(np.linalg.eigvalsh(np.einsum("e,ejk->jk", v, E))[0] > -1e-9 for v in (x, s)))
        r = np.linalg.solve(J.T, np.concatenate([w, np.zeros(p + n)]))
        return np.einsum("e,ejk->jk", x, E), np.einsum("e,ejk->jk", r[p : p + n], E), r[:p]


def _clarabel(
    problem: cp.Problem, parameters: tuple[cp.Parameter, ...], values: Sequence[Array], variable: cp.Variable
) -> tuple[Array, list[Any]]:
    """A point to start from, and the dual variables of the constraints."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    problem.solve(cp.CLARABEL, warm_start=False)
    return variable.value, [constraint.dual_value for constraint in problem.constraints]


def _converged(step: Array, feasible: bool) -> None:
    """Refuse a point of Newton's method whose last step was not small, or which broke an inequality."""
    if not (np.abs(step).max() <= 1e-9 and feasible):
        raise RuntimeError(
            f"No reference: Newton's method has not converged (last step {np.abs(step).max():.0e}, "
            f"inequalities {'kept' if feasible else 'broken'})."
        )


def _basis(k: int) -> Array:
    """An orthonormal basis of the symmetric (k, k) matrices."""
    i, j = np.triu_indices(k)
    E = np.zeros((i.size, k, k))
    each = np.arange(i.size)
    E[each, i, j] = E[each, j, i] = np.where(i == j, 1.0, np.sqrt(0.5))
    return E


def _multiplication(v: Array, E: Array) -> Array:
    """The matrix of S -> (VS + SV)/2 in the basis."""
    V = np.einsum("e,ejk->jk", v, E)
    return np.einsum("jl,flk,ejk->ef", V, E, E, optimize=True)
