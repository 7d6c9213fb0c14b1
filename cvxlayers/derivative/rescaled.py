"""A derivative taken in scaled units, in which y and s of a curved cone can be compared.

The derivative of the projection onto a curved cone is taken at v = y - s: where the caller's units make one of the two
vanish beside the other, v does not know it any more. In the scaled problem (see ``cvxlayers.program.scales``)

    x = D x~,  y = E y~ / cost,  s = s~ / E,    P~ = cost D P D,  q~ = cost D q,  A~ = E A D,  b~ = E b,

they are of one size. The scales being constants, the chain rule leads there and back.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.group import groups
from cvxlayers.derivative.base import DerivativeReport, Linearization
from cvxlayers.program.scales import ORDINARY, Scales, far_apart, scales
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["Rescaled", "needs_units", "scaled_problem"]

NOTHING = 1e14
"""How much larger one of y and s has to be in a cone for the other to be rounding."""


def needs_units(structure: Structure, values: Values, solution: Solution, flat: bool = False) -> NDArray[np.bool_]:
    """In which elements y and s of curved cones (or, with ``flat``, of any) may not be comparable as they are, (B,)."""
    found = np.zeros(solution.batch, dtype=bool)
    if not flat and structure.cones.polyhedral:
        return found
    for part in values:
        largest = np.abs(part).max(axis=0, initial=0.0)
        found |= np.maximum(largest, 1 / np.where(largest > 0, largest, 1.0)) > ORDINARY
    if flat:
        found |= far_apart(structure, values)
    for group in groups(structure.cones):
        of_y, of_s = (np.abs(part[group.rows]).max(axis=1) for part in (solution.y, solution.s))
        both = (of_y > 0) & (of_s > 0)
        ratio = np.where(both, of_y, 1.0) / np.where(both, of_s, 1.0)
        apart = np.maximum(ratio, 1 / ratio)
        found |= ((apart > ORDINARY) & (apart < NOTHING)).any(axis=0)
    return found


def scaled_problem(
    structure: Structure, values: Values, solution: Solution, elements: NDArray[np.bool_]
) -> tuple[Scales, Values, Solution]:
    """The scales of some elements (one for the others), the scaled values, and a solution of these."""
    found = scales(structure, values).where(elements)
    x, y, s = found.to(solution.x, solution.y, solution.s)
    return found, found.scaled(structure, values), replace(solution, x=x, y=y, s=s, residuals=None)


class Rescaled(Linearization):
    """The linearization of a scaled problem, in the terms of the problem itself."""

    def __init__(self, structure: Structure, found: Scales, inner: Linearization) -> None:
        self._structure, self._found, self._inner = structure, found, inner

    def vjp(self, dx: Array, dy: Array, ds: Array | None = None) -> Values:
        return self._found.scaled(self._structure, self._inner.vjp(*self._cotangents(dx, dy, ds)))

    def jvp(self, dvalues: Values) -> tuple[Array, Array, Array]:
        return self._found.back(*self._inner.jvp(self._found.scaled(self._structure, dvalues)))

    @property
    def kept(self) -> int:
        return self._inner.kept

    @property
    def twice(self) -> bool:
        return self._inner.twice

    def multipliers(self, dx: Array, dy: Array, ds: Array | None = None) -> tuple[Array, Array]:
        found = self._found
        rx, rv = self._inner.multipliers(*self._cotangents(dx, dy, ds))
        return found.cost * found.D * rx, found.E * rv

    @property
    def report(self) -> DerivativeReport:
        return self._inner.report

    def _cotangents(self, dx: Array, dy: Array, ds: Array | None) -> tuple[Array, Array, Array | None]:
        found = self._found
        return found.D * dx, found.E / found.cost * dy, None if ds is None else ds / found.E
