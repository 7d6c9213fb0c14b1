"""A part of the batch, factorized: solves with J, by the means that each element needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative import least_squares
from cvxlayers.derivative.paths import Path
from cvxlayers.derivative.refinement import Factor, Health, Refined, examine, refine, without_kernel
from cvxlayers.derivative.system import System
from cvxlayers.program import Array

__all__ = ["ACCEPTED", "Part", "Solved"]

ACCEPTED = 1e-9
"""The relative residual above which a solution is one of least squares."""

# The relative residual above which a better solution is looked for.
_GOOD = 1e-12


@dataclass(frozen=True)
class Solved:
    """dx (n, B) and dy = D dv (m, B) of J (dx, dv) = (f, g), with relative residuals (B,)."""

    dx: Array
    dy: Array
    residual: Array


@dataclass(frozen=True)
class Part:
    """Systems and their factors.

    Attributes
    ----------
    system : System
    factor : Factor
    health : Health
    slow : (elements, Part) or None
        The elements with rows and columns of very different sizes, once more, with a regularization that suits these.
    """

    system: System
    factor: Factor
    health: Health
    slow: tuple[NDArray[np.intp], Part] | None

    @classmethod
    def of(cls, path: Path, system: System) -> Part:
        factor = path.factorize(system)
        health = examine(system, factor)
        elements = np.flatnonzero(health.slow)
        if not elements.size or system.equilibrated:
            return cls(system, factor, health, None)
        again = replace(system.select(elements), equilibrated=True)
        return cls(system, factor, health, (elements, cls.of(path, again)))

    def solve(self, f: Array, g: Array) -> Solved:
        """Solve J (dx, dv) = (f, g), by least squares where there is no solution."""
        found = refine(self.system, self.factor, f, g)
        consistent = self.health.singular & (found.residual <= ACCEPTED)
        if consistent.any():
            found = without_kernel(self.system, self.factor, f, g, found, consistent)
        solved = self._rescued(found, f, g)
        if self.slow is not None:
            elements, part = self.slow
            other = part.solve(f[:, elements], g[:, elements])
            solved.dx[:, elements], solved.dy[:, elements] = other.dx, other.dy
            solved.residual[elements] = other.residual
        return solved

    def _rescued(self, found: Refined, f: Array, g: Array) -> Solved:
        """The same, where refinement did not end well by other means; slow elements are left to their own part."""
        dx, dy, residual = found.dx, self.system.D.matvec(found.dv), found.residual
        poor = ~(residual <= _GOOD)
        if self.slow is not None:
            poor[self.slow[0]] = False
        elements = np.flatnonzero(poor)
        if elements.size:
            other = least_squares.solve(self.system.select(elements), f[:, elements], g[:, elements])
            better = ~(residual[elements] <= ACCEPTED) | (other.residual < residual[elements])
            chosen = elements[better]
            dx[:, chosen], dy[:, chosen] = other.dx[:, better], other.dy[:, better]
            residual[chosen] = other.residual[better]
        return Solved(dx, dy, residual)
