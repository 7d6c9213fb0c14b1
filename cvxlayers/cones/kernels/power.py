"""One power cone: the Moreau decomposition and the derivative of the projection onto the dual cone.

The formulas, their sources and why they keep their digits stand in ``cones.power``.
"""

from __future__ import annotations

import math
from typing import Any

from cvxlayers.cones.kernels.numbers import cross, direction, increasing_root, kernel, length, size_of
from cvxlayers.cones.power_nd import NEAREST, REACH, TINY

__all__ = ["linearize", "moreau"]

INSIDE, POLAR, FLAT, CURVE, ORIGIN, BROKEN = 0, 1, 2, 3, 4, 5
"""Where a point is: in K, in its polar cone K°, elsewhere with w = 0, elsewhere, at 0, or not finite."""


@kernel
def in_cone(u: Any, v: Any, w: Any, alpha: Any) -> Any:
    """Whether u^alpha v^(1 - alpha) >= |w|."""
    return u >= 0.0 and v >= 0.0 and u**alpha * v ** (1.0 - alpha) >= abs(w)


@kernel
def located(u: Any, v: Any, w: Any, alpha: Any) -> Any:
    """The region of any point, its largest entry, and the point over it, with tiny entries as zeros."""
    size = size_of(u, v, w)
    if not math.isfinite(size):
        return BROKEN, size, u, v, w
    if size == 0.0:
        return ORIGIN, size, u, v, w
    u, v, w = u / size, v / size, w / size
    u = 0.0 if abs(u) < TINY else u
    v = 0.0 if abs(v) < TINY else v
    w = 0.0 if abs(w) < TINY else w
    if in_cone(u, v, w, alpha):
        return INSIDE, size, u, v, w
    if in_cone(-u / alpha, -v / (1.0 - alpha), w, alpha):
        return POLAR, size, u, v, w
    return FLAT if w == 0.0 else CURVE, size, u, v, w


@kernel
def log_expit(h: Any) -> Any:
    """log(1 / (1 + exp(-h)))."""
    return min(h, 0.0) - math.log1p(math.exp(-abs(h)))


@kernel
def expit(h: Any) -> Any:
    """1 / (1 + exp(-h))."""
    if h >= 0.0:
        return 1.0 / (1.0 + math.exp(-h))
    grown = math.exp(h)
    return grown / (1.0 + grown)


@kernel
def coordinate(u: Any, log_product: Any) -> Any:
    """x, x - u, (x - u) / S, log of the longer of x and x - u; from the log of x (x - u) = share r (1 - r)."""
    product = math.exp(log_product)
    S = math.hypot(u, 2.0 * math.sqrt(product))
    longer = 0.5 * (abs(u) + S)
    log_longer = max(math.log(longer), 0.5 * log_product)
    shorter = product / longer if longer > 0.0 else product
    x, moved = (longer, shorter) if u >= 0.0 else (shorter, longer)
    return x, moved, moved / S if S > 0.0 else 0.5, log_longer


@kernel
def step(h: Any, data: Any) -> Any:
    """One Newton step for F(h) = log r - alpha log x - (1 - alpha) log y = 0."""
    u, v, alpha, log_alpha, log_beta = data
    beta = 1.0 - alpha
    log_r, log_rest = log_expit(h), log_expit(-h)
    _, _, bend_x, log_x = coordinate(u, log_alpha + log_r + log_rest)
    _, _, bend_y, log_y = coordinate(v, log_beta + log_r + log_rest)
    share_x, share_y = 0.0 if u >= 0.0 else alpha, 0.0 if v >= 0.0 else beta
    both = u < 0.0 and v < 0.0
    logs = -log_rest if both else (1.0 - share_x - share_y) * log_r - (share_x + share_y) * log_rest
    entropy = share_x * log_alpha + share_y * log_beta
    first, second = (-alpha if u >= 0.0 else alpha) * log_x, (-beta if v >= 0.0 else beta) * log_y
    value = logs - entropy + first + second
    noise = 2e-16 * (abs(logs) + abs(entropy) + abs(first) + abs(second))
    mean = alpha * bend_x + beta * bend_y
    newton = -value / (expit(-h) * (1.0 - mean) + expit(h) * mean)
    if u > 0.0 and v > 0.0 and h > 0.0:
        return value, h - math.log1p(-newton), noise
    if both and h < 0.0:
        return value, h + math.log1p(newton), noise
    return value, h + newton, noise


@kernel
def on_curve(u: Any, v: Any, w: Any, alpha: Any) -> Any:
    """p and d in units of |w|, and the weight, for a point with w != 0 outside K and K°."""
    u, v, sign = u / abs(w), v / abs(w), math.copysign(1.0, w)
    log_alpha, log_beta = math.log(alpha), math.log1p(-alpha)
    lower = -NEAREST if u < 0.0 and v < 0.0 else -REACH
    upper = NEAREST if u > 0.0 and v > 0.0 else REACH
    h = increasing_root(step, 0.0, lower, upper, (u, v, alpha, log_alpha, log_beta))
    log_r, log_rest = log_expit(h), log_expit(-h)
    log_first, log_second = log_alpha + log_r + log_rest, log_beta + log_r + log_rest
    x, moved_x, _, log_x = coordinate(u, log_first)
    y, moved_y, _, log_y = coordinate(v, log_second)
    log_x = log_x if u >= 0.0 else log_first - log_x
    log_y = log_y if v >= 0.0 else log_second - log_y
    p3, d3 = expit(h) * sign, expit(-h) * sign
    sizes = math.log(length(x, y, p3)) - math.log(length(moved_x, moved_y, d3)) - log_x - log_y
    weight = expit(log_alpha + log_beta + log_r + 3.0 * log_rest + 2.0 * sizes)
    return x, y, p3, -moved_x, -moved_y, d3, weight


@kernel
def moreau(u: Any, v: Any, w: Any, alpha: Any) -> Any:
    """p = Proj_K(z) and d = Proj_{K°}(z), z = p + d."""
    region, size, a, b, c = located(u, v, w, alpha)
    if region == INSIDE:
        return u, v, w, 0.0, 0.0, 0.0
    if region == POLAR:
        return 0.0, 0.0, 0.0, u, v, w
    if region == FLAT:
        return max(u, 0.0), max(v, 0.0), 0.0, min(u, 0.0), min(v, 0.0), 0.0
    if region == CURVE:
        p1, p2, p3, d1, d2, d3, _ = on_curve(a, b, c, alpha)
        height = abs(c) * size
        return p1 * height, p2 * height, p3 * height, d1 * height, d2 * height, d3 * height
    if region == ORIGIN:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    return math.nan, math.nan, math.nan, math.nan, math.nan, math.nan


@kernel
def depth(u: Any, v: Any, w: Any, alpha: Any, unit_u: Any, unit_v: Any) -> Any:
    """Distance of a point of {(u / unit_u)^alpha (v / unit_v)^(1 - alpha) >= |w|} from its boundary, to first order."""
    if u <= 0.0 or v <= 0.0:
        return 0.0
    height = (u / unit_u) ** alpha * (v / unit_v) ** (1.0 - alpha)
    gradient = length(alpha * height / u, (1.0 - alpha) * height / v, 1.0)
    return min(max(height - abs(w), 0.0) / gradient, min(u, v))


@kernel
def slope_across(u: Any, v: Any, alpha: Any) -> Any:
    """d(sign(w) r)/dw at w = 0 for u < 0 < v or v < 0 < u."""
    share = 1.0 - alpha if u > 0.0 else alpha
    if share != 0.5:
        return 1.0 if share < 0.5 else 0.0
    return max(u, v) / (max(u, v) + 2.0 * abs(min(u, v)))


@kernel
def linearize(u: Any, v: Any, w: Any, alpha: Any, Q: Any, eigenvalues: Any, k: Any) -> Any:
    """The derivative of Proj_{K*} at z into Q[:, :, k], which holds I, and eigenvalues[:, k], which holds 0.

    The distance of z from a kink is returned.
    """
    region, size, a, b, c = located(-u, -v, -w, alpha)
    if region == INSIDE:
        return depth(a, b, c, alpha, 1.0, 1.0) * size
    if region == POLAR:
        for i in range(3):
            eigenvalues[i, k] = 1.0
        return depth(-a, -b, -c, alpha, alpha, 1.0 - alpha) * size
    if region == FLAT:
        eigenvalues[0, k] = 1.0 if u > 0.0 else 0.0
        eigenvalues[1, k] = 1.0 if v > 0.0 else 0.0
        eigenvalues[2, k] = 1.0 - slope_across(-u, -v, alpha)
        return min(length(max(a, 0.0), max(b, 0.0), 0.0), length(min(a, 0.0), min(b, 0.0), 0.0)) * size
    if region == CURVE:
        return bent(a, b, c, alpha, Q, eigenvalues, k) * size
    for i in range(3):
        eigenvalues[i, k] = 0.5 if region == ORIGIN else math.nan
    return 0.0 if region == ORIGIN else math.nan


@kernel
def bent(u: Any, v: Any, w: Any, alpha: Any, Q: Any, eigenvalues: Any, k: Any) -> Any:
    """The same where -z, over its largest entry, is (u, v, w) and projected onto the curved boundary."""
    p1, p2, p3, d1, d2, d3, weight = on_curve(u, v, w, alpha)
    onto, off = length(p1, p2, p3), length(d1, d2, d3)
    if onto == 0.0:  # below the smallest number: on the boundary of K°, up to rounding
        for i in range(3):
            eigenvalues[i, k] = 1.0
        return depth(-u, -v, -w, alpha, alpha, 1.0 - alpha)
    if off == 0.0:  # or of K
        return depth(u, v, w, alpha, 1.0, 1.0)
    eigenvalues[0, k], eigenvalues[1, k] = 1.0, weight
    c1, c2, c3 = direction(p1, p2, p3)
    g1, g2, g3 = direction(d1, d2, d3)
    t1, t2, t3 = cross(c1, c2, c3, g1, g2, g3)
    Q[0, 0, k], Q[1, 0, k], Q[2, 0, k] = g1, g2, g3
    Q[0, 1, k], Q[1, 1, k], Q[2, 1, k] = t1, t2, t3
    Q[0, 2, k], Q[1, 2, k], Q[2, 2, k] = c1, c2, c3
    return min(onto, off) * abs(w)
