"""Linear and quadratic programs of the table: linear equalities and inequalities only."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from tests.contracts.case import Built, Case, Sample

__all__ = ["CASES"]


def _lp() -> Built:
    x, A, b, c = cp.Variable(4), cp.Parameter((8, 4)), cp.Parameter(8), cp.Parameter(4)
    return Built(cp.Problem(cp.Minimize(c @ x), [A @ x <= b]), [A, b, c], [x])


def _lp_sample(rng: np.random.Generator) -> Sample:
    """A vertex with as many active rows as variables, and all multipliers and slacks away from zero."""
    A, x = rng.normal(size=(8, 4)), rng.normal(size=4)
    slack = np.concatenate([np.zeros(4), rng.uniform(0.5, 2.0, 4)])
    return A, A @ x + slack, -A[:4].T @ rng.uniform(0.5, 2.0, 4)


def _lp_solution(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> Sample:
    return (np.linalg.solve(A[:4], b[:4]),)


def _qp() -> Built:
    x = cp.Variable(5)
    S, q = cp.Parameter((5, 5)), cp.Parameter(5)
    G, h, E, f = cp.Parameter((4, 5)), cp.Parameter(4), cp.Parameter((2, 5)), cp.Parameter(2)
    constraints = [G @ x <= h, E @ x == f]
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(S @ x) + q @ x), constraints)
    return Built(problem, [S, q, G, h, E, f], [x, *(c.dual_variables[0] for c in constraints)])


def _qp_sample(rng: np.random.Generator) -> Sample:
    S, x = rng.normal(size=(5, 5)) + 2 * np.eye(5), rng.normal(size=5)
    G, E = rng.normal(size=(4, 5)), rng.normal(size=(2, 5))
    y = np.array([1.0, 0.7, 0.0, 0.0])
    q = -(S.T @ S @ x + G.T @ y + E.T @ rng.normal(size=2))
    return S, q, G, G @ x + np.array([0.0, 0.0, 0.8, 0.5]), E, E @ x


def _simplex() -> Built:
    x, c = cp.Variable(6), cp.Parameter(6)
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]), [c], [x])


def _simplex_sample(rng: np.random.Generator) -> Sample:
    return (rng.permutation(np.array([0.9, 0.7, 0.4, 0.0, -0.3, -0.8])) + 0.03 * rng.normal(size=6),)


def _simplex_solution(c: np.ndarray) -> Sample:
    """Sorting, after Held, Wolfe and Crowder (1974)."""
    u = np.sort(c)[::-1]
    excess = (np.cumsum(u) - 1) / np.arange(1, u.size + 1)
    return (np.maximum(c - excess[u > excess][-1], 0.0),)


def _mpc() -> Built:
    """A double integrator with drag, whose first inputs are at their bound."""
    horizon, n = 6, 3
    x, u = cp.Variable((n, horizon + 1)), cp.Variable((1, horizon))
    A, B, start = cp.Parameter((n, n)), cp.Parameter((n, 1)), cp.Parameter(n)
    constraints = [x[:, 0] == start, x[:, 1:] == A @ x[:, :-1] + B @ u, cp.abs(u) <= 0.5]
    cost = cp.sum_squares(x) + 0.1 * cp.sum_squares(u)
    return Built(cp.Problem(cp.Minimize(cost), constraints), [A, B, start], [u, x])


def _mpc_sample(rng: np.random.Generator) -> Sample:
    A = np.array([[1.0, 0.4, 0.0], [0.0, 0.9, 0.3], [0.0, 0.0, 0.7]]) + 0.02 * rng.normal(size=(3, 3))
    return A, np.array([[0.0], [0.2], [1.0]]), np.array([1.5, 0.5, -0.3]) + 0.05 * rng.normal(size=3)


def _total_variation() -> Built:
    x, signal, weight = cp.Variable(10), cp.Parameter(10), cp.Parameter(nonneg=True)
    cost = 0.5 * cp.sum_squares(x - signal) + weight * cp.norm1(cp.diff(x))
    return Built(cp.Problem(cp.Minimize(cost)), [signal, weight], [x])


def _total_variation_sample(rng: np.random.Generator) -> Sample:
    return np.repeat([0.0, 2.0, 1.0], [3, 4, 3]) + 0.2 * rng.normal(size=10), np.array(0.4)


def _portfolio() -> Built:
    """Markowitz with a cost per trade: some positions are not traded at all."""
    n = 6
    w, gain, factor, held = cp.Variable(n), cp.Parameter(n), cp.Parameter((n, n)), cp.Parameter(n)
    utility = gain @ w - cp.sum_squares(factor @ w) - 0.05 * cp.norm1(w - held)
    return Built(cp.Problem(cp.Maximize(utility), [cp.sum(w) == 1, w >= 0]), [gain, factor, held], [w])


def _portfolio_sample(rng: np.random.Generator) -> Sample:
    held = np.array([0.3, 0.25, 0.2, 0.15, 0.1, 0.0]) + 0.01 * rng.normal(size=6)
    return 0.12 * rng.normal(size=6), 0.4 * np.eye(6) + 0.1 * rng.normal(size=(6, 6)), held


def _quad_form() -> Built:
    x, P, q = cp.Variable(4), cp.Parameter((4, 4), PSD=True), cp.Parameter(4)
    return Built(cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [cp.sum(x) == 1, x >= -1]), [P, q], [x])


def _quad_form_sample(rng: np.random.Generator) -> Sample:
    F = rng.normal(size=(4, 4))
    return F @ F.T + np.eye(4), np.array([0.5, -3.0, 12.0, 0.5]) + 0.1 * rng.normal(size=4)


_H = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.5]])


def _no_parameters() -> Built:
    x = cp.Variable(3)
    return Built(cp.Problem(cp.Minimize(cp.quad_form(x, _H) - cp.sum(x)), [x[0] == 0, x[2] <= 0.1]), [], [x])


def _no_inequalities() -> Built:
    x, q, f = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    return Built(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, _H) + q @ x), [cp.sum(x) == f]), [q, f], [x])


def _no_inequalities_solution(q: np.ndarray, f: np.ndarray) -> Sample:
    kkt = np.block([[_H, np.ones((3, 1))], [np.ones((1, 3)), np.zeros((1, 1))]])
    return (np.linalg.solve(kkt, np.append(-q, f))[:3],)


def _no_equalities() -> Built:
    x, q, h = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
    return Built(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, _H) + q @ x), [x <= h]), [q, h], [x])


def _unconstrained() -> Built:
    """No constraints at all: m = 0."""
    x, q = cp.Variable(3), cp.Parameter(3)
    return Built(cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, _H) + q @ x)), [q], [x])


def _scalar() -> Built:
    x, c = cp.Variable(), cp.Parameter()
    return Built(cp.Problem(cp.Minimize((x - c) ** 2), [x >= 0]), [c], [x])


def _one_by_one() -> Built:
    x, a, b = cp.Variable((1, 1)), cp.Parameter((1, 1)), cp.Parameter((1, 1))
    return Built(cp.Problem(cp.Minimize(x[0, 0]), [a @ x >= b]), [a, b], [x])


_LINEAR = {"zero", "nonneg"}
CASES = (
    Case("lp", _lp, _lp_sample, {"nonneg"}, closed_form=_lp_solution),
    Case("qp_with_duals", _qp, _qp_sample, _LINEAR, quadratic=True),
    Case("simplex_projection", _simplex, _simplex_sample, _LINEAR, quadratic=True, closed_form=_simplex_solution),
    Case("mpc", _mpc, _mpc_sample, _LINEAR, quadratic=True, loose=True),
    Case("total_variation", _total_variation, _total_variation_sample, _LINEAR, quadratic=True),
    Case("portfolio", _portfolio, _portfolio_sample, _LINEAR, quadratic=True),
    Case("quad_form", _quad_form, _quad_form_sample, _LINEAR, quadratic=True, only_quadratic=True),
    Case("no_parameters", _no_parameters, lambda rng: (), _LINEAR, quadratic=True),
    Case("no_inequalities", _no_inequalities, lambda rng: (rng.normal(size=3), np.array(rng.normal())), {"zero"},
         quadratic=True, closed_form=_no_inequalities_solution),
    Case("no_equalities", _no_equalities, lambda rng: (rng.normal(size=3), np.array([5.0, -2.0, 6.0])), {"nonneg"},
         quadratic=True),
    Case("unconstrained", _unconstrained, lambda rng: (rng.normal(size=3),), set(), quadratic=True,
         closed_form=lambda q: (np.linalg.solve(_H, -q),)),
    Case("scalar", _scalar, lambda rng: (np.array(rng.uniform(0.5, 2.0)),), _LINEAR, quadratic=True,
         closed_form=lambda c: (np.maximum(c, 0.0),)),
    Case("one_by_one", _one_by_one, lambda rng: (rng.uniform(1.0, 2.0, (1, 1)), rng.normal(size=(1, 1))), {"nonneg"},
         closed_form=lambda a, b: (b / a,)),
)  # fmt: skip
