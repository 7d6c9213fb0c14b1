"""A part of the batch, factorized: solves with J, by the means that each element needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.factor.choice import Factorization
from cvxlayers.derivative.factor.refinement import COARSE, Factor, examine, least_norm, lingers, refine
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array

__all__ = ["ACCEPTED", "Part", "Quality", "SystemSolution"]

ACCEPTED = 1e-9
"""The relative residual above which a system counts as not solved."""

# What no solution serves of a right side by rounding alone.
_ROUNDING = 1e-12


class Quality:
    """What there is to say of the solutions of a batch of systems: the ``rows`` (3, B)

    residual    the relative residual of the part of the right side that a solution serves,
    unserved    the length of the rest, relative to the right side, in scaled units,
    singular    whether the solution is that of least norm of a singular system, 0 or 1.
    """

    __slots__ = ("rows",)

    def __init__(self, rows: Array) -> None:
        self.rows = rows

    @classmethod
    def of(cls, residual: Array, unserved: Array, singular: NDArray[np.bool_]) -> Quality:
        """The three, (B,) each."""
        return cls(np.stack([residual, unserved, singular]))

    @classmethod
    def perfect(cls, batch: int) -> Quality:
        """Where nothing has been solved yet."""
        return cls(np.zeros((3, batch)))

    @property
    def residual(self) -> Array:
        return self.rows[0]

    @property
    def unserved(self) -> Array:
        return self.rows[1]

    @property
    def singular(self) -> NDArray[np.bool_]:
        return self.rows[2] > 0

    def enter(self, elements: NDArray[np.intp] | slice, other: Quality) -> None:
        """Put that of some elements in place."""
        self.rows[:, elements] = other.rows

    def worse(self, other: Quality) -> Quality:
        """The worse of both in each respect; NaN where one has it."""
        return Quality(np.maximum(self.rows, other.rows))


@dataclass(frozen=True)
class SystemSolution:
    """dx (n, B) and dy = D dv (m, B) of J (dx, dv) = (f, g), and their quality."""

    dx: Array
    dy: Array
    quality: Quality

    @classmethod
    def room(cls, n: int, m: int, batch: int) -> SystemSolution:
        """Solutions that are yet to be entered."""
        return cls(np.empty((n, batch)), np.empty((m, batch)), Quality.perfect(batch))

    def enter(self, elements: NDArray[np.intp] | slice, other: SystemSolution) -> None:
        """Put the solutions of some elements in place."""
        self.dx[:, elements], self.dy[:, elements] = other.dx, other.dy
        self.quality.enter(elements, other.quality)


@dataclass(frozen=True)
class Part:
    """Systems and their factors.

    Attributes
    ----------
    system : System
    factor : Factor
    path : Path
        Which made the factors.
    singular : (B,) bool
        Where J is, of elements that have been solved for in vain without asking.
    rest : (elements, Part) or None
        The elements that seem to be singular, once more, in scales of their own and with a larger delta.
    """

    system: System
    factor: Factor
    path: Factorization
    singular: NDArray[np.bool_]
    rest: tuple[NDArray[np.intp], Part] | None

    @classmethod
    def of(cls, path: Factorization, system: System) -> Part:
        factor = path.factorize(system)
        part = cls(system, factor, path, np.zeros(system.batch, dtype=bool), None)
        elements = np.flatnonzero(examine(system, factor))
        return replace(part, rest=(elements, part._coarse(elements))) if elements.size else part

    def _coarse(self, elements: NDArray[np.intp]) -> Part:
        system = self.system.again(elements, COARSE)
        factor = self.path.factorize(system)
        return Part(system, factor, self.path, lingers(system, factor), None)

    def solve(self, f: Array, g: Array) -> SystemSolution:
        """Solve J (dx, dv) = (f, g), which are given, and returned, in the caller's units.

        Of a right side that is not finite nothing is solved: NaN, and an infinite residual.
        """
        finite = np.isfinite(f).all(axis=0) & np.isfinite(g).all(axis=0)
        if finite.all():
            return self._solve(f, g)
        solved = self._solve(np.where(finite, f, 0.0), np.where(finite, g, 0.0))
        solved.dx[:, ~finite], solved.dy[:, ~finite], solved.quality.residual[~finite] = np.nan, np.nan, np.inf
        return solved

    def _solve(self, f: Array, g: Array) -> SystemSolution:
        (c, r), free = self.system.scales, self.system.free
        found = refine(self.system, self.factor, c * f * ~free, r * g)
        quality = Quality.of(found.residual, found.unserved, np.zeros(f.shape[1], dtype=bool))
        solved = SystemSolution(c * found.dx, r * found.u, quality)
        for elements, part in self._others(found.residual, (free & (f != 0)).any(axis=0)):
            solved.enter(elements, part.solve_least_norm(f[:, elements], g[:, elements]))
        return solved

    def solve_least_norm(self, f: Array, g: Array) -> SystemSolution:
        """The solutions of least norm of what of the right sides has one."""
        c, r = self.system.scales
        found = least_norm(self.system, self.factor, c * f, r * g)
        nothing = ~np.isfinite(found.residual)
        dx, dy = (np.where(nothing, np.nan, part) for part in (c * found.dx, r * found.u))
        singular = self.singular | (found.unserved > _ROUNDING) | nothing
        return SystemSolution(dx, dy, Quality.of(found.residual, found.unserved, singular))

    def _others(self, residual: Array, lost: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], Part]]:
        """The elements that refinement does not solve, or of which something is asked that nothing determines."""
        parts = [self.rest] if self.rest is not None else []
        unsolved = lost | ~(residual <= ACCEPTED)
        for elements, _ in parts:
            unsolved[elements] = False
        if unsolved.any():
            elements = np.flatnonzero(unsolved)
            parts.append((elements, self._coarse(elements)))
        return parts
