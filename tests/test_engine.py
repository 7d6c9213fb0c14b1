"""Which engine a call gets: by name, by its options, and by what is installed and fits."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.solvers import registry


def layer(solver: str | None = None, n: int = 3, **options: object) -> cvxlayers.Layer:
    x, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    return cvxlayers.Layer.from_problem(problem, [c], [x], solver=solver, solver_args=options)


def engines(made: cvxlayers.Layer, batch: int, n: int = 3, **options: object) -> set[str]:
    made.solve([np.random.default_rng(0).standard_normal((batch, n))], solver_args=options)
    assert made.info is not None
    return set(made.info.engines)


def test_a_name_or_an_option_decides() -> None:
    assert engines(layer(), 5) == {"IPM"}
    assert engines(layer("SCS"), 5) == {"SCS"}
    assert engines(layer(solve_method="CLARABEL"), 5) == {"CLARABEL"}
    assert engines(layer(tol_gap_abs=1e-11), 5) == {"CLARABEL"}
    assert engines(layer(eps=1e-8, max_iters=200, n_jobs_forward=1), 5) == {"IPM"}
    assert engines(layer(), 5, tol_feas=1e-11) == {"CLARABEL"}
    assert engines(layer(), 5, refinements=3) == {"IPM"}


def test_the_size_of_the_batch_does_not_matter() -> None:
    assert [engines(layer(), batch) for batch in (1, 2, 7, 8, 100)] == 5 * [{"IPM"}]


def test_what_does_not_fit_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvxlayers.ipm.symbolic.LARGEST_SIZE", 1)
    assert engines(layer(), 20) == {"CLARABEL"}


def test_without_numba_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.SOLVERS["IPM"], "installed", classmethod(lambda cls: False))
    assert engines(layer(), 20) == {"CLARABEL"}


def test_what_the_batched_solver_cannot_finish_goes_to_another() -> None:
    made = layer(max_iters=2)
    record = made.solve([np.random.default_rng(0).standard_normal((9, 3))])
    assert record.solution.ok.all()
    assert set(record.info.engines) == {"CLARABEL"}
