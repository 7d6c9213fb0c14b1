"""Second derivatives against finite differences of the first ones, and their symmetries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.cones import Cones, dual_derivative, dual_second_derivative
from cvxlayers.errors import DerivativeError
from cvxlayers.layer.layer import Layer
from tests.cones.cases import points
from tests.contracts.case import Built, Case
from tests.contracts.table import CASES, case
from tests.support import differences, layers
from tests.support.differences import inner
from tests.support.tolerance import assert_all_close, assert_close

SMOOTH = {"zero", "nonneg", "second_order"}


def _monomials() -> Built:
    """A log-log convex program that is a linear program in logarithms: x = a, y = b x^2, z = 1 / (c y)."""
    x, y, z = (cp.Variable(pos=True) for _ in range(3))
    a, b, c = (cp.Parameter(pos=True) for _ in range(3))
    problem = cp.Problem(cp.Minimize(z / x), [x <= a, y <= b * x**2, z >= 1 / (c * y)])
    return Built(problem, [a, b, c], [x, y, z])


def _weighted() -> Built:
    """Parameters in P, in A and in a second-order cone, equalities beside them, and duals among the outputs."""
    x, t = cp.Variable(3), cp.Variable()
    w, A, r = cp.Parameter(3, nonneg=True), cp.Parameter((3, 3)), cp.Parameter()
    ball, total = cp.SOC(r + x[0], A @ x), cp.sum(x) + t == 1
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(w, cp.square(x))) + cp.square(t - 2)), [ball, total, t <= 1.2])
    return Built(problem, [w, A, r], [x, t, total.dual_variables[0], ball.dual_variables[1]])


OWN = (
    Case("monomials", _monomials, lambda rng: tuple(map(np.array, rng.uniform(0.5, 2.0, 3))), {"nonneg"}, gp=True),
    Case("weighted", _weighted,
         lambda rng: (rng.uniform(0.5, 2, 3), 3 * np.eye(3) + rng.normal(size=(3, 3)), np.array(0.5)),
         {"zero", "nonneg", "second_order"}, quadratic=True),
)  # fmt: skip
ROWS = (*(row for row in CASES if row.kinds <= SMOOTH and row.point()), *OWN)
UNKNOWN = [row for row in CASES if not row.kinds <= SMOOTH]


def layer_of(row: Case, engine: str = "CLARABEL", **options: Any) -> Layer:
    built, quadratic = row.build(), engine != "ECOS"
    compiled = cvxlayers.compile(built.problem, built.parameters, built.variables, gp=row.gp, quadratic=quadratic)
    return Layer(compiled, engine, check_parameters=False, **options)


def noise(rng: np.random.Generator, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [rng.normal(size=np.shape(a)) + (1j * rng.normal(size=np.shape(a)) if np.iscomplexobj(a) else 0)
            for a in like]  # fmt: skip


def repeated(arrays: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    return [np.broadcast_to(a, (batch, *np.shape(a))) for a in arrays]


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_projections_second_derivative_against_differences(size: int, rng: np.random.Generator) -> None:
    cones = Cones(zero=1, nonneg=2, second_order=(size, size))
    v, a, b = points(cones, 60), rng.normal(size=(cones.m, 60)), rng.normal(size=(cones.m, 60))
    far = dual_derivative(cones, v).margin > 0.05
    v, a, b = v[:, far], a[:, far], b[:, far]
    moved = [dual_derivative(cones, v + sign * 1e-5 * a).matvec(b) for sign in (1, -1)]
    bent = dual_second_derivative(cones, v, a, b)
    assert_close(bent, (moved[0] - moved[1]) / 2e-5, 1e-7, "D2[a, b]")
    assert_close(bent, dual_second_derivative(cones, v, b, a), 1e-14, "symmetry")
    assert bent.any() == (size > 2)  # two rows are a polyhedral cone


def test_the_projections_second_derivative_is_zero_at_kinks_and_finite_everywhere() -> None:
    cones = Cones(second_order=(3,))
    v = np.array([[1.0, 1, 0], [-1, 1, 0], [0, 0, 0], [2, 0, 0]]).T
    ones = np.ones_like(v)
    assert not dual_second_derivative(cones, v, ones, ones).any()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_against_finite_differences_of_the_gradient_and_of_the_tangents(row: Case, rng: np.random.Generator) -> None:
    layer, point = layer_of(row), row.point()
    record = layer.solve(point)
    weights, other = noise(rng, record.outputs), layers.directions(row)[0]
    along = layers.directions(row)[1:4]
    for number, (direction, found) in enumerate(
        zip(along, differences.differentiate(
            lambda batch: [*(many := layer.solve(batch)).vjp(repeated(weights, many.solution.batch)),
                           *many.jvp(repeated(other, many.solution.batch))], point, along), strict=True)
    ):  # fmt: skip
        change = [*record.second_vjp(weights, direction), *record.second_jvp(other, direction)]
        assert found.agreement <= 1e-6
        assert_all_close(change, found.tangents, 1e-5, f"{row.name}, direction {number}")


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_form_is_symmetric(row: Case, rng: np.random.Generator) -> None:
    record = layer_of(row).solve(row.point())
    one, other = noise(rng, row.point()), noise(rng, row.point())
    weights = noise(rng, record.outputs)
    forth, back = record.second_jvp(one, other), record.second_jvp(other, one)
    assert_all_close(forth, back, 1e-9, "d1 and d2")
    value = inner(weights, forth)
    scale = max(1.0, *(float(np.abs(part).max()) for part in forth))
    assert abs(inner(record.second_vjp(weights, one), other) - value) <= 1e-8 * scale
    assert abs(inner(record.second_vjp(weights, other), one) - value) <= 1e-8 * scale


def test_an_engine_that_turns_the_objective_into_cones_agrees(rng: np.random.Generator) -> None:
    row = case("total_variation")
    records = [layer_of(row, engine).solve(row.point()) for engine in ("CLARABEL", "ECOS")]
    weights, move = noise(rng, records[0].outputs), noise(rng, row.point())
    assert_all_close(records[1].second_vjp(weights, move), records[0].second_vjp(weights, move), 1e-6, "ECOS")


def test_elements_of_a_batch_keep_to_themselves(rng: np.random.Generator) -> None:
    row = case("norm_ball")
    layer, samples = layer_of(row), [row.point(seed) for seed in range(3)]
    batch = layer.solve([np.stack(values) for values in zip(*samples, strict=True)])
    weights, moves = noise(rng, batch.outputs), noise(rng, batch.packed.arrays)
    changes, bends = batch.second_vjp(weights, moves), batch.second_jvp(moves, moves)
    for i, sample in enumerate(samples):
        alone, move = layer.solve(sample), [m[i] for m in moves]
        assert_all_close([c[i] for c in changes], alone.second_vjp([w[i] for w in weights], move), 1e-8, "vjp")
        assert_all_close([b[i] for b in bends], alone.second_jvp(move, move), 1e-8, "jvp")


def test_failed_elements_are_nan_or_zero_as_their_gradients() -> None:
    x, low, high = cp.Variable(), cp.Parameter(), cp.Parameter()
    compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.square(x)), [x >= low, x <= high]), [low, high], [x])
    lows, highs = np.array([1.0, 3.0]), np.full(2, 2.0)
    for policy, expected in (("nan", np.nan), ("zero_grad", 0.0)):
        record = Layer(compiled, on_failure=policy).solve([lows, highs])
        assert_close(record.second_vjp([np.ones(2)], [np.ones(2), None])[0], [0.0, expected], 1e-9, policy)
        assert_close(record.second_jvp([np.ones(2), None], [np.ones(2), None])[0], [0.0, expected], 1e-9, policy)


@pytest.mark.parametrize("row", UNKNOWN, ids=str)
def test_other_cones_are_refused(row: Case) -> None:
    record = layer_of(row).solve(row.point())
    with pytest.raises(DerivativeError, match="for zero, nonnegative and second-order cones"):
        record.second_vjp([np.ones_like(o) for o in record.outputs], row.point())
    with pytest.raises(DerivativeError, match="for zero, nonnegative and second-order cones"):
        record.second_jvp(row.point(), row.point())


@pytest.mark.parametrize("options", [{"engine": "DIFFCP"}, {"smoothing": 1e-3}], ids=str)
def test_other_derivatives_are_refused(options: dict[str, Any]) -> None:
    row = case("norm_ball")
    record = layer_of(row, **options).solve(row.point())
    with pytest.raises(DerivativeError, match="DIFFCP's derivative, nor of a smoothed one"):
        record.second_vjp([np.ones(3)], row.point())
    with pytest.raises(DerivativeError, match="DIFFCP's derivative, nor of a smoothed one"):
        record.second_jvp(row.point(), row.point())
