"""The power cone K = {(u, v, w): u^alpha v^(1 - alpha) >= |w|, u, v >= 0}, 0 < alpha < 1, and its dual.

    K* = {(u, v, w): (u / alpha)^alpha (v / (1 - alpha))^(1 - alpha) >= |w|, u, v >= 0}

All functions work on z = (u, v, w) of shape (3, L) and alpha (L,), one cone for each lane. It is the n-dimensional one
of the exponents (alpha, 1 - alpha), of which it has the projection (see ``power_nd``). In R^3 the eigenvectors of the
projection's derivative are known (see ``ruled_surface_frame``).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit

from cvxlayers.cones import power_nd
from cvxlayers.cones.arrays import Array, largest, norm
from cvxlayers.cones.blocks import EigenBlocks, ruled_surface_frame
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import Piece

__all__ = [
    "KIND",
    "distance",
    "dual_distance",
    "enlarged",
    "exposed",
    "linearize_dual",
    "project",
    "project_dual",
    "recession",
]

KIND = Kind(
    "power", "power", "exponent", rows=lambda _: 3, degree=lambda _: 3, nonnegative=lambda d: (0, 1), compiled=True
)


def project(z: Array, alpha: Array) -> Array:
    """Proj_K(z), (3, L)."""
    return power_nd.project(z, _both(alpha))


def project_dual(z: Array, alpha: Array) -> Array:
    """Proj_{K*}(z), (3, L)."""
    return power_nd.project_dual(z, _both(alpha))


def distance(s: Array, alpha: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    return power_nd.distance(s, _both(alpha))


def dual_distance(y: Array, alpha: Array) -> Array:
    """How far y is from K*, (L,): the infinity norm of y - Proj_{K*}(y)."""
    return power_nd.dual_distance(y, _both(alpha))


def linearize_dual(z: Array, alpha: Array) -> EigenBlocks:
    """The derivative of Proj_{K*} at z.

    On the boundary of K* or of -K it is the limit from inside that cone (I or 0), and at z = 0 it is I / 2. The gap is
    exact outside K* and -K, and to first order inside.
    """
    exponents, L = _both(alpha), z.shape[1]
    parts = power_nd.decompose(-z, exponents)
    Q, eigenvalues = np.zeros((3, 3, L)), np.zeros((3, L))
    Q[:, :, parts.general] = ruled_surface_frame(_unit(parts.onto), _unit(parts.off))
    eigenvalues[0, parts.general], eigenvalues[1, parts.general] = 1.0, _weight(parts, alpha[parts.general])
    Q[:, :, parts.polar | parts.inside | ~parts.general] = np.eye(3)[:, :, None]
    eigenvalues[:, parts.polar] = 1.0
    eigenvalues[:, parts.inside] = 0.0
    u = -z[:2, parts.flat]
    eigenvalues[:2, parts.flat] = u < 0
    eigenvalues[2, parts.flat] = 1.0 - power_nd.slope_across(u, exponents[:, parts.flat])
    eigenvalues[:, largest(z) == 0] = 0.5
    eigenvalues[:, ~np.isfinite(z).all(axis=0)] = np.nan
    return EigenBlocks(Q, eigenvalues, power_nd.gap(-z, exponents, parts))


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``."""
    return power_nd.recession(piece, A)


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K."""
    return power_nd.enlarged(_piece(piece), z)


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp for y in the face that z exposes."""
    return power_nd.exposed(piece, z, y)


def _both(alpha: Array) -> Array:
    return np.stack([alpha, 1.0 - alpha])


def _piece(piece: Piece) -> Piece:
    return Piece(power_nd.KIND.name, (piece.data, 1.0 - piece.data), piece.map)


def _weight(parts: power_nd.Moreau, alpha: Array) -> Array:
    """k |d| / (1 + k |d|), k the curvature of the boundary at p, for the general lanes (see ``ruled_surface_frame``).

    The curve c(t) = (exp((1 - alpha) t), exp(-alpha t), 1) spans the boundary, p = r c. With the normal
    g = (-alpha r / x, -(1 - alpha) r / y, 1): c''g = -alpha (1 - alpha), |c x c'| = (x y / r^2) |g|, and as for the
    exponential cone k |d| = alpha (1 - alpha) (|d| / |g|) |c|^2 / (r |c x c'|^2); with |c| = |p| / r and
    |g| = |d| / (|w| - r) this is

        k |d| = alpha (1 - alpha) r (|w| - r)^3 |p|^2 / (x y |d|)^2.
    """
    h = parts.h
    with np.errstate(divide="ignore", invalid="ignore"):
        log_sizes = np.log(norm(parts.onto)) - np.log(norm(parts.off)) - parts.coordinates.log_x().sum(axis=0)
    logs = np.log(alpha * (1.0 - alpha)) + log_expit(h) + 3.0 * log_expit(-h) + 2.0 * log_sizes
    return np.asarray(expit(logs))


def _unit(z: Array) -> Array:
    """z over its 2-norm, and 0 for z = 0."""
    size = norm(z)
    return np.asarray(z / np.where(size == 0, 1.0, size))
