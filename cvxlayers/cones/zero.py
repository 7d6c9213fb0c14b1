"""The zero cone K = {0}, whose dual K* is the whole space: the rows of equalities.

All functions work on v (d, L); the derivative is diagonal and stored as its diagonal.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.arrays import Array, largest
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import Piece

__all__ = [
    "KIND",
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

KIND = Kind("zero", "zero", "rows", rows=int, degree=lambda rows: 0, nonnegative=lambda d: (), polyhedral=True)


def project(v: Array) -> Array:
    """Proj_K(v) = 0."""
    return np.zeros_like(v)


def project_dual(v: Array) -> Array:
    """Proj_{K*}(v) = v."""
    return v.copy()


def dual_derivative(v: Array) -> Array:
    """The diagonal of the derivative of Proj_{K*}: ones."""
    return np.ones_like(v)


def gap(v: Array) -> Array:
    """Infinite: the identity is differentiable everywhere."""
    return np.full(v.shape[1], np.inf)


def distance(s: Array) -> Array:
    """How far s is from K, (L,) in the infinity norm."""
    return largest(s)


def dual_distance(y: Array) -> Array:
    """How far y is from K*: nothing."""
    return np.zeros(y.shape[1])


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``."""
    return [piece], np.zeros(A.shape[0])


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K, which is zero."""
    return [piece]


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K itself, which has no smaller face."""
    return [piece]
