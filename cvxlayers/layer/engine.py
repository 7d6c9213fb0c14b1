"""Engines: a solver and a derivative for one set of options, made on demand and kept."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cvxlayers.derivative import derivative_for, exact_derivative
from cvxlayers.derivative.base import Derivative
from cvxlayers.errors import EngineError
from cvxlayers.program.scales import Scales
from cvxlayers.program.structure import Structure, Values
from cvxlayers.solvers import forms, options, registry
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.verify.verification import Measure

__all__ = ["Engine", "EngineCache"]


@dataclass(frozen=True)
class Engine:
    """A solver and a derivative for one set of options.

    ``measure`` computes residuals, and ``scales`` the problem's, by compiled kernels where these serve. ``derivative``
    is what callers get, and ``newton`` the exact one, by which solutions are polished.
    """

    solver: Solver
    measure: Measure
    scales: Callable[[Values], Scales]
    derivative: Derivative
    newton: Derivative
    tolerance: float
    fallbacks: tuple[str, ...]


class EngineCache:
    """Makes engines on demand and keeps one for each set of options; safe under threads and after a fork."""

    def __init__(self, structure: Structure, smoothing: float | None = None) -> None:
        self._structure = structure
        self._smoothing = smoothing
        self._engines: dict[tuple[Any, ...], Engine] = {}
        # The last call, what it gave, and its options, which stay alive, since the call knows them by their identity.
        self._lately: tuple[tuple[Any, ...], Engine, tuple[Any, ...]] | None = None
        self._lock = threading.Lock()
        self._process = os.getpid()

    def engine(self, solver: str | None, solver_args: Mapping[str, Any]) -> Engine:
        """The engine of this name, or without one the default."""
        if os.getpid() != self._process:
            self._lock, self._process, self._engines, self._lately = threading.Lock(), os.getpid(), {}, None
        given = tuple(solver_args.values())
        call = solver, *solver_args, *map(id, given)
        lately = self._lately
        if lately is not None and lately[0] == call:
            return lately[1]
        if solver is None and solver_args.get("solve_method") is None:
            solver = options.preferred(self._structure, solver_args).name
        key = (solver, *sorted((name, repr(value)) for name, value in solver_args.items()))
        with self._lock:
            if key not in self._engines:
                self._engines[key] = self._make(solver, solver_args)
            found = self._engines[key]
        self._lately = call, found, given
        return found

    def _gauge(self, solver: Solver, settings: Settings) -> Solver:
        """What measures the points of any solver: IPM, which has kernels for that, or the solver itself."""
        kernels = registry.SOLVERS["IPM"]
        if not isinstance(solver, kernels) and kernels.installed() and kernels.suits(self._structure):
            return kernels(self._structure, Settings(settings.threads))
        return solver

    def _make(self, solver: str | None, solver_args: Mapping[str, Any]) -> Engine:
        structure = self._structure
        chosen = registry.solver_for(solver, solver_args)
        made = forms.maker(chosen, structure)
        if made is None:
            raise EngineError(registry.unfit(chosen, structure))
        settings, derivative = options.parse(solver_args, chosen)
        exact = exact_derivative(structure, derivative["threads"])
        own = chosen.name == "DIFFCP" or self._smoothing is not None
        runs = made(structure, settings)
        gauge = self._gauge(runs, settings)
        return Engine(
            runs,
            gauge.measure,
            gauge.scales,
            derivative_for(chosen.name, structure, derivative, self._smoothing) if own else exact,
            exact,
            options.tolerance(settings),
            tuple(other.name for other in registry.fallbacks(chosen.name, structure)),
        )
