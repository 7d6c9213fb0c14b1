"""A few problems one by one, in plain numbers, give what groups of problems in lanes give."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.ipm import batch
from cvxlayers.layer.layer import Layer
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.ipm import IPM
from cvxlayers.verify.measure import measure
from tests.ipm.problems import feasible, infeasible, random_cones, unbounded
from tests.support.tolerance import assert_close

KINDS = [(), ("second_order",), ("psd",), ("exponential",), ("power",), ("second_order", "psd", "exponential", "power")]


@pytest.fixture(params=[False, True], ids=["together", "one by one"])
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Batches of 2 to 15 elements are taken so, on two threads."""
    limit = 100 if request.param else 0
    monkeypatch.setattr(batch, "NEAR", limit)
    monkeypatch.setattr(batch, "FAR", limit)
    return bool(request.param)


@pytest.mark.parametrize("make", [feasible, infeasible, unbounded])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_one_by_one_is_each_alone(kinds: tuple[str, ...], make: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, on two threads, with P and q the same for all elements and without."""
    monkeypatch.setattr(batch, "NEAR", 100)
    rng = np.random.default_rng(8)
    structure, values = make(rng, 5, random_cones(rng, 5, *kinds), 5, True)  # type: ignore[operator]
    alike = Values(*(np.broadcast_to(part[:, :1], part.shape) for part in (values.P, values.q)), values.A, values.b)
    solver = IPM(structure, Settings(threads=2))
    for given in (values, alike):
        found = solver.solve(given)
        for j, one in enumerate(solver.solve(given.select(np.array([j]))) for j in range(5)):
            for part in ("status", "iterations"):
                assert getattr(found, part)[j] == getattr(one, part)[0]
            for part in ("x", "y", "s"):
                np.testing.assert_array_equal(getattr(found, part)[:, j], getattr(one, part)[:, 0])


@pytest.mark.parametrize("cones", [Cones(zero=1, nonneg=4, second_order=(3,)), Cones(nonneg=2, psd=(3,), power=(0.4,))])
def test_the_derivative_of_a_few(cones: Cones, apart: bool) -> None:
    rng = np.random.default_rng(9)
    structure, values = feasible(rng, 6, cones, 3, True)
    solution = IPM(structure, Settings(threads=2)).solve(values)
    exact = ExactDerivative(structure, threads=2, prefer="kernels")
    assert exact.kernels is not None
    dx, dy = rng.normal(size=(6, 3)), rng.normal(size=(cones.m, 3))
    together = exact.linearize(values, solution).vjp(dx, dy)
    for j in range(3):
        index = np.array([j])
        one = exact.linearize(values.select(index), solution.select(index)).vjp(dx[:, index], dy[:, index])
        for part, other in zip(together, one, strict=True):
            assert_close(part[:, index], other, 1e-9 * (1 + np.abs(other).max(initial=0.0)), "gradient")


def test_residuals_of_a_few(apart: bool) -> None:
    rng = np.random.default_rng(10)
    structure, values = feasible(rng, 6, Cones(zero=1, nonneg=4, second_order=(3, 2)), 3, True)
    solver = IPM(structure, Settings(threads=2))
    point = [rng.normal(size=(rows, 3)) for rows in (structure.n, structure.m, structure.m)]
    measured = solver.measure(values, *point)
    expected = super(IPM, solver).measure(values, *point)
    assert_close(measured.parts, expected.parts, 1e-12, "residuals")
    assert measured.largest == pytest.approx(expected.parts[:4].max(), rel=1e-12)
    point[0][0, 1] = np.nan
    assert solver.measure(values, *point).largest == np.inf


@pytest.mark.parametrize("varying", ["P", "q", "A", "b", "qA", "qb", "Ab", "PqAb"])
def test_what_varies_comes_from_the_parameters(varying: str, apart: bool) -> None:
    """Whatever varies together, new numbers in every call reach the kernels; the gradients' memory is in order."""
    rng = np.random.default_rng(14)
    n, m = 4, 3
    x = cp.Variable(n)
    shapes = {"P": n, "q": n, "A": (m, n), "b": m}
    given = {name: cp.Parameter(shapes[name], nonneg=name == "P") for name in varying}
    fixed = {"P": np.ones(n), "q": rng.normal(size=n), "A": rng.normal(size=(m, n)), "b": np.ones(m)}
    P, q, A, b = (given.get(name, fixed[name]) for name in "PqAb")
    objective = cp.Minimize(cp.sum(cp.multiply(P, cp.square(x))) + q @ x)
    threads = {"n_jobs_forward": 2, "n_jobs_backward": 2}
    problem = cp.Problem(objective, [A @ x <= b, cp.norm_inf(x) <= 3])
    layer = Layer.from_problem(problem, list(given.values()), [x], solver_args=threads)
    for _ in range(3):
        data = [rng.uniform(0.5, 2.0, (5, *np.atleast_1d(shapes[name]))) for name in varying]
        weights = rng.normal(size=(5, n))
        record = layer.solve(data)
        gradients = record.vjp([weights])
        assert set(record.info.engines) == {"IPM"}
        for j in range(5):
            one = layer.solve([part[j] for part in data])
            assert_close(record.outputs[0][j], one.outputs[0], 1e-8, "solution")
            for found, right in zip(gradients, one.vjp([weights[j]]), strict=True):
                assert_close(found[j], right, 1e-7, "gradient")
        assert all(gradient.flags.c_contiguous for gradient in gradients)


def test_a_step_does_not_lead_beyond_the_boundary() -> None:
    """A linear program in which rounding took tau below 0, where every residual is negative: that is no solution."""
    rng = np.random.default_rng([2, 2])
    for trial in range(17):
        n = int(rng.integers(2, 20))
        cones = random_cones(rng, n, *((), ("second_order",))[trial % 2])
        structure, values = feasible(rng, n, cones, 16, trial % 4 < 2, 3.0)
    solver = IPM(structure, Settings())
    for j in range(16):
        element = values.select(np.array([j]))
        found = solver.solve(element)
        assert found.status[0] == Status.OPTIMAL
        assert measure(structure, element, found.x, found.y, found.s).worst[0] <= 1e-9


@pytest.mark.parametrize("size", [1, 2, 3, 9, 15])
def test_a_layer_of_a_few(size: int, apart: bool) -> None:
    """Parameters of two dimensions, one of them shared, and values that do not vary; from theta to the gradients."""
    rng = np.random.default_rng(11)
    X, C, d = cp.Variable((2, 3)), cp.Parameter((2, 3)), cp.Parameter(2)
    objective = cp.Minimize(cp.sum_squares(X - C) + cp.sum(d @ X))
    threads = {"n_jobs_forward": 2, "n_jobs_backward": 2}
    layer = Layer.from_problem(cp.Problem(objective, [X >= 0, cp.sum(X) <= 1]), [C, d], [X], solver_args=threads)
    data: list[Array] = [rng.normal(size=(size, 2, 3)), rng.normal(size=2)]
    weights = rng.normal(size=(size, 2, 3))
    record = layer.solve(data)
    gradients = record.vjp([weights])
    assert set(record.info.engines) == {"IPM"}
    shared = np.zeros(2)
    for j in range(size):
        one = layer.solve([data[0][j], data[1]])
        assert_close(record.outputs[0][j], one.outputs[0], 1e-9, "solution")
        single = one.vjp([weights[j]])
        assert_close(gradients[0][j], single[0], 1e-9, "gradient")
        shared += single[1]
    assert_close(gradients[1], shared, 1e-8, "gradient of what is shared")


def test_how_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each thread that it pays to wake; more where groups do not fit into the cache."""
    structure, _ = feasible(np.random.default_rng(12), 6, Cones(nonneg=5), 1, True)
    layout = IPM(structure, Settings())._layout
    assert [batch._pays_one_by_one(layout, 1e-6, size, 2) for size in (0, 1, 2)] == [False, True, False]
    assert [batch._pays_one_by_one(layout, 1.0, size, 2) for size in (1, 2, 3, 16)] == [True, True, False, False]
    assert [batch._pays_one_by_one(layout, 1.0, size, 8) for size in (8, 9, 64)] == [True, False, False]
    monkeypatch.setattr(batch, "CACHED", 1)
    assert [batch._pays_one_by_one(layout, 1.0, size, 2) for size in (2, 6, 7, 16)] == [True, True, False, False]
