"""The torture's problems are what they claim to be, and what is wrong is found."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import equivariance, ipm_torture
from benchmarks.hard import FAMILIES, Hard
from cvxlayers.cones.projection import distance
from cvxlayers.layer.layer import Layer
from cvxlayers.program.solution import Status
from tests.ipm.problems import random_cones

KINDS = ("second_order", "psd", "exponential", "power")
SOLVABLE = [name for name in FAMILIES if name not in ("infeasible", "unbounded")]


def drawn(name: str, seed: int = 0) -> Hard:
    rng = np.random.default_rng([seed, *name.encode()])
    cones = random_cones(rng, 6, *KINDS)
    return FAMILIES[name](rng, 12, cones, 3, True)


@pytest.mark.parametrize("name", SOLVABLE)
def test_the_known_solution_is_feasible_and_moves_along_the_tangent(name: str) -> None:
    problem = drawn(name)
    values, structure = problem.values, problem.structure
    assert problem.status == Status.OPTIMAL and problem.tangent is not None and problem.objective is not None
    assert problem.x is not None and np.isfinite(problem.x).all(axis=0).any()
    known = np.where(np.isfinite(problem.x), problem.x, 0.0)
    outside = distance(structure.cones, values.b - structure.A.times(values.A, known))
    cost = (known * (structure.P_times(values.P, known) / 2 + values.q)).sum(axis=0)
    there = np.isfinite(problem.x).all(axis=0)
    assert outside[there].max() <= 1e-12
    np.testing.assert_allclose(cost[there], problem.objective[there], rtol=1e-10, atol=1e-10)
    step = 1e-6
    for plus, minus, tangent in zip(problem.moved(step), problem.moved(-step), problem.tangent, strict=True):
        np.testing.assert_allclose((plus - minus) / (2 * step), tangent, atol=1e-7)


@pytest.mark.parametrize("name", ["redundant rows", "repeated cones", "redundant psd"])
def test_redundant_rows_follow_from_the_others_wherever_the_problem_moves(name: str) -> None:
    """The larger problem has the same solution as the first rows alone, also a step along its direction."""
    problem = drawn(name)
    layer = Layer(ipm_torture.as_parameters(problem.structure).compiled, "CLARABEL", check_parameters=False)
    posed = ipm_torture.as_parameters(problem.structure)
    assert problem.x is not None
    record = layer.solve([posed.theta(problem.values)])
    there = np.isfinite(problem.x).all(axis=0)
    np.testing.assert_allclose(record.solution.x[:, there], problem.x[:, there], atol=1e-5)
    assert layer.solve([posed.theta(problem.moved(1e-2))]).solution.ok.all()


def test_the_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["--trials", "1", "--cones", "second-order", "--families", "regular", "redundant rows", "infeasible"]
    count = ipm_torture.main(chosen)
    assert count.statuses.sum() == 3 * ipm_torture.BATCH
    assert count.statuses[Status.INFEASIBLE] == ipm_torture.BATCH
    assert count.wrong == count.unflagged == 0
    assert count.compared >= ipm_torture.BATCH
    assert "redundant rows" in capsys.readouterr().out


def test_a_wrong_answer_and_a_wrong_gradient_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ["--trials", "1", "--cones", "second-order", "--families", "regular"]
    solve, vjp = Layer.solve, ipm_torture.Record.vjp
    with monkeypatch.context() as patch:
        patch.setattr(Layer, "solve", lambda self, given: solve(self, [given[0] + 0.01]))
        assert ipm_torture.main(chosen).wrong >= ipm_torture.BATCH // 2
    monkeypatch.setattr(ipm_torture.Record, "vjp", lambda self, given: tuple(1.01 * part for part in vjp(self, given)))
    assert ipm_torture.main(chosen).unflagged >= ipm_torture.BATCH // 2


def test_the_units_command_counts(capsys: pytest.CaptureFixture[str]) -> None:
    tally, well = equivariance.main(["--families", "simplex_projection", "--decades", "0", "--batch", "4"])
    assert (tally.problems, tally.refused, tally.wrong) == (4, 0, 0)
    assert well
    assert "simplex_projection" in capsys.readouterr().out


def test_a_refusal_in_mild_units_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = Layer.solve

    def refusing(self: Layer, given: list[np.ndarray]) -> object:
        worse = given[0].copy()
        worse[..., 0] = np.nan if worse.ndim > 1 and len(worse) > 1 else worse[..., 0]
        return solve(self, [worse])

    monkeypatch.setattr(Layer, "solve", refusing)
    tally, well = equivariance.main(["--families", "simplex_projection", "--decades", "1", "--batch", "4"])
    assert tally.refused == 4
    assert not well
