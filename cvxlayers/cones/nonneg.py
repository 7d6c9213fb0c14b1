"""The nonnegative orthant K = K* = {v: v >= 0}: the rows of inequalities.

All functions work on v (d, L); the derivative is diagonal and stored as its diagonal.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.arrays import Array
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import CLEAR, Piece

__all__ = [
    "KIND",
    "depth",
    "distance",
    "dual_derivative",
    "dual_distance",
    "enlarged",
    "exposed",
    "gap",
    "project",
    "project_dual",
    "recession",
]

KIND = Kind("nonneg", "nonnegative", "rows", rows=int, degree=int, nonnegative=range, polyhedral=True)


def project(v: Array) -> Array:
    """Proj_K(v) = max(v, 0)."""
    return np.maximum(v, 0.0)


def project_dual(v: Array) -> Array:
    """Proj_{K*}(v) = max(v, 0)."""
    return np.maximum(v, 0.0)


def dual_derivative(v: Array) -> Array:
    """The diagonal of the derivative of max(v, 0): 1 for v > 0, 0 for v < 0.

    At v = 0 it is 1/2, the mean of the limits from the two sides.
    """
    D = np.sign(v)
    D += 1.0
    D *= 0.5
    return np.asarray(D)


def gap(v: Array) -> Array:
    """Distance to the nearest point where max(v, 0) is not differentiable: min |v_i|, (L,)."""
    return np.asarray(np.abs(v).min(axis=0, initial=np.inf))


def distance(s: Array) -> Array:
    """How far s is from K, (L,) in the infinity norm: the largest max(-s_i, 0)."""
    return np.asarray(np.maximum(-s.min(axis=0, initial=0.0), 0.0))


def dual_distance(y: Array) -> Array:
    """How far y is from K* = K."""
    return distance(y)


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``."""
    return [piece], piece.map.sum(axis=0)


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K: the rows in which z is zero."""
    rows = piece.map[z <= CLEAR]
    return [Piece("nonneg", rows.shape[0], rows)]


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K itself: what a certificate needs of its faces, it says of K."""
    return [piece]


def depth(v: Array) -> float:
    """How far v (d,) is inside: the least entry."""
    return float(v.min(initial=np.inf))
