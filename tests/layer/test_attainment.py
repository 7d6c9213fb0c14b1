"""Objectives that fall for ever along no single direction are unbounded, and minima that are not attained are none.

Beside them stand neighbours that have a minimum, however far out, and problems with flat directions that do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.cones import Cones
from cvxlayers.errors import SolveError
from cvxlayers.layer import attainment, packing
from cvxlayers.layer.layer import Layer
from cvxlayers.program.scales import scales
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Pattern, Structure, Values
from cvxlayers.solvers import registry
from cvxlayers.solvers.forms import maker
from tests.support.scaling import as_parameters, random_units, rescaled
from tests.support.tolerance import assert_close

ENGINES = registry.names(installed=True)
SAMPLES = np.array([[1.0, 0.3], [0.4, 1.1], [-0.2, 1.3], [0.9, -0.1]])

Model = tuple[cp.Expression, list[cp.Constraint]]


@dataclass(frozen=True)
class Case:
    """min w f + p |x| with w = 1.7: without the penalty there is no minimum, with p = 0.5 there is one."""

    name: str
    make: Callable[[cp.Variable], Model]
    status: str = "unbounded"
    size: int = 1

    def problem(self) -> tuple[cp.Problem, list[cp.Parameter], cp.Variable]:
        x, w, p = cp.Variable(self.size), cp.Parameter(nonneg=True), cp.Parameter(nonneg=True)
        cost, constraints = self.make(x)
        return cp.Problem(cp.Minimize(w * cost + p * cp.norm1(x)), constraints), [w, p], x

    def __str__(self) -> str:
        return self.name


def _matrix(x: cp.Variable) -> Model:
    X = cp.Variable((2, 2), symmetric=True)
    return X[0, 0], [X >> 0, X[0, 1] == 2, x[0] == X[1, 1]]


def _beside_a_square(x: cp.Variable) -> Model:
    y = cp.Variable()
    return -cp.log(x[0]) + cp.square(y - 3), []


def _iterated(x: cp.Variable) -> Model:
    y = cp.Variable()
    return -cp.log(y), [y <= cp.log(x[0])]


CASES = [
    Case("log", lambda x: (-cp.log(x[0] + 2), [])),
    Case("log_beside_a_square", _beside_a_square),
    Case("log_of_log", _iterated),
    Case("root", lambda x: (-cp.sqrt(x[0]), [x >= 0.5])),
    Case("geometric_mean", lambda x: (-cp.geo_mean(x), [x[0] <= 4]), size=2),
    Case("log_det", lambda x: (-cp.log_det(cp.diag(x)), []), size=2),
    Case("exp", lambda x: (cp.exp(x[0] - 1), []), "inaccurate"),
    Case("inverse", lambda x: (cp.inv_pos(x[0]), []), "inaccurate"),
    Case("power", lambda x: (cp.power(x[0], -0.6, approx=False), []), "inaccurate"),
    Case("power_nd", lambda x: (x[2], [cp.PowConeND(x[:3], 1, np.array([0.2, 0.3, 0.5]))]), "inaccurate", size=3),
    Case("hyperbola", lambda x: (cp.norm(cp.hstack([3, x[0]])) - x[0], []), "inaccurate"),
    Case("separable", lambda x: (cp.sum(cp.logistic(-SAMPLES @ x)), []), "inaccurate", size=2),
    Case("log_sum_exp", lambda x: (cp.log_sum_exp(cp.hstack([x, 1.0])), []), "inaccurate", size=2),
    Case("semidefinite", _matrix, "inaccurate"),
    Case("over_linear", lambda x: (cp.quad_over_lin(x[1] - 1, x[0]) + (x[1] - 3) ** 2, []), "inaccurate", size=2),
]  # fmt: skip


def layer(case: Case, engine: str | None, on_failure: str = "nan") -> Layer:
    problem, parameters, x = case.problem()
    solver = None if engine is None else registry.solver_class(engine)
    compiled = cvxlayers.compile(problem, parameters, [x], quadratic=solver is None or solver.quadratic)
    return Layer(compiled, engine, on_failure=on_failure)


def pairs() -> Iterator[Any]:
    """Each case with each engine that takes its cones. Not over_linear with ECOS and DIFFCP: the square as a
    second-order cone is at its apex, of which a face says nothing."""
    for case in CASES:
        problem, parameters, x = case.problem()
        forms = {quadratic: cvxlayers.compile(problem, parameters, [x], quadratic=quadratic).structure
                 for quadratic in (True, False)}  # fmt: skip
        for engine in [None, *ENGINES]:
            solver = None if engine is None else registry.solver_class(engine)
            if solver is None or (
                maker(solver, forms[solver.quadratic]) is not None
                and (case.name != "over_linear" or engine not in ("ECOS", "DIFFCP"))
            ):
                yield pytest.param(case, engine, id=f"{case}-{engine}")


@pytest.mark.parametrize(("case", "engine"), list(pairs()))
def test_no_minimum_beside_neighbours_that_have_one(case: Case, engine: str | None) -> None:
    both = layer(case, engine)
    record = both.solve([np.array([1.7, 1.7, 0.6]), np.array([0.5, 0.0, 0.0])])
    assert record.info.statuses.tolist() == ["optimal", case.status, case.status]
    alone = both.solve([np.array([1.7]), np.array([0.5])])
    assert_close(record.outputs[0][:1], alone.outputs[0], 1e-9, "the neighbour")
    assert np.isnan(record.outputs[0][1:]).all()
    flags = record.solution.unattained
    assert (flags is None) if case.status == "unbounded" else (flags.tolist() == [False, True, True])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_other_units(case: Case) -> None:
    """Rows, variables and objective in powers of ten, up to a hundred each way."""
    made = layer(case, None).compiled
    values = made.evaluate(packing.pack(made, [np.array(0.7), np.array(0.0)]).theta)
    posed = as_parameters(made.structure)
    units = random_units(np.random.default_rng([7, *case.name.encode()]), made.structure, 12, 2)
    other = Layer(posed.compiled, on_failure="nan", check_parameters=False)
    record = other.solve([posed.theta(rescaled(made.structure, values, units))])
    assert set(record.info.statuses.tolist()) == {case.status}


def test_the_error_says_that_the_infimum_is_not_attained() -> None:
    case = next(case for case in CASES if case.name == "exp")
    with pytest.raises(
        SolveError, match=r"the inaccurate elements 1 have no minimum: the infimum is not attained"
    ) as e:
        layer(case, None, "raise")(np.array([1.0, 2.0]), np.array([0.1, 0.0]))
    assert (e.value.indices, e.value.statuses) == ((1,), ("inaccurate",))
    assert "stopped short" not in str(e.value)


def test_flags_follow_their_elements() -> None:
    """A NaN among the parameters is not solved; the others keep their places."""
    case = next(case for case in CASES if case.name == "inverse")
    record = layer(case, None).solve([np.array([np.nan, 2.0, 1.0]), np.array([0.1, 0.0, 0.1])])
    assert record.info.statuses.tolist() == ["failed", "inaccurate", "optimal"]
    assert record.solution.unattained.tolist() == [False, True, False]
    assert record.solution.select(np.array([1, 2])).unattained.tolist() == [True, False]


def _examined(cost: cp.Expression, constraints: list[cp.Constraint], quadratic: bool = True) -> Status | None:
    problem = cp.Problem(cp.Minimize(cost), constraints)
    made = cvxlayers.compile(problem, [], quadratic=quadratic)
    values = made.evaluate(packing.pack(made, []).theta)
    return attainment.examine(made.structure, scales(made.structure, values).scaled(made.structure, values))


def _attained() -> dict[str, Model]:
    x, y, z, t = (cp.Variable() for _ in range(4))
    X, theta, rng = cp.Variable((2, 2), PSD=True), cp.Variable(3), np.random.default_rng(4)
    samples = rng.normal(size=(15, 3))
    mixed = cp.sum(cp.logistic(cp.multiply(rng.choice([-1, 1], 15), samples @ theta)))
    return {
        "idle cone": (cp.square(y - 1), [cp.exp(x) <= t]),
        "perspective": (z, [cp.ExpCone(x, y, z), y <= 2]),
        "no room": (-x, [cp.ExpCone(x, y, z), y <= 0]),
        "cone": (t - x, [cp.norm(cp.hstack([z, x])) <= t, z >= 0]),
        "matrix": (X[0, 0], [X[0, 1] >= 0]),
        "power": (y, [cp.PowCone3D(x, y, z, 0.4)]),
        "power_nd": (y, [cp.PowConeND(cp.hstack([x, y, t]), z, np.array([0.2, 0.3, 0.5]))]),
        "far bound": (cp.exp(x), [x >= -45]),
        "far log": (-cp.log(x), [x <= 1e5]),
        "small ridge": (cp.exp(x) + 1e-11 * cp.square(x), []),
        "small slope": (cp.exp(x) - 1e-10 * x, []),
        "idle log far out": (cp.square(x - 30), [cp.log(z) >= x]),
        "idle variable": (cp.exp(z), [z >= x, z >= -30]),
        "overlapping classes": (mixed, []),
        "separable with a ridge": (cp.sum(cp.logistic(-SAMPLES @ theta[:2])) + 1e-9 * cp.sum_squares(theta), []),
        "over linear": (cp.quad_over_lin(x - 1, y) + cp.square(x - 1), []),
    }


@pytest.mark.parametrize("quadratic", [True, False])
@pytest.mark.parametrize("name", _attained())
def test_what_is_attained_is_not_accused(name: str, quadratic: bool) -> None:
    cost, constraints = _attained()[name]
    assert _examined(cost, constraints, quadratic) is None


def test_no_minimum_in_other_shapes() -> None:
    x, y, z, t, X = *(cp.Variable() for _ in range(4)), cp.Variable((3, 3), PSD=True)
    theta = cp.Variable(3)
    quasi = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0], [1.0, 0.5, 2.0], [0.3, 1.0, -1.0]])
    for cost, constraints in (
        (z, [cp.ExpCone(x, y, z), y <= 1, y >= 0.25]),
        (t - x, [cp.norm(cp.hstack([z, x])) <= t, z == -0.3]),
        (X[0, 0] + X[2, 2], [X[0, 1] == 0.7, X[2, 2] >= 1]),
        (y, [cp.PowCone3D(x, y, z, 0.4), z <= -2]),
        (cp.sum(cp.logistic(-quasi @ theta)), []),
        (cp.exp(y), [y >= cp.exp(x) - 5]),
        (cp.matrix_frac(np.array([1.0, 2.0]), cp.Variable((2, 2))), []),
    ):
        assert _examined(cost, constraints) == Status.INACCURATE


def test_unbounded_and_infeasible_is_infeasible() -> None:
    x, y = cp.Variable(), cp.Variable()
    problem = cp.Problem(cp.Minimize(-cp.log(x) + y), [y >= 1, y <= 0])
    record = Layer.from_problem(problem, [], [x], on_failure="nan").solve([])
    assert record.info.statuses.tolist() == ["infeasible"]


@pytest.mark.parametrize("margin", [5.0, 15.0, 30.0])
def test_well_separated_samples_are_solved_as_before(margin: float) -> None:
    """In a box that leaves them this margin: the best corner, where exp(-margin) is the loss of each."""
    x, k = cp.Variable(2), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(-np.eye(2) @ x))), [cp.abs(x) <= k])
    record = Layer.from_problem(problem, [k], [x]).solve([np.array(margin)])
    assert record.info.statuses.tolist() == ["optimal"]
    assert_close(record.outputs[0], np.full(2, margin), 1e-6 if margin < 30 else 0.3, "the corner")


def test_nothing_is_found_where_a_flat_direction_leaves_no_cone_and_the_rest_is_not_solved() -> None:
    """Two semidefinite cones of order one, q in the range of a P of rank three but for the last digits."""
    P = Pattern.of(np.array([0, 0, 1, 0, 1, 2, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 2, 2, 3, 3, 3, 3]), (4, 4))
    A = Pattern.of(np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 2, 2, 3, 3]), (2, 4))
    numbers = [
        [0.05826607640362134, 0.11231522932823504, 0.840680992227694, -0.060326194487522175, 0.5652570123794297,
         0.8066386898551396, -0.2736471937020028, -0.3892868023617686, 0.43422662585452787, 1.3157868960242844],
        [0.18814658723185576, 0.26164130349809467, -0.30510928519510605, -0.9060159757071261],
        [0.9475029383273574, 0.620955525662217, 0.033016484420438114, 0.021637683229778323, 1.1488138111961077,
         0.7528866193054812],
        [-1.261062307467054, -0.8264497938216084],
    ]  # fmt: skip
    values = Values(*(np.array(part)[:, None] for part in numbers))
    assert attainment.examine(Structure(P, A, Cones(psd=(1, 1))), values) is None
