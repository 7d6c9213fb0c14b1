"""Factors of the systems of a batch, part by part, made when they are first needed and kept for later applications."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cvxlayers.derivative.factor.choice import Choice, Factorization
from cvxlayers.derivative.factor.part import Part, SystemSolution
from cvxlayers.derivative.system.system import System, SystemLayout, SystemPoint
from cvxlayers.derivative.system.units import Units
from cvxlayers.program.parallel import parallel_for
from cvxlayers.program.structure import Array, Values

__all__ = ["Factors", "Limits"]


@dataclass(frozen=True)
class Limits:
    """How a batch is cut into parts, and what is kept of them.

    Parameters
    ----------
    thread : float
        The predicted nanoseconds of work for which another thread is started.
    part, kept : int
        Bytes that the factors of one part of the batch may take, and all that are kept for later applications.

    Examples
    --------
    >>> Limits(kept=0).part  # no factors are kept, of parts as large as ever
    8388608
    """

    thread: float = 1e7
    part: int = 2**23
    kept: int = 2**30


class Factors:
    """Solves systems of one layout on several threads; safe to use from several at once."""

    def __init__(
        self, layout: SystemLayout, choice: Choice, smoothing: float | None, threads: int, limits: Limits | None = None
    ) -> None:
        self._layout, self._choice, self._smoothing, self._threads = layout, choice, smoothing, threads
        self._limits = limits or Limits()
        self._parts: dict[tuple[bytes, int], Part] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def kept(self) -> int:
        """How many parts of batches are kept factorized."""
        return len(self._parts)

    def solve(
        self, values: Values, point: SystemPoint, units: Units, f: Array, g: Array, key: bytes = b""
    ) -> SystemSolution:
        """Solve J (dx, dv) = (f, g) at solutions of these values.

        Parameters
        ----------
        values : Values
        point : Point
        units : Units
            At this point.
        f, g : (n, B), (m, B)
        key : bytes
            Calls with the same key have the same values and point.
        """
        batch = f.shape[1]
        path = self._choice.fastest(batch)
        # A thread is worth its while only for much work, since small array operations hold Python's lock.
        threads = int(np.clip(path.cost(batch) // self._limits.thread, 1, self._threads))
        slices = _slices(batch, path.bytes_per_element, threads, self._limits.part)
        keep = batch * path.bytes_per_element <= self._limits.kept
        solved = SystemSolution.room(f.shape[0], g.shape[0], batch)

        def task(i: int) -> None:
            lanes = slices[i]
            part = self._part(path, values, point, units, lanes, (key, i), keep)
            solved.enter(lanes, part.solve(f[:, lanes], g[:, lanes]))

        parallel_for(task, list(range(len(slices))), threads)
        return solved

    def _part(
        self,
        path: Factorization,
        values: Values,
        point: SystemPoint,
        units: Units,
        lanes: slice,
        key: tuple[bytes, int],
        keep: bool,
    ) -> Part:
        """A part of the batch, factorized."""
        with self._lock:
            found = self._parts.get(key)
        if found is not None:
            return found
        part = Values(*(each[:, lanes] for each in values))
        found = Part.of(path, System(self._layout, part, point.select(lanes), units.select(lanes), self._smoothing))
        if keep:
            with self._lock:
                self._parts[key] = found
        return found


def _slices(batch: int, bytes_per_element: int, threads: int, room: int) -> list[slice]:
    """Parts of the batch of equal size, small enough for the memory and enough for the threads."""
    largest = max(1, room // max(bytes_per_element, 1))
    parts = max(-(-batch // largest), min(threads, batch))
    bounds = [batch * k // max(parts, 1) for k in range(parts + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]
