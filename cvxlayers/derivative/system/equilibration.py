"""Scales of rows and columns that bring the entries of K = [[P, A'], [A, -H]] to size one, on the active rows.

The regularization is chosen in these scales, where it is small beside everything that matters; and where J is singular
they are the units in which norms are measured. They begin with the units of the point (see ``units``), followed by a
fixed number of sweeps of the iteration of Ruiz (2001) in the infinity norm. Its limit is not unique, and where it ends
depends on where it begins: with this beginning, another unit of a row, a variable or the objective changes the scales
by just that unit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.system.units import Units, share_rows
from cvxlayers.program.scales import by_column, by_row
from cvxlayers.program.structure import Array, Pattern

__all__ = ["equilibrate"]

_SWEEPS = 6
# How far what is known spreads to what is not.
_NEIGHBOURS = 2


def equilibrate(
    P: Pattern,
    P_values: Array,
    A: Pattern,
    A_values: Array,
    cones: Cones,
    units: Units,
    active: NDArray[np.bool_],
    x: Array,
) -> tuple[Array, Array]:
    """Column scales c (n, B) and row scales r (m, B).

    Parameters
    ----------
    P, P_values : Pattern, (nnz, B)
        Both triangles.
    A, A_values : Pattern, (nnz, B)
    cones : Cones
        All rows of a cone that is not polyhedral have one scale, so that it commutes with D.
    units : Units
    active : (m, B) bool
        The other rows count as empty.
    x : (n, B)
    """
    P_size, A_size = np.abs(P_values), np.abs(A_values) * active[A.rows]
    c, r = _beginning(P_size, P, A_size, A, units)
    c, r = _common_unit(P_size, P, cones, units, active, x, c, r)
    for _ in range(_SWEEPS):
        inside = A_size * r[A.rows] * c[A.columns]
        columns = by_column(A, inside)
        if P.nnz:
            columns = np.maximum(columns, by_column(P, P_size * c[P.rows] * c[P.columns]))
        rows = by_row(A, inside)
        share_rows(cones, rows)
        c /= _root(columns)
        r /= _root(rows)
    return c, r


def _beginning(P_size: Array, P: Pattern, A_size: Array, A: Pattern, units: Units) -> tuple[Array, Array]:
    """1 / dual and eta, with which no entry of A is above one; where they say nothing, the largest entries of rows and
    columns of which something is known."""
    r = np.where(np.isfinite(units.eta), units.eta, 0.0)
    c = np.zeros_like(units.dual)
    np.divide(1.0, units.dual, out=c, where=units.dual > 0)
    for _ in range(_NEIGHBOURS):
        c = np.where(c > 0, c, _inverse(by_column(A, A_size * r[A.rows])))
        r = np.where(r > 0, r, _inverse(by_row(A, A_size * c[A.columns])))
    return np.where(c > 0, c, 1.0), np.where(r > 0, r, 1.0)


def _common_unit(
    P_size: Array, P: Pattern, cones: Cones, units: Units, active: NDArray[np.bool_], x: Array, c: Array, r: Array
) -> tuple[Array, Array]:
    """c times, and r over, the root of a size of the objective, which A does not see.

    It is the largest |x_j| dual_j, but not so small that all entries of P would be less than one; where P is zero, the
    largest eta sigma of curved cones, to which H is proportional.
    """
    flat = cones.zero + cones.nonneg
    curved = np.where(active & np.isfinite(units.eta), units.eta, 0.0)[flat:] * units.sigma[flat:]
    least = _inverse((P_size * c[P.rows] * c[P.columns]).max(axis=0, initial=0.0))
    size = np.maximum((np.abs(x) / c).max(axis=0, initial=0.0), least)
    root = np.sqrt(np.where(least > 0, size, _positive(curved.max(axis=0, initial=0.0))))
    return c * root, r / root


def _inverse(size: Array) -> Array:
    return np.where(size > 0, 1.0 / _positive(size), 0.0)


def _root(size: Array) -> Array:
    return np.sqrt(_positive(size))


def _positive(size: Array) -> Array:
    """The sizes, and one where there is none."""
    return np.where((size > 0) & np.isfinite(size), size, 1.0)
