"""What callers write in ``solver_args``, translated for the solver that will run.

Besides the solver's own options (``Solver.options``), every solver accepts

    eps                    accuracy; for interior-point solvers never looser than their default, which costs them little
    max_iters              largest number of iterations
    acceleration_lookback  memory of SCS's acceleration; the other solvers ignore it
    solve_method           which solver: "CLARABEL", "SCS" or "ECOS" (by default, or below DIFFCP); None as if left out
    mode                   how DIFFCP's derivative solves its linear system: "auto", "dense", "sparse", "lsqr", "lsmr"
                           (the other derivatives do not need it)
    n_jobs_forward         threads of the solver; -1, the default, for all cores
    n_jobs_backward        threads of the derivative; -1, the default, for all cores
    verbose                whether the solver prints its log

Where one of the solver's own options is given besides ``eps`` or ``max_iters``, it wins: it is the more specific one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np

from cvxlayers.errors import OptionError
from cvxlayers.program.structure import Structure
from cvxlayers.solvers import forms
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.registry import SOLVERS, choose, from_outside, solver_class

__all__ = ["MODES", "TOLERANCE", "parse", "preferred", "tolerance"]

COMMON: Mapping[str, type] = {
    "eps": float,
    "max_iters": int,
    "acceleration_lookback": int,
    "solve_method": str,
    "mode": str,
    "n_jobs_forward": int,
    "n_jobs_backward": int,
    "verbose": bool,
}

NOUNS = {float: "a number", int: "an integer", str: "a text", bool: "True or False"}

MODES = ("auto", "dense", "sparse", "lsqr", "lsmr")
"""The ways in which DIFFCP's derivative can solve its linear system."""

TOLERANCE = 1e-6
"""The residual (see ``Residuals``) above which a point does not count as a solution, where nobody asks for less."""


def parse(solver_args: Mapping[str, Any] | None, solver: type[Solver]) -> tuple[Settings, dict[str, Any]]:
    """Translate ``solver_args`` for this solver.

    Returns
    -------
    Settings
        For the solver; its ``options`` have the solver's own names.
    dict
        For the derivative: ``threads`` (int) and ``mode`` (str).

    Raises
    ------
    OptionError
        An option that this solver does not have, or a value of the wrong type or range.

    >>> settings, derivative = parse({"eps": 1e-12, "n_jobs_forward": 2}, solver_class("CLARABEL"))
    >>> settings.threads, settings.options["tol_feas"], derivative["mode"]
    (2, 1e-12, 'auto')
    """
    engine = _engine(solver, solver_args or {})
    given = {name: _checked(name, value, engine) for name, value in (solver_args or {}).items()
             if not (name == "solve_method" and value is None)}  # fmt: skip
    options: dict[str, Any] = {}
    for alias in ("eps", "max_iters"):
        if alias in given:
            options |= {name: _limited(alias, given[alias], name, engine) for name in engine.aliases[alias]}
    options |= {name: value for name, value in given.items() if name in engine.options}
    if solver.wraps:
        options["solve_method"] = engine.name
    settings = Settings(_threads(given.get("n_jobs_forward", -1)), given.get("verbose", False), options)
    return settings, {"threads": _threads(given.get("n_jobs_backward", -1)), "mode": given.get("mode", MODES[0])}


def tolerance(settings: Settings) -> float:
    """The residual up to which the caller accepts a point: 1e-6, or 10 times the accuracy asked of the solver.

    >>> tolerance(Settings()), tolerance(Settings(options={"eps_abs": 1e-4, "eps_rel": 1e-5}))
    (1e-06, 0.001)
    """
    accuracies = {name for solver in SOLVERS.values() if not from_outside(solver) for name in solver.aliases["eps"]}
    asked = [value for name, value in settings.options.items() if name in accuracies]
    return max([TOLERANCE, *(10 * value for value in asked)])


def preferred(structure: Structure, solver_args: Mapping[str, Any]) -> type[Solver]:
    """The default solver: the first of IPM, the registry's choice and the others that suits the problem and has all of
    the options; the registry's choice if none has.

    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program.structure import Pattern, Structure
    >>> one = np.zeros(1, dtype=int)
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> preferred(structure, {"tol_gap_abs": 1e-9}).name
    'CLARABEL'
    """
    default = choose(structure.cones.kinds(), structure.quadratic)
    for solver in (SOLVERS["IPM"], default, *SOLVERS.values()):
        known = all(name in COMMON or name in solver.options for name in solver_args)
        if known and solver.installed() and forms.suits(solver, structure):
            return solver
    return default


def _engine(solver: type[Solver], given: Mapping[str, Any]) -> type[Solver]:
    """The solver whose options count: ``solver``, or, if it wraps others, the one that ``solve_method`` names."""
    method = given.get("solve_method")
    if method is not None:
        _checked("solve_method", method, solver)
    if not solver.wraps:
        return solver
    if method is None:
        return next((SOLVERS[name] for name in solver.wraps if SOLVERS[name].installed()), SOLVERS[solver.wraps[0]])
    if method.upper() not in solver.wraps:
        wrapped = ", ".join(solver.wraps)
        raise OptionError(f"The option solve_method of {solver.name} must be one of {wrapped}, not {method!r}.")
    return solver_class(method)


def _limited(alias: str, value: Any, name: str, engine: type[Solver]) -> Any:
    """What ``value`` of an option that all solvers have means for the solver's own option ``name``."""
    return min(value, engine.defaults[name]) if alias == "eps" and not engine.first_order else value


def _checked(name: str, value: Any, engine: type[Solver]) -> Any:
    """The option's value in Python's own type."""
    wanted = COMMON.get(name) or engine.types.get(name)
    if wanted is None:
        raise OptionError(_unknown(name, engine))
    if wanted is bool and isinstance(value, (bool, np.bool_)):
        return bool(value)
    if wanted is str and isinstance(value, str):
        checked: Any = value
    elif wanted is int and isinstance(value, Integral) and not isinstance(value, bool):
        checked = int(value)
    elif wanted is float and isinstance(value, Real) and not isinstance(value, bool):
        checked = float(value)
    else:
        raise OptionError(f"{_option(name, engine)} must be {NOUNS[wanted]}, not {value!r} ({type(value).__name__}).")
    _check_range(name, checked, engine)
    return checked


def _check_range(name: str, value: Any, engine: type[Solver]) -> None:
    subject = _option(name, engine)
    if name in ("eps", "max_iters") and not value > 0:
        raise OptionError(f"{subject} must be positive, not {value!r}.")
    if name.startswith("n_jobs") and value != -1 and value < 1:
        raise OptionError(f"{subject} must be a number of threads, or -1 for all cores, not {value}.")
    if isinstance(value, float) and not value >= 0:
        raise OptionError(f"{subject} must not be negative or NaN, but it is {value}.")
    if name == "mode" and value not in MODES:
        lpgd = " (the perturbed gradients lpgd of diffcp are not exact derivatives)" if value.startswith("lpgd") else ""
        raise OptionError(f"{subject} must be one of {', '.join(MODES)}, not {value!r}{lpgd}.")


def _option(name: str, engine: type[Solver]) -> str:
    return f"The option {name} (given for the solver {engine.name})"


def _unknown(name: str, engine: type[Solver]) -> str:
    known = [*COMMON, *engine.options]
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    others = [solver.name for solver in SOLVERS.values() if name in solver.options and solver is not engine]
    hint = f" It is an option of {' and '.join(others)}." if others else ""
    hint += f" Did you mean {' or '.join(near)}?" if near else ""
    return f"The solver {engine.name} has no option {name!r}.{hint} Its options: {', '.join(known)}."


def _threads(jobs: int) -> int:
    if jobs != -1:
        return jobs
    allowed = getattr(os, "sched_getaffinity", None)  # the cores that this process may use, where the system says so
    return len(allowed(0)) if allowed else os.cpu_count() or 1
