"""The exponential cone K = closure {(u, v, w): v > 0, v exp(u / v) <= w} and its dual.

    K* = closure {(u, v, w): u < 0, -u exp(v / u) <= e w}

All functions work on z = (u, v, w) of shape (3, L), one cone for each lane.

Projection (Friberg 2021, "Projection onto the exponential cone: a univariate root-finding problem"). The rays on the
boundary of K and on that of its polar cone K° = -K* that are orthogonal to each other share a parameter r,

    c(r) = (r, 1, exp(r)),    g(r) = (1, 1 - r, -exp(-r)),    c'g = 0,

so that outside K, K° and the face u, v <= 0 the Moreau decomposition is z = p + d, p = a c(r), d = b g(r), a, b > 0.
The first two rows give a = (v + (r - 1) u) / q and b = (u - r v) / q with q = r^2 - r + 1, the third is the equation

    a(r) exp(r) - b(r) exp(-r) = w,

with one root between the places where a and b change sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvxlayers.cones.arrays import Array, Flags, largest, norm
from cvxlayers.cones.blocks import EigenBlocks, ruled_surface_frame
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import CLEAR, Piece
from cvxlayers.cones.root import increasing_root

__all__ = [
    "KIND",
    "ROW_ORDERS",
    "beside_flat_face",
    "distance",
    "dual_distance",
    "enlarged",
    "exposed",
    "linearize_dual",
    "off_dual_face",
    "project",
    "project_dual",
    "recession",
]

KIND = Kind(
    "exponential", "exponential", "cones", rows=lambda _: 3, degree=lambda _: 3, nonnegative=lambda d: (1, 2),
    compiled=True,
)  # fmt: skip

ROW_ORDERS = {"ECOS": lambda _: np.array([0, 2, 1])}
"""For solvers with another order: which of our rows, by number, stands in each of theirs."""

TINY = 1e-150  # entries this small beside the largest one are zero: squares of quotients stay in range
REACH = 1500.0  # no root lies further than this from an end of its interval: exp(1500) beats any product of quotients


@dataclass(frozen=True)
class _Curve:
    """The lanes whose projection lies on the curved boundary: c(r) and g(r) as unit vectors, and the weight of D.

    ``weight`` is k |d| / (1 + k |d|), k the curvature of the boundary at p (see ``ruled_surface_frame``).
    """

    ray: Array
    normal: Array
    weight: Array


@dataclass(frozen=True)
class _Moreau:
    """z = p + d with p = Proj_K(z), d = Proj_{K°}(z), and in which of the four regions each lane lies."""

    p: Array
    d: Array
    inside: Flags
    polar: Flags
    face: Flags
    general: Flags
    curve: _Curve


def project(z: Array) -> Array:
    """Proj_K(z), (3, L)."""
    return _decompose(z).p


def project_dual(z: Array) -> Array:
    """Proj_{K*}(z), (3, L): by Moreau, minus the projection of -z onto the polar cone."""
    return -_decompose(-z).d


def distance(s: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    return largest(_decompose(s).d)


def dual_distance(y: Array) -> Array:
    """How far y is from K*, (L,): the infinity norm of y - Proj_{K*}(y)."""
    return largest(_decompose(-y).p)


def linearize_dual(z: Array) -> EigenBlocks:
    """The derivative of Proj_{K*} at z.

    On the boundary of K* or of -K it is the limit from inside that cone (I or 0); beside the face of -K, that from the
    face, with 1/2 on w at w = 0; at z = 0 it is I / 2. The gap is exact outside K* and -K, and to first order inside.
    """
    parts, L = _decompose(-z), z.shape[1]
    Q, eigenvalues = np.zeros((3, 3, L)), np.zeros((3, L))
    Q[[0, 1, 2], [0, 1, 2]] = 1.0
    eigenvalues[:, parts.polar] = 1.0
    eigenvalues[1, parts.face] = 1.0
    eigenvalues[2, parts.face] = 0.5 * (1.0 + np.sign(z[2, parts.face]))
    curve = parts.curve
    Q[:, :, parts.general] = ruled_surface_frame(curve.ray, curve.normal)
    eigenvalues[0, parts.general], eigenvalues[1, parts.general] = 1.0, curve.weight
    eigenvalues[:, largest(z) == 0] = 0.5
    eigenvalues[:, ~np.isfinite(z).all(axis=0)] = np.nan
    return EigenBlocks(Q, eigenvalues, _gap(-z, parts))


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """The directions in the flat face alone, and their size: see ``pieces``."""
    flat = np.concatenate([-piece.map[:1], piece.map[2:]])
    return [Piece("zero", 1, piece.map[1:2]), Piece("nonneg", 2, flat)], flat.sum(axis=0)


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z = (-a, 0, c): v >= 0, and w >= 0 unless c > 0."""
    rows = piece.map[1:2] if z[2] > CLEAR else piece.map[1:]
    return [Piece("nonneg", rows.shape[0], rows)]


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp for y = (0, y_v, y_w): v = 0 and u <= 0, and w = 0 where y_w > 0."""
    u, v, w = piece.map[:1], piece.map[1:2], piece.map[2:]
    return [Piece("nonneg", 1, -u), Piece("zero", 1, v), Piece("zero" if y[2] > CLEAR else "nonneg", 1, w)]


def beside_flat_face(s: Array, low: float) -> Flags:
    """Which s (3, ...) lie beside the face v = 0, seen from the origin: w is at most the part ``low`` of v."""
    return np.asarray(s[2] <= low * s[1])


def off_dual_face(y: Array) -> Array:
    """How far y (3, ...) is from the face u = 0 of K*, in its own units; infinite where it is beside none."""
    return np.where(y[2] > 0, np.abs(y[0]), np.inf)


def _decompose(z: Array) -> _Moreau:
    unit, size = _normalized(z)
    u, v, w = unit
    inside = _in_cone(u, v, w)
    polar = ~inside & _in_polar(u, v, w)
    face = ~inside & ~polar & (u <= 0) & (v <= 0)
    general = ~(inside | polar | face)
    p, d = np.where(inside, z, 0.0), np.where(polar, z, 0.0)
    p[0, face], d[1, face] = z[0, face], z[1, face]
    p[2, face], d[2, face] = np.maximum(z[2, face], 0.0), np.minimum(z[2, face], 0.0)
    on_curve, off_curve, curve = _project_on_curve(unit[:, general])
    p[:, general] = on_curve * size[general]
    d[:, general] = off_curve * size[general]
    return _Moreau(p, d, inside, polar, face, general, curve)


def _normalized(z: Array) -> tuple[Array, Array]:
    """z scaled to a largest entry of 1, with tiny entries as zeros, and its largest entry."""
    size = largest(z)
    unit = z / np.where(size > 0, size, 1.0)
    return np.where(np.abs(unit) < TINY, 0.0, unit), size


def _in_cone(u: Array, v: Array, w: Array) -> Flags:
    curved = (v > 0) & (w > 0)
    safe_v, safe_w = np.where(curved, v, 1.0), np.where(curved, w, 1.0)
    below: Flags = u / safe_v <= np.log(safe_w) - np.log(safe_v)
    return np.asarray(curved & below | (v == 0) & (u <= 0) & (w >= 0))


def _in_polar(u: Array, v: Array, w: Array) -> Flags:
    """Whether -(u, v, w) is in K*: u exp(v / u) <= -e w for u > 0, and v, w <= 0 for u = 0."""
    curved = (u > 0) & (w < 0)
    safe_u, safe_w = np.where(curved, u, 1.0), np.where(curved, -w, 1.0)
    below: Flags = v / safe_u <= 1.0 + np.log(safe_w) - np.log(safe_u)
    return np.asarray(curved & below | (u == 0) & (v <= 0) & (w <= 0))


def _project_on_curve(unit: Array) -> tuple[Array, Array, _Curve]:
    """p, d and the curve's data for lanes of the general region, scaled to a largest entry of 1."""
    u, v, w = unit
    r = _root(u, v, w)
    q = r * r - r + 1.0
    right = r > 0
    shrink = np.exp(-np.abs(r))
    # On the right, exp(r) would multiply the rounding errors of a, and on the left exp(-r) those of b; so one of
    # P = a exp(r) and M = b exp(-r) comes from the first two rows, and the other from the third, P - M = w.
    P, M = np.empty_like(r), np.empty_like(r)
    b = np.maximum(u - r * v, 0.0) / q
    a = np.maximum(v + (r - 1.0) * u, 0.0) / q
    M[right] = (b * shrink)[right]
    P[right] = np.maximum(w + M, 0.0)[right]
    P[~right] = (a * shrink)[~right]
    M[~right] = np.maximum(P - w, 0.0)[~right]
    a, b = np.where(right, P * shrink, a), np.where(right, b, M * shrink)
    p = np.stack([r * a, a, P])
    d = np.stack([b, (1.0 - r) * b, -M])
    return p, d, _curve(r, a, b, right, shrink)


def _curve(r: Array, a: Array, b: Array, right: Flags, shrink: Array) -> _Curve:
    """The unit vectors along c(r), g(r), and the weight; each vector is scaled by exp(-|r|) where that avoids overflow.

    On the surface p = a c(r), the second derivative along the curve is a c'' = a (0, 0, exp(r)), whose component on the
    unit normal g / |g| is -a / |g|. As the rays are straight, the curvature in the orthogonal direction t is
    k = (a / |g|) / (a c't)^2, and (c't)^2 = |c x c'|^2 / |c|^2 with c x c' = exp(r) g. With |d| = b |g|,

        k |d| = b |c|^2 / (a exp(2 r) |g|^2).
    """
    one, down, up = np.ones_like(r), np.where(right, shrink, 1.0), np.where(right, 1.0, shrink)
    ray = np.stack([r * down, down, up])
    normal = np.stack([up, (1.0 - r) * up, -down])
    ray_size, normal_size = np.einsum("il,il->l", ray, ray), np.einsum("il,il->l", normal, normal)
    bent, straight = b * ray_size, a * normal_size
    total = bent + straight
    weight = np.where(total > 0, bent / np.where(total > 0, total, one), 0.5)
    return _Curve(ray / np.sqrt(ray_size), normal / np.sqrt(normal_size), weight)


def _root(u: Array, v: Array, w: Array) -> Array:
    """The root r, between low = 1 - v / u, where a = 0, and high = u / v, where b = 0; either may be infinite."""
    none = np.full_like(u, np.inf)
    low = np.where(u > 0, 1.0 - v / np.where(u > 0, u, 1.0), -none)
    high = np.where(v > 0, u / np.where(v > 0, v, 1.0), none)
    lower = np.maximum(low, np.minimum(high, 0.0) - REACH)
    upper = np.minimum(high, np.maximum(low, 0.0) + REACH)
    room = np.minimum(1.0, 0.5 * (upper - lower))
    start = np.clip(0.0, lower + room, upper - room)
    return increasing_root(_newton, start, lower, upper, u, v, w, low, high)


def _newton(r: Array, u: Array, v: Array, w: Array, low: Array, high: Array) -> tuple[Array, Array, Array]:
    """One step for the equation a exp(r) - b exp(-r) = w in logarithms, which has the same root and no exponentials.

    Solved for exp(r) by the quadratic formula, with T = (|w| + sqrt(w^2 + 4 a b)) / 2, it reads

        F = r + log(a / T) = 0 for w >= 0,     F = r + log(T / b) = 0 for w < 0,

    increasing, with derivative 1 + a'/a - T'/T or 1 + T'/T - b'/b, where T' = (a b)' / sqrt(w^2 + 4 a b). Near the end
    where the logarithm's argument vanishes, F is nearly linear in the logarithm of the distance from that end.
    """
    q = r * r - r + 1.0
    A, B = np.maximum(v + (r - 1.0) * u, 0.0), np.maximum(u - r * v, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a, b, bend = A / q, B / q, (2.0 * r - 1.0) / q
        spread = np.hypot(w, 2.0 * np.sqrt(a) * np.sqrt(b))
        T = 0.5 * (np.abs(w) + spread)
        change = (u * b - v * a - 2.0 * bend * a * b * q) / (q * spread * T)
        up = w >= 0
        value = r + np.where(up, np.log(a / T), np.log(T / b))
        value = np.where(A <= 0, -np.inf, np.where(B <= 0, np.inf, value))
        slope = 1.0 + np.where(up, u / A - bend - change, change + v / B + bend)
        newton = -value / slope
        end = np.where(up, low, high)
        near = np.abs(r - end) < 1.0
        proposed = r + newton
        toward = end + (r - end) * np.exp(newton / (r - end))
    proposed = np.where(near & np.isfinite(toward), toward, proposed)
    return value, proposed, 2e-16 * np.abs(r)


def _gap(z: Array, parts: _Moreau) -> Array:
    """Distance of z from the kinks of Proj_K: the boundaries of K, K° and of the region of the face, in 2-norm."""
    gap = np.minimum(norm(parts.p), norm(parts.d))
    gap = np.where(parts.general, np.minimum(gap, norm(np.maximum(z[:2], 0.0))), gap)
    gap = np.where(parts.face, np.abs(z).min(axis=0), gap)
    unit, size = _normalized(z)
    gap = np.where(parts.inside, _depth_in_cone(unit) * size, gap)
    return np.where(parts.polar, _depth_in_dual(-unit) * size, gap)


def _depth_in_cone(z: Array) -> Array:
    """Distance of z in K from its boundary, to first order: (w - v exp(u / v)) over its gradient's norm, at most v."""
    u, v, w = z
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        r = u / v
        grow, shrink = np.exp(np.minimum(r, 0.0)), np.exp(-np.maximum(r, 0.0))
        depth = (w * shrink - v * grow) / norm(np.stack([grow, (1.0 - r) * grow, shrink]))
    return np.where(v > 0, np.minimum(np.maximum(depth, 0.0), v), 0.0)


def _depth_in_dual(y: Array) -> Array:
    """Distance of y in K* from its boundary, to first order: w + u exp(v / u - 1) over its gradient's norm."""
    u, v, w = y
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        r = v / u - 1.0
        grow, shrink = np.exp(np.minimum(r, 0.0)), np.exp(-np.maximum(r, 0.0))
        depth = (w * shrink + u * grow) / norm(np.stack([-r * grow, grow, shrink]))
    return np.where(u < 0, np.minimum(np.maximum(depth, 0.0), -u), 0.0)
