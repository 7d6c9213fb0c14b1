"""Whether a point proves that a problem has no solution: whoever claims it, from the problem's own numbers.

As an answer is measured (see ``cvxlayers.measure``), so is a proof. A y in K* with b'y < 0 proves that there is no
feasible point if A'y is so small that a feasible point would have to be larger than ``1 / PROOF`` beside the problem's
own scales: 0 = y'(Ax + s - b) needs (A'y)'x = b'y - s'y <= b'y. (That A'y is small beside its own terms says less:
where curved cones express (t + 1)^2 - (t - 1)^2, a change of A in the eighth digit makes a feasible problem
infeasible.) Likewise for a direction x along which the objective falls for ever.

Small entries of a solver's ray are often what should be zero: a ray is also tried without those.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import projection
from cvxlayers.program import Array, Structure, Values
from cvxlayers.scales import Scales, scales

__all__ = ["proves_infeasible", "proves_unbounded"]

ROUNDING = 1e-13
"""What rounding may leave of what must vanish, beside the terms that it is summed from."""

PROOF = 1e-10
"""What may be left of it in scaled units, relative to -b'y or -q'x: what a point is feasible for is larger than 1 /
PROOF times the scales."""

CANCELLED = 1e-9
"""-b'y and -q'x must be more than this part of the terms that they are summed from."""

FLAT = 1e-9
"""x'Px / 2 may end the fall along x only where the scaled objective is below some -1 / FLAT."""

SMALL = (0.0, 1e-9, 1e-7, 1e-5)
"""Entries up to so small a part of the largest, in scaled units, are tried as zeros."""


def proves_infeasible(structure: Structure, values: Values, y: Array) -> NDArray[np.bool_]:
    """Whether y (m, B) proves that no x has b - Ax in K."""
    found, proved = scales(structure, values), np.zeros(y.shape[1], dtype=bool)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        y = y / _largest(y * (found.cost / found.E))
        for small in SMALL:
            proved |= _no_point(structure, values, found, _without(structure, y, found.cost / found.E, small))
    return proved


def proves_unbounded(structure: Structure, values: Values, x: Array) -> NDArray[np.bool_]:
    """Whether along x (n, B) every feasible point may be moved for ever, and the objective falls."""
    found, proved = scales(structure, values), np.zeros(x.shape[1], dtype=bool)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x = x / _largest(x / found.D)
        for small in SMALL:
            proved |= _no_minimum(structure, values, found, np.where(np.abs(x / found.D) > small, x, 0.0))
    return proved


def _without(structure: Structure, y: Array, unit: Array, small: float) -> Array:
    """The nearest y in K*, without small entries of its polyhedral rows."""
    flat = structure.cones.zero + structure.cones.nonneg
    y = projection.project_dual(structure.cones, y)
    y[:flat] = np.where(np.abs(y[:flat] * unit[:flat]) > small, y[:flat], 0.0)
    return y


def _no_point(structure: Structure, values: Values, found: Scales, y: Array) -> NDArray[np.bool_]:
    fall, real = _fall(values.b, y)
    left = np.abs(structure.A.transpose_times(values.A, y))
    terms = structure.A.transpose_times(np.abs(values.A), np.abs(y))
    return real & (left <= ROUNDING * terms + PROOF * fall / found.D).all(axis=0)


def _no_minimum(structure: Structure, values: Values, found: Scales, x: Array) -> NDArray[np.bool_]:
    fall, real = _fall(values.q, x)
    direction = -structure.A.times(values.A, x)
    left = np.abs(direction - projection.project(structure.cones, direction))
    terms = structure.A.times(np.abs(values.A), np.abs(x))
    stays = (left <= ROUNDING * terms + PROOF * found.cost * fall / found.E).all(axis=0)
    curved = np.einsum("ib,ib->b", x, structure.P_times(values.P, x))
    return real & stays & (curved <= FLAT * found.cost * fall**2)


def _fall(prices: Array, point: Array) -> tuple[Array, NDArray[np.bool_]]:
    """-prices'point, and whether it is more than what rounding leaves of its terms."""
    terms = prices * point
    fall = -terms.sum(axis=0)
    return fall, fall > CANCELLED * np.abs(terms).sum(axis=0)


def _largest(v: Array) -> Array:
    return np.abs(v).max(axis=0, initial=0.0)
