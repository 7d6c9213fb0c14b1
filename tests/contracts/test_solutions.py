"""Every engine finds the reference solution of every problem that it takes, and says how good its point is."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import cvxlayers
from cvxlayers.layer.layer import Layer
from tests.contracts.case import Case
from tests.contracts.table import CASES
from tests.support import layers
from tests.support.tolerance import assert_all_close, assert_close, say

SEEDS = (0, 1, 2)
TOLERANCE = 1e-6


@pytest.mark.parametrize(("row", "engine"), layers.pairs())
def test_solution_is_the_reference(row: Case, engine: str) -> None:
    reference = layers.expected(row)
    record = layers.layer(row, engine).solve(row.point())
    assert_all_close(record.outputs, reference.outputs, TOLERANCE, f"{row.name} on {engine}")
    assert_close(record.info.objective, np.array([reference.objective]), 1e-7, "objective")


@pytest.mark.parametrize(("row", "engine"), layers.pairs())
def test_report_of_a_solution(row: Case, engine: str) -> None:
    info = layers.layer(row, engine).solve(row.point()).info
    assert info.statuses.tolist() == ["optimal"]
    worst = float(info.residuals.worst[0])
    say(f"{row.name} on {engine}: worst residual {worst:.1e} by {info.engines[0]}, {info.iterations[0]} iterations")
    assert worst <= 1e-7
    assert info.engines.tolist() == [engine]


@pytest.mark.parametrize(("row", "engine"), layers.pairs())
def test_batch_equals_single_calls(row: Case, engine: str) -> None:
    points = [row.point(seed) for seed in SEEDS]
    batch = [np.stack(values) for values in zip(*points, strict=True)]
    together = layers.layer(row, engine)(*batch)
    for i, point in enumerate(points):
        alone = layers.layer(row, engine)(*point)
        found = [o[i] for o in together] if batch else together
        assert_all_close(found, alone, TOLERANCE, f"{row.name} on {engine}, element {i}")


@pytest.mark.parametrize("row", CASES, ids=str)
@pytest.mark.parametrize("quadratic", [True, False])
def test_the_problem_is_left_as_it_was(row: Case, quadratic: bool) -> None:
    built = row.build()
    for parameter, value in zip(built.parameters, row.point(1), strict=True):
        if not parameter.attributes["sparsity"]:
            parameter.value = value
    for variable in built.problem.variables():
        variable.save_value(np.full(variable.shape, 0.25))
    before = _snapshot(built)
    if quadratic or not row.only_quadratic:
        compiled = cvxlayers.compile(built.problem, built.parameters, built.variables, row.gp, quadratic)
        Layer(compiled)(*row.point())
    after = _snapshot(built)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def _snapshot(built: object) -> dict[str, object]:
    problem = built.problem  # type: ignore[attr-defined]
    state: dict[str, object] = {"status": problem.status, "value": problem.value, "text": str(problem)}
    for kind, leaves in (("parameter", problem.parameters()), ("variable", problem.variables())):
        for leaf in leaves:
            value = leaf._value  # without CVXPY's warnings about sparse values
            state[f"{kind} {leaf.id}"] = value.toarray() if sp.issparse(value) else value
    for constraint in problem.constraints:
        for dual in constraint.dual_variables:
            state[f"dual {dual.id}"] = dual.value
    return state
