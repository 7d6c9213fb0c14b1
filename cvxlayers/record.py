"""One solved call, with its derivative, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cvxlayers import packing
from cvxlayers.compiled import CompiledProblem
from cvxlayers.derivative.base import Derivative, Linearization
from cvxlayers.packing import Packed
from cvxlayers.program import Array, Values
from cvxlayers.report import Info
from cvxlayers.solution import Solution

__all__ = ["Record"]


@dataclass(frozen=True)
class Record:
    """One solved call: its outputs, its report, and its derivative, forward and backward.

    Attributes
    ----------
    outputs : tuple of arrays
        Each ``batch + shape``, in the order of ``compiled.outputs``.
    solution : Solution
        Of the standard form, for the flattened batch.
    info : Info
    """

    compiled: CompiledProblem
    packed: Packed
    values: Values
    solution: Solution
    elements: np.ndarray
    rows: Array
    outputs: tuple[np.ndarray, ...]
    info: Info
    derivative: Derivative
    on_failure: str

    @property
    def point(self) -> np.ndarray:
        """x, y, s and the status of each element in one array, ``batch + (n + 2 m + 1,)``; see ``Layer.restore``."""
        solution = self.solution
        together = np.concatenate([solution.x, solution.y, solution.s, solution.status[None].astype(np.float64)])
        return np.ascontiguousarray(together.T).reshape((*self.packed.batch, together.shape[0]))

    @cached_property
    def _good(self) -> np.ndarray:
        return np.flatnonzero(self.solution.ok)

    @cached_property
    def _linearization(self) -> Linearization:
        solution, values = self.solution, self.values
        if self._good.size < solution.batch:
            values = values.select(np.searchsorted(self.elements, self._good))
            solution = solution.select(self._good)
        return self.derivative.linearize(values, solution)

    def vjp(self, cotangents: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The cotangents of the parameters, in the shapes in which they came, for cotangents of the outputs (None:
        zero).

        Elements that failed have zero gradient (``on_failure="zero_grad"``), or NaN unless their cotangents are zero
        ("nan").
        """
        with self.info.seconds.measure("derivative"):
            drows = packing.pack_cotangents(self.compiled, self.rows, cotangents, self.packed.batch)
            bad = ~self.solution.ok
            poisoned = bad & (drows != 0).any(axis=0) if self.on_failure == "nan" else np.zeros_like(bad)
            dtheta = np.zeros_like(self.packed.theta)
            dx, dy = self.compiled.recover_adjoint(drows[:, self._good] if bad.any() else drows)
            dvalues = self._linearization.vjp(dx, dy)
            dtheta[:, self._good] = self._pullback(dvalues)
            dtheta[:, poisoned] = np.nan
            self.info.linearization = self._linearization
            return packing.unpack_cotangents(self.compiled, self.packed, dtheta)

    def jvp(self, tangents: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The tangents of the outputs for tangents of the parameters (None: zero), broadcast as the parameters are."""
        with self.info.seconds.measure("derivative"):
            dtheta = packing.pack_tangents(self.compiled, self.packed, tangents)[:, self._good]
            compiled = self.compiled
            dvalues = Values(*(part.pushforward(dtheta) for part in (compiled.P, compiled.q, compiled.A, compiled.b)))
            dx, dy, _ = self._linearization.jvp(dvalues)
            drows = np.full_like(self.rows, np.nan if self.on_failure == "nan" else 0.0)
            drows[:, self._good] = compiled.recover(dx, dy)
            self.info.linearization = self._linearization
            return packing.unpack_tangents(compiled, self.rows, drows, self.packed.batch)

    def _pullback(self, dvalues: Values) -> Array:
        compiled = self.compiled
        pairs = ((compiled.P, dvalues.P), (compiled.q, dvalues.q), (compiled.A, dvalues.A), (compiled.b, dvalues.b))
        dtheta = np.zeros((compiled.k, dvalues.batch))
        for part, cotangent in pairs:
            if part.varies:
                dtheta += part.pullback(cotangent)
        return dtheta
