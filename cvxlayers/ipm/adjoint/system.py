"""The linear system of the derivative, for W elements of a batch at a time, by the factors of the iteration's pattern.

With v = y - s, D = derivative of Proj_{K*} at v and u = D dv, the system J (dx, dv) = (f, g) of the derivative
(Agrawal, Barratt, Boyd, Busseti, Moursi 2019; Healey, Nobel, Boyd 2025 with P) reads

    P dx + A'u = f,    D (A dx - g) = (I - D) u,

for dv = A dx - g + u. On eigenvectors of D with the eigenvalue d > 0 the rows are A dx - h u = g with h = (1 - d) / d,
and u vanishes where d = 0. So the matrix is that of the iteration, [[P, A'], [A, -H]], with

* nonnegative rows: h, and rows with d = 0 left out;
* second-order cones, v = (t, z) with t + |z| > 0 > t - |z| and e = z / |z|: d = 1 along (1, e), d = 0 along (1, -e),
  and h = (|z| - t) / (|z| + t) across both. This H is the limit of eta^2 (2 w w' - J), whose eigenvalues along the same
  directions are eta^2 / rho^2, eta^2 rho^2 and eta^2, for eta^2 = h and a large rho. Refinement makes up for what is
  missing, as it does for the regularization, with the part of u along (1, -e) removed exactly;
* PSD, exponential and power cones likewise (see ``blocks``).

Columns that are zero once rows are left out belong to variables that nothing determines: their dx is 0, the solution of
least norm. Everything else that is singular shows in the solution for a random right-hand side (see ``sensitivity``).
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.adjoint import blocks
from cvxlayers.ipm.cones.symmetric import cone, tail_dot, write_symmetric
from cvxlayers.ipm.kkt.equilibrate import norms
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import A_and_transpose_times, P_times, largest
from cvxlayers.kernels.simd import absolute, index, load, load_from, maximum, noinline, select, splat, sqrt, store

__all__ = ["load_right", "load_system", "remove_idle", "residual"]

LARGE, OVER = 1e8, 1e4
"""H along (1, -e): the first number, or h times the second."""


@kernel
def load_system(plan: Any, at: Any, V: Any, y: Any, state: Any, mu: Any, column: Any, eps: Any) -> None:
    """Put zeros into the rows that are left out (s is their mask), and write K, with eps added to its diagonal."""
    noinline()
    one, zero, cost = splat(V, 1.0), splat(V, 0.0), load(V, at.cost)
    for i in range(at.cones):
        e = load(V, at.E + i)
        v = load_from(y, i, column) * cost / e - load_from(state, i, column) * e
        d = one if i < at.first else slope(v, mu, cost)
        store(V, at.s + i, select(d, zero, one, zero))
        store(V, at.h + i, select(d, zero, (1.0 - d) / maximum(d, splat(V, 1e-300)), one))
    store(V, at.error, one)
    for c in range(at.count):
        load_cone(plan, at, V, y, state, column, c)
    blocks.load_blocks(plan, at, V, state, column)
    for j in range(at.n):
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            store(V, at.A + k, load(V, at.A + k) * load(V, at.s + index(plan, at.A_row + k)))
    norms(plan, at, V)
    for j in range(at.n):
        used = select(load(V, at.x1 + j), zero, one, zero)
        store(V, at.x2 + j, used)
        own = (1.0 - used) + eps
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            entry = index(plan, at.P_entry + k)
            if entry < 0:
                own += load(V, at.P + k)
            else:
                store(V, at.entries + entry, load(V, at.P + k))
        store(V, at.diagonal + index(plan, at.place + j), own)
    for k in range(at.A_nnz):
        store(V, at.entries + index(plan, at.A_entry + k), load(V, at.A + k))
    write_symmetric(plan, at, V, splat(V, eps))
    blocks.write_blocks(plan, at, V, splat(V, eps))


@kernel
def slope(v: Any, mu: Any, cost: Any) -> Any:
    """D in a row of the nonnegative orthant: 1, 0, or 1/2 at the kink; smoothed, y / (y + s) with s y = mu cost."""
    zero = splat(v, 0.0)
    if mu == 0.0:
        return select(v, zero, splat(v, 1.0), select(zero, v, zero, splat(v, 0.5)))
    mu = mu * cost
    root = sqrt(v * v + 4.0 * mu)
    return select(v, zero, 0.5 * (v + root), 2.0 * mu / (root - v)) / root


@kernel
def load_cone(plan: Any, at: Any, V: Any, y: Any, s: Any, column: Any, c: Any) -> None:
    """The scaling of a second-order cone: e into l (zero where D = I or D = 0), h across it into l_det.

    Lanes at a kink of the projection, which others see to, get a 0 in ``error``.
    """
    noinline()
    one, zero, tiny = splat(V, 1.0), splat(V, 0.0), splat(V, 1e-300)
    start, stop = cone(plan, at, c)
    e = load(V, at.E + start)
    over = load(V, at.cost) / e
    t, size = load_from(y, start, column) * over - load_from(s, start, column) * e, zero
    for i in range(start + 1, stop):
        z = load_from(y, i, column) * over - load_from(s, i, column) * e
        store(V, at.l + i, z)
        size += z * z
    size = sqrt(size)
    high, low = t + size, t - size
    between = select(high, zero, select(zero, low, one, zero), zero)
    outside = select(high, zero, zero, one)
    kink = select(absolute(high), zero, select(absolute(low), zero, one, zero), zero)
    store(V, at.error, load(V, at.error) * kink)
    h = between * maximum(-low, zero) / maximum(high, tiny)
    top = maximum(splat(V, LARGE), OVER * h)
    # In lanes that are not between: eta^2 = 1e-12 inside and 1 outside, where w = (1, 0).
    scale = select(between, zero, maximum(h, splat(V, 1e-12)), select(outside, zero, one, splat(V, 1e-12)))
    rho = sqrt(top / scale)
    half = 0.5 * (rho - 1.0 / rho) * between / maximum(size, tiny)
    total, over = zero, between / maximum(size, tiny)
    for i in range(start + 1, stop):
        z = load(V, at.l + i)
        w = -(half * z)
        total += w * w
        store(V, at.w + i, w)
        store(V, at.l + i, z * over)
    store(V, at.w + start, sqrt(1.0 + total))
    store(V, at.eta + c, sqrt(scale))
    store(V, at.l_det + c, h)
    store(V, at.l + start, between)
    for i in range(start, stop):
        store(V, at.s + i, 1.0 - outside)


@kernel
def load_right(at: Any, V: Any) -> None:
    """cost D f and E g into rx and ry, without the rows that are left out."""
    noinline()
    cost = load(V, at.cost)
    for i in range(at.n):
        store(V, at.rx + i, load(V, at.right + i) * load(V, at.D + i) * cost)
    for i in range(at.m):
        store(V, at.ry + i, load(V, at.right + at.n + i) * load(V, at.E + i) * load(V, at.s + i))


@kernel
def remove_idle(plan: Any, at: Any, V: Any, y: Any) -> None:
    """Set to zero the part of y along (1, -e) of each second-order cone, and y in the rows that are left out."""
    noinline()
    for i in range(at.cones):
        store(V, y + i, load(V, y + i) * load(V, at.s + i))
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        off = 0.5 * (load(V, y + start) - tail_dot(V, at.l, y, start, stop)) * load(V, at.l + start)
        mask = load(V, at.s + start)
        store(V, y + start, (load(V, y + start) - off) * mask)
        for i in range(start + 1, stop):
            store(V, y + i, (load(V, y + i) + off * load(V, at.l + i)) * mask)
    blocks.remove_idle(plan, at, V, y)


@kernel
def residual(plan: Any, at: Any, V: Any) -> Any:
    """(rx, ry) less J (x, y) into ex and ey; the largest entry of it, and the sum of those of its terms.

    A x is no term of its own: along (1, -e) it may be of any size, and elsewhere it is the sum of the others.
    """
    noinline()
    P_times(plan, at, V, at.x, at.Pt)
    A_and_transpose_times(plan, at, V, at.x, at.y, at.ey, at.ex)
    worst, total, Px, Aty, Hy = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    for i in range(at.n):
        p, a = load(V, at.Pt + i), load(V, at.ex + i)
        e = load(V, at.rx + i) - p - a
        store(V, at.ex + i, e)
        Px, Aty = maximum(absolute(p), Px), maximum(absolute(a), Aty)
        worst, total = maximum(absolute(e), worst), total + e
    for i in range(at.m):
        store(V, at.ey + i, load(V, at.ry + i) - load(V, at.ey + i))
    for i in range(at.cones):
        h = load(V, at.h + i) * load(V, at.y + i)
        e = load(V, at.ey + i) + h
        store(V, at.ey + i, e)
        Hy, worst, total = maximum(absolute(h), Hy), maximum(absolute(e), worst), total + e
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        h, between = load(V, at.l_det + c), load(V, at.l + start)
        along = tail_dot(V, at.l, at.y, start, stop)
        off = 0.5 * between * (load(V, at.ey + start) - tail_dot(V, at.l, at.ey, start, stop))
        e = load(V, at.ey + start) - off
        store(V, at.ey + start, e)
        worst, total = maximum(absolute(e), worst), total + e
        for i in range(start + 1, stop):
            own = load(V, at.l + i)
            across = h * (load(V, at.y + i) - along * own)
            e = load(V, at.ey + i) + off * own + across
            store(V, at.ey + i, e)
            Hy, worst, total = maximum(absolute(across), Hy), maximum(absolute(e), worst), total + e
    further, term, rest = blocks.residual(plan, at, V)
    Hy, worst, total = maximum(term, Hy), maximum(further, worst), total + rest
    whole = Px + Aty + Hy + largest(V, at.rx, at.n) + largest(V, at.ry, at.m)
    return worst + 0.0 * total, whole  # NaN where there is one
