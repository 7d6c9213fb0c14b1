"""Whether a point proves that a problem has no solution, from the problem's own numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import projection
from cvxlayers.program import Array, Structure, Values

__all__ = ["proves_infeasible", "proves_unbounded"]

TOLERANCE = 1e-8
"""What may be left of A'y beside -b'y, of Px and of Ax + s beside -q'x; and how far, relative to its size, a point may
lie outside its cone."""


def proves_infeasible(structure: Structure, values: Values, y: Array) -> NDArray[np.bool_]:
    """Whether y (m, B) is in K*, with A'y = 0 and b'y < 0: then no Ax + s = b, as 0 = y'(Ax + s - b) > y's >= 0."""
    along = -np.einsum("ib,ib->b", values.b, y)
    left = _size(structure.A.transpose_times(values.A, y))
    return _holds(along, left) & (projection.dual_distance(structure.cones, y) <= TOLERANCE * _size(y))


def proves_unbounded(structure: Structure, values: Values, x: Array) -> NDArray[np.bool_]:
    """Whether x (n, B) has Px = 0, -Ax in K and q'x < 0: a feasible point may be moved along x for ever."""
    along = -np.einsum("ib,ib->b", values.q, x)
    outside = projection.distance(structure.cones, -structure.A.times(values.A, x))
    return _holds(along, np.maximum(_size(structure.P_times(values.P, x)), outside))


def _holds(along: Array, left: Array) -> NDArray[np.bool_]:
    return (along > 0) & (left <= TOLERANCE * along)


def _size(v: Array) -> Array:
    return np.abs(v).max(axis=0, initial=0.0)
