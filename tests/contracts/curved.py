"""Second-order, semidefinite, exponential and power cone programs of the table."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

from tests.contracts.case import Built, Case, Sample

__all__ = ["CASES"]


def _norm_ball() -> Built:
    x, A, b, c = cp.Variable(3), cp.Parameter((3, 3)), cp.Parameter(3), cp.Parameter(3)
    return Built(cp.Problem(cp.Minimize(c @ x), [cp.norm(A @ x + b) <= 2]), [A, b, c], [x])


def _norm_ball_sample(rng: np.random.Generator) -> Sample:
    return rng.normal(size=(3, 3)) + 2 * np.eye(3), rng.normal(size=3), rng.normal(size=3)


def _norm_ball_solution(A: np.ndarray, b: np.ndarray, c: np.ndarray) -> Sample:
    """With u = Ax + b the cost is c'A^-1 u + const over the ball of radius 2."""
    g = np.linalg.solve(A.T, c)
    return (np.linalg.solve(A, -2 * g / np.linalg.norm(g) - b),)


def _robust_lp() -> Built:
    """a_i'x + |F_i x| <= b_i for all a_i in an ellipsoid (Boyd and Vandenberghe 2004, section 4.4.2)."""
    x, c, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(4)
    A, F = cp.Parameter((4, 3)), [cp.Parameter((3, 3)) for _ in range(4)]
    constraints = [A[i] @ x + cp.norm(F[i] @ x) <= b[i] for i in range(4)]
    return Built(cp.Problem(cp.Minimize(c @ x), constraints), [c, b, A, *F], [x])


def _robust_lp_sample(rng: np.random.Generator) -> Sample:
    A = np.array([[1, 1, 1], [-1, 1, -1], [1, -1, -1], [-1, -1, 1.0]]) + 0.1 * rng.normal(size=(4, 3))
    F = [0.3 * np.eye(3) + 0.1 * rng.normal(size=(3, 3)) for _ in range(4)]
    return np.array([1.0, 0.4, -0.2]) + 0.05 * rng.normal(size=3), rng.uniform(1, 2, 4), A, *F


def _soc_duals() -> Built:
    x, t, c, b = cp.Variable(3), cp.Variable(), cp.Parameter(3), cp.Parameter(3)
    cone = cp.SOC(t, x - b)
    return Built(cp.Problem(cp.Minimize(c @ x + 2 * t), [cone, x >= -5, t >= 1]), [c, b], [x, t, *cone.dual_variables])


def _psd_projection() -> Built:
    """The nearest positive semidefinite matrix, order 3."""
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0]), [C], [X])


def _symmetric(rng: np.random.Generator, eigenvalues: list[float]) -> np.ndarray:
    Q = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    X = Q @ np.diag(eigenvalues) @ Q.T
    return (X + X.T) / 2


def _psd_projection_solution(C: np.ndarray) -> Sample:
    values, Q = np.linalg.eigh(C)
    return ((Q * np.maximum(values, 0)) @ Q.T,)


def _sdp(order: int, equations: int) -> Built:
    X = cp.Variable((order, order), symmetric=True)
    C, b = cp.Parameter((order, order), symmetric=True), cp.Parameter(equations)
    A = [cp.Parameter((order, order), symmetric=True) for _ in range(equations)]
    rows = [cp.trace(A[i] @ X) == b[i] for i in range(equations)]
    cone = X >> 0
    return Built(cp.Problem(cp.Minimize(cp.trace(C @ X)), [*rows, cone]), [C, b, *A], [X, cone.dual_variables[0]])


def _sdp_sample(rng: np.random.Generator, order: int, rank: int, equations: int) -> Sample:
    """X of this rank and a dual of the complementary rank, so that strict complementarity holds."""
    Q = np.linalg.qr(rng.normal(size=(order, order)))[0]
    x = np.concatenate([rng.uniform(1, 2, rank), np.zeros(order - rank)])
    z = np.concatenate([np.zeros(rank), rng.uniform(1, 2, order - rank)])
    A = [_symmetric(rng, list(rng.normal(size=order))) for _ in range(equations)]
    X, Z = (Q * x) @ Q.T, (Q * z) @ Q.T
    C = Z + sum(w * a for w, a in zip(rng.normal(size=equations), A, strict=True))
    return (C + C.T) / 2, np.array([np.trace(a @ X) for a in A]), *A


def _two_sdp() -> Built:
    """PSD cones of order 3 and of order 5, tied by one equality."""
    X, Y = cp.Variable((3, 3), symmetric=True), cp.Variable((5, 5), symmetric=True)
    C, D = cp.Parameter((3, 3), symmetric=True), cp.Parameter((5, 5), symmetric=True)
    cost = cp.sum_squares(X - C) + cp.sum_squares(Y - D)
    cones = [X >> 0, Y >> 0]
    problem = cp.Problem(cp.Minimize(cost), [*cones, X[0, 1] == Y[0, 4], cp.trace(X) + cp.trace(Y) == 6])
    return Built(problem, [C, D], [X, Y, cones[1].dual_variables[0]])


def _two_sdp_sample(rng: np.random.Generator) -> Sample:
    return _symmetric(rng, [2.0, 1.0, -1.5]), _symmetric(rng, [2.5, 1.5, 0.8, -1.0, -2.0])


def _logistic() -> Built:
    w, X, weight = cp.Variable(3), cp.Parameter((8, 3)), cp.Parameter(nonneg=True)
    cost = cp.sum(cp.logistic(-X @ w)) + weight * cp.sum_squares(w)
    return Built(cp.Problem(cp.Minimize(cost)), [X, weight], [w])


def _entropy() -> Built:
    x, c = cp.Variable(5), cp.Parameter(5)
    return Built(cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1]), [c], [x])


def _softmax(c: np.ndarray) -> Sample:
    e = np.exp(c - c.max())
    return (e / e.sum(),)


def _exp_duals() -> Built:
    x, z, c = cp.Variable(2), cp.Variable(2), cp.Parameter(2, pos=True)
    cone = cp.ExpCone(x, np.ones(2), z)
    problem = cp.Problem(cp.Minimize(c @ z - cp.sum(x)), [cone])
    return Built(problem, [c], [x, z, *cone.dual_variables])


def _exp_duals_solution(c: np.ndarray) -> tuple[np.ndarray, ...]:
    """min c exp(x) - x: x = -log c, z = 1 / c; the dual of (x, 1, z) is the gradient of the cone's inequality."""
    return -np.log(c), 1 / c, -np.ones(2), -1 - np.log(c), c


def _cobb_douglas() -> Built:
    """Maximal x^0.6 y^0.4 on a budget, with the power cone written out."""
    x, y, z = cp.Variable(), cp.Variable(), cp.Variable()
    prices, budget = cp.Parameter(2, pos=True), cp.Parameter(pos=True)
    cone = cp.PowCone3D(x, y, z, 0.6)
    problem = cp.Problem(cp.Maximize(z), [cone, prices[0] * x + prices[1] * y <= budget])
    return Built(problem, [prices, budget], [x, y, z, *cone.dual_variables])


def _cobb_douglas_solution(p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shares 0.6 and 0.4 of the budget; the dual of (x, y, z) is (0.6 z / x, 0.4 z / y, -1)."""
    x, y = 0.6 * w / p[0], 0.4 * w / p[1]
    z = x**0.6 * y**0.4
    return x, y, z, 0.6 * z / x, 0.4 * z / y, np.array(-1.0)


def _power() -> Built:
    x, gain = cp.Variable(3), cp.Parameter(3, nonneg=True)
    cost = gain @ cp.power(x, 0.3, approx=False)
    return Built(cp.Problem(cp.Maximize(cost), [cp.sum(x) <= 1]), [gain], [x])


def _power_solution(gain: np.ndarray) -> Sample:
    """Equal marginal gains: x is proportional to gain^(1 / 0.7)."""
    share = gain ** (1 / 0.7)
    return (share / share.sum(),)


def _cobb_douglas_nd() -> Built:
    """Maximal prod W_i^alpha_i on a budget for each of two consumers, with the cones written out."""
    W, z = cp.Variable((3, 2)), cp.Variable(2)
    prices, budget = cp.Parameter(3, pos=True), cp.Parameter(2, pos=True)
    cone = cp.PowConeND(W, z, _SHARES)
    problem = cp.Problem(cp.Maximize(cp.sum(z)), [cone, prices @ W <= budget])
    return Built(problem, [prices, budget], [W, z, *cone.dual_variables])


_SHARES = np.array([[0.2, 0.6], [0.3, 0.3], [0.5, 0.1]])


def _cobb_douglas_nd_solution(p: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """Shares alpha of the budget; the dual of (W, z) is (alpha z / W, -1)."""
    W = _SHARES * w / p[:, None]
    z = (W**_SHARES).prod(axis=0)
    return W, z, _SHARES * z / W, -np.ones(2)


def _geometric_mean() -> Built:
    """A point near c in the simplex, with a geometric mean that is bounded below."""
    x, c, least = cp.Variable(4), cp.Parameter(4), cp.Parameter(pos=True)
    constraints = [cp.sum(x) == 1, cp.geo_mean(x, approx=False) >= least]
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), constraints), [c, least], [x])


def _all_cones() -> Built:
    """Every kind of cone in one problem, each of them active."""
    x, X = cp.Variable(5), cp.Variable((2, 2), symmetric=True)
    c, C = cp.Parameter(5), cp.Parameter((2, 2), symmetric=True)
    constraints = [
        cp.sum(x) == 1, x[0] >= 0.5, cp.norm(x[1:3]) <= 0.4, cp.exp(x[3]) <= 0.7 - x[4],
        cp.PowCone3D(x[0], 1 - x[4], x[2] + 0.9, 0.3), X >> 0,
    ]  # fmt: skip
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(x - c) + cp.sum_squares(X - C)), constraints), [c, C], [x, X])


def _all_cones_sample(rng: np.random.Generator) -> Sample:
    return np.array([-1.0, 1.0, 2.0, 1.0, 1.0]) + 0.1 * rng.normal(size=5), _symmetric(rng, [1.0, -0.8])


CASES = (
    Case("norm_ball", _norm_ball, _norm_ball_sample, {"nonneg", "second_order"}, closed_form=_norm_ball_solution),
    Case("robust_lp", _robust_lp, _robust_lp_sample, {"nonneg", "second_order"}, loose=True),
    Case("soc_duals", _soc_duals, lambda rng: (0.6 * rng.normal(size=3), rng.normal(size=3)),
         {"nonneg", "second_order"}),
    Case("psd_projection", _psd_projection, lambda rng: (_symmetric(rng, [1.5, 0.6, -1.0]),), {"zero", "psd"},
         quadratic=True, closed_form=_psd_projection_solution),
    Case("sdp_order_3", lambda: _sdp(3, 2), lambda rng: _sdp_sample(rng, 3, 1, 2), {"zero", "psd"}),
    Case("sdp_order_5", lambda: _sdp(5, 5), lambda rng: _sdp_sample(rng, 5, 2, 5), {"zero", "psd"}),
    Case("two_sdp", _two_sdp, _two_sdp_sample, {"zero", "psd"}, quadratic=True),
    Case("logistic", _logistic, lambda rng: (rng.normal(size=(8, 3)), np.array(0.1)),
         {"nonneg", "exponential"}, quadratic=True),
    Case("entropy", _entropy, lambda rng: (rng.normal(size=5),), {"zero", "exponential"}, closed_form=_softmax),
    Case("exp_duals", _exp_duals, lambda rng: (rng.uniform(0.5, 2.0, 2),), {"exponential"},
         closed_form=_exp_duals_solution),
    Case("cobb_douglas", _cobb_douglas, lambda rng: (rng.uniform(0.5, 2.0, 2), np.array(1.5)), {"nonneg", "power"},
         closed_form=_cobb_douglas_solution),
    Case("power", _power, lambda rng: (rng.uniform(0.5, 2.0, 3),), {"nonneg", "power"}, closed_form=_power_solution),
    Case("cobb_douglas_nd", _cobb_douglas_nd,
         lambda rng: (rng.uniform(0.5, 2.0, 3), rng.uniform(0.5, 2.0, 2)), {"nonneg", "power_nd"},
         closed_form=_cobb_douglas_nd_solution),
    Case("geometric_mean", _geometric_mean,
         lambda rng: (np.array([0.9, 0.3, -0.2, 0.1]) + 0.1 * rng.normal(size=4), rng.uniform(0.15, 0.2)),
         {"zero", "nonneg", "power_nd"}, quadratic=True),
    Case("all_cones", _all_cones, _all_cones_sample,
         {"zero", "nonneg", "second_order", "psd", "exponential", "power"}, quadratic=True),
)  # fmt: skip
