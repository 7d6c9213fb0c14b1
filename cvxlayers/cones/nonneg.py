"""The nonnegative orthant K = K* = {v: v >= 0}: the rows of inequalities.

All functions work on v (d, L); the derivative is diagonal and stored as its diagonal.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.arrays import Array, gap_relative_to

__all__ = ["distance", "dual_derivative", "dual_distance", "gap", "margin", "project", "project_dual"]


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


def margin(v: Array) -> Array:
    """min |v_i| / max |v_i|, (L,); 0 for v = 0."""
    return gap_relative_to(v, gap(v))


def distance(s: Array) -> Array:
    """How far s is from K, (L,) in the infinity norm: the largest max(-s_i, 0)."""
    return np.asarray(np.maximum(-s.min(axis=0, initial=0.0), 0.0))


def dual_distance(y: Array) -> Array:
    """How far y is from K* = K."""
    return distance(y)
