"""One exponential cone: the Moreau decomposition and the derivative of the projection onto the dual cone.

The formulas, their sources and why they keep their digits stand in ``cones.exponential``.
"""

from __future__ import annotations

import math
from typing import Any

from cvxlayers.cones.exponential import REACH, TINY
from cvxlayers.cones.kernels.numbers import cross, increasing_root, kernel, length, size_of

__all__ = ["linearize", "moreau"]

INSIDE, POLAR, FACE, CURVE, ORIGIN, BROKEN = 0, 1, 2, 3, 4, 5
"""Where a point is: in K, in its polar cone K°, beside the face u, v <= 0, elsewhere, at 0, or not finite."""

SAFE = 1e-280
"""A sum of squares as large as this has lost none of them to underflow, but for what rounding would take anyway."""


@kernel
def region_of(u: Any, v: Any, w: Any) -> Any:
    """The region of a point whose largest entry is one."""
    if v > 0.0 and w > 0.0:
        if u / v <= math.log(w) - math.log(v):
            return INSIDE
    elif v == 0.0 and u <= 0.0 and w >= 0.0:
        return INSIDE
    if u > 0.0 and w < 0.0:
        if v / u <= 1.0 + math.log(-w) - math.log(u):
            return POLAR
    elif u == 0.0 and v <= 0.0 and w <= 0.0:
        return POLAR
    return FACE if u <= 0.0 and v <= 0.0 else CURVE


@kernel
def located(u: Any, v: Any, w: Any) -> Any:
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
    return region_of(u, v, w), size, u, v, w


@kernel
def step(r: Any, data: Any) -> Any:
    """One Newton step for a exp(r) - b exp(-r) = w in logarithms."""
    u, v, w, low, high = data
    q = r * r - r + 1.0
    A, B = max(v + (r - 1.0) * u, 0.0), max(u - r * v, 0.0)
    a, b, bend = A / q, B / q, (2.0 * r - 1.0) / q
    square = w * w + 4.0 * a * b
    # Where no square underflows, its root is several times as fast as hypot.
    spread = math.sqrt(square) if square > SAFE else math.hypot(w, 2.0 * math.sqrt(a) * math.sqrt(b))
    T = 0.5 * (abs(w) + spread)
    change = (u * b - v * a - 2.0 * bend * a * b * q) / (q * spread * T)
    if w >= 0.0:
        value, slope, end = r + math.log(a / T), 1.0 + u / A - bend - change, low
    else:
        value, slope, end = r + math.log(T / b), 1.0 + change + v / B + bend, high
    if A <= 0.0:
        value = -math.inf
    elif B <= 0.0:
        value = math.inf
    newton = -value / slope
    proposed = r + newton
    if abs(r - end) < 1.0:
        toward = end + (r - end) * math.exp(newton / (r - end))
        if math.isfinite(toward):
            proposed = toward
    return value, proposed, 2e-16 * abs(r)


@kernel
def root(u: Any, v: Any, w: Any) -> Any:
    """r, for a point on neither cone nor face."""
    low = 1.0 - v / u if u > 0.0 else -math.inf
    high = u / v if v > 0.0 else math.inf
    lower = max(low, min(high, 0.0) - REACH)
    upper = min(high, max(low, 0.0) + REACH)
    room = min(1.0, 0.5 * (upper - lower))
    start = min(max(0.0, lower + room), upper - room)
    return increasing_root(step, start, lower, upper, (u, v, w, low, high))


@kernel
def on_curve(u: Any, v: Any, w: Any) -> Any:
    """r, exp(-|r|), a, b, P = a exp(r) and M = b exp(-r)."""
    r = root(u, v, w)
    q, shrink = r * r - r + 1.0, math.exp(-abs(r))
    if r > 0.0:
        b = max(u - r * v, 0.0) / q
        M = b * shrink
        P = max(w + M, 0.0)
        return r, shrink, P * shrink, b, P, M
    a = max(v + (r - 1.0) * u, 0.0) / q
    P = a * shrink
    M = max(P - w, 0.0)
    return r, shrink, a, M * shrink, P, M


@kernel
def moreau(u: Any, v: Any, w: Any) -> Any:
    """p = Proj_K(z) and d = Proj_{K°}(z), z = p + d."""
    region, size, a, b, c = located(u, v, w)
    if region == INSIDE:
        return u, v, w, 0.0, 0.0, 0.0
    if region == POLAR:
        return 0.0, 0.0, 0.0, u, v, w
    if region == FACE:
        return u, 0.0, max(w, 0.0), 0.0, v, min(w, 0.0)
    if region == CURVE:
        r, _, a, b, P, M = on_curve(a, b, c)
        a, b = a * size, b * size
        return r * a, a, P * size, b, (1.0 - r) * b, -M * size
    if region == ORIGIN:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    return math.nan, math.nan, math.nan, math.nan, math.nan, math.nan


@kernel
def depth_in_cone(u: Any, v: Any, w: Any) -> Any:
    """Distance of a point of K from its boundary, to first order, at most v."""
    if v <= 0.0:
        return 0.0
    r = u / v
    grow, shrink = math.exp(min(r, 0.0)), math.exp(-max(r, 0.0))
    return min(max((w * shrink - v * grow) / length(grow, (1.0 - r) * grow, shrink), 0.0), v)


@kernel
def depth_in_dual(u: Any, v: Any, w: Any) -> Any:
    """Distance of a point of K* from its boundary, to first order, at most -u."""
    if u >= 0.0:
        return 0.0
    r = v / u - 1.0
    grow, shrink = math.exp(min(r, 0.0)), math.exp(-max(r, 0.0))
    return min(max((w * shrink + u * grow) / length(-r * grow, grow, shrink), 0.0), -u)


@kernel
def linearize(u: Any, v: Any, w: Any, Q: Any, eigenvalues: Any, k: Any) -> Any:
    """The derivative of Proj_{K*} at z into Q[:, :, k], which holds I, and eigenvalues[:, k], which holds 0.

    The distance of z from a kink is returned.
    """
    region, size, a, b, c = located(-u, -v, -w)
    if region == INSIDE:
        return depth_in_cone(a, b, c) * size
    if region == POLAR:
        for i in range(3):
            eigenvalues[i, k] = 1.0
        return depth_in_dual(-a, -b, -c) * size
    if region == FACE:
        eigenvalues[1, k] = 1.0
        eigenvalues[2, k] = 1.0 if w > 0.0 else (0.5 if w == 0.0 else 0.0)
        return min(min(abs(u), abs(v)), abs(w))
    if region == CURVE:
        return bent(a, b, c, Q, eigenvalues, k) * size
    for i in range(3):
        eigenvalues[i, k] = 0.5 if region == ORIGIN else math.nan
    return 0.0 if region == ORIGIN else math.nan


@kernel
def bent(u: Any, v: Any, w: Any, Q: Any, eigenvalues: Any, k: Any) -> Any:
    """The same where -z, over its largest entry, is (u, v, w) and projected onto the curved boundary."""
    r, shrink, a, b, P, M = on_curve(u, v, w)
    down, up = (shrink, 1.0) if r > 0.0 else (1.0, shrink)
    c1, c2, c3 = r * down, down, up
    g1, g2, g3 = up, (1.0 - r) * up, -down
    ray, normal = c1 * c1 + c2 * c2 + c3 * c3, g1 * g1 + g2 * g2 + g3 * g3
    straight = a * normal
    curved = b * ray
    total = curved + straight
    eigenvalues[0, k] = 1.0
    eigenvalues[1, k] = curved / total if total > 0.0 else 0.5
    along, across = math.sqrt(ray), math.sqrt(normal)
    c1, c2, c3, g1, g2, g3 = c1 / along, c2 / along, c3 / along, g1 / across, g2 / across, g3 / across
    t1, t2, t3 = cross(c1, c2, c3, g1, g2, g3)
    Q[0, 0, k], Q[1, 0, k], Q[2, 0, k] = g1, g2, g3
    Q[0, 1, k], Q[1, 1, k], Q[2, 1, k] = t1, t2, t3
    Q[0, 2, k], Q[1, 2, k], Q[2, 2, k] = c1, c2, c3
    gap = min(length(r * a, a, P), length(b, (1.0 - r) * b, M))
    return min(gap, length(max(u, 0.0), max(v, 0.0), 0.0))
