"""Nobody's units matter: what is multiplied by powers of ten comes back as algebra says, or the status says no.

Each family of the table, and random problems, on every engine, in many units: see ``tests.support.scaling`` for the
algebra and ``tests.support.equivariance`` for how numbers are compared. ``python -m benchmarks.equivariance`` runs the
same over thousands of problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import cvxlayers
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record
from cvxlayers.solvers import registry
from tests.contracts.case import Case
from tests.contracts.table import CASES, case
from tests.support import layers
from tests.support.equivariance import Found, Reference, compare, reference
from tests.support.regular import Regular, regular
from tests.support.scaling import as_parameters, common_units, random_units
from tests.support.tolerance import assert_all_close, assert_close, relative_error, say

ENGINES = registry.names(installed=True)
KINDS = registry.solver_class("CLARABEL").kinds
TOLERANCE = 1e-6
DECADES, MILD, COMMON = 6, 3, 12


@cache
def right(name: str, quadratic: bool, seed: int = 0) -> Reference:
    """A family's answer in its own units, in the form with or without P."""
    compiled = layers.compiled_as(name, quadratic)
    return reference(compiled, packing.pack(compiled, case(name).point(seed)).theta[:, 0])


def right_for(row: Case, engine: str) -> Reference:
    return right(row.name, registry.solver_class(engine).quadratic)


def accept(found: Found, what: str, least: float = 0.6) -> None:
    """No number of an optimal element is wrong, and enough of them are optimal; says what came out."""
    wrong = np.flatnonzero(found.worst > TOLERANCE)
    errors = [
        float(np.max(part[found.optimal], initial=0.0)) for part in (found.outputs, found.objective, found.gradient)
    ]
    say(f"{what}: {int(found.optimal.sum())} of {found.statuses.size} optimal; outputs {errors[0]:.1e}, objective "
        f"{errors[1]:.1e}, gradient {errors[2]:.1e}")  # fmt: skip
    assert not wrong.size, f"{what}: elements {wrong.tolist()} are called optimal and are wrong (see above)"
    assert found.optimal.mean() >= least, f"{what}: refused, {found.statuses[~found.optimal].tolist()}"


@pytest.mark.parametrize(("row", "engine"), layers.pairs())
def test_units_of_rows_variables_and_the_objective(row: Case, engine: str) -> None:
    known = right_for(row, engine)
    rng = np.random.default_rng([1, *row.name.encode()])
    units = random_units(rng, known.compiled.structure, 12 if engine == "IPM" else 3, DECADES)
    accept(compare(known, engine, units), f"{row.name} on {engine}")


@pytest.mark.parametrize(("row", "engine"), layers.pairs())
def test_one_unit_common_to_all(row: Case, engine: str) -> None:
    known = right_for(row, engine)
    exponents = np.arange(-COMMON, COMMON + 1, 2 if engine == "IPM" else 8)
    structure = known.compiled.structure
    accept(compare(known, engine, common_units(structure, exponents, structure.quadratic)), f"{row.name} on {engine}")


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=15, phases=[Phase.generate])  # a seed has no simpler form
@given(seed=st.integers(0, 10**6), decades=st.integers(1, DECADES), curved=st.booleans(), quadratic=st.booleans())
def test_random_problems_in_random_units(engine: str, seed: int, decades: int, curved: bool, quadratic: bool) -> None:
    solver = registry.solver_class(engine)
    rng = np.random.default_rng(seed)
    posed = regular(rng, solver.kinds if curved else frozenset({"zero", "nonneg"}), quadratic and solver.quadratic)
    known = known_answer(posed)
    accept(compare(known, engine, random_units(rng, posed.structure, 4, decades)), f"seed {seed} on {engine}")


def known_answer(posed: Regular) -> Reference:
    """The reference of a random problem, held to the answer that the problem was made for."""
    problem = as_parameters(posed.structure)
    known = reference(problem.compiled, problem.theta(posed.values)[0])
    n = posed.structure.n
    assert_all_close([known.rows[:n], known.rows[n:]], [posed.x, posed.y], 1e-9, "the reference")
    return known


@pytest.mark.parametrize("row", CASES, ids=str)
def test_mild_units_are_not_refused(row: Case) -> None:
    """Up to 1e3 each way: the default engine solves all of them."""
    known = right(row.name, quadratic=True)
    units = random_units(np.random.default_rng([2, *row.name.encode()]), known.compiled.structure, 20, MILD)
    found = compare(known, None, units)
    assert found.optimal.all(), f"{row.name}: {found.statuses[~found.optimal].tolist()}"
    accept(found, row.name)


@pytest.mark.parametrize("seed", range(6))
def test_random_problems_in_mild_units_are_not_refused(seed: int) -> None:
    rng = np.random.default_rng([3, seed])
    posed = regular(rng, KINDS, bool(seed % 2))
    found = compare(known_answer(posed), None, random_units(rng, posed.structure, 20, MILD))
    assert found.optimal.all(), f"seed {seed}: {found.statuses[~found.optimal].tolist()}"
    accept(found, f"seed {seed}")


def test_a_wrong_answer_is_found() -> None:
    """The comparison sees an error of 1e-5 in one number of any kind."""
    known = right("qp_with_duals", quadratic=True)
    units = random_units(np.random.default_rng(0), known.compiled.structure, 1, 0)
    assert compare(known, "CLARABEL", units).worst[0] <= TOLERANCE
    for part in ("rows", "gradient"):
        moved = getattr(known, part).copy()
        moved[np.argmax(np.abs(moved))] *= 1 + 1e-5
        other = Reference(**{**vars_of(known), part: moved})
        assert compare(other, "CLARABEL", units).worst[0] > TOLERANCE
    other = Reference(**{**vars_of(known), "objective": known.objective * (1 + 1e-3)})
    assert compare(other, "CLARABEL", units).objective[0] > TOLERANCE


def vars_of(known: Reference) -> dict[str, Any]:
    return {name: getattr(known, name) for name in Reference.__dataclass_fields__}


# The same as users write it: a model whose author counts a variable, a constraint or the objective in other units.

Model = tuple[cp.Problem, list[cp.Parameter], list[cp.Variable], list[float], list[np.ndarray]]
"""The problem, its parameters, what is returned, the units in which these come, and the parameters' values."""


def portfolio(variable: float, row: float, objective: float) -> Model:
    """Weights in dollars, the budget in its own unit, utility in utils."""
    rng = np.random.default_rng(5)
    n = 6
    w, gain, F = cp.Variable(n), cp.Parameter(n), rng.normal(size=(n, n)) / 3
    share = variable * w
    budget = row * cp.sum(share) == row
    utility = gain @ share - cp.sum_squares(F @ share) - 0.05 * cp.norm1(share - 1 / n)
    problem = cp.Problem(cp.Maximize(objective * utility), [budget, w >= 0])
    values = [0.1 * rng.normal(size=n)]
    return problem, [gain], [w, budget.dual_variables[0]], [variable, row / objective], values


def ball(variable: float, row: float, objective: float) -> Model:
    """The farthest point of a ball in a direction, with a floor."""
    x, c, radius = cp.Variable(4), cp.Parameter(4), cp.Parameter(pos=True)
    point = variable * x
    floor = row * point[0] >= -0.1 * row
    problem = cp.Problem(cp.Minimize(objective * (c @ point)), [row * cp.norm(point) <= row * radius, floor])
    values = [np.array([1.0, -0.4, 0.7, 0.2]), np.array(1.5)]
    return problem, [c, radius], [x, floor.dual_variables[0]], [variable, row / objective], values


def entropy(variable: float, row: float, objective: float) -> Model:
    """Entropy on a budget, with a cost for each part."""
    x, c = cp.Variable(4, nonneg=True), cp.Parameter(4)
    share = variable * x
    budget = row * cp.sum(share) == row
    problem = cp.Problem(cp.Maximize(objective * (cp.sum(cp.entr(share)) + c @ share)), [budget])
    return problem, [c], [x, budget.dual_variables[0]], [variable, row / objective], [np.array([0.3, -1.0, 0.8, 0.1])]


def semidefinite(variable: float, row: float, objective: float) -> Model:
    """The nearest correlation matrix."""
    X, C = cp.Variable((4, 4), symmetric=True), cp.Parameter((4, 4), symmetric=True)
    S = variable * X
    problem = cp.Problem(cp.Minimize(objective * cp.sum_squares(S - C)), [row * S >> 0, row * cp.diag(S) == row])
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(4, 4))
    return problem, [C], [X], [variable], [np.ones((4, 4)) * 0.9 + 0.1 * np.eye(4) + 0.6 * (noise + noise.T)]


def least_absolute(variable: float, row: float, objective: float) -> Model:
    """A robust fit with bounds on the coefficients."""
    rng = np.random.default_rng(2)
    A = rng.normal(size=(12, 3))
    x, b = cp.Variable(3), cp.Parameter(12)
    fit = variable * x
    bound = row * fit <= 0.8 * row
    problem = cp.Problem(cp.Minimize(objective * (cp.norm1(A @ fit - b) + cp.sum_squares(fit))), [bound])
    return (
        problem,
        [b],
        [x, bound.dual_variables[0]],
        [variable, row / objective],
        [A @ np.ones(3) + rng.normal(size=12)],
    )


MODELS: Sequence[Callable[[float, float, float], Model]] = (portfolio, ball, entropy, semidefinite, least_absolute)
UNITS = ((1e6, 1.0, 1.0), (1e-6, 1.0, 1.0), (1.0, 1e6, 1.0), (1.0, 1e-6, 1.0), (1.0, 1.0, 1e6), (1.0, 1.0, 1e-6),
         (1e-4, 1e3, 1e5), (1e5, 1e-4, 1e-6))  # fmt: skip


Answer = tuple[list[np.ndarray], list[np.ndarray]]
"""The outputs in units of one, and the gradients of a sum of these with fixed weights."""


def answer(record: Record, units: list[float]) -> Answer:
    outputs = [output * unit for output, unit in zip(record.outputs, units, strict=True)]
    rng = np.random.default_rng(4)
    weights = [rng.normal(size=output.shape) * unit for output, unit in zip(record.outputs, units, strict=True)]
    return outputs, list(record.vjp(weights))


@cache
def in_units_of_one(model: Callable[[float, float, float], Model]) -> Answer:
    """Sharp to rounding."""
    problem, parameters, variables, units, values = model(1.0, 1.0, 1.0)
    compiled = cvxlayers.compile(problem, parameters, variables)
    known = reference(compiled, packing.pack(compiled, values).theta[:, 0])
    return answer(Layer(compiled).restore(values, known.point), units)


@pytest.mark.parametrize("units", UNITS, ids=str)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_units_of_a_cvxpy_model(model: Callable[[float, float, float], Model], units: tuple[float, ...]) -> None:
    right_outputs, right_gradients = in_units_of_one(model)
    problem, parameters, variables, inside, values = model(*units)
    record = Layer.from_problem(problem, parameters, variables, on_failure="nan").solve(values)
    status, (outputs, gradients) = str(record.info.statuses[0]), answer(record, inside)
    if status == "optimal":
        for found, known, what in ((outputs, right_outputs, "outputs"), (gradients, right_gradients, "gradients")):
            for one, other in zip(found, known, strict=True):
                assert_close(one, other, TOLERANCE, f"{what} in units {units}", floor=1e-9)
    else:
        assert max(abs(np.log10(unit)) for unit in units) > MILD, f"refused in units {units}: {status}"
        assert all(relative_error(one, other) == np.inf for one, other in zip(outputs, right_outputs, strict=True))
