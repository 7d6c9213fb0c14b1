"""The solvers by name, those from outside among them, the default one, and which can step in for another."""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from cvxlayers.cones import KINDS
from cvxlayers.errors import EngineError, OptionError
from cvxlayers.program.structure import Structure
from cvxlayers.solvers import split
from cvxlayers.solvers.base import Solver
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.diffcp import Diffcp
from cvxlayers.solvers.ecos import ECOS
from cvxlayers.solvers.ipm import IPM
from cvxlayers.solvers.piqp import PIQP
from cvxlayers.solvers.scs import SCS

__all__ = [
    "GROUP",
    "SOLVERS",
    "choose",
    "fallbacks",
    "from_outside",
    "names",
    "register_solver",
    "solver_class",
    "solver_for",
    "unfit",
    "unregister_solver",
]

GROUP = "cvxlayers.solvers"
"""The group of entry points by which packages bring solvers: the values are classes, as for ``register_solver``."""

LONGEST_NAME = 16


class _Solvers(Mapping[str, type[Solver]]):
    """The solvers by name. A change makes a new dictionary, so that whoever goes through an old one may go on."""

    def __init__(self, own: tuple[type[Solver], ...]) -> None:
        self.own = frozenset(solver.name for solver in own)
        self._all = {solver.name: solver for solver in own}
        self._lock = threading.RLock()
        self.discovered = False

    def __getitem__(self, name: str) -> type[Solver]:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, solver: type[Solver]) -> None:
        """Take in a solver of a new name."""
        with self._lock:
            if solver.name in self._all and self._all[solver.name] is not solver:
                whose = "of cvxlayers" if solver.name in self.own else "registered already"
                raise EngineError(
                    f"There is a solver {solver.name} {whose}: give yours another name, or take a registered one back "
                    f"with `cvxlayers.unregister_solver({solver.name!r})`."
                )
            self._all = {**self._all, solver.name: solver}

    def remove(self, name: str) -> None:
        """Forget a solver from outside."""
        with self._lock:
            if name in self.own or name not in self._all:
                others = ", ".join(other for other in self._all if other not in self.own) or "none"
                raise EngineError(f"{name!r} is not the name of a registered solver; those that are: {others}.")
            self._all = {other: solver for other, solver in self._all.items() if other != name}

    def discover(self) -> None:
        """Take in the solvers that installed packages bring, once in each process; one that is broken is left out."""
        with self._lock:
            if self.discovered:
                return
            self.discovered = True
        for entry in entry_points(group=GROUP):  # without the lock: another thread may be importing the same module
            try:
                register_solver(entry.load())
            except Exception as exc:  # noqa: BLE001 - it may be any
                warnings.warn(
                    f"The solver {entry.name!r} of the package {_package(entry)} is left out: "
                    f"{type(exc).__name__}: {exc}",
                    RuntimeWarning,
                    stacklevel=4,
                )


SOLVERS = _Solvers((Clarabel, SCS, ECOS, Diffcp, IPM, PIQP))
"""Every solver by its name; the first installed one that can take a problem is its default."""

FALLBACKS = ("PIQP", "CLARABEL", "SCS", "ECOS")
"""In which order solvers step in, if they suit the problem: on quadratic programs of which the factors stay sparse,
PIQP is up to 3 times faster than Clarabel (``benchmarks.large_qp``). DIFFCP is not among them: it only calls others."""

FALLBACK_OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"SCS": {"time_limit_secs": 15.0}, "PIQP": {"max_iter": 100}}
)
"""What they are told as fallbacks: a first-order method may take very long for what others have failed on, and PIQP
goes on for 250 iterations."""

FOREIGN = frozenset({
    "CBC", "COPT", "COSMO", "CPLEX", "CUCLARABEL", "CUOPT", "CVXOPT", "DAQP", "GLOP", "GLPK", "GLPK_MI", "GUROBI",
    "HIGHS", "IPOPT", "KNITRO", "MOREAU", "MOSEK", "MPAX", "NAG", "OSQP", "PDLP", "PROXQP", "QOCO", "QPALM",
    "QTQP", "SCIP", "SCIPY", "SDPA", "UNO", "XPRESS",
})  # fmt: skip
"""Solvers that CVXPY or cvxpylayers know and that cvxlayers does not have."""


def register_solver(solver: type[Solver]) -> type[Solver]:
    """Make a solver of your own known, so that ``solver="ITS NAME"`` finds it everywhere in this process.

    Its answers are verified like all others, and differentiated; it never is a default where another one serves. A
    package brings solvers to every process by an entry point of the group ``cvxlayers.solvers``.

    Parameters
    ----------
    solver : type
        A subclass of ``cvxlayers.solvers.Solver``, the class itself: the function can stand above it, as a decorator.

    Returns
    -------
    type
        The class.

    Raises
    ------
    EngineError
        It is no such class, lacks something (the message says what), or its name is taken.

    Examples
    --------
    >>> import cvxlayers, cvxlayers.solvers
    >>> class Mine(cvxlayers.solvers.Solver):
    ...     name = "MINE"
    >>> cvxlayers.register_solver(Mine)
    Traceback (most recent call last):
    cvxlayers.errors.EngineError: The solver Mine lacks package, pip, kinds, quadratic, options, aliases, solve: see
    cvxlayers.solvers.Solver, which says what each of them is.
    """
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        raise EngineError(
            f"The argument solver must be a subclass of cvxlayers.solvers.Solver, not {solver!r}: pass the class, and "
            "not an object of it."
        )
    if lacking := _lacking(solver):
        raise EngineError(
            f"The solver {solver.__name__} lacks {', '.join(lacking)}: see cvxlayers.solvers.Solver, which says what "
            "each of them is."
        )
    try:
        wrong = _wrong(solver)
    except (TypeError, AttributeError) as exc:
        wrong = f"an attribute is of another type than cvxlayers.solvers.Solver says ({exc})"
    if wrong:
        raise EngineError(f"The solver {solver.__name__} cannot be registered: {wrong}.")
    SOLVERS.add(solver)
    return solver


def unregister_solver(name: str) -> None:
    """Take back ``register_solver``.

    Raises
    ------
    EngineError
        No solver of this name was registered.
    """
    SOLVERS.remove(name)


def from_outside(solver: type[Solver]) -> bool:
    """Whether it was registered, rather than being one of ours."""
    return solver.name not in SOLVERS.own


def _lacking(solver: type[Solver]) -> list[str]:
    needed = ("name", "package", "pip", "kinds", "quadratic", "options", "aliases")
    missing = [name for name in needed if not hasattr(solver, name)]
    return missing + sorted(name for name in getattr(solver, "__abstractmethods__", ()) if name != "__init__")


def _wrong(solver: type[Solver]) -> str:
    """What is wrong with the attributes of a class that has them all; empty if nothing is."""
    name = solver.name
    if not (isinstance(name, str) and name.isidentifier() and name == name.upper() and len(name) <= LONGEST_NAME):
        return f"its name is {name!r}, expected up to {LONGEST_NAME} capital letters, digits and underscores"
    if not (isinstance(solver.kinds, frozenset) and solver.kinds and solver.kinds <= set(KINDS)):
        return f"its kinds are {solver.kinds!r}, expected a frozenset of some of {', '.join(KINDS)}"
    if not (isinstance(solver.package, str) and isinstance(solver.pip, str)):
        return f"its package and pip are {solver.package!r} and {solver.pip!r}, expected texts"
    if not isinstance(solver.quadratic, bool):
        return f"its attribute quadratic is {solver.quadratic!r}, expected True or False"
    if set(solver.aliases) != {"eps", "max_iters"}:
        return f"its aliases are {solver.aliases!r}, expected a mapping with the keys 'eps' and 'max_iters'"
    named = {option for options in solver.aliases.values() for option in options} | set(solver.types)
    if strange := named - set(solver.options):
        return f"its aliases or types name {', '.join(sorted(strange))}, which its options do not have"
    return "it wraps other solvers, which only DIFFCP does" if solver.wraps else ""


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def names(installed: bool = False) -> tuple[str, ...]:
    """The names of all solvers, or only of the installed ones.

    >>> names()[0]
    'CLARABEL'
    """
    SOLVERS.discover()
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
        SOLVERS.discover()
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
    return [
        solver for solver in others
        if solver.installed() and (solver.suits(structure) or split.serves(solver, structure, well=True))
    ]  # fmt: skip


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
    return (
        f"There is no solver {name!r}.{hint} Those that exist: {_listed()}. One of your own has to be registered "
        "first, in each process: see cvxlayers.register_solver."
    )
