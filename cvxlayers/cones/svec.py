"""Symmetric matrices as vectors: the packed upper triangle, column by column, off-diagonals times sqrt(2).

The factor makes the inner product of two vectors that of their matrices. Clarabel packs in the same order. SCS and
diffcp pack the lower triangle column by column, which is the upper triangle row by row:

    order 3, here:      (0,0) (0,1) (1,1) (0,2) (1,2) (2,2)
    order 3, SCS's:     (0,0) (0,1) (0,2) (1,1) (1,2) (2,2)
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

from cvxlayers.cones.arrays import Array, Index
from cvxlayers.cones.kind import svec_length

__all__ = ["pack", "svec_order", "triangle", "unpack"]


@lru_cache(maxsize=64)
def triangle(order: int) -> tuple[Index, Index, Array]:
    """Row, column and factor of each packed entry, all (d,) with d = order (order + 1) / 2; not to be written to."""
    columns = np.repeat(np.arange(order), np.arange(1, order + 1))
    rows = np.arange(columns.size) - columns * (columns + 1) // 2
    factors = np.where(rows == columns, 1.0, np.sqrt(2.0))
    for part in (rows, columns, factors):
        part.setflags(write=False)
    return rows, columns, factors


def svec_order(length: int) -> int:
    """The order k of the matrix that is packed into k (k + 1) / 2 entries."""
    return (isqrt(8 * length + 1) - 1) // 2


def pack(X: Array) -> Array:
    """The vectors (d, ...) of symmetric matrices (k, k, ...); only their upper triangles are read.

    Examples
    --------
    >>> pack(np.array([[1.0, 2.0], [2.0, 3.0]])).round(3)
    array([1.   , 2.828, 3.   ])
    """
    rows, columns, factors = triangle(X.shape[0])
    return np.asarray(X[rows, columns] * factors.reshape(-1, *[1] * (X.ndim - 2)))


def unpack(v: Array) -> Array:
    """The symmetric matrices (k, k, ...) of vectors (d, ...).

    Examples
    --------
    >>> unpack(pack(np.array([[1.0, 2.0], [2.0, 3.0]]))).round(3)
    array([[1., 2.],
           [2., 3.]])
    """
    order = svec_order(v.shape[0])
    entries = v / triangle(order)[2].reshape(-1, *[1] * (v.ndim - 1))
    return np.asarray(entries[_positions(order)])


@lru_cache(maxsize=64)
def _positions(order: int) -> Index:
    """For each entry of the matrix, (k, k), its place in the vector."""
    rows, columns, _ = triangle(order)
    positions = np.empty((order, order), dtype=np.intp)
    positions[rows, columns] = positions[columns, rows] = np.arange(svec_length(order))
    positions.setflags(write=False)
    return positions
