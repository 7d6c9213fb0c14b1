"""Solvers from outside: nothing that they do can change the caller's numbers, stop a batch or pass for an answer."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from cvxlayers.errors import EngineError
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Structure, Values
from cvxlayers.solvers.base import Settings, Solver

__all__ = ["Guard", "Outside"]


class Outside(Solver):
    """A registered solver, behind what keeps the rest from it; the arguments are those of ``Solver``, and its class.

    It gets copies of the values. What it gives is looked at: a solution of another type, shape or status is an
    ``EngineError``, as no data can be the reason; its residuals are measured anew. Where it raises an exception, the
    elements are solved one by one, and those for which it does so again have failed, with a warning.
    """

    def __init__(self, structure: Structure, settings: Settings, behind: type[Solver]) -> None:
        self.structure = structure
        self._solver = behind(structure, settings)
        self._name = behind.name

    def solve(self, values: Values, warm: Solution | None = None) -> Solution:
        try:
            return self._asked(values, warm)
        except EngineError:
            raise
        except Exception as exc:  # noqa: BLE001 - it may be any
            if values.batch == 1:
                return self._nothing(exc)
        parts = []
        for i in range(values.batch):
            one = np.array([i])
            parts.append(self.solve(values.select(one), None if warm is None else warm.select(one)))
        x, y, s, status, iterations = (
            np.concatenate([getattr(part, name) for part in parts], axis=-1)
            for name in ("x", "y", "s", "status", "iterations")
        )
        return Solution(x, y, s, status, iterations, np.full(values.batch, self._name))

    def _nothing(self, exc: Exception) -> Solution:
        warnings.warn(
            f"The solver {self._name} raised {type(exc).__name__}: {exc} The element has failed. A solver says so by "
            "its status, not by an exception.",
            RuntimeWarning,
            stacklevel=2,
        )
        n, m = self.structure.n, self.structure.m
        x, y, s = (np.full((size, 1), np.nan) for size in (n, m, m))
        return Solution(
            x, y, s, np.array([Status.FAILED], dtype=np.int8), np.zeros(1, dtype=np.int64), np.full(1, self._name)
        )

    def _asked(self, values: Values, warm: Solution | None) -> Solution:
        own = Values(*(np.array(part) for part in (values.P, values.q, values.A, values.b)))
        start = None if warm is None else replace(warm, x=warm.x.copy(), y=warm.y.copy(), s=warm.s.copy())
        found = self._solver.solve(own, start)
        if not isinstance(found, Solution):
            raise EngineError(
                f"The solver {self._name} returned {type(found).__name__}; `solve` is to return a Solution."
            )
        batch, n, m = values.batch, self.structure.n, self.structure.m
        x, y, s = (self._array(found, part, (size, batch)) for part, size in (("x", n), ("y", m), ("s", m)))
        status = self._array(found, "status", (batch,))
        if not np.isin(status, [int(one) for one in Status]).all():
            raise EngineError(f"The solver {self._name} returned the statuses {status}; they are to be of `Status`.")
        return replace(
            found, x=x, y=y, s=s, status=status.astype(np.int8), engine=np.full(batch, self._name),
            iterations=self._array(found, "iterations", (batch,)).astype(np.int64),
            residuals=None, scales=None, unattained=None,
        )  # fmt: skip

    def _array(self, found: Solution, name: str, shape: tuple[int, ...]) -> Any:
        try:
            array = np.array(getattr(found, name), dtype=np.float64)
        except (TypeError, ValueError) as exc:
            raise EngineError(f"The solver {self._name} returned a `{name}` that holds no numbers: {exc}.") from exc
        if array.shape != shape:
            raise EngineError(
                f"The solver {self._name} returned a `{name}` of shape {array.shape}; it is to be {shape}, with the "
                "batch as its last axis."
            )
        return array


class Guard:
    """What stands for the class of a solver from outside, and makes an ``Outside``."""

    def __init__(self, solver: type[Solver]) -> None:
        self._solver = solver
        self.name, self.takes, self.refusal = solver.name, solver.takes, solver.refusal

    def __call__(self, structure: Structure, settings: Settings) -> Solver:
        return Outside(structure, settings, self._solver)
