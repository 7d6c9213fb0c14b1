"""The function by which eigenvalues are smoothed along the central path, and its divided differences.

    phi(a) = (a + sqrt(a^2 + 4 mu)) / 2,    the positive root y of y - mu / y = a    (Chen and Mangasarian 1996)

tends to max(a, 0) as mu -> 0.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.arrays import Array, norm

__all__ = ["divided_difference", "phi", "share"]


def phi(a: Array, mu: float) -> Array:
    """The positive root y of y - mu / y = a, without cancellation for negative a."""
    root = np.sqrt(a * a + 4.0 * mu)
    return np.asarray(np.where(a > 0, 0.5 * (a + root), 2.0 * mu / (root - np.minimum(a, 0.0))))


def divided_difference(a: Array, b: Array, mu: float) -> Array:
    """(phi(a) - phi(b)) / (a - b), and the derivative of phi where they are equal."""
    return np.asarray((phi(a, mu) + phi(b, mu)) / (np.sqrt(a * a + 4.0 * mu) + np.sqrt(b * b + 4.0 * mu)))


def share(v: Array, mu: float) -> Array:
    """|v| / sqrt(|v|^2 + 4 mu) of the columns of v (d, L), (L,)."""
    size = norm(v)
    return np.asarray(size / np.sqrt(size * size + 4.0 * mu))
