"""The solvers by name, the default one, and which can step in for another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cvxlayers.errors import EngineError, OptionError
from cvxlayers.program.structure import Structure
from cvxlayers.solvers.base import Solver
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.diffcp import Diffcp
from cvxlayers.solvers.ecos import ECOS
from cvxlayers.solvers.ipm import IPM
from cvxlayers.solvers.scs import SCS

__all__ = ["SOLVERS", "choose", "fallbacks", "names", "solver_class", "solver_for", "unfit"]

SOLVERS: Mapping[str, type[Solver]] = MappingProxyType(
    {solver.name: solver for solver in (Clarabel, SCS, ECOS, Diffcp, IPM)}
)
"""Every solver by its name; the first installed one that can take a problem is its default."""

FALLBACKS = ("CLARABEL", "SCS", "ECOS")
"""In which order solvers step in. DIFFCP is not among them: it only calls these."""

FALLBACK_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"SCS": {"time_limit_secs": 15.0}})
"""What they are told as fallbacks: a first-order method may take very long for what others have failed on."""

FOREIGN = frozenset({
    "CBC", "COPT", "COSMO", "CPLEX", "CUCLARABEL", "CUOPT", "CVXOPT", "DAQP", "GLOP", "GLPK", "GLPK_MI", "GUROBI",
    "HIGHS", "IPOPT", "KNITRO", "MOREAU", "MOSEK", "MPAX", "NAG", "OSQP", "PDLP", "PIQP", "PROXQP", "QOCO", "QPALM",
    "QTQP", "SCIP", "SCIPY", "SDPA", "UNO", "XPRESS",
})  # fmt: skip
"""Solvers that CVXPY or cvxpylayers know and that cvxlayers does not have."""


def names(installed: bool = False) -> tuple[str, ...]:
    """The names of all solvers, or only of the installed ones.

    >>> names()[0]
    'CLARABEL'
    """
    return tuple(name for name, solver in SOLVERS.items() if solver.installed() or not installed)


def solver_class(name: str) -> type[Solver]:
    """The solver of this name, in any case of letters.

    Raises
    ------
    EngineError
        If there is none of this name, or its package is not installed or of no use.

    >>> solver_class("clarabel").name
    'CLARABEL'
    """
    if not isinstance(name, str):
        raise EngineError(f"The argument solver must be the name of a solver ({_listed()}), not {name!r}.")
    key = name.upper()
    if key not in SOLVERS:
        raise EngineError(_unknown(name))
    solver = SOLVERS[key]
    if not solver.installed():
        if reason := solver.hindrance():
            raise EngineError(
                f"The solver {key} cannot run here. {reason} Or choose one of those that can: "
                f"{', '.join(names(installed=True))}."
            )
        raise EngineError(
            f"The solver {key} is not installed: install it with `pip install {solver.pip}`, "
            f"or choose one of those that are: {', '.join(names(installed=True))}."
        )
    return solver


def choose(kinds: frozenset[str], quadratic: bool) -> type[Solver]:
    """The default solver for problems with these kinds of cone, and with or without a quadratic objective.

    >>> choose(frozenset({"nonneg", "psd"}), quadratic=True).name
    'CLARABEL'
    """
    able = [s for s in SOLVERS.values() if kinds <= s.kinds and (s.quadratic or not quadratic)]
    for solver in able:
        if solver.installed():
            return solver
    lines = " or ".join(f"`pip install {solver.pip}`" for solver in able)
    raise EngineError(f"No installed solver takes the cones {', '.join(sorted(kinds))}; {lines} brings one.")


def solver_for(
    solver: str | None,
    solver_args: Mapping[str, Any] | None = None,
    kinds: frozenset[str] = frozenset(),
    quadratic: bool = False,
) -> type[Solver]:
    """The solver that a caller means.

    Parameters
    ----------
    solver : str, optional
        Its name. Without one, ``solver_args["solve_method"]`` decides, and without that the default for problems
        with these kinds of cone, with a quadratic objective or not.
    solver_args : mapping, optional

    Raises
    ------
    EngineError
        No such solver, or it is not installed.
    OptionError
        ``solve_method`` is no text, or names another solver than ``solver``.

    >>> solver_for(None, {"solve_method": "Clarabel"}).name
    'CLARABEL'
    """
    method = (solver_args or {}).get("solve_method")
    if not (method is None or isinstance(method, str)):
        raise OptionError(f"The option solve_method must be the name of a solver, not {method!r}.")
    if solver is None:
        return choose(kinds, quadratic) if method is None else solver_class(method)
    chosen = solver_class(solver)
    if method is not None and not chosen.wraps and method.upper() != chosen.name:
        raise OptionError(
            f"The options solver={solver!r} and solve_method={method!r} contradict each other: leave one of them out."
        )
    return chosen


def unfit(solver: type[Solver], structure: Structure) -> str:
    """Why the solver does not take problems of this structure, and which solvers do."""
    able = [other.name for other in SOLVERS.values() if other.takes(structure) and other.installed()]
    return f"{solver.refusal(structure)} Those installed that can: {', '.join(able) or 'none'}."


def fallbacks(name: str, structure: Structure) -> list[type[Solver]]:
    """The installed solvers that can try an element on which the solver ``name`` failed, best first."""
    others = [SOLVERS[other] for other in FALLBACKS if other != name.upper() and other in SOLVERS]
    return [solver for solver in others if solver.installed() and solver.takes(structure)]


def _listed() -> str:
    return ", ".join(SOLVERS)


def _unknown(name: str) -> str:
    if name.upper() in FOREIGN:
        return (
            f"cvxlayers has no interface to the solver {name!r}. Instead of it, leave the argument solver out "
            f"(the default takes every problem), or choose one of {_listed()}."
        )
    near = difflib.get_close_matches(name.upper(), list(SOLVERS), n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"There is no solver {name!r}.{hint} Those that exist: {_listed()}."
