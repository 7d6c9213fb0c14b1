"""Scales of rows and columns that bring the entries of K = [[P, A'], [A, -C]] to size one.

The regularization is chosen in these scales, where it is small beside everything that matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.group import groups
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.program import Array, Pattern

__all__ = ["equilibrate"]

_SWEEPS = 8


def equilibrate(P: Pattern, P_values: Array, A: Pattern, A_values: Array, D: DualDerivative) -> tuple[Array, Array]:
    """Column scales c (n, B) and row scales r (m, B), by the iteration of Ruiz (2001) in the infinity norm.

    Rows on which D is zero count as empty. All rows of a cone that is not polyhedral have one scale, so that it
    commutes with D; C is taken to be of size one there, and zero elsewhere.

    Parameters
    ----------
    P, P_values : Pattern, (nnz, B)
        Both triangles.
    A, A_values : Pattern, (nnz, B)
    D : DualDerivative
    """
    n, (m, batch) = P.shape[0], D.diagonal.shape
    flat = D.cones.zero + D.cones.nonneg
    counted = np.ones((m, batch))
    counted[:flat] = D.diagonal[:flat] > 0
    curved = np.zeros((m, 1))
    curved[flat:] = 1.0
    P_size, A_size = np.abs(P_values), np.abs(A_values) * counted[A.rows]
    c, r = np.ones((n, batch)), np.ones((m, batch))
    for _ in range(_SWEEPS):
        inside = A_size * r[A.rows] * c[A.columns]
        columns = np.maximum(_largest(inside, A.columns, n), _largest(P_size * c[P.rows] * c[P.columns], P.columns, n))
        rows = np.maximum(_largest(inside, A.rows, m), curved * r * r)
        for group in groups(D.cones):
            rows[group.rows] = rows[group.rows].max(axis=1, keepdims=True)
        c /= _root(columns)
        r /= _root(rows)
    return c, r


def _largest(values: Array, places: NDArray[np.integer], size: int) -> Array:
    """The largest of the values (nnz, B) at each place: (size, B), zero where there is none."""
    found = np.zeros((size, values.shape[1]))
    if places.size:
        order = np.argsort(places, kind="stable")
        distinct, starts = np.unique(places[order], return_index=True)
        found[distinct] = np.maximum.reduceat(values[order], starts, axis=0)
    return found


def _root(size: Array) -> Array:
    return np.sqrt(np.where((size > 0) & np.isfinite(size), size, 1.0))
