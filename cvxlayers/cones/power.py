"""The power cone K = {(u, v, w): u^alpha v^(1 - alpha) >= |w|, u, v >= 0}, 0 < alpha < 1, and its dual.

    K* = {(u, v, w): (u / alpha)^alpha (v / (1 - alpha))^(1 - alpha) >= |w|, u, v >= 0}

All functions work on z = (u, v, w) of shape (3, L) and alpha (L,), one cone for each lane.

Projection (Hien 2015, "Differential properties of Euclidean projection onto power cone"). For w != 0 outside K and its
polar cone, the projection is (x, y, sign(w) r) with 0 < r < |w| and

    x = (u + sqrt(u^2 + 4 alpha r (|w| - r))) / 2,    y = (v + sqrt(v^2 + 4 (1 - alpha) r (|w| - r))) / 2,
    x^alpha y^(1 - alpha) = r.

We solve for h in r = |w| / (1 + exp(-h)), |w| - r = |w| / (1 + exp(h)), so that both keep their digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

from cvxlayers.cones.arrays import Array, Flags, largest, norm
from cvxlayers.cones.blocks import EigenBlocks, ruled_surface_frame
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import CLEAR, Piece, halfspace, ray
from cvxlayers.cones.root import increasing_root

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

TINY = 1e-290  # entries this small beside the largest one are zero: their quotients stay in range
REACH = 1e9  # |h| stays below 1400 / min(alpha, 1 - alpha), and below
NEAREST = 600.0  # this unless a coordinate of z is negative near K or positive near K°


@dataclass(frozen=True)
class _Moreau:
    """z = p + d with p = Proj_K(z), d = Proj_{K°}(z), and in which region each lane lies.

    ``flat`` are the lanes with w = 0 outside K and K°; ``weight`` is k |d| / (1 + k |d|) of the general ones, k the
    curvature of the boundary at p (see ``ruled_surface_frame``); ``ray`` and ``normal`` are p and d as unit vectors.
    """

    p: Array
    d: Array
    inside: Flags
    polar: Flags
    flat: Flags
    general: Flags
    ray: Array
    normal: Array
    weight: Array


def project(z: Array, alpha: Array) -> Array:
    """Proj_K(z), (3, L)."""
    return _decompose(z, alpha).p


def project_dual(z: Array, alpha: Array) -> Array:
    """Proj_{K*}(z), (3, L): by Moreau, minus the projection of -z onto the polar cone."""
    return -_decompose(-z, alpha).d


def distance(s: Array, alpha: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    return largest(_decompose(s, alpha).d)


def dual_distance(y: Array, alpha: Array) -> Array:
    """How far y is from K*, (L,): the infinity norm of y - Proj_{K*}(y)."""
    return largest(_decompose(-y, alpha).p)


def linearize_dual(z: Array, alpha: Array) -> EigenBlocks:
    """The derivative of Proj_{K*} at z.

    On the boundary of K* or of -K it is the limit from inside that cone (I or 0), and at z = 0 it is I / 2. The gap is
    exact outside K* and -K, and to first order inside.
    """
    parts, L = _decompose(-z, alpha), z.shape[1]
    Q, eigenvalues = np.zeros((3, 3, L)), np.zeros((3, L))
    Q[:, :, parts.general] = ruled_surface_frame(parts.ray, parts.normal)
    eigenvalues[0, parts.general], eigenvalues[1, parts.general] = 1.0, parts.weight
    Q[:, :, parts.polar | parts.inside | ~parts.general] = np.eye(3)[:, :, None]
    eigenvalues[:, parts.polar] = 1.0
    eigenvalues[:, parts.inside] = 0.0
    u, v = -z[0, parts.flat], -z[1, parts.flat]
    eigenvalues[0, parts.flat] = u < 0
    eigenvalues[1, parts.flat] = v < 0
    eigenvalues[2, parts.flat] = 1.0 - _slope_across(u, v, alpha[parts.flat])
    eigenvalues[:, largest(z) == 0] = 0.5
    eigenvalues[:, ~np.isfinite(z).all(axis=0)] = np.nan
    return EigenBlocks(Q, eigenvalues, _gap(-z, alpha, parts))


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``; if one of its rows does not move, those in the face w = 0
    alone."""
    sides = piece.map[:2]
    if (piece.map @ A).any(axis=1).all():
        return [piece], sides.sum(axis=0)
    return [Piece("zero", 1, piece.map[2:]), Piece("nonneg", 2, sides)], sides.sum(axis=0)


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K: the rows of u and v in which z is zero, else a halfspace for z on the boundary."""
    alpha, (u, v, w) = piece.data, z
    if v <= CLEAR:
        return [Piece("nonneg", 1, piece.map[1:2])]
    if u <= CLEAR:
        return [Piece("nonneg", 1, piece.map[:1])]
    top = u**alpha * v ** (1 - alpha)
    if top - abs(w) > CLEAR * top:
        return []
    return halfspace(piece, np.array([alpha * top / u, (1 - alpha) * top / v, -np.sign(w)]))


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp for y in the face that z exposes."""
    if min(z[0], z[1]) > CLEAR:
        return ray(piece, z)
    zero, free = (1, 0) if z[0] > CLEAR else (0, 1)
    if y[zero] <= CLEAR:
        return [piece]
    return [Piece("zero", 2, piece.map[[zero, 2]]), Piece("nonneg", 1, piece.map[[free]])]


def _decompose(z: Array, alpha: Array) -> _Moreau:
    unit, size = _normalized(z)
    u, v, w = unit
    inside = _in_cone(u, v, w, alpha)
    polar = ~inside & _in_cone(-u / alpha, -v / (1.0 - alpha), w, alpha)
    flat = ~inside & ~polar & (w == 0)
    general = ~(inside | polar | flat)
    p, d = np.where(inside, z, 0.0), np.where(polar, z, 0.0)
    p[:2, flat], d[:2, flat] = np.maximum(z[:2, flat], 0.0), np.minimum(z[:2, flat], 0.0)
    onto, off, weight = _project_on_curve(unit[:, general], alpha[general])
    height = np.abs(w[general]) * size[general]
    p[:, general], d[:, general] = onto * height, off * height
    # Where p or d is below the smallest number, z is on the boundary of K° or of K.
    polar[general], inside[general] = norm(onto) == 0, norm(off) == 0
    return _Moreau(p, d, inside, polar, flat, general, _unit(onto), _unit(off), weight)


def _normalized(z: Array) -> tuple[Array, Array]:
    """z scaled to a largest entry of 1, with tiny entries as zeros, and its largest entry."""
    size = largest(z)
    unit = z / np.where(size > 0, size, 1.0)
    return np.where(np.abs(unit) < TINY, 0.0, unit), size


def _in_cone(u: Array, v: Array, w: Array, alpha: Array) -> Flags:
    height = np.maximum(u, 0.0) ** alpha * np.maximum(v, 0.0) ** (1.0 - alpha)
    return (u >= 0) & (v >= 0) & (height >= np.abs(w))


def _project_on_curve(unit: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """p and d in units of |w|, and the weight, for lanes with w != 0 outside K and K°."""
    u, v = unit[:2] / np.abs(unit[2])
    sign = np.sign(unit[2])
    h = _root(u, v, alpha)
    first, second = _coordinate(u, alpha, h), _coordinate(v, 1.0 - alpha, h)
    p = np.stack([first.x, second.x, expit(h) * sign])
    d = np.stack([-first.moved, -second.moved, expit(-h) * sign])
    # The curve c(t) = (exp((1 - alpha) t), exp(-alpha t), 1) spans the boundary, p = r c. With the normal
    # g = (-alpha r / x, -(1 - alpha) r / y, 1): c''g = -alpha (1 - alpha), |c x c'| = (x y / r^2) |g|, and as for the
    # exponential cone k |d| = alpha (1 - alpha) (|d| / |g|) |c|^2 / (r |c x c'|^2); with |c| = |p| / r and
    # |g| = |d| / (|w| - r) this is
    #     k |d| = alpha (1 - alpha) r (|w| - r)^3 |p|^2 / (x y |d|)^2.
    with np.errstate(divide="ignore", invalid="ignore"):
        log_sizes = np.log(norm(p)) - np.log(norm(d)) - first.log_x() - second.log_x()
    weight = expit(np.log(alpha * (1.0 - alpha)) + log_expit(h) + 3.0 * log_expit(-h) + 2.0 * log_sizes)
    return p, d, weight


def _root(u: Array, v: Array, alpha: Array) -> Array:
    """The root h, for u and v in units of |w|; it is finite but for rounding at the boundaries of K and K°."""
    lower = np.where((u < 0) & (v < 0), -NEAREST, -REACH)
    upper = np.where((u > 0) & (v > 0), NEAREST, REACH)
    return increasing_root(_newton, np.zeros_like(u), lower, upper, u, v, alpha)


@dataclass(frozen=True)
class _Coordinate:
    """x = (u + S) / 2 with S = sqrt(u^2 + 4 share r (1 - r)), in units of |w|.

    By x (x - u) = share r (1 - r), both x and ``moved`` = x - u come without cancellation from the longer of them,
    which is (|u| + S) / 2. ``bend`` is (x - u) / S.
    """

    x: Array
    moved: Array
    bend: Array
    positive: Flags
    log_longer: Array
    log_product: Array

    def log_x(self) -> Array:
        return np.where(self.positive, self.log_longer, self.log_product - self.log_longer)


def _coordinate(u: Array, share: Array, h: Array) -> _Coordinate:
    log_product = np.log(share) + log_expit(h) + log_expit(-h)
    product = np.exp(log_product)
    S = np.hypot(u, 2.0 * np.sqrt(product))
    longer = 0.5 * (np.abs(u) + S)
    with np.errstate(divide="ignore"):
        log_longer = np.maximum(np.log(longer), 0.5 * log_product)  # they differ where u = 0 and the product underflows
    shorter = product / np.where(longer == 0, 1.0, longer)
    positive = u >= 0
    x, moved = np.where(positive, longer, shorter), np.where(positive, shorter, longer)
    bend = np.where(S == 0, 0.5, moved / np.where(S == 0, 1.0, S))
    return _Coordinate(x, moved, bend, positive, log_longer, log_product)


def _newton(h: Array, u: Array, v: Array, alpha: Array) -> tuple[Array, Array, Array]:
    """One step for F(h) = log r - alpha log x - (1 - alpha) log y = 0, with u and v in units of |w|.

    As x (x - u) = alpha r (1 - r), d(log x)/dh = (1 - 2 r) (x - u) / S, so that F' = (1 - r) (1 - M) + r M > 0 with M
    the mean of (x - u) / S with weights alpha, 1 - alpha. F tends to a constant, linearly in exp(-h), where M -> 0
    (u, v > 0, h -> infinity) and linearly in exp(h) where M -> 1 (u, v < 0, h -> -infinity): there Newton steps are
    taken in those variables, which is exact in the limit.

    For negative u, log x = log(alpha r (1 - r)) - log(x - u); with the weight ``share`` of the negative coordinates,
    the terms log r are gathered as (1 - share) log r, since in the sum they would cancel near K°.
    """
    first, second = _coordinate(u, alpha, h), _coordinate(v, 1.0 - alpha, h)
    weights = np.where(first.positive, -alpha, alpha), np.where(second.positive, alpha - 1.0, 1.0 - alpha)
    shares = np.maximum(weights[0], 0.0), np.maximum(weights[1], 0.0)
    both = ~(first.positive | second.positive)
    entropy = shares[0] * np.log(alpha) + shares[1] * np.log1p(-alpha)
    logs = np.where(both, 0.0, 1.0 - shares[0] - shares[1]) * log_expit(h)
    logs -= np.where(both, 1.0, shares[0] + shares[1]) * log_expit(-h)
    terms = weights[0] * first.log_longer, weights[1] * second.log_longer
    value = logs - entropy + terms[0] + terms[1]
    noise = 2e-16 * (np.abs(logs) + np.abs(entropy) + np.abs(terms[0]) + np.abs(terms[1]))
    mean = alpha * first.bend + (1.0 - alpha) * second.bend
    slope = expit(-h) * (1.0 - mean) + expit(h) * mean
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        newton = -value / slope
        toward_cone = h - np.log1p(-newton)
        toward_polar = h + np.log1p(newton)
    proposed = np.where((u > 0) & (v > 0) & (h > 0), toward_cone, h + newton)
    return value, np.where(both & (h < 0), toward_polar, proposed), noise


def _slope_across(u: Array, v: Array, alpha: Array) -> Array:
    """d(sign(w) r)/dw at w = 0 for u < 0 < v or v < 0 < u.

    As w -> 0, say with u < 0 < v, x = alpha r (|w| - r) / |u| to first order and y = v, so that
    r^(1 - alpha) = (alpha (|w| - r) / |u|)^alpha v^(1 - alpha): r / |w| tends to 0 for alpha > 1/2, to 1 for
    alpha < 1/2, and to v / (v + 2 |u|) for alpha = 1/2 (Hien 2015). The other case is the same with 1 - alpha.
    """
    share = np.where(u > 0, 1.0 - alpha, alpha)
    positive, negative = np.maximum(u, v), np.abs(np.minimum(u, v))
    even = positive / (positive + 2.0 * negative)
    return np.where(share < 0.5, 1.0, np.where(share > 0.5, 0.0, even))


def _gap(z: Array, alpha: Array, parts: _Moreau) -> Array:
    """Distance of z from the kinks of Proj_K: the boundaries of K and of K°, in 2-norm."""
    gap = np.minimum(norm(parts.p), norm(parts.d))
    unit, size = _normalized(z)
    gap = np.where(parts.inside, _depth(unit, alpha) * size, gap)
    return np.where(parts.polar, _depth(-unit, alpha, alpha, 1.0 - alpha) * size, gap)


def _depth(z: Array, alpha: Array, unit_u: Array | float = 1.0, unit_v: Array | float = 1.0) -> Array:
    """Distance of z from the boundary of {(u / unit_u)^alpha (v / unit_v)^(1 - alpha) >= |w|}, to first order.

    It is the slack of the inequality over the norm of its gradient, and at most u and v.
    """
    u, v = np.maximum(z[0], 0.0), np.maximum(z[1], 0.0)
    height = (u / unit_u) ** alpha * (v / unit_v) ** (1.0 - alpha)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gradient = norm(np.stack([alpha * height / u, (1.0 - alpha) * height / v, np.ones_like(u)]))
        depth = np.maximum(height - np.abs(z[2]), 0.0) / gradient
    return np.where((u > 0) & (v > 0), np.minimum(depth, np.minimum(u, v)), 0.0)


def _unit(z: Array) -> Array:
    """z over its 2-norm, and 0 for z = 0."""
    size = norm(z)
    return np.asarray(z / np.where(size == 0, 1.0, size))
