"""One solved call, with its derivative, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.derivative.base import Derivative, Linearization
from cvxlayers.derivative.second import SecondDerivative
from cvxlayers.layer import packing
from cvxlayers.layer.packing import Packed
from cvxlayers.layer.report import Info
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.once import once
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Values

__all__ = ["Record"]

ALIGNMENT = 64
"""Bytes: what the frameworks' kernels ask of an array's memory at the most."""


@dataclass(frozen=True)
class Record:
    """One solved call: its outputs, its report, and its derivative, forward and backward.

    Attributes
    ----------
    solution : Solution
        Of the standard form, for the flattened batch.
    elements : array of int, or None
        The elements that could be solved, to which ``values`` belong: those of finite parameters. None for all.
    info : Info
    """

    compiled: CompiledProblem
    packed: Packed
    values: Values
    solution: Solution
    elements: np.ndarray | None
    rows: Array
    info: Info
    derivative: Derivative
    on_failure: str

    @once
    def outputs(self) -> tuple[np.ndarray, ...]:
        """The solutions, each ``batch + shape``, in the order of ``compiled.outputs``."""
        return packing.unpack(self.compiled, self.rows, self.packed.batch)

    @property
    def point(self) -> np.ndarray:
        """x, y, s and the status, one below the other, ``(n + 2 m + 1,) + batch``; see ``Layer.restore``.

        Its memory begins at a multiple of ``ALIGNMENT`` bytes: so frameworks take it as it is, without a copy.
        """
        solution = self.solution
        n, m, batch = solution.x.shape[0], solution.y.shape[0], solution.batch
        height = n + 2 * m + 1
        memory = np.empty(height * batch + ALIGNMENT // 8)
        first = -memory.ctypes.data % ALIGNMENT // 8
        rows = memory[first : first + height * batch].reshape(height, batch)
        rows[:n], rows[n : n + m], rows[n + m : -1], rows[-1] = solution.x, solution.y, solution.s, solution.status
        return rows.reshape((height, *self.packed.batch))

    @once
    def _good(self) -> np.ndarray:
        return np.flatnonzero(self.solution.ok)

    @property
    def _solved(self) -> tuple[Values, Solution]:
        """The elements that have a solution."""
        return (self.values, self.solution) if self.solution.whole else self._selected

    @once
    def _selected(self) -> tuple[Values, Solution]:
        return self.values_of(self._good), self.solution.select(self._good)

    def values_of(self, good: np.ndarray) -> Values:
        """The values of some elements that were solved."""
        return self.values.select(good if self.elements is None else np.searchsorted(self.elements, good))

    @once
    def _linearization(self) -> Linearization:
        return self.derivative.linearize(*self._solved)

    @once
    def _second(self) -> SecondDerivative:
        return SecondDerivative(self.compiled.structure, *self._solved, self._linearization)

    def vjp(self, cotangents: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The cotangents of the parameters, in the shapes in which they came, for cotangents of the outputs (None:
        zero).

        Elements that failed have zero gradient (``on_failure="zero_grad"``), or NaN unless their cotangents are zero
        ("nan").
        """
        with self.info.seconds.measure("derivative"):
            drows, poisoned = self._weights(cotangents)
            good = drows if self.solution.whole else drows[:, self._good]
            return self._gradients(self._linearization.pull(self.compiled, good), poisoned)

    def jvp(self, tangents: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The tangents of the outputs for tangents of the parameters (None: zero), broadcast as the parameters are."""
        with self.info.seconds.measure("derivative"):
            dx, dy, _ = self._linearization.jvp(self._moved(self._directions(tangents)))
            return self._unpacked(self.compiled.recover(dx, dy))

    def second_vjp(self, cotangents: Sequence[Any], tangents: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """How ``vjp(cotangents)`` changes where the parameters move along these tangents (None: zero).

        This is the Hessian of <cotangents, outputs>, applied to the tangents. Being symmetric it is also the gradient
        of <vjp(cotangents), tangents>, and of <cotangents, jvp(tangents)>, in the parameters. Failed elements as in
        ``vjp``.

        Raises
        ------
        DerivativeError
            There are semidefinite, exponential or power cones, ``smoothing``, or the engine is DIFFCP.
        """
        compiled, exponential, logarithmic = self.compiled, *curved_rows(self.compiled)
        with self.info.seconds.measure("derivative"):
            drows, poisoned = self._weights(cotangents)
            dtheta = self._directions(tangents)
            moved = self._moved(dtheta)
            values, change = self._second.vjp(*compiled.recover_adjoint(drows[:, self._good]), moved)
            found = self.compiled.pullback(change)
            if exponential.any():  # the derivative of exp(row) is exp(row), which moves, too
                dx, dy, _ = self._linearization.jvp(moved)
                bent = drows[:, self._good] * compiled.recover(dx, dy) * exponential[:, None]
                found += self.compiled.pullback(self._linearization.vjp(*compiled.recover_adjoint(bent)))
            if logarithmic.any():  # that of log(p) is 1 / p
                found -= self.compiled.pullback(values) * dtheta * logarithmic[:, None]
            return self._gradients(compiled.by_feature(found), poisoned)

    def second_jvp(self, first: Sequence[Any], second: Sequence[Any]) -> tuple[np.ndarray, ...]:
        """The second derivative of the outputs along two tangents of the parameters (None: zero); see ``second_vjp``.

        Raises
        ------
        DerivativeError
            As for ``second_vjp``.
        """
        compiled, exponential, logarithmic = self.compiled, *curved_rows(self.compiled)
        with self.info.seconds.measure("derivative"):
            one, other = self._directions(first), self._directions(second)
            rows = compiled.recover(*self._second.jvp(self._moved(one), self._moved(other)))
            if logarithmic.any():
                dx, dy, _ = self._linearization.jvp(self._moved(-one * other * logarithmic[:, None]))
                rows += compiled.recover(dx, dy)
            if exponential.any():
                both = [compiled.recover(*self._linearization.jvp(self._moved(part))[:2]) for part in (one, other)]
                rows += both[0] * both[1] * exponential[:, None]
            return self._unpacked(rows)

    def _weights(self, cotangents: Sequence[Any]) -> tuple[Array, np.ndarray | None]:
        """The cotangents of the rows, and which elements' gradients are NaN (None: none of them)."""
        drows = packing.pack_cotangents(self.compiled, self.rows, cotangents, self.packed.batch)
        if self.solution.whole or self.on_failure != "nan":
            return drows, None
        return drows, ~self.solution.ok & (drows != 0).any(axis=0)

    def _directions(self, tangents: Sequence[Any]) -> Array:
        """The tangents of theta, of the elements that have a solution."""
        return packing.pack_tangents(self.compiled, self.packed, tangents)[:, self._good]

    def _moved(self, dtheta: Array) -> Values:
        compiled = self.compiled
        return Values(*(part.pushforward(dtheta) for part in (compiled.P, compiled.q, compiled.A, compiled.b)))

    def _gradients(self, good: list[Array], poisoned: np.ndarray | None) -> tuple[np.ndarray, ...]:
        """The cotangents of the parameters for those of the features of the elements that have a solution."""
        parts = good
        if not self.solution.whole:
            parts = [np.zeros((self.solution.batch, part.shape[1])) for part in good]
            for part, found in zip(parts, good, strict=True):
                part[self._good] = found
                if poisoned is not None:
                    part[poisoned] = np.nan
        self.info.linearization = self._linearization
        return packing.unpack_cotangents(self.compiled, self.packed, parts)

    def _unpacked(self, good: Array) -> tuple[np.ndarray, ...]:
        """The tangents of the outputs for those of the rows of the elements that have a solution."""
        drows = np.full_like(self.rows, np.nan if self.on_failure == "nan" else 0.0)
        drows[:, self._good] = good
        self.info.linearization = self._linearization
        return packing.unpack_tangents(self.compiled, self.rows, drows, self.packed.batch)


def curved_rows(compiled: CompiledProblem) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the outputs that are exponentials, (rows,), and the rows of theta that are logarithms, (k,)."""
    exponential, logarithmic = np.zeros(compiled.primal.shape[0], bool), np.zeros(compiled.k, bool)
    for spec in compiled.outputs:
        exponential[spec.start : spec.stop] = spec.exponential
    for feature in compiled.features:
        logarithmic[feature.start : feature.stop] = feature.transform == "log"
    return exponential, logarithmic
