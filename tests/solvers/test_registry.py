"""Solvers by name: found in any spelling, refused with what to do instead, and stepping in for each other."""

from __future__ import annotations

import builtins
import importlib.util
from collections.abc import Callable

import pytest

from cvxlayers.cones import KINDS
from cvxlayers.errors import EngineError, OptionError
from cvxlayers.solvers import registry
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.registry import SOLVERS, choose, fallbacks, names, solver_class, solver_for, unfit
from tests.solvers.problems import family, make
from tests.support.kernels import needs_ecos, needs_kernels

Missing = Callable[[str], None]


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Missing:
    """Makes a solver look as if its package were not installed."""
    return lambda name: monkeypatch.setattr(SOLVERS[name], "installed", classmethod(lambda cls: False))


def test_names() -> None:
    assert names() == ("CLARABEL", "SCS", "ECOS", "DIFFCP", "IPM", "PIQP")
    assert all(SOLVERS[name].name == name for name in names())


def test_names_of_installed_solvers(missing: Missing) -> None:
    missing("SCS")
    assert names() == ("CLARABEL", "SCS", "ECOS", "DIFFCP", "IPM", "PIQP")
    assert "SCS" not in names(installed=True)


@pytest.mark.parametrize("name", ["clarabel", "Clarabel", "CLARABEL", "scs", "DiffCP"])
def test_any_case_of_letters(name: str) -> None:
    assert solver_class(name).name == name.upper()


def test_unknown_name_lists_the_others_and_the_nearest() -> None:
    with pytest.raises(EngineError, match=r"no solver 'CLARABLE'\. Did you mean CLARABEL\?.*CLARABEL, SCS, ECOS"):
        solver_class("CLARABLE")


@pytest.mark.parametrize("name", ["MOREAU", "CUCLARABEL", "MPAX", "OSQP", "mosek", "Gurobi"])
def test_known_but_foreign_name(name: str) -> None:
    with pytest.raises(EngineError, match=f"no interface to the solver '{name}'.*CLARABEL, SCS, ECOS, DIFFCP"):
        solver_class(name)


def test_name_of_a_wrong_type() -> None:
    with pytest.raises(EngineError, match=r"must be the name of a solver .*, not 3"):
        solver_class(3)  # type: ignore[arg-type]


def test_solver_that_is_not_installed(missing: Missing) -> None:
    missing("ECOS")
    with pytest.raises(EngineError, match=r"ECOS is not installed: .*`pip install ecos`.*CLARABEL, SCS, DIFFCP"):
        solver_class("ecos")
    with pytest.raises(EngineError, match="pip install ecos"):
        SOLVERS["ECOS"](make(family("LP"), 1).structure, Settings())


def test_modules_load_without_the_packages_that_they_call(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.split(".")[0] in ("clarabel", "scs", "ecos", "diffcp"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    for module in ("clarabel", "scs", "ecos", "diffcp"):
        path = importlib.util.find_spec(f"cvxlayers.solvers.{module}")
        assert path is not None and path.loader is not None
        path.loader.exec_module(importlib.util.module_from_spec(path))  # type: ignore[attr-defined]


@needs_kernels
def test_default_solver(missing: Missing) -> None:
    every = frozenset({"zero", "nonneg", "second_order", "psd", "exponential", "power"})
    assert choose(every, quadratic=True).name == "CLARABEL"
    missing("CLARABEL")
    assert choose(every, quadratic=True).name == "SCS"
    missing("SCS")
    assert choose(frozenset({"nonneg"}), quadratic=False).name == "ECOS"
    assert choose(every, quadratic=True).name == "IPM"
    missing("IPM")
    with pytest.raises(EngineError, match="`pip install clarabel` or `pip install scs` or `pip install numba`"):
        choose(every, quadratic=True)


@needs_ecos
def test_fallbacks(missing: Missing) -> None:
    linear, power = make(family("exponential-linear"), 1).structure, make(family("power"), 1).structure

    def found(name: str, structure: object) -> list[str]:
        return [solver.name for solver in fallbacks(name, structure)]  # type: ignore[arg-type]

    assert found("CLARABEL", linear) == ["SCS", "ECOS"]
    assert found("SCS", linear) == ["CLARABEL", "ECOS"]
    assert found("ECOS", linear) == ["CLARABEL", "SCS"]
    assert found("DIFFCP", linear) == ["CLARABEL", "SCS", "ECOS"]
    assert found("clarabel", power) == ["SCS"]
    first = ["PIQP"] if SOLVERS["PIQP"].installed() else []
    assert found("CLARABEL", make(family("unconstrained"), 1).structure) == first
    assert found("IPM", make(family("QP"), 1).structure) == [*first, "CLARABEL", "SCS"]
    missing("SCS")
    assert found("CLARABEL", power) == []


def test_solver_for() -> None:
    assert solver_for(None).name == "CLARABEL"
    assert solver_for(None, {"solve_method": "SCS"}).name == "SCS"
    assert solver_for(None, {"solve_method": "Clarabel"}).name == "CLARABEL"
    assert solver_for("diffcp", {"solve_method": "ECOS"}).name == "DIFFCP"
    assert solver_for("scs", {"solve_method": "SCS", "eps": 1e-8}).name == "SCS"
    with pytest.raises(OptionError, match="solver='CLARABEL' and solve_method='SCS' contradict"):
        solver_for("CLARABEL", {"solve_method": "SCS"})
    with pytest.raises(OptionError, match="solve_method must be the name of a solver, not 1"):
        solver_for(None, {"solve_method": 1})
    with pytest.raises(EngineError, match="no interface to the solver 'OSQP'"):
        solver_for(None, {"solve_method": "OSQP"})


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("ECOS", "SDP3", "cones of the kind psd"),
        ("ECOS", "QP", r"a quadratic objective \(P\)"),
        ("DIFFCP", "power-linear", "cones of the kind power"),
        ("SCS", "unconstrained", "a problem without constraints"),
    ],
)
def test_problem_that_a_solver_cannot_take(name: str, kind: str, reason: str) -> None:
    structure = make(family(kind), 1).structure
    assert not SOLVERS[name].takes(structure)
    with pytest.raises(EngineError, match=f"{name} cannot take {reason}"):
        SOLVERS[name](structure, Settings())
    assert "CLARABEL" in unfit(SOLVERS[name], structure).split("can: ")[1]


@needs_ecos
def test_diffcp_refuses_what_the_solver_behind_it_cannot_take() -> None:
    with pytest.raises(EngineError, match="ECOS cannot take cones of the kind psd"):
        SOLVERS["DIFFCP"](make(family("SDP35-linear"), 1).structure, Settings(options={"solve_method": "ECOS"}))


def test_every_solver_describes_itself() -> None:
    kinds = frozenset(KINDS)
    for solver in SOLVERS.values():
        assert solver.kinds <= kinds
        assert set(solver.types) == set(solver.options)
        assert set(solver.aliases) == {"eps", "max_iters"}
        engine = registry.SOLVERS[solver.wraps[0]] if solver.wraps else solver
        assert {name for own in engine.aliases.values() for name in own} <= set(engine.options)
        assert set(engine.defaults) <= set(engine.options)
