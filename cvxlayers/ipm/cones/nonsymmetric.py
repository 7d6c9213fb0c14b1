"""Exponential and power cones inside the iteration: scaling, the terms of the complementarity, and steps.

Neither cone has a scaling that maps y to s and all of the one cone onto the other. With the barrier f* of K* and

    s_ = -f*'(y),    -f*'(y_) = s,    mu = s'y / 3,    mu_ = s_'y_ / 3,    mu mu_ >= 1,

H is to satisfy H y = s and H y_ = s_ and to be close to mu f*''(y) otherwise (Tuncel 2001; Dahl and Andersen 2022):

    H = s s' / s'y + d d' / d'y_d + v v' mu / (v' f*''(y)^-1 v),    d = s - mu s_,    v = y x y_,

where y_d = y - mu y_ and d'y_d = 3 mu (mu mu_ - 1). The last factor is exact: f*'' without what it does to y and y_ has
rank one. On the central path, mu mu_ = 1, d and v vanish, and H is mu f*''(y) itself.

The complementarity up to third order, with H dy + ds = -c, has (Dahl and Andersen 2022, section 4)

    c = s + sigma mu f*'(y) - f*'''(y)[dy_a, f*''(y)^-1 ds_a] / 2.

A step is taken if at its end near mu' mu_ <= 1 in each cone, with mu' of the whole problem: no cone comes much closer
to its boundary than the others.

Cone k is the k-th of the exponential and power cones. Each has 15 rows of V at ``at.barrier`` (see ``expand``), 9 at
``at.factor``, the columns of F with H = F F', and a power cone its exponent at ``at.alpha``.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones import exponential, power
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.functions import cross
from cvxlayers.kernels.products import dot
from cvxlayers.kernels.simd import highest, index, load, noinline, select, splat, sqrt, store

__all__ = ["H_times", "combined_shift", "unit_initialization", "backtrack_step", "rescale", "write_scaling"]

CENTRAL = 1e-8
"""mu mu_ - 1 up to which the cone is on the central path."""

BACKTRACK, TRIALS = 0.8, 80
"""The factor of the step's length from one trial to the next, and the largest number of trials."""


@kernel
def first_row(plan: Any, at: Any, k: Any) -> Any:
    """The first of the three rows of cone k."""
    return index(plan, at.cone_start + at.count + at.matrices + k)


@kernel
def triple(V: Any, row: Any) -> Any:
    """Three rows."""
    return load(V, row), load(V, row + 1), load(V, row + 2)


@kernel
def put(V: Any, row: Any, a: Any, b: Any, c: Any) -> None:
    """Write three rows."""
    store(V, row, a)
    store(V, row + 1, b)
    store(V, row + 2, c)


@kernel
def conjugate_point(at: Any, V: Any, k: Any, s1: Any, s2: Any, s3: Any) -> Any:
    """y_."""
    if k < at.exponentials:
        return exponential.conjugate_point(s1, s2, s3)
    return power.conjugate_point(load(V, at.alpha + k - at.exponentials), s1, s2, s3)


@kernel
def unit_initialization(plan: Any, at: Any, V: Any, v: Any) -> None:
    """The points at which -f*'(y) = y."""
    for k in range(at.exponentials):
        row = v + first_row(plan, at, k)
        for i in range(3):
            store(V, row + i, splat(V, exponential.CENTRE[i]))
    for k in range(at.powers):
        row = v + first_row(plan, at, at.exponentials + k)
        alpha = load(V, at.alpha + k)
        put(V, row, sqrt(1.0 + alpha), sqrt(2.0 - alpha), splat(V, 0.0))


@kernel
def rescale(plan: Any, at: Any, V: Any) -> None:
    """The derivatives of the barriers and the scaling at s and y, which lie inside their cones."""
    noinline()
    for k in range(at.exponentials + at.powers):
        row, barrier = first_row(plan, at, k), at.barrier + 15 * k
        y1, y2, y3 = triple(V, at.y + row)
        if k < at.exponentials:
            exponential.expand(V, barrier, y1, y2, y3)
        else:
            power.expand(load(V, at.alpha + k - at.exponentials), V, barrier, y1, y2, y3)
        scale_cone(at, V, k, row)


@kernel
def scale_cone(at: Any, V: Any, k: Any, row: Any) -> None:
    """F of one cone."""
    noinline()
    barrier, factor = at.barrier + 15 * k, at.factor + 9 * k
    s1, s2, s3 = triple(V, at.s + row)
    y1, y2, y3 = triple(V, at.y + row)
    g1, g2, g3 = triple(V, barrier)
    z1, z2, z3 = conjugate_point(at, V, k, s1, s2, s3)
    product = s1 * y1 + s2 * y2 + s3 * y3
    mu = product / 3.0
    excess = -mu * (g1 * z1 + g2 * z2 + g3 * z3) / 3.0 - 1.0
    v1, v2, v3 = cross(y1, y2, y3, z1, z2, z3)
    w1, w2, w3 = divided(V, barrier, v1, v2, v3)
    length = v1 * w1 + v2 * w2 + v3 * w3
    zero, one = splat(V, 0.0), splat(V, 1.0)
    bounded = select(splat(V, 1e300), excess, one, zero)
    primal_dual = select(excess, splat(V, CENTRAL), select(length, zero, bounded, zero), zero)
    for j in range(3):
        if j == 0:
            size, a1, a2, a3 = 1.0 / product, s1, s2, s3
        elif j == 1:
            size, a1, a2, a3 = 1.0 / (product * excess), s1 + mu * g1, s2 + mu * g2, s3 + mu * g3
        else:
            size, a1, a2, a3 = mu / length, v1, v2, v3
        size = select(primal_dual, zero, size, mu * load(V, barrier + 3 + j))
        t1, t2, t3 = triple(V, barrier + 6 + 3 * j)
        size = sqrt(size)
        a1, a2, a3 = (
            select(primal_dual, zero, a1, t1),
            select(primal_dual, zero, a2, t2),
            select(primal_dual, zero, a3, t3),
        )
        put(V, factor + 3 * j, size * a1, size * a2, size * a3)


@kernel
def divided(V: Any, barrier: Any, d1: Any, d2: Any, d3: Any) -> Any:
    """f*''^-1 d, from f*'' = sum of c_k t_k t_k': the sum of (r_k'd / c_k) r_k with r_1 = t_2 x t_3 / det and so on."""
    noinline()
    a1, a2, a3 = triple(V, barrier + 6)
    b1, b2, b3 = triple(V, barrier + 9)
    c1, c2, c3 = triple(V, barrier + 12)
    p1, p2, p3 = cross(b1, b2, b3, c1, c2, c3)
    q1, q2, q3 = cross(c1, c2, c3, a1, a2, a3)
    r1, r2, r3 = cross(a1, a2, a3, b1, b2, b3)
    det = a1 * p1 + a2 * p2 + a3 * p3
    square = det * det
    p = (p1 * d1 + p2 * d2 + p3 * d3) / (square * load(V, barrier + 3))
    q = (q1 * d1 + q2 * d2 + q3 * d3) / (square * load(V, barrier + 4))
    r = (r1 * d1 + r2 * d2 + r3 * d3) / (square * load(V, barrier + 5))
    return p * p1 + q * q1 + r * r1, p * p2 + q * q2 + r * r2, p * p3 + q * q3 + r * r3


@kernel
def write_scaling(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write -(H + eps I) into K's entries and diagonal."""
    noinline()
    for k in range(at.exponentials + at.powers):
        row, factor = first_row(plan, at, k), at.factor + 9 * k
        e = at.cone_map + index(plan, at.cone_entry + at.count + at.matrices + k)
        for j in range(3):
            for i in range(j, 3):
                total = splat(V, 0.0)
                for c in range(3):
                    total += load(V, factor + 3 * c + i) * load(V, factor + 3 * c + j)
                if i == j:
                    store(V, at.diagonal + index(plan, at.place + at.n + row + i), -(total + eps))
                else:
                    store(V, at.entries + index(plan, e), -total)
                    e += 1


@kernel
def H_times(plan: Any, at: Any, V: Any, v: Any, Hv: Any) -> None:
    """Hv on the rows of these cones."""
    noinline()
    for k in range(at.exponentials + at.powers):
        row, factor = first_row(plan, at, k), at.factor + 9 * k
        v1, v2, v3 = triple(V, v + row)
        h1, h2, h3 = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
        for c in range(3):
            f1, f2, f3 = triple(V, factor + 3 * c)
            along = f1 * v1 + f2 * v2 + f3 * v3
            h1, h2, h3 = h1 + along * f1, h2 + along * f2, h3 + along * f3
        put(V, Hv + row, h1, h2, h3)


@kernel
def combined_shift(plan: Any, at: Any, V: Any, sigma_mu: Any) -> None:
    """c for the combined step, from the affine one, which is in ds and dy."""
    noinline()
    for k in range(at.exponentials + at.powers):
        row, barrier = first_row(plan, at, k), at.barrier + 15 * k
        y1, y2, y3 = triple(V, at.y + row)
        v1, v2, v3 = triple(V, at.dy + row)
        d1, d2, d3 = triple(V, at.ds + row)
        u1, u2, u3 = divided(V, barrier, d1, d2, d3)
        if k < at.exponentials:
            b1, b2, b3 = exponential.third_derivative(y1, y2, y3, u1, u2, u3, v1, v2, v3)
        else:
            alpha = load(V, at.alpha + k - at.exponentials)
            b1, b2, b3 = power.third_derivative(alpha, y1, y2, y3, u1, u2, u3, v1, v2, v3)
        s1, s2, s3 = triple(V, at.s + row)
        g1, g2, g3 = triple(V, barrier)
        c1, c2, c3 = s1 + sigma_mu * g1 - 0.5 * b1, s2 + sigma_mu * g2 - 0.5 * b2, s3 + sigma_mu * g3 - 0.5 * b3
        put(V, at.c + row, c1, c2, c3)


@kernel
def backtrack_step(plan: Any, at: Any, V: Any, alpha: Any, dtau: Any, dkappa: Any, near: Any, active: Any) -> Any:
    """The first of alpha, 0.8 alpha, ... at which every cone is fine: inside, and with near mu' mu_ <= 1.

    Only the active lanes are looked at; 0 where no step is possible.
    """
    noinline()
    if at.exponentials + at.powers == 0:
        return alpha
    zero, one = splat(V, 0.0), splat(V, 1.0)
    # mu' = mu + alpha slope + alpha^2 bow.
    degree, mu = 1.0 + at.degree, load(V, at.mu)
    slope = dot(V, at.s, at.dy, at.m) + dot(V, at.y, at.ds, at.m)
    slope = (slope + load(V, at.tau) * dkappa + load(V, at.kappa) * dtau) / degree
    bow = (dot(V, at.ds, at.dy, at.m) + dtau * dkappa) / degree
    bad = active
    for _ in range(TRIALS):
        floor = near * (mu + alpha * (slope + alpha * bow))
        fine = one
        for k in range(at.exponentials + at.powers):
            fine = select(at_end(plan, at, V, k, alpha, floor, near > 0.0), zero, fine, zero)
        bad = select(active, zero, select(fine, zero, zero, one), zero)
        if highest(bad) == 0.0:
            return alpha
        alpha = select(bad, zero, BACKTRACK * alpha, alpha)
    return select(bad, zero, zero, alpha)


@kernel
def at_end(plan: Any, at: Any, V: Any, k: Any, alpha: Any, floor: Any, central: Any) -> Any:
    """Positive if cone k is inside at the end of the step, and if ``central``, floor mu_ < 1 there."""
    noinline()
    row = first_row(plan, at, k)
    s1, s2, s3 = triple(V, at.s + row)
    y1, y2, y3 = triple(V, at.y + row)
    d1, d2, d3 = triple(V, at.ds + row)
    e1, e2, e3 = triple(V, at.dy + row)
    s1, s2, s3 = s1 + alpha * d1, s2 + alpha * d2, s3 + alpha * d3
    y1, y2, y3 = y1 + alpha * e1, y2 + alpha * e2, y3 + alpha * e3
    if k < at.exponentials:
        m, n = exponential.margin(s1, s2, s3), exponential.dual_margin(y1, y2, y3)
    else:
        exponent = load(V, at.alpha + k - at.exponentials)
        m, n = power.margin(exponent, s1, s2, s3), power.dual_margin(exponent, y1, y2, y3)
    zero, one = splat(V, 0.0), splat(V, 1.0)
    if not central:
        return select(m, zero, select(n, zero, one, zero), zero)
    if k < at.exponentials:
        g1, g2, g3 = exponential.gradient(y1, y2, y3)
    else:
        g1, g2, g3 = power.gradient(load(V, at.alpha + k - at.exponentials), y1, y2, y3)
    z1, z2, z3 = conjugate_point(at, V, k, s1, s2, s3)
    room = 3.0 + floor * (g1 * z1 + g2 * z2 + g3 * z3)
    return select(m, zero, select(n, zero, room, zero), zero)
