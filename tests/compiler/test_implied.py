"""Inequalities that a curved cone says already: entropic transport beside Sinkhorn's plan, and what is left out."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from scipy.special import logsumexp

import cvxlayers
from cvxlayers.layer.layer import Layer
from tests.support.kernels import needs_kernels
from tests.support.tolerance import assert_close

RELATIVE = 1e-8


def _transport(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Costs between random points on a line, the two margins."""
    rng = np.random.default_rng(seed)
    x, y, weights = rng.normal(size=n), rng.normal(size=n), rng.uniform(0.5, 1.5, size=(2, n))
    return (x[:, None] - y) ** 2, *(weights / weights.sum(axis=1, keepdims=True))


def _sinkhorn(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, eps: float) -> np.ndarray:
    """The plan p = exp((f + g - cost) / eps) with these margins (Sinkhorn 1967; Cuturi 2013), by damped Newton steps on
    f and g from where Sinkhorn's iteration comes near, which alone would take very long."""
    both, f, g = np.concatenate([rows, columns]), np.zeros(rows.size), np.zeros(rows.size)
    for _ in range(300):
        f = eps * (np.log(rows) - logsumexp((g - cost) / eps, axis=1))
        g = eps * (np.log(columns) - logsumexp((f[:, None] - cost) / eps, axis=0))
    at = np.concatenate([f, g])
    p = _plan(at, cost, eps)
    for _ in range(50):
        lacking = both - _margins(p)
        step, length = eps * np.linalg.lstsq(_margins_slope(p), lacking, rcond=1e-13)[0], 1.0
        while length > 1e-9:
            trial = _plan(at + length * step, cost, eps)
            if np.abs(both - _margins(trial)).sum() < np.abs(lacking).sum():
                at, p = at + length * step, trial
                break
            length /= 2
    assert np.abs(both - _margins(p)).max() < 1e-14
    return p


def _plan(prices: np.ndarray, cost: np.ndarray, eps: float) -> np.ndarray:
    f, g = np.split(prices, 2)
    with np.errstate(over="ignore"):
        return np.asarray(np.exp((f[:, None] + g - cost) / eps))


def _margins(p: np.ndarray) -> np.ndarray:
    return np.concatenate([p.sum(axis=1), p.sum(axis=0)])


def _margins_slope(p: np.ndarray) -> np.ndarray:
    return np.block([[np.diag(p.sum(axis=1)), p], [p.T, np.diag(p.sum(axis=0))]])


def _gradient(p: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """The gradient of sum(weight p) in the costs: with the multipliers (u, v) of the margins in the tangent problem,
    eps dp = -p (dcost - du - dv), and the margins of dp are zero."""
    u, v = np.split(np.linalg.lstsq(_margins_slope(p), _margins(weight * p), rcond=1e-13)[0], 2)
    return np.asarray(-p * (weight - u[:, None] - v) / eps)


def _problem(n: int, eps: float, more: str) -> tuple[cp.Problem, list[cp.Parameter], cp.Variable]:
    p = cp.Variable((n, n), nonneg=more == "attribute")
    cost, rows, columns = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter(n)
    constraints = [cp.sum(p, axis=1) == rows, cp.sum(p, axis=0) == columns]
    constraints += {"p >= 0": [p >= 0], "2 p >= -1": [2 * p >= -1], "p <= 1": [p <= 1, p >= 0]}.get(more, [])
    objective = cp.sum(cp.multiply(cost, p)) - eps * (cp.sum(cp.entr(p)) + cp.sum(p))
    return cp.Problem(cp.Minimize(objective), constraints), [cost, rows, columns], p


@needs_kernels
@pytest.mark.parametrize("more", ["nothing", "p >= 0", "attribute", "2 p >= -1", "p <= 1"])
@pytest.mark.parametrize(("n", "eps"), [(8, 0.3), (12, 0.12), (16, 0.06)])
def test_entropic_transport(n: int, eps: float, more: str) -> None:
    cost, rows, columns = _transport(n, seed=n)
    problem, parameters, p = _problem(n, eps, more)
    layer = Layer.from_problem(problem, parameters, [p])
    record = layer.solve([cost, rows, columns])
    plan = _sinkhorn(cost, rows, columns, eps)
    assert plan.min() < 1e-12  # nothing, to every solver
    assert layer.info is not None and layer.info.engines.tolist() == ["IPM"]
    assert_close(record.outputs[0], plan, RELATIVE, "plan", floor=0.0)
    weight = np.random.default_rng(1).random((n, n))
    assert_close(record.vjp([weight])[0], _gradient(plan, weight, eps), RELATIVE, "gradient", floor=0.0)


def test_a_batch_of_transports() -> None:
    n, eps = 9, 0.2
    problem, parameters, p = _problem(n, eps, "p >= 0")
    points = [_transport(n, seed) for seed in range(4)]
    record = Layer.from_problem(problem, parameters, [p]).solve([np.stack(part) for part in zip(*points, strict=True)])
    plans = np.stack([_sinkhorn(*point, eps) for point in points])
    assert_close(record.outputs[0], plans, RELATIVE, "plans", floor=0.0)


def _says(x: cp.Variable, t: cp.Variable, X: cp.Variable, c: cp.Parameter) -> dict[str, tuple[Any, Any, int]]:
    """A convex constraint, inequalities beside it, and how many of them it implies."""
    cones = {
        "exponential": [cp.constraints.ExpCone(x, 2 * t, t + 1)],
        "power": [cp.constraints.PowCone3D(t, 3 * t + x, x, 0.3)],
        "second_order": [cp.SOC(t[0], x)],
        "psd": [X >> 0],
    }
    return {
        "both of an exponential cone": (cones["exponential"], [t >= 0, t >= -1], 4),
        "both of a power cone": (cones["power"], [t >= 0, 3 * t + x >= 0], 4),
        "the first of a second-order cone": (cones["second_order"], [t >= 0], 1),
        "a diagonal": (cones["psd"], [cp.diag(X) >= 0, X >= -1], 4),
        "not the exponent": (cones["exponential"], [x >= 0], 0),
        "not a tighter bound": (cones["exponential"], [t >= 1e-9], 0),
        "not the other side": (cones["exponential"], [t <= 0], 0),
        "not what parameters decide": (cones["exponential"], [t >= c], 0),
    }


@pytest.mark.parametrize("name", _says(cp.Variable(2), cp.Variable(2), cp.Variable((2, 2)), cp.Parameter(2)))
def test_what_is_left_out(name: str) -> None:
    x, t, X, c = cp.Variable(2), cp.Variable(2), cp.Variable((2, 2), symmetric=True), cp.Parameter(2)
    cone, inequalities, implied = _says(x, t, X, c)[name]
    rows = sum(constraint.size for constraint in inequalities)
    problem = cp.Problem(cp.Minimize(cp.sum(x) + cp.sum(t) + c @ x + cp.trace(X)), [*cone, *inequalities])
    compiled = cvxlayers.compile(problem, [c])
    assert compiled.structure.cones.nonneg == rows - implied
    assert compiled.structure.m == compiled.b.rows == compiled.dual.shape[1]
    assert compiled.A.rows == compiled.structure.A.nnz


def test_the_duals_that_are_left() -> None:
    """The multiplier of what is left out is zero, and the cone's own is the price of both."""
    t, c = cp.Variable(2), cp.Parameter(2)
    redundant, cone = t[0] >= 0, cp.SOC(t[0], t[1:])
    outputs = [t, redundant.dual_variables[0], cone.dual_variables[0]]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(t - c)), [redundant, cone])
    found = Layer.from_problem(problem, [c], outputs)([-1.0, 0.0])
    assert_close(np.concatenate([np.ravel(part) for part in found]), [0, 0, 0, 2], 1e-6, "t and its prices")
