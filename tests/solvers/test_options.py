"""What callers may write in ``solver_args``, and what becomes of it."""

from __future__ import annotations

import os
from typing import Any

import clarabel
import numpy as np
import pytest

from cvxlayers.errors import EngineError, OptionError
from cvxlayers.program.solution import Status
from cvxlayers.solvers import options
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.options import COMMON, parse, tolerance
from cvxlayers.solvers.registry import FALLBACK_OPTIONS, FALLBACKS, SOLVERS, names
from tests.solvers.problems import family, make

CORES = len(os.sched_getaffinity(0))


def parsed(name: str, **given: Any) -> tuple[Settings, dict[str, Any]]:
    return parse(given, SOLVERS[name])


@pytest.mark.parametrize("name", names(installed=True))
def test_nothing_given(name: str) -> None:
    settings, derivative = parse(None, SOLVERS[name])
    assert settings == Settings(CORES, False, {"solve_method": "CLARABEL"} if name == "DIFFCP" else {})
    assert derivative == {"threads": CORES, "mode": "auto"}
    assert tolerance(settings) == 1e-6


@pytest.mark.parametrize("name", names(installed=True))
def test_options_of_cvxpylayers_are_understood_by_every_solver(name: str) -> None:
    settings, derivative = parsed(
        name, eps=1e-12, max_iters=50_000, acceleration_lookback=0, mode="lsqr", n_jobs_forward=3, n_jobs_backward=-1,
        verbose=False,
    )  # fmt: skip
    assert settings.threads == 3
    assert derivative == {"threads": CORES, "mode": "lsqr"}
    engine = SOLVERS["CLARABEL" if name == "DIFFCP" else name]
    assert all(settings.options[own] == 1e-12 for own in engine.aliases["eps"])
    assert all(settings.options[own] == 50_000 for own in engine.aliases["max_iters"])
    assert ("acceleration_lookback" in settings.options) == (name == "SCS")
    SOLVERS[name](make(family("LP"), 1).structure, settings)


def test_loose_eps_loosens_only_a_first_order_solver() -> None:
    assert parsed("SCS", eps=1e-3)[0].options == {"eps_abs": 1e-3, "eps_rel": 1e-3}
    assert set(parsed("CLARABEL", eps=1e-3)[0].options.values()) == {1e-10}
    assert set(parsed("ECOS", eps=1e-3)[0].options.values()) == {1e-10}
    assert parsed("DIFFCP", eps=1e-3, solve_method="SCS")[0].options["eps_abs"] == 1e-3


def test_tolerance_of_the_verification() -> None:
    assert tolerance(parsed("SCS", eps=1e-3)[0]) == pytest.approx(1e-2)
    assert tolerance(parsed("SCS", eps=1e-8)[0]) == 1e-6
    assert tolerance(parsed("DIFFCP", eps=1e-4, solve_method="scs")[0]) == pytest.approx(1e-3)
    assert tolerance(parsed("CLARABEL", eps=1e-3)[0]) == 1e-6
    assert tolerance(parsed("CLARABEL", tol_feas=1e-4)[0]) == pytest.approx(1e-3)


def test_own_option_wins_over_the_common_one() -> None:
    settings, _ = parsed("CLARABEL", tol_feas=1e-7, eps=1e-12, max_iters=10, max_iter=20)
    assert settings.options == {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-7, "max_iter": 20}


def test_options_reach_the_solver() -> None:
    problem = make(family("SDP35"), 3)
    for name in ("CLARABEL", "SCS"):
        settings = parsed(name, max_iters=3)[0]
        solution = SOLVERS[name](problem.structure, settings).solve(problem.values)
        assert not solution.ok.any()
        assert solution.iterations.max() <= 3
    loose = SOLVERS["SCS"](problem.structure, parsed("SCS", eps=1e-3)[0]).solve(problem.values)
    tight = SOLVERS["SCS"](problem.structure, parsed("SCS", eps=1e-10)[0]).solve(problem.values)
    assert loose.ok.all()
    assert (loose.iterations < tight.iterations).all()
    assert np.abs(tight.x - problem.x).max() < 1e-7 < np.abs(loose.x - problem.x).max()


@pytest.mark.parametrize(("method", "engine"), [("Clarabel", "CLARABEL"), ("scs", "SCS"), ("ECOS", "ECOS")])
def test_solve_method_of_diffcp(method: str, engine: str) -> None:
    problem = make(family("LP"), 2)
    settings, _ = parsed("DIFFCP", solve_method=method, max_iters=1000)
    assert settings.options["solve_method"] == engine
    solution = SOLVERS["DIFFCP"](problem.structure, settings).solve(problem.values)
    assert solution.status.tolist() == [Status.OPTIMAL] * 2


def test_solve_method_that_diffcp_does_not_have() -> None:
    with pytest.raises(OptionError, match="solve_method of DIFFCP must be one of CLARABEL, SCS, ECOS, not 'OSQP'"):
        parsed("DIFFCP", solve_method="OSQP")
    with pytest.raises(OptionError, match="solve_method of DIFFCP must be one of CLARABEL, SCS, ECOS, not 'MOSEK'"):
        SOLVERS["DIFFCP"](make(family("LP"), 1).structure, Settings(options={"solve_method": "mosek"}))


def test_solve_method_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOLVERS["ECOS"], "installed", classmethod(lambda cls: False))
    with pytest.raises(EngineError, match="pip install ecos"):
        parsed("DIFFCP", solve_method="ECOS")
    with pytest.raises(EngineError, match="pip install ecos"):
        SOLVERS["DIFFCP"](make(family("LP"), 1).structure, Settings(options={"solve_method": "ECOS"}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilon": 1e-3}, "CLARABEL has no option 'epsilon'. Did you mean eps"),
        ({"eps_abs": 1e-3}, "no option 'eps_abs'. It is an option of SCS."),
        ({"feastol": 1e-3}, "no option 'feastol'. It is an option of ECOS."),
        ({"max_itr": 3}, "Did you mean max_iter or max_iters"),
        ({7: 3}, "no option 7"),
        ({"eps": "small"}, "option eps .* must be a number, not 'small' \\(str\\)"),
        ({"eps": True}, "option eps .* must be a number, not True \\(bool\\)"),
        ({"eps": 0.0}, "option eps .* must be positive, not 0.0"),
        ({"eps": float("nan")}, "option eps .* must be positive, not nan"),
        ({"max_iters": 1.5}, "option max_iters .* must be an integer, not 1.5 \\(float\\)"),
        ({"max_iters": 0}, "option max_iters .* must be positive, not 0"),
        ({"n_jobs_forward": 0}, "n_jobs_forward .* must be a number of threads, or -1 for all cores, not 0"),
        ({"n_jobs_backward": -2}, "n_jobs_backward .* -1 for all cores, not -2"),
        ({"verbose": 1}, "verbose .* must be True or False, not 1 \\(int\\)"),
        ({"mode": "lpgd"}, "mode .* auto, dense, sparse, lsqr, lsmr, not 'lpgd' \\(the perturbed gradients lpgd"),
        ({"mode": "lpgd_left"}, "not 'lpgd_left' \\(the perturbed gradients"),
        ({"mode": "qr"}, "mode .* must be one of auto, dense, sparse, lsqr, lsmr, not 'qr'\\."),
        ({"solve_method": 3}, "solve_method .* must be a text, not 3"),
        ({"tol_feas": -1.0}, "tol_feas .* must not be negative or NaN, but it is -1.0"),
        ({"equilibrate_enable": "yes"}, "equilibrate_enable .* must be True or False, not 'yes'"),
    ],
)
def test_bad_options_say_what_is_wrong(given: dict[Any, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(given, SOLVERS["CLARABEL"])


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("CLARABEL", {"direct_solve_method": "guess"}),
        ("CLARABEL", {"max_iter": -1}),
        ("SCS", {"alpha": 3.0}),
        ("SCS", {"linear_solver": "guess"}),
        ("ECOS", {"max_iters": -1}),
        ("DIFFCP", {"direct_solve_method": "guess"}),
        ("DIFFCP", {"solve_method": "SCS", "alpha": 3.0}),
    ],
)
def test_values_that_the_package_refuses_are_refused_at_the_door(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=f"refuses .*{list(given)[-1]}="):
        SOLVERS[name](make(family("LP"), 1).structure, Settings(options=given))


def test_numpy_scalars_are_taken() -> None:
    settings, _ = parsed("SCS", eps=np.float32(1e-3), max_iters=np.int64(7), verbose=np.bool_(False))
    assert settings.options["max_iters"] == 7
    assert type(settings.options["max_iters"]) is int
    assert type(settings.options["eps_abs"]) is float
    assert settings.verbose is False


def test_clarabel_options_are_all_of_clarabels() -> None:
    """A later Clarabel may have more: each has to be offered or left out on purpose."""
    native = {name for name in dir(clarabel.DefaultSettings()) if not name.startswith("_")}
    ours = {"default", "verbose", "max_threads", "presolve_enable", "direct_kkt_solver", "input_sparse_dropzeros"}
    other = {name for name in native if name.startswith(("chordal_", "pardiso_"))}
    assert set(SOLVERS["CLARABEL"].options) == native - ours - other


@pytest.mark.parametrize("name", ["CLARABEL", "SCS", "ECOS"])
def test_every_option_is_taken_by_its_package(name: str) -> None:
    solver = SOLVERS[name]
    samples = {bool: True, int: 5, float: 0.5, str: "qdldl"}
    for option, kind in solver.types.items():
        settings, _ = parse({option: samples[kind]}, solver)
        assert solver(make(family("LP"), 1).structure, settings).name == name


def test_verbose_prints(capfd: pytest.CaptureFixture[str]) -> None:
    problem = make(family("LP"), 1)
    for name in names(installed=True):
        SOLVERS[name](problem.structure, parsed(name, verbose=False)[0]).solve(problem.values)
        assert capfd.readouterr().out == ""
        SOLVERS[name](problem.structure, parsed(name, verbose=True)[0]).solve(problem.values)
        assert len(capfd.readouterr().out) > 100


def test_common_options_are_documented() -> None:
    assert options.__doc__ is not None
    for name in COMMON:
        assert f"    {name} " in options.__doc__


def test_fallbacks_understand_what_they_are_told() -> None:
    for name, told in FALLBACK_OPTIONS.items():
        settings, _ = parse(told, SOLVERS[name])
        assert dict(settings.options) == dict(told) and name in FALLBACKS
