"""Nonnegative rows and second-order cones inside the iteration: scaling, complementarity, steps to the boundary.

Each cone's scaling W (Nesterov and Todd 1997) is symmetric with W y = W^-1 s = l. With H = W W, the linearized
complementarity is

    H dy + ds = -c,    c = W (l \\ (l o l + (W^-1 ds_a) o (W dy_a) - sigma mu e))

(Vandenberghe 2010, section 5). Nonnegative rows: H = s / y and c = s + (ds_a dy_a - sigma mu) / y. Second-order cones:
H = eta^2 (2 w w' - J) with w'Jw = 1 and J = diag(1, -1, ..., -1). Here W^-1 ds_a = -l - u with u = W dy_a, so
c = s + W (l \\ (-(l + u) o u)) - sigma mu y^-1, with y^-1 = J y / y'Jy.

Vectors are given by the row of V where they begin. Nonnegative are the rows first, ..., cones - 1. What there is to do
for PSD, exponential and power cones is left to ``optional``.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones import optional
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import index, load, maximum, minimum, noinline, select, splat, sqrt, store

__all__ = [
    "H_times",
    "cone",
    "combined_shift",
    "inverse_max_step",
    "rescale",
    "shift",
    "tail_dot",
    "unit_scaling",
    "write_scaling",
    "write_symmetric",
]

TINY = 1e-300


@kernel
def tail_dot(V: Any, u: Any, v: Any, start: Any, stop: Any) -> Any:
    """The sum of u_i v_i over start < i < stop: a cone's rows without its first."""
    total = splat(V, 0.0)
    for i in range(start + 1, stop):
        total += load(V, u + i) * load(V, v + i)
    return total


@kernel
def determinant(V: Any, v: Any, start: Any, stop: Any) -> Any:
    """v'Jv = (v0 - |v1|) (v0 + |v1|) of a cone's rows, kept positive."""
    size = sqrt(tail_dot(V, v, v, start, stop))
    v0 = load(V, v + start)
    return maximum((v0 - size) * (v0 + size), splat(V, TINY))


@kernel
def cone(plan: Any, at: Any, c: Any) -> Any:
    """Where the rows of second-order cone c begin and end."""
    return index(plan, at.cone_start + c), index(plan, at.cone_start + c + 1)


@kernel
def unit_scaling(plan: Any, at: Any, V: Any) -> None:
    """H = I, and 0 for equalities."""
    noinline()
    for i in range(at.m):
        store(V, at.h + i, splat(V, 1.0 if at.first <= i < at.cones else 0.0))
        store(V, at.w + i, splat(V, 0.0))
    for c in range(at.count):
        store(V, at.w + index(plan, at.cone_start + c), splat(V, 1.0))
        store(V, at.eta + c, splat(V, 1.0))
    optional.unit_scaling(plan, at, V)


@kernel
def rescale(plan: Any, at: Any, V: Any) -> None:
    """The scaling at s and y, which lie inside their cones."""
    noinline()
    s, y, w = at.s, at.y, at.w
    for i in range(at.first, at.cones):
        store(V, at.h + i, load(V, s + i) / load(V, y + i))
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        # With s and y over the roots of s'Js and y'Jy: w = (s + J y) / (2 g), g = sqrt((1 + s'y) / 2).
        size_s, size_y = sqrt(determinant(V, s, start, stop)), sqrt(determinant(V, y, start, stop))
        product = load(V, s + start) * load(V, y + start) + tail_dot(V, s, y, start, stop)
        g = 0.5 / sqrt(0.5 * (1.0 + product / (size_s * size_y)))
        over_s, over_y = g / size_s, g / size_y
        total = splat(V, 0.0)
        for i in range(start + 1, stop):
            value = load(V, s + i) * over_s - load(V, y + i) * over_y
            total += value * value
            store(V, w + i, value)
        store(V, w + start, sqrt(1.0 + total))  # w'Jw = 1 to the last digit
        store(V, at.eta + c, sqrt(size_s / size_y))
        store(V, at.l_det + c, size_s * size_y)
        # l = W y without the cancellation of this product (Vandenberghe 2010, equation 14): over sqrt(l'Jl), l0 is
        # half = sqrt((1 + s'y) / 2), and l1 is the mean of s1 and y1 with the weights half + y0 and half + s0.
        half = 0.5 / g
        over_s, over_y, root = 1.0 / size_s, 1.0 / size_y, sqrt(size_s * size_y)
        s0, y0 = load(V, s + start) * over_s, load(V, y + start) * over_y
        scale = root / (s0 + y0 + 2.0 * half)
        by_s, by_y = scale * (half + y0) * over_s, scale * (half + s0) * over_y
        store(V, at.l + start, root * half)
        for i in range(start + 1, stop):
            store(V, at.l + i, by_s * load(V, s + i) + by_y * load(V, y + i))
    optional.rescale(plan, at, V)


@kernel
def write_scaling(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write -(H + eps I) into K's entries and diagonal."""
    write_symmetric(plan, at, V, eps)
    optional.write_scaling(plan, at, V, eps)


@kernel
def write_symmetric(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """The same in the rows of equalities, nonnegative and second-order cones."""
    noinline()
    rows = at.place + at.n
    for i in range(at.cones):
        store(V, at.diagonal + index(plan, rows + i), -(load(V, at.h + i) + eps))
    for c in range(at.count):
        if index(plan, at.cone_extra + c) < 0:
            write_small(plan, at, V, c, eps)
        else:
            write_large(plan, at, V, c, eps)


@kernel
def write_small(plan: Any, at: Any, V: Any, c: Any, eps: Any) -> None:
    """-eta^2 (2 w w' - J) as a block."""
    noinline()
    start, stop = cone(plan, at, c)
    e = at.cone_map + index(plan, at.cone_entry + c)
    scale = load(V, at.eta + c) * load(V, at.eta + c)
    for j in range(start, stop):
        twice = 2.0 * scale * load(V, at.w + j)
        own = twice * load(V, at.w + j) + (-scale if j == start else scale)
        store(V, at.diagonal + index(plan, at.place + at.n + j), -(own + eps))
        for i in range(j + 1, stop):
            store(V, at.entries + index(plan, e), -(twice * load(V, at.w + i)))
            e += 1


@kernel
def write_large(plan: Any, at: Any, V: Any, c: Any, eps: Any) -> None:
    """-eta^2 D, and the columns eta v and eta u."""
    noinline()
    # With a = w0^2 + |w1|^2: D = diag(1 / (2a), 1, ...), u = (u0, u1 w1), v = (0, v1 w1), u0^2 = a - 1 / (2a),
    # u1 = 2 w0 / u0 and v1^2 = u1^2 - 2 = (4 + 2 / a) / (2a - 1 / a). Then D + uu' - vv' = 2ww' - J.
    start, stop = cone(plan, at, c)
    e = at.cone_map + index(plan, at.cone_entry + c)
    root, w0 = load(V, at.eta + c), load(V, at.w + start)
    scale = root * root
    a = 2.0 * w0 * w0 - 1.0
    u0 = sqrt(a - 0.5 / a)
    u1 = root * 2.0 * w0 / u0
    v1 = root * sqrt((4.0 + 2.0 / a) / (2.0 * a - 1.0 / a))
    rows = at.place + at.n
    store(V, at.diagonal + index(plan, rows + start), -(scale * 0.5 / a + eps))
    for i in range(start + 1, stop):
        store(V, at.diagonal + index(plan, rows + i), -(scale + eps))
        store(V, at.entries + index(plan, e), v1 * load(V, at.w + i))
        e += 1
    store(V, at.entries + index(plan, e), root * u0)
    for i in range(start + 1, stop):
        e += 1
        store(V, at.entries + index(plan, e), u1 * load(V, at.w + i))
    extra = at.place + index(plan, at.cone_extra + c)
    store(V, at.diagonal + index(plan, extra), splat(V, -1.0))
    store(V, at.diagonal + index(plan, extra + 1), splat(V, 1.0))


@kernel
def H_times(plan: Any, at: Any, V: Any, v: Any, Hv: Any) -> None:
    """Hv."""
    noinline()
    w = at.w
    for i in range(at.cones):
        store(V, Hv + i, load(V, at.h + i) * load(V, v + i))
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        scale = load(V, at.eta + c) * load(V, at.eta + c)
        w0, v0 = load(V, w + start), load(V, v + start)
        twice = 2.0 * (w0 * v0 + tail_dot(V, w, v, start, stop))
        store(V, Hv + start, scale * (twice * w0 - v0))
        for i in range(start + 1, stop):
            store(V, Hv + i, scale * (twice * load(V, w + i) + load(V, v + i)))
    optional.H_times(plan, at, V, v, Hv)


@kernel
def W_times(at: Any, V: Any, c: Any, start: Any, stop: Any, v: Any, Wv: Any) -> None:
    """W v = eta (w0 v0 + w1'v1, v1 + (v0 + w1'v1 / (1 + w0)) w1) on the rows of cone c."""
    noinline()
    w = at.w
    root, w0, v0 = load(V, at.eta + c), load(V, w + start), load(V, v + start)
    along = tail_dot(V, w, v, start, stop)
    factor = v0 + along / (1.0 + w0)
    store(V, Wv + start, root * (w0 * v0 + along))
    for i in range(start + 1, stop):
        store(V, Wv + i, root * (load(V, v + i) + factor * load(V, w + i)))


@kernel
def combined_shift(plan: Any, at: Any, V: Any, sigma_mu: Any) -> None:
    """c for the combined step, from the affine one, which is in ds and dy; ty is work space."""
    noinline()
    s, y, c, ds, dy = at.s, at.y, at.c, at.ds, at.dy
    for i in range(at.first, at.cones):
        product = load(V, ds + i) * load(V, dy + i)
        store(V, c + i, load(V, s + i) + (product - sigma_mu) / load(V, y + i))
    for k in range(at.count):
        correct_cone(plan, at, V, k, sigma_mu)
    optional.combined_shift(plan, at, V, sigma_mu)


@kernel
def correct_cone(plan: Any, at: Any, V: Any, k: Any, sigma_mu: Any) -> None:
    """The rows of c of second-order cone k."""
    noinline()
    s, y, c, l, u = at.s, at.y, at.c, at.l, at.ty  # noqa: E741 - the letter of the formula
    start, stop = cone(plan, at, k)
    W_times(at, V, k, start, stop, at.dy, u)
    l0, u0 = load(V, l + start), load(V, u + start)
    # p = -(l + u) o u, with a o b = (a'b, a0 b1 + b0 a1); then r = l \ p, the solution of l o r = p.
    p0 = -((l0 + u0) * u0 + tail_dot(V, l, u, start, stop) + tail_dot(V, u, u, start, stop))
    along = splat(V, 0.0)
    for i in range(start + 1, stop):
        li, ui = load(V, l + i), load(V, u + i)
        p = -((l0 + u0) * ui + u0 * (li + ui))
        along += li * p
        store(V, u + i, p)
    r0 = (l0 * p0 - along) / load(V, at.l_det + k)
    store(V, u + start, r0)
    for i in range(start + 1, stop):
        store(V, u + i, (load(V, u + i) - r0 * load(V, l + i)) / l0)
    W_times(at, V, k, start, stop, u, c)
    pull = sigma_mu / determinant(V, y, start, stop)
    store(V, c + start, load(V, s + start) + load(V, c + start) - pull * load(V, y + start))
    for i in range(start + 1, stop):
        store(V, c + i, load(V, s + i) + load(V, c + i) + pull * load(V, y + i))


@kernel
def inverse_max_step(plan: Any, at: Any, V: Any, v: Any, dv: Any) -> Any:
    """The inverse of the longest step for which v + step dv stays in the cones; 0 if it may be of any length."""
    noinline()
    found = splat(V, 0.0)
    for i in range(at.first, at.cones):
        found = maximum(found, -(load(V, dv + i) / load(V, v + i)))
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        # With v over sqrt(v'Jv) and r = (v'J dv, dv1 - (v'J dv + dv0) / (v0 + 1) v1): |r1| - r0 (Vandenberghe 2010).
        over = 1.0 / sqrt(determinant(V, v, start, stop))
        v0, d0 = over * load(V, v + start), load(V, dv + start)
        r0 = v0 * d0 - over * tail_dot(V, v, dv, start, stop)
        factor = over * (r0 + d0) / (v0 + 1.0)
        total = splat(V, 0.0)
        for i in range(start + 1, stop):
            r = load(V, dv + i) - factor * load(V, v + i)
            total += r * r
        found = maximum(found, over * (sqrt(total) - r0))
    return maximum(found, optional.inverse_max_step(plan, at, V, v, dv))


@kernel
def inside(plan: Any, at: Any, V: Any, v: Any) -> Any:
    """The smallest of v_i and v0 - |v1| over the cones, and the sum of those that are positive."""
    noinline()
    zero = splat(V, 0.0)
    least, total = optional.inside(plan, at, V, v)
    for i in range(at.first, at.cones):
        margin = load(V, v + i)
        least, total = minimum(margin, least), total + maximum(margin, zero)
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        margin = load(V, v + start) - sqrt(tail_dot(V, v, v, start, stop))
        least, total = minimum(margin, least), total + maximum(margin, zero)
    return least, total


@kernel
def shift(plan: Any, at: Any, V: Any, v: Any) -> None:
    """Move v well inside its cones, along their units, by the same length for all; unless it is there already."""
    noinline()
    degree = at.degree
    if degree == 0:
        return
    least, total = inside(plan, at, V, v)
    goal = maximum(splat(V, 1.0), total * (0.1 / degree))
    length = select(least, goal, splat(V, 0.0), goal - least)
    for i in range(at.first, at.cones):
        store(V, v + i, load(V, v + i) + length)
    for c in range(at.count):
        start, _ = cone(plan, at, c)
        store(V, v + start, load(V, v + start) + length)
    optional.add_unit(plan, at, V, v, length)
