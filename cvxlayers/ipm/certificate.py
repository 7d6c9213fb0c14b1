"""Whether a point proves that a problem has no solution, from the problem's own numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import projection
from cvxlayers.program import Array, Pattern, Structure, Values

__all__ = ["proves_infeasible", "proves_unbounded"]

TOLERANCE = 1e-6
"""What may be left, relative to the point's size, of what must vanish, when rows and columns of A are scaled to one."""

FAR = 1e-5
"""What may be left of it relative to -b'y or -q'x, in the units given: every x or y that the point does not rule out is
larger than the inverse of this."""

PASSES = 8
"""Rounds of that scaling."""

CANCELLED = 1e-9
"""-b'y and -q'x must be more than this part of the terms that they are summed from."""


def proves_infeasible(structure: Structure, values: Values, y: Array) -> NDArray[np.bool_]:
    """Whether y (m, B) is in K*, with A'y = 0 and b'y < 0: then no Ax + s = b, as 0 = y'(Ax + s - b) > y's >= 0."""
    rows, columns = _sizes(structure.A, values.A)
    left = np.abs(structure.A.transpose_times(values.A, y))
    outside = projection.dual_distance(structure.cones, y) <= TOLERANCE * _largest(y)
    vanishes = _largest(left / columns) <= TOLERANCE * _largest(y * rows)
    return outside & vanishes & _falls(values.b, y, _largest(left))


def proves_unbounded(structure: Structure, values: Values, x: Array) -> NDArray[np.bool_]:
    """Whether x (n, B) has Px = 0, -Ax in K and q'x < 0: a feasible point may be moved along x for ever.

    Of x'Px / 2 nothing may be left that would end the fall before the objective is at some -10^9.
    """
    rows, columns = _sizes(structure.A, values.A)
    direction = -structure.A.times(values.A, x)
    outside = projection.distance(structure.cones, direction)
    vanishes = projection.distance(structure.cones, direction / _shared(structure, rows)) <= TOLERANCE * _largest(
        x * columns
    )
    curved = np.einsum("ib,ib->b", x, structure.P_times(values.P, x))
    down = np.einsum("ib,ib->b", values.q, x)
    return vanishes & _falls(values.q, x, outside) & (curved <= 1e-9 * down**2)


def _falls(prices: Array, point: Array, left: Array) -> NDArray[np.bool_]:
    terms = prices * point
    fall = -terms.sum(axis=0)
    return (fall > CANCELLED * np.abs(terms).sum(axis=0)) & (left <= FAR * fall)


def _sizes(A: Pattern, values: Array) -> tuple[Array, Array]:
    """Sizes of A's rows and columns by which to divide them for entries of about 1 at most in each (Ruiz 2001)."""
    rows, columns = np.ones((A.shape[0], values.shape[1])), np.ones((A.shape[1], values.shape[1]))
    for _ in range(PASSES):
        entries = np.abs(values) / (rows[A.rows] * columns[A.columns])
        for sizes, where in ((rows, A.rows), (columns, A.columns)):
            found = np.zeros_like(sizes)
            np.maximum.at(found, where, entries)
            sizes *= np.sqrt(np.where(found == 0, 1.0, found))
    return rows, columns


def _shared(structure: Structure, rows: Array) -> Array:
    """The rows' sizes, the same for all rows of one curved cone."""
    shared = rows.copy()
    for block in structure.cones.blocks:
        if block.kind not in ("zero", "nonneg"):
            shared[block.rows] = rows[block.rows].max(axis=0)
    return shared


def _largest(v: Array) -> Array:
    return np.abs(v).max(axis=0, initial=0.0)
