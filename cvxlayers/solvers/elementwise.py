"""Solvers that take one problem at a time: the batch becomes a loop, spread over threads."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cvxlayers.errors import EngineError
from cvxlayers.program.parallel import parallel_for
from cvxlayers.program.scales import far_apart, scales
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings, Solver

__all__ = ["Element", "ElementwiseSolver", "Outcome", "Start", "shown"]

Start = tuple[Array, Array, Array]

FEW, LARGE = 4, 200
"""A thread costs as much as about four solutions of a problem with fewer than 200 rows and columns (50 us each)."""


@dataclass(frozen=True)
class Element:
    """The values of one problem: P (nnz of P,), q (n,), A (nnz of A,), b (m,); contiguous, and never written to."""

    P: Array
    q: Array
    A: Array
    b: Array


@dataclass(frozen=True)
class Outcome:
    """What a solver says of one problem: ``point`` is (x, y, s), or None where it gave none, ``error`` its residual.

    Of a problem without a solution the point is the proof: y if it is infeasible, x if it is unbounded.
    """

    status: Status
    iterations: int = 0
    point: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None
    error: float = np.inf


class ElementwiseSolver(Solver):
    """Base class of the solvers that solve one problem at a time.

    Subclasses write ``solve_element``. What depends on the structure alone they compute in ``__init__``.
    """

    def __init__(self, structure: Structure, settings: Settings) -> None:
        if not self.installed():
            raise EngineError(f"The solver {self.name} is not installed: install it with `pip install {self.pip}`.")
        if not self.takes(structure):
            raise EngineError(self.refusal(structure))
        self.structure = structure
        self.settings = settings

    @classmethod
    def load(cls) -> Any:
        """The solver's package, imported on first use, so that a missing one harms nobody else."""
        return importlib.import_module(cls.package)

    @classmethod
    @abstractmethod
    def native(cls, settings: Settings) -> dict[str, Any]:
        """All options by the package's names, ours included.

        Raises
        ------
        OptionError
            If the package refuses one of them: better here than in every element.
        """

    @abstractmethod
    def solve_element(self, element: Element, start: Start | None) -> Outcome:
        """Solve one problem, whose values are finite, perhaps beginning at the point ``start``.

        Several threads call it at the same time. It never raises for what the values are.
        """

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        elements = far_apart(self.structure, values)
        if not elements.any():
            return self._each(values, warm)
        # Each element's own scales, where they are needed, by powers of two: the numbers stay as exact as they are.
        found = scales(self.structure, values).rounded().where(elements)
        if warm is not None:
            x, y, s = found.to(warm.x, warm.y, warm.s)
            warm = replace(warm, x=x, y=y, s=s)
        solution = self._each(found.scaled(self.structure, values), warm)
        x, y, s = found.back(solution.x, solution.y, solution.s)
        return replace(solution, x=x, y=y, s=s)

    def _each(self, values: Values, warm: Solution | None) -> Solution:
        """Solve the elements one by one; those that have no solution leave the proof of it as their point."""
        batch, n, m = values.batch, self.structure.n, self.structure.m
        x, y, s = (np.full((batch, size), np.nan) for size in (n, m, m))
        status = np.full(batch, Status.FAILED, dtype=np.int8)
        iterations = np.zeros(batch, dtype=np.int64)
        parts = [_by_element(part) for part in (values.P, values.q, values.A, values.b)]
        starts = [None] * batch if warm is None or not self.warm_starts else _starts(warm)

        def task(i: int) -> None:
            element = Element(*(part[i] for part in parts))
            outcome = self.solve_element(element, starts[i])
            status[i], iterations[i] = outcome.status, outcome.iterations
            if outcome.point is not None:
                sizes = zip(outcome.point, (n, m, m), strict=True)  # a number alone is no vector
                x[i], y[i], s[i] = (np.reshape(part, size) for part, size in sizes)

        elements = np.flatnonzero(_finite(parts)).tolist()
        parallel_for(task, elements, min(self.settings.threads, len(elements) // (1 if n + m > LARGE else FEW)))
        x, y, s = (np.ascontiguousarray(part.T) for part in (x, y, s))
        return Solution(x, y, s, status, iterations, np.full(batch, self.name))


def _starts(warm: Solution) -> list[Start | None]:
    """The points of an earlier solution; none where that has no finite one."""
    x, y, s = (_by_element(part) for part in (warm.x, warm.y, warm.s))
    finite = _finite([x, y, s])
    return [(x[i], y[i], s[i]) if finite[i] else None for i in range(warm.batch)]


def shown(settings: Settings) -> str:
    """The solver's options, for a message."""
    return ", ".join(f"{name}={value!r}" for name, value in settings.options.items())


def _by_element(part: Array) -> Array:
    """(size, B) as rows (B, size), each contiguous; one column that stands for the whole batch is copied once."""
    size, batch = part.shape
    if batch and part.strides[1] == 0:
        return np.broadcast_to(np.ascontiguousarray(part[:, 0]), (batch, size))
    return np.ascontiguousarray(part.T)


def _finite(parts: list[Array]) -> NDArray[np.bool_]:
    return np.logical_and.reduce([np.isfinite(part).all(axis=1) for part in parts])
