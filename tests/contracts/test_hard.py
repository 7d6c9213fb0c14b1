"""Problems at which solutions, duals or derivatives are not unique: no crash, finite numbers, an honest report."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.layer.layer import Layer, Record
from cvxlayers.solvers import registry
from tests.support.tolerance import assert_close, say

ENGINES = registry.names(installed=True)


def solved(engine: str, problem: cp.Problem, parameters: list[cp.Parameter], values: list[np.ndarray]) -> Record:
    layer = Layer.from_problem(problem, parameters, None, engine)
    return layer.solve(values)


def checked(record: Record) -> tuple[np.ndarray, ...]:
    """Gradients of the sum of the outputs, after a check that everything is finite and reported."""
    assert record.info.statuses.tolist() == ["optimal"]
    assert all(np.isfinite(o).all() for o in record.outputs)
    gradients = record.vjp([np.ones_like(o) for o in record.outputs])
    tangents = record.jvp([np.ones_like(p) for p in record.packed.arrays])
    assert all(np.isfinite(g).all() for g in (*gradients, *tangents))
    report = record.info.derivative
    assert report is not None
    say(f"margin {report.margin[0]:.1e}, residual {report.residual[0]:.1e}, fallback {report.fallback[0]}")
    assert np.isfinite(report.residual).all()
    return gradients


def doubtful(record: Record) -> bool:
    """Whether the report says that the derivative is not to be relied on."""
    report = record.info.derivative
    assert report is not None
    return bool(report.fallback[0] or report.margin[0] < 1e-4)


@pytest.mark.parametrize("engine", ENGINES)
def test_degenerate_vertex(engine: str) -> None:
    """Three active constraints at a vertex of the plane."""
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, x[0] + x[1] >= 0, x[0] - x[1] <= 1])
    record = solved(engine, problem, [c], [np.array([1.0, 2.0])])
    assert_close(record.outputs[0], np.zeros(2), 1e-6, "vertex")
    (gradient,) = checked(record)
    assert_close(gradient, np.zeros(2), 1e-4, "the vertex does not move")


@pytest.mark.parametrize("engine", ENGINES)
def test_edge_of_solutions(engine: str) -> None:
    """Every point of an edge is optimal: no derivative exists, and the report says so."""
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) == 1])
    record = solved(engine, problem, [c], [np.ones(2)])
    assert_close(checked(record)[0], np.zeros(2), 1e-6, "the sum of x stays one")
    record.vjp([np.array([1.0, 0.0])])
    assert doubtful(record)


@pytest.mark.parametrize("engine", ENGINES)
def test_repeated_equality(engine: str) -> None:
    """The dual is not unique; the primal solution is, and with it its derivative in c."""
    x, c = cp.Variable(3), cp.Parameter(3)
    constraints = [cp.sum(x) == 1, 2 * cp.sum(x) == 2, x[0] - x[1] == 0]
    record = solved(engine, cp.Problem(cp.Minimize(cp.sum_squares(x - c)), constraints), [c], [np.array([1.0, 2.0, 0])])
    assert_close(record.outputs[0], np.array([5 / 6, 5 / 6, -2 / 3]), 1e-6, "projection")
    gradients = record.vjp([np.array([1.0, 0.0, 0.0])])
    assert_close(gradients[0], np.array([1.0, 1.0, -2.0]) / 6, 1e-4, "gradient")
    checked(record)


@pytest.mark.parametrize("engine", ENGINES)
def test_repeated_active_inequality(engine: str) -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x[0] <= 1, 3 * x[0] <= 3])
    record = solved(engine, problem, [c], [np.array([2.0, 0.5])])
    assert_close(record.outputs[0], np.array([1.0, 0.5]), 1e-6, "projection")
    (gradient,) = checked(record)
    assert_close(gradient, np.array([0.0, 1.0]), 1e-4, "gradient")


@pytest.mark.parametrize("engine", ENGINES)
def test_kink(engine: str) -> None:
    """The point lies on the face of the set: two one-sided derivatives, 0 and 1."""
    x, c = cp.Variable(), cp.Parameter()
    record = solved(engine, cp.Problem(cp.Minimize(cp.square(x - c)), [x >= 0]), [c], [np.array(0.0)])
    (gradient,) = checked(record)
    assert -1e-6 <= gradient <= 1 + 1e-6
    assert doubtful(record)


@pytest.mark.parametrize("engine", [name for name in ENGINES if "psd" in registry.solver_class(name).kinds])
def test_low_rank_matrix(engine: str) -> None:
    """Max-cut relaxation of a graph with a rank-one solution."""
    X, C = cp.Variable((4, 4), symmetric=True), cp.Parameter((4, 4), symmetric=True)
    weights = np.ones((4, 4)) - np.eye(4)
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.diag(X) == 1])
    record = solved(engine, problem, [C], [-weights * np.outer(signs, signs)])
    assert_close(record.outputs[0], np.outer(signs, signs), 1e-5, "cut")
    checked(record)


@pytest.mark.parametrize("engine", [name for name in ENGINES if "psd" in registry.solver_class(name).kinds])
def test_zero_eigenvalue_on_both_sides(engine: str) -> None:
    """Projection of a singular matrix: strict complementarity fails, one-sided derivatives differ."""
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0])
    record = solved(engine, problem, [C], [np.diag([1.0, 0.0, -1.0])])
    assert_close(record.outputs[0], np.diag([1.0, 0.0, 0.0]), 1e-4, "projection")
    checked(record)
    assert doubtful(record)


@pytest.mark.parametrize("engine", [name for name in ENGINES if "psd" in registry.solver_class(name).kinds])
def test_matrices_of_several_orders(engine: str) -> None:
    """Orders 1, 2, 4 and 6 in one problem: no cone's rows are taken for another's."""
    orders = (4, 1, 6, 2)
    rng = np.random.default_rng(1)
    X = [cp.Variable((k, k), symmetric=True) for k in orders]
    C = [cp.Parameter((k, k), symmetric=True) for k in orders]
    values = [(M + M.T) / 2 for M in (rng.normal(size=(k, k)) for k in orders)]
    cost = sum(cp.sum_squares(x - c) for x, c in zip(X, C, strict=True))
    record = solved(engine, cp.Problem(cp.Minimize(cost), [x >> 0 for x in X]), C, values)
    found = dict(zip(record.compiled.outputs, record.outputs, strict=True))
    for x, value in zip(X, values, strict=True):
        (output,) = [o for spec, o in found.items() if spec.name == x.name()]
        eigenvalues, Q = np.linalg.eigh(value)
        assert_close(output, (Q * np.maximum(eigenvalues, 0)) @ Q.T, 1e-5, f"order {len(value)}")
    checked(record)


@pytest.mark.parametrize("engine", [name for name in ENGINES if "exponential" in registry.solver_class(name).kinds])
def test_exponential_cone_at_its_boundary(engine: str) -> None:
    """v = 0, u <= 0, w >= 0 is a face of the closure of the exponential cone, on which v exp(u / v) has no value."""
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.ExpCone(x[0], x[1], x[2])])
    record = solved(engine, problem, [c], [np.array([-1.0, -2.0, 1.0])])
    assert_close(record.outputs[0], np.array([-1.0, 0.0, 1.0]), 1e-4, "projection")
    checked(record)


@pytest.mark.parametrize("engine", [name for name in ENGINES if "exponential" in registry.solver_class(name).kinds])
def test_entropy_with_a_vanishing_entry(engine: str) -> None:
    """A softmax whose smallest weight is exp(-20)."""
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Maximize(c @ x + cp.sum(cp.entr(x))), [cp.sum(x) == 1])
    record = solved(engine, problem, [c], [np.array([0.0, -20.0, 1.0])])
    e = np.exp([0.0, -20.0, 1.0])
    assert_close(record.outputs[0], e / e.sum(), 1e-6, "softmax")
    gradients = record.vjp([np.array([1.0, 0.0, 0.0])])
    p = e / e.sum()
    assert_close(gradients[0], p[0] * (np.eye(3)[0] - p), 1e-4, "gradient")


@pytest.mark.parametrize("engine", [name for name in ENGINES if "second_order" in registry.solver_class(name).kinds])
def test_tip_of_a_norm(engine: str) -> None:
    """The solution is the tip of a second-order cone, for all small changes of c."""
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.norm(x - 1) + c @ x))
    record = solved(engine, problem, [c], [np.array([0.3, -0.2, 0.4])])
    assert_close(record.outputs[0], np.ones(3), 1e-6, "tip")
    (gradient,) = checked(record)
    assert_close(gradient, np.zeros(3), 1e-4, "gradient")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_badly_scaled_data(engine: str, scale: float) -> None:
    """The answer follows the scale, or the failure is reported."""
    x, c, t = cp.Variable(4), cp.Parameter(4), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == t, x >= 0])
    point = np.array([0.9, 0.5, -0.3, -0.8])
    layer = Layer.from_problem(problem, [c, t], [x], engine, on_failure="nan")
    record = layer.solve([scale * point, np.array(scale)])
    if record.info.statuses[0] == "optimal":
        assert_close(record.outputs[0] / scale, np.array([0.7, 0.3, 0.0, 0.0]), 1e-3, "projection")
    else:
        assert np.isnan(record.outputs[0]).all()
