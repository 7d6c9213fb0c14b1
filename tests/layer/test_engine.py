"""Which engine a call gets: by name, by its options, and by what is installed and fits."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.kernels import jit
from cvxlayers.solvers import registry
from tests.support.kernels import needs_ecos, needs_kernels
from tests.support.tolerance import assert_close


def layer(solver: str | None = None, n: int = 3, **options: object) -> cvxlayers.Layer:
    x, c = cp.Variable(n), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    return cvxlayers.Layer.from_problem(problem, [c], [x], solver=solver, solver_args=options)


def engines(made: cvxlayers.Layer, batch: int, n: int = 3, **options: object) -> set[str]:
    made.solve([np.random.default_rng(0).standard_normal((batch, n))], solver_args=options)
    assert made.info is not None
    return set(made.info.engines)


@needs_kernels
def test_a_name_or_an_option_decides() -> None:
    assert engines(layer(), 5) == {"IPM"}
    assert engines(layer("SCS"), 5) == {"SCS"}
    assert engines(layer(solve_method="CLARABEL"), 5) == {"CLARABEL"}
    assert engines(layer(tol_gap_abs=1e-11), 5) == {"CLARABEL"}
    assert engines(layer(eps=1e-8, max_iters=200, n_jobs_forward=1), 5) == {"IPM"}
    assert engines(layer(), 5, tol_feas=1e-11) == {"CLARABEL"}
    assert engines(layer(), 5, refinements=3) == {"IPM"}


@needs_kernels
def test_the_size_of_the_batch_does_not_matter() -> None:
    assert [engines(layer(), batch) for batch in (1, 2, 7, 8, 100)] == 5 * [{"IPM"}]


def test_what_does_not_fit_goes_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvxlayers.ipm.kkt.symbolic.LARGEST_SIZE", 1)
    assert engines(layer(), 20) == {"CLARABEL"}


def test_without_numba_the_others_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.SOLVERS["IPM"], "installed", classmethod(lambda cls: False))
    assert engines(layer(), 20) == {"CLARABEL"}


def test_what_the_batched_solver_cannot_finish_goes_to_another() -> None:
    made = layer(max_iters=2)
    record = made.solve([np.random.default_rng(0).standard_normal((9, 3))])
    assert record.solution.ok.all()
    assert {"PIQP", "CLARABEL"} & set(record.info.engines) and (
        record.info.residuals.worst <= 1e-9
    ).all()  # some are sharpened


DEFAULT = "IPM" if jit.usable() else "CLARABEL"
CALLS = [
    ({"solve_method": "ECOS"}, "ECOS"),
    ({"solve_method": "ECOS", "abstol": 1e-9, "reltol": 1e-9, "feastol": 1e-9, "max_iters": 150}, "ECOS"),
    ({"solve_method": "ecos", "eps": 1e-9, "verbose": False}, "ECOS"),
    ({"abstol": 1e-9}, "ECOS"),
    ({"solve_method": "SCS", "eps": 1e-10, "max_iters": 20_000, "acceleration_lookback": 0}, "SCS"),
    ({"solve_method": "SCS", "normalize": True, "scale": 1.0, "alpha": 1.6}, "SCS"),
    ({"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iters": 20_000}, "SCS"),
    ({"eps": 1e-9, "scale": 0.5}, "SCS"),
    ({"solve_method": "Clarabel", "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}, "CLARABEL"),
    ({"max_iter": 60, "n_jobs_forward": 1}, "CLARABEL"),
    ({"eps": 1e-8, "max_iters": 10_000, "acceleration_lookback": 0}, DEFAULT),
    ({"mode": "dense", "n_jobs_forward": 1, "n_jobs_backward": 1}, DEFAULT),
    ({"mode": "lsqr", "eps": 1e-4, "verbose": False}, DEFAULT),
    ({"solve_method": None}, DEFAULT),
]
VALUES = np.array([[2.0, 0.5, -1.0], [0.3, 0.2, 0.1], [-4.0, 1.0, 0.75]])
PROJECTED = np.array([[1.0, 0.0, 0.0], [13 / 30, 1 / 3, 7 / 30], [0.0, 0.625, 0.375]])


@pytest.mark.parametrize("where", ["call", "constructor", "both", "quadratic program", "conic"])
@pytest.mark.parametrize(("given", "engine"), CALLS, ids=str)
def test_what_users_of_cvxpylayers_pass(given: dict[str, object], engine: str, where: str) -> None:
    """The projection onto the simplex, and its gradient, whatever the option, at the constructor or at the call."""
    if engine == "ECOS":
        pytest.importorskip("ecos")
    if where == "quadratic program":
        made: cvxlayers.QP | cvxlayers.Layer = cvxlayers.QP()
        arguments = [2 * np.eye(3), -2 * VALUES, -np.eye(3), np.zeros(3), np.ones((1, 3)), np.ones(1)]
        record = made.solve(*arguments, solver_args=given)
        gradient = -2 * record.vjp([np.eye(3)])[1]
    else:
        made = layer(**(given if where in ("constructor", "both") else {}))
        if where == "conic":
            x, c = cp.Variable(3), cp.Parameter(3)
            problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
            made = cvxlayers.Layer(cvxlayers.compile(problem, [c], [x], quadratic=False))
        record = made.solve([VALUES], {} if where == "constructor" else given)
        (gradient,) = record.vjp([np.eye(3)])
    tolerance = 1e-8
    assert_close(record.outputs[0], PROJECTED, tolerance, "projection")
    assert_close(gradient, np.array([[0, 0, 0], [-1 / 3, 2 / 3, -1 / 3], [0, -0.5, 0.5]]), tolerance, "gradient")
    assert record.info.statuses.tolist() == ["optimal"] * 3
    assert set(record.info.engines) == {engine}


@needs_ecos
def test_an_option_of_nobody_is_an_error_and_a_cone_that_a_solver_lacks_is_one() -> None:
    with pytest.raises(cvxlayers.OptionError, match="no option 'epsilon'"):
        layer()(VALUES, solver_args={"epsilon": 1e-3})
    with pytest.raises(cvxlayers.OptionError, match=r"no option 'abstol'.*option of ECOS"):
        layer()(VALUES, solver_args={"abstol": 1e-3, "tol_feas": 1e-3})
    X, C = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2))
    psd = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(X - C))))
    with pytest.raises(cvxlayers.EngineError, match="ECOS cannot take cones of the kind psd"):
        psd(np.eye(2), solver_args={"solve_method": "ECOS"})
    assert engines(layer(), 3, solve_method="ECOS") == {"ECOS"}
