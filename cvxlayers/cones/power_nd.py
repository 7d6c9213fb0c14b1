"""The n-dimensional power cone K = {(u_1, ..., u_k, w): prod u_i^alpha_i >= |w|, u >= 0} and its dual.

    K* = {(u, w): prod (u_i / alpha_i)^alpha_i >= |w|, u >= 0},    alpha > 0, sum alpha_i = 1

(Chares 2009, section 4.1.2). All functions work on z = (u, w) of shape (k + 1, L) and alpha (k, L), one cone for each
lane. With k = 2 it is the power cone (see ``power``), which has a closed form of its derivative's eigenvectors.

Projection (Hien 2015, "Differential properties of Euclidean projection onto power cone"). For w != 0 outside K and its
polar cone, the projection is (x, sign(w) r) with 0 < r < |w| and

    x_i = (u_i + S_i) / 2,    S_i = sqrt(u_i^2 + 4 alpha_i r (|w| - r)),    prod x_i^alpha_i = r.

We solve for h in r = |w| / (1 + exp(-h)), |w| - r = |w| / (1 + exp(h)), so that both keep their digits. These equations
say x_i (x_i - u_i) = alpha_i r (|w| - r), and their derivatives, with b_i = (x_i - u_i) / S_i, M = sum alpha_i b_i and
N = (|w| - r) (1 - M) + r M, give

    DProj_K = [[diag(1 - b) + c g g', g / N], [g' / N, r M / N]],    g_i = x_i b_i,    c = (|w| - 2 r) / (r (|w| - r) N)

(for w > 0; the sign of w multiplies the mixed entries).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit

from cvxlayers.cones.arrays import Array, Flags, largest, norm
from cvxlayers.cones.blocks import EigenBlocks
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import CLEAR, Piece, halfspace, ray
from cvxlayers.cones.root import increasing_root

__all__ = [
    "KIND",
    "Coordinates",
    "Moreau",
    "decompose",
    "distance",
    "dual_distance",
    "enlarged",
    "exposed",
    "gap",
    "linearize_dual",
    "project",
    "project_dual",
    "recession",
    "slope_across",
]

KIND = Kind(
    "power_nd", "n-dimensional power", "exponents", rows=lambda alpha: len(alpha) + 1,
    degree=lambda alpha: len(alpha) + 1, nonnegative=lambda d: range(d - 1),
)  # fmt: skip

TINY = 1e-290  # entries this small beside the largest one are zero: their quotients stay in range
REACH = 1e9  # |h| stays below 1400 / min(alpha), and below
NEAREST = 600.0  # this unless a coordinate of z is negative near K or positive near K°


@dataclass(frozen=True)
class Coordinates:
    """x_i = (u_i + S_i) / 2 with S_i = sqrt(u_i^2 + 4 alpha_i r (1 - r)), in units of |w|, all (k, lanes).

    By x (x - u) = alpha r (1 - r), both x and ``moved`` = x - u come without cancellation from the longer of them,
    which is (|u| + S) / 2. ``bend`` is (x - u) / S.
    """

    x: Array
    moved: Array
    bend: Array
    positive: Flags
    log_longer: Array
    log_product: Array

    @classmethod
    def at(cls, u: Array, alpha: Array, h: Array) -> Coordinates:
        log_product = np.log(alpha) + log_expit(h) + log_expit(-h)
        product = np.exp(log_product)
        S = np.hypot(u, 2.0 * np.sqrt(product))
        longer = 0.5 * (np.abs(u) + S)
        with np.errstate(divide="ignore"):  # they differ where u = 0 and the product underflows
            log_longer = np.maximum(np.log(longer), 0.5 * log_product)
        shorter = product / np.where(longer == 0, 1.0, longer)
        positive = u >= 0
        x, moved = np.where(positive, longer, shorter), np.where(positive, shorter, longer)
        bend = np.where(S == 0, 0.5, moved / np.where(S == 0, 1.0, S))
        return cls(x, moved, bend, positive, log_longer, log_product)

    def log_x(self) -> Array:
        """log x, also where x underflows."""
        return np.where(self.positive, self.log_longer, self.log_product - self.log_longer)


@dataclass(frozen=True)
class Moreau:
    """z = p + d with p = Proj_K(z), d = Proj_{K°}(z), and in which region each lane lies.

    ``flat`` are the lanes with w = 0 outside K and K°. For the ``general`` ones, in units of |w|: p and d as ``onto``
    and ``off``, the root h and the ``coordinates`` of p.
    """

    p: Array
    d: Array
    inside: Flags
    polar: Flags
    flat: Flags
    general: Flags
    onto: Array
    off: Array
    h: Array
    coordinates: Coordinates


def project(z: Array, alpha: Array) -> Array:
    """Proj_K(z), (k + 1, L)."""
    return decompose(z, alpha).p


def project_dual(z: Array, alpha: Array) -> Array:
    """Proj_{K*}(z), (k + 1, L): by Moreau, minus the projection of -z onto the polar cone."""
    return -decompose(-z, alpha).d


def distance(s: Array, alpha: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    return largest(decompose(s, alpha).d)


def dual_distance(y: Array, alpha: Array) -> Array:
    """How far y is from K*, (L,): the infinity norm of y - Proj_{K*}(y)."""
    return largest(decompose(-y, alpha).p)


def linearize_dual(z: Array, alpha: Array) -> EigenBlocks:
    """The derivative of Proj_{K*} at z.

    On the boundary of K* or of -K it is the limit from inside that cone (I or 0), and at z = 0 it is I / 2. The gap is
    exact outside K* and -K, and to first order inside.
    """
    parts = decompose(-z, alpha)
    d, L = z.shape
    Q, eigenvalues = np.zeros((d, d, L)), np.zeros((d, L))
    Q[range(d), range(d)] = 1.0
    finite = np.isfinite(z).all(axis=0)
    chosen = parts.general & ~parts.polar & ~parts.inside & finite
    eigenvalues[:, chosen], Q[:, :, chosen] = _spectrum(parts, alpha, np.sign(-z[-1]), chosen)
    eigenvalues[:, parts.polar] = 1.0
    eigenvalues[:, parts.inside] = 0.0
    u = -z[:-1, parts.flat]
    eigenvalues[:-1, parts.flat] = 0.5 * (1.0 - np.sign(u))
    eigenvalues[-1, parts.flat] = 1.0 - slope_across(u, alpha[:, parts.flat])
    eigenvalues[:, largest(z) == 0] = 0.5
    eigenvalues[:, ~finite] = np.nan
    return EigenBlocks(Q, eigenvalues, gap(-z, alpha, parts))


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``; if one of its rows does not move, those in the face w = 0
    alone."""
    sides = piece.map[:-1]
    if (piece.map @ A).any(axis=1).all():
        return [piece], sides.sum(axis=0)
    return [Piece("zero", 1, piece.map[-1:]), Piece("nonneg", sides.shape[0], sides)], sides.sum(axis=0)


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K: the rows of u in which z is zero, else a halfspace for z on the boundary."""
    alpha, u, w = _exponents(piece), z[:-1], z[-1]
    zero = u <= CLEAR
    if zero.any():
        rows = piece.map[:-1][zero]
        return [Piece("nonneg", rows.shape[0], rows)]
    top = float(np.prod(u**alpha))
    if top - abs(w) > CLEAR * top:
        return []
    return halfspace(piece, np.concatenate([alpha * top / u, [-np.sign(w)]]))


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp for y in the face that z exposes: the multiples of z inside, else u_i = 0 where y_i > 0, and w = 0."""
    zero = (z[:-1] <= CLEAR) & (y[:-1] > CLEAR)
    if (z[:-1] > CLEAR).all():
        return ray(piece, z)
    if not zero.any():
        return [piece]
    still, free = np.flatnonzero(np.append(zero, True)), np.flatnonzero(~zero)
    return [Piece("zero", still.size, piece.map[still]), Piece("nonneg", free.size, piece.map[free])]


def decompose(z: Array, alpha: Array) -> Moreau:
    """Moreau's decomposition."""
    unit, size = _normalized(z)
    u, w = unit[:-1], unit[-1]
    inside = _in_cone(u, w, alpha)
    polar = ~inside & _in_cone(-u / alpha, w, alpha)
    flat = ~inside & ~polar & (w == 0)
    general = ~(inside | polar | flat)
    p, d = np.where(inside, z, 0.0), np.where(polar, z, 0.0)
    p[:-1, flat], d[:-1, flat] = np.maximum(z[:-1, flat], 0.0), np.minimum(z[:-1, flat], 0.0)
    height, sign = np.abs(w[general]), np.sign(w[general])
    v, weights = u[:, general] / height, alpha[:, general]
    h = _root(v, weights)
    found = Coordinates.at(v, weights, h)
    onto = np.concatenate([found.x, (expit(h) * sign)[None]])
    off = np.concatenate([-found.moved, (expit(-h) * sign)[None]])
    p[:, general], d[:, general] = onto * (height * size[general]), off * (height * size[general])
    # Where p or d is below the smallest number, z is on the boundary of K° or of K.
    polar[general], inside[general] = norm(onto) == 0, norm(off) == 0
    return Moreau(p, d, inside, polar, flat, general, onto, off, h, found)


def slope_across(u: Array, alpha: Array) -> Array:
    """d(sign(w) r)/dw at w = 0 for u (k, L) with positive and negative entries.

    As w -> 0, x_i = alpha_i r (|w| - r) / |u_i| to first order where u_i < 0, and x_i = u_i elsewhere, so that with
    sigma the sum of the negative ones' exponents r^(1 - sigma) = (G / H) (|w| - r)^sigma, G the product of u_i^alpha_i
    over the positive entries and H that of (|u_i| / alpha_i)^alpha_i over the negative ones: r / |w| tends to 1 for
    sigma < 1/2, to 0 for sigma > 1/2, and to G^2 / (G^2 + H^2) for sigma = 1/2 (Hien 2015).
    """
    negative = u < 0
    share = np.where(negative, alpha, 0.0).sum(axis=0)
    half = np.abs(share - 0.5) <= 1e-15 * (1 + len(u))
    squares = np.where(half, 2.0 * alpha, 0.0)
    rising = (np.where(negative, 1.0, u) ** squares).prod(axis=0)
    falling = (np.where(negative, -u / alpha, 1.0) ** squares).prod(axis=0)
    return np.where(half, rising / (rising + falling), share < 0.5)


def gap(z: Array, alpha: Array, parts: Moreau) -> Array:
    """Distance of z from the kinks of Proj_K: the boundaries of K and of K°, in 2-norm."""
    found = np.minimum(norm(parts.p), norm(parts.d))
    unit, size = _normalized(z)
    found = np.where(parts.inside, _depth(unit, alpha, np.ones_like(alpha)) * size, found)
    return np.where(parts.polar, _depth(-unit, alpha, alpha) * size, found)


def _spectrum(parts: Moreau, alpha: Array, sign: Array, chosen: Flags) -> tuple[Array, Array]:
    """Eigenvalues (k + 1, lanes) and eigenvectors of D = I - DProj_K on those of the general lanes that are chosen.

    Two eigenvectors are known: D is 1 along d, and 0 along p. Between them stands what is left of D without the two.
    """
    kept, lanes = chosen[parts.general], np.flatnonzero(chosen)
    bend, x, h = parts.coordinates.bend[:, kept], parts.coordinates.x[:, kept], parts.h[kept]
    r, rest = expit(h), expit(-h)
    mean = (alpha[:, lanes] * bend).sum(axis=0)
    N = rest * (1.0 - mean) + r * mean
    # c g_i g_j = (1 - 2 r) / N times x_i b_i / sqrt(r (1 - r)) times that of j.
    g = x * bend
    unit = np.sqrt(r * rest)
    scaled = g / np.where(unit == 0, 1.0, unit)
    k = bend.shape[0]
    D = np.empty((lanes.size, k + 1, k + 1))
    D[:, :k, :k] = ((2.0 * r - 1.0) / N * scaled[:, None] * scaled[None]).transpose(2, 0, 1)
    D[:, range(k), range(k)] += bend.T
    D[:, :k, k] = D[:, k, :k] = (-g / N * sign[lanes]).T
    D[:, k, k] = rest * (1.0 - mean) / N
    onto, off = _unit(parts.onto[:, kept]).T, _unit(parts.off[:, kept]).T
    # Eigenvalues of 2 and of -1 for the two that are known keep them apart from the others, which are in (0, 1).
    D += off[:, :, None] * off[:, None, :] - onto[:, :, None] * onto[:, None, :]
    values, vectors = np.linalg.eigh(D)
    values, vectors = np.clip(values, 0.0, 1.0), np.moveaxis(vectors, 0, -1)
    values[:, 0], values[:, -1] = 0.0, 1.0
    vectors[:, 0], vectors[:, -1] = onto.T, off.T
    return values.T, vectors


def _normalized(z: Array) -> tuple[Array, Array]:
    """z scaled to a largest entry of 1, with tiny entries as zeros, and its largest entry."""
    size = largest(z)
    unit = z / np.where(size > 0, size, 1.0)
    return np.where(np.abs(unit) < TINY, 0.0, unit), size


def _in_cone(u: Array, w: Array, alpha: Array) -> Flags:
    height = (np.maximum(u, 0.0) ** alpha).prod(axis=0)
    return np.asarray((u >= 0).all(axis=0) & (height >= np.abs(w)))


def _root(u: Array, alpha: Array) -> Array:
    """The root h, for u in units of |w|; it is finite but for rounding at the boundaries of K and K°."""
    lower = np.where((u < 0).all(axis=0), -NEAREST, -REACH)
    upper = np.where((u > 0).all(axis=0), NEAREST, REACH)
    return increasing_root(_newton, np.zeros(u.shape[1]), lower, upper, *u, *alpha)


def _newton(h: Array, *data: Array) -> tuple[Array, Array, Array]:
    """One step for F(h) = log r - sum alpha_i log x_i = 0, u in units of |w|; ``data`` are the rows of u and alpha.

    As x (x - u) = alpha r (1 - r), d(log x)/dh = (1 - 2 r) (x - u) / S, so that F' = (1 - r) (1 - M) + r M > 0 with M
    the mean of (x - u) / S with weights alpha. F tends to a constant, linearly in exp(-h), where M -> 0 (u > 0,
    h -> infinity) and linearly in exp(h) where M -> 1 (u < 0, h -> -infinity): there Newton steps are taken in those
    variables, which is exact in the limit.

    For negative u_i, log x_i = log(alpha_i r (1 - r)) - log(x_i - u_i); with the weight ``share`` of the negative
    coordinates, the terms log r are gathered as (1 - share) log r, since in the sum they would cancel near K°.
    """
    u, alpha = np.stack(data[: len(data) // 2]), np.stack(data[len(data) // 2 :])
    found = Coordinates.at(u, alpha, h)
    negative = np.where(found.positive, 0.0, alpha)
    share = negative.sum(axis=0)
    all_negative, all_positive = ~found.positive.any(axis=0), (u > 0).all(axis=0)
    entropy = (negative * np.log(alpha)).sum(axis=0)
    logs = np.where(all_negative, 0.0, 1.0 - share) * log_expit(h) - np.where(all_negative, 1.0, share) * log_expit(-h)
    terms = np.where(found.positive, -alpha, alpha) * found.log_longer
    value = logs - entropy + terms.sum(axis=0)
    noise = 2e-16 * (np.abs(logs) + np.abs(entropy) + np.abs(terms).sum(axis=0))
    mean = (alpha * found.bend).sum(axis=0)
    slope = expit(-h) * (1.0 - mean) + expit(h) * mean
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        newton = -value / slope
        toward_cone = h - np.log1p(-newton)
        toward_polar = h + np.log1p(newton)
    proposed = np.where(all_positive & (h > 0), toward_cone, h + newton)
    return value, np.where(all_negative & (h < 0), toward_polar, proposed), noise


def _depth(z: Array, alpha: Array, unit: Array) -> Array:
    """Distance of z from the boundary of {prod (u_i / unit_i)^alpha_i >= |w|}, to first order.

    It is the slack of the inequality over the norm of its gradient, and at most the u_i.
    """
    u = np.maximum(z[:-1], 0.0)
    height = ((u / unit) ** alpha).prod(axis=0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gradient = norm(np.concatenate([alpha * height / u, np.ones((1, u.shape[1]))]))
        depth = np.maximum(height - np.abs(z[-1]), 0.0) / gradient
    return np.where((u > 0).all(axis=0), np.minimum(depth, u.min(axis=0)), 0.0)


def _exponents(piece: Piece) -> Array:
    return np.asarray(piece.data, dtype=np.float64)


def _unit(z: Array) -> Array:
    """z over its 2-norm, and 0 for z = 0."""
    size = norm(z)
    return np.asarray(z / np.where(size == 0, 1.0, size))
