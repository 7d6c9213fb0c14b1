"""A part of the batch, factorized: solves with J, by the means that each element needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative import least_squares
from cvxlayers.derivative.paths import Path
from cvxlayers.derivative.refinement import Factor, Health, choose, examine, in_range, refine, without_kernel
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

    def enter(self, elements: NDArray[np.intp], other: Solved) -> None:
        """Put the solutions of some elements in place."""
        self.dx[:, elements], self.dy[:, elements] = other.dx, other.dy
        self.residual[elements] = other.residual


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

    def solve(self, f: Array, g: Array, rescue: bool = True) -> Solved:
        """Solve J (dx, dv) = (f, g), with ``rescue`` by least squares where there is no solution."""
        system, factor = self.system, self.factor
        own = np.ones(system.batch, dtype=bool)
        if self.slow is not None:
            own[self.slow[0]] = False
        found, inner_f, inner_g = refine(system, factor, f, g), f, g
        suspect = self.health.singular & factor.usable & own
        lost = suspect & ~(found.residual <= ACCEPTED)
        if lost.any():
            inner_f, inner_g = in_range(system, factor, f, g, lost)
            found = found.merged(lost, refine(system, factor, inner_f, inner_g, lost))
        solvable = suspect & (found.residual <= ACCEPTED)
        if solvable.any():
            found = without_kernel(system, factor, inner_f, inner_g, found, solvable)
        solved = Solved(found.dx, system.D.matvec(found.dv), found.residual)
        if lost.any():
            whole = system.residual(found.dx, found.dv, f, g)[2]
            solved = replace(solved, residual=choose(lost & solvable, whole, found.residual))
        limit = _GOOD if f.shape[0] + g.shape[0] <= least_squares.DENSE else ACCEPTED
        if rescue:
            self._rescue(solved, np.flatnonzero(own & ~(found.residual <= limit)), f, g)
        if self.slow is not None:
            elements, part = self.slow
            solved.enter(elements, part.solve(f[:, elements], g[:, elements], rescue))
        return solved

    def _rescue(self, solved: Solved, elements: NDArray[np.intp], f: Array, g: Array) -> None:
        """Enter better solutions for elements where refinement did not end well."""
        if not elements.size:
            return
        other = least_squares.solve(self.system.select(elements), f[:, elements], g[:, elements])
        before = solved.residual[elements]
        better = ~(before <= ACCEPTED) | (other.residual < before)
        solved.enter(elements[better], Solved(other.dx[:, better], other.dy[:, better], other.residual[better]))
