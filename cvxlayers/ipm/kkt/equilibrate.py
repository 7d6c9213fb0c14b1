"""Scaling of variables, rows and the objective, the same whatever the units that the caller has chosen.

Equilibrated in the infinity norm (Ruiz 2001) is the symmetric matrix of the homogeneous embedding,

    [[P, A', q], [A, 0, b], [q', b', 0]],

by scales (d, e, t) of its rows and columns. Every change of units of a variable, of a row, of all variables and rows
together, or of the objective is such a scaling itself, so that the scaled problem (nearly) does not depend on them. And
an inequality whose b_i > 0 is very large, a bound that means "none", becomes a row whose entries are small, and no
measure for the others. (In other rows a large b_i tells that x is large: there it does not count as an entry.) Two
units are left open by the norms, and chosen last (see ``settle_units``). In the usual terms, D scales the variables, E
the rows, and cost the objective; without these two, D = d / t, E = e t and cost = t^2:

    P <- cost D P D,    q <- cost D q,    A <- E A D,    b <- E b,

with the solutions x = D x, s = s / E and y = E y / cost.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kkt.geometric import geometric_scales, share
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import largest
from cvxlayers.kernels.simd import (
    absolute,
    highest,
    index,
    load,
    load_from,
    maximum,
    minimum,
    noinline,
    select,
    splat,
    sqrt,
    store,
    store_to,
)

__all__ = ["equilibrate", "load_matrices", "load_scales", "norms", "scale_further", "write_scales"]

ROUNDS, NEAR_ONE, LIMIT = 10, 0.5, 1e60
"""At most so many rounds; fewer if no norm is further from one than the second; no scaling beyond the third."""

WILD = 1e3
"""A row or column of P and A whose largest entry is beyond this or its inverse makes the logarithms of all entries
decide first (see ``geometric``)."""

OUTWEIGHED = 10.0
"""A b_i of more than so many times the largest entry of its row of A says nothing of the sizes of x."""


@kernel
def equilibrate(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, column: Any) -> None:
    """Find D, E and cost, and load the scaled P, q, A and b.

    The rows of a curved cone share their scaling. The batch, in which an element's entries lie far apart, is read once.
    """
    noinline()
    one = splat(V, 1.0)
    for i in range(at.n):
        store(V, at.D + i, one)
        store(V, at.D_inverse + i, one)
        store(V, at.q + i, load_from(q, i, column))
    for i in range(at.m):
        store(V, at.E + i, one)
        store(V, at.E_inverse + i, one)
        store(V, at.b + i, load_from(b, i, column))
    load_matrices(plan, at, V, P, A, column)
    t, going, zero = begin_units(at, V), one, splat(V, 0.0)
    wild = far_apart(plan, at, V)
    if highest(wild) > 0.0:
        geometric_scales(plan, at, V, wild)
        change_by(V, at.x1, at.D, at.D_inverse, at.n)
        change_by(V, at.y1, at.E, at.E_inverse, at.m)
        scale_further(plan, at, V, one)
    for _ in range(ROUNDS):
        norms(plan, at, V)
        last = with_vectors(plan, at, V)
        off = maximum(how_far(V, at.x1, at.n), how_far(V, at.y1, at.m))
        off = maximum(off, absolute(select(last, zero, last, one) - 1.0))
        going = going * select(splat(V, NEAR_ONE), off, zero, one)  # no element's scales depend on its neighbours
        if highest(going) == 0.0:
            break
        rescale_by(V, at.x1, at.D, at.D_inverse, at.n, going)
        rescale_by(V, at.y1, at.E, at.E_inverse, at.m, going)
        change = select(going * last, zero, 1.0 / sqrt(last), one)
        t = t * change
        scale_further(plan, at, V, change)
    settle_units(plan, at, V, t)


@kernel
def write_scales(at: Any, V: Any, column: Any, scales: Any) -> None:
    """D, E and cost, one below the other."""
    for j in range(at.n):
        store_to(scales, j, column, load(V, at.D + j))
    for i in range(at.m):
        store_to(scales, at.n + i, column, load(V, at.E + i))
    store_to(scales, at.n + at.m, column, load(V, at.cost))


@kernel
def load_scales(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, scales: Any, column: Any) -> None:
    """Load D, E and cost as ``write_scales`` leaves them, and P, q, A and b, scaled by them."""
    noinline()
    cost = load_from(scales, at.n + at.m, column)
    store(V, at.cost, cost)
    for j in range(at.n):
        scale = load_from(scales, j, column)
        store(V, at.D + j, scale)
        store(V, at.q + j, load_from(q, j, column) * (cost * scale))
    for i in range(at.m):
        scale = load_from(scales, at.n + i, column)
        store(V, at.E + i, scale)
        store(V, at.b + i, load_from(b, i, column) * scale)
    for j in range(at.n):
        scale = load(V, at.D + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            other = load(V, at.D + index(plan, at.P_row + k))
            store(V, at.P + k, load_from(P, k, column) * (cost * scale * other))
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            other = load(V, at.E + index(plan, at.A_row + k))
            store(V, at.A + k, load_from(A, k, column) * (scale * other))


@kernel
def begin_units(at: Any, V: Any) -> Any:
    """The first t: where the b_i that tell of the sizes of x are all very large or small, one unit common to x, b and q
    (the objective in its square) makes the largest of them one, before they tell the columns anything else."""
    zero, one = splat(V, 0.0), splat(V, 1.0)
    size = zero
    for i in range(at.m):
        b = load(V, at.b + i)
        size = maximum(-b if at.first <= i < at.cones else absolute(b), size)
    found = select(size, zero, size, one)
    t = select(maximum(found, 1.0 / found), splat(V, WILD), 1.0 / found, one)
    for j in range(at.n):
        store(V, at.q + j, load(V, at.q + j) * t)
    for i in range(at.m):
        store(V, at.b + i, load(V, at.b + i) * t)
    return t


@kernel
def settle_units(plan: Any, at: Any, V: Any, t: Any) -> None:
    """Choose the two units that the norms leave open, that of all variables and rows and that of the objective.

    With the first, the largest |b_i| becomes one, but for bounds that may mean "none", in which b_i outweighs the rest
    of the row (and shrinks the row again); with the second, the largest entry of P and q.
    """
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    norms(plan, at, V)
    size = zero
    for i in range(at.m):
        b = absolute(load(V, at.b + i))
        if at.first <= i < at.cones:
            b = select(OUTWEIGHED * load(V, at.y1 + i), load(V, at.b + i), b, zero)
        size = maximum(b, size)
    size = minimum(select(size, zero, size, one), one)
    for i in range(at.m):
        b = load(V, at.b + i) / size
        store(V, at.b + i, b)
        store(V, at.y1 + i, maximum(b, one) if at.first <= i < at.cones else one)
    highest_cost = zero
    for j in range(at.n):
        highest_cost = maximum(absolute(load(V, at.q + j)), highest_cost)
        store(V, at.x1 + j, one)
    highest_cost = maximum(largest(V, at.P, at.P_nnz) * size, highest_cost)
    cost = 1.0 / select(highest_cost, zero, highest_cost, one)
    # In the usual terms: x = D x, s = s / E, y = E y / cost, where b <- E b, q <- cost D q.
    over, whole = size / t, t / size
    for j in range(at.n):
        store(V, at.q + j, load(V, at.q + j) * cost)
        store(V, at.D + j, load(V, at.D + j) * over)
        store(V, at.D_inverse + j, load(V, at.D_inverse + j) * whole)
    for i in range(at.m):
        shrink = load(V, at.y1 + i)
        change = 1.0 / shrink
        store(V, at.y1 + i, change)
        store(V, at.b + i, load(V, at.b + i) * change)
        store(V, at.E + i, load(V, at.E + i) * whole * change)
        store(V, at.E_inverse + i, load(V, at.E_inverse + i) * over * shrink)
    factor = cost * size
    for k in range(at.P_nnz):
        store(V, at.P + k, load(V, at.P + k) * factor)
    for k in range(at.A_nnz):
        store(V, at.A + k, load(V, at.A + k) * load(V, at.y1 + index(plan, at.A_row + k)))
    store(V, at.cost, cost * t * whole)


@kernel
def load_matrices(plan: Any, at: Any, V: Any, P: Any, A: Any, column: Any) -> None:
    """The matrices of W elements, from this column of the batch on, as they are."""
    noinline()
    for k in range(at.P_nnz):
        store(V, at.P + k, load_from(P, k, column))
    for k in range(at.A_nnz):
        store(V, at.A + k, load_from(A, k, column))


@kernel
def scale_further(plan: Any, at: Any, V: Any, last: Any) -> None:
    """Multiply the parts by the changes of the scalings, which are in x1 and y1, and the last row's."""
    noinline()
    for j in range(at.n):
        scale = load(V, at.x1 + j)
        store(V, at.q + j, load(V, at.q + j) * (scale * last))
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            store(V, at.P + k, load(V, at.P + k) * (scale * load(V, at.x1 + index(plan, at.P_row + k))))
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            store(V, at.A + k, load(V, at.A + k) * (scale * load(V, at.y1 + index(plan, at.A_row + k))))
    for i in range(at.m):
        store(V, at.b + i, load(V, at.b + i) * (load(V, at.y1 + i) * last))


@kernel
def with_vectors(plan: Any, at: Any, V: Any) -> Any:
    """Let the norms in x1 and y1 count q, and b where it may be a bound that means "none"; return the last column's,
    the largest entry of q and b."""
    noinline()
    whole = splat(V, 0.0)
    for j in range(at.n):
        size = absolute(load(V, at.q + j))
        whole = maximum(size, whole)
        store(V, at.x1 + j, maximum(load(V, at.x1 + j), size))
    for i in range(at.m):
        b = load(V, at.b + i)
        whole = maximum(absolute(b), whole)
        if at.first <= i < at.cones:
            store(V, at.y1 + i, maximum(load(V, at.y1 + i), b))
    share(plan, at, V, at.y1)
    return whole


@kernel
def norms(plan: Any, at: Any, V: Any) -> None:
    """The largest entries of the columns of [[P, A'], [A, 0]], into x1 and y1."""
    noinline()
    x, y = at.x1, at.y1
    for i in range(at.n):
        store(V, x + i, splat(V, 0.0))
    for i in range(at.m):
        store(V, y + i, splat(V, 0.0))
    for j in range(at.n):
        own = load(V, x + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            i = index(plan, at.P_row + k)
            p = absolute(load(V, at.P + k))
            own = maximum(own, p)
            if i != j:
                store(V, x + i, maximum(load(V, x + i), p))
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = y + index(plan, at.A_row + k)
            a = absolute(load(V, at.A + k))
            own = maximum(own, a)
            store(V, i, maximum(load(V, i), a))
        store(V, x + j, own)


@kernel
def far_apart(plan: Any, at: Any, V: Any) -> Any:
    """1 in lanes in which some row or column is so large or small that the units deserve a closer look."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    norms(plan, at, V)
    high, low = one, one
    for j in range(at.n):
        size = load(V, at.x1 + j)
        high, low = maximum(size, high), minimum(select(size, zero, size, one), low)
    for i in range(at.m):
        size = load(V, at.y1 + i)
        high, low = maximum(size, high), minimum(select(size, zero, size, one), low)
    return select(maximum(high, 1.0 / low), splat(V, WILD), one, zero)


@kernel
def change_by(V: Any, change: Any, scale: Any, inverse: Any, size: Any) -> None:
    """Multiply the scalings by these changes."""
    for i in range(size):
        found = load(V, change + i)
        store(V, scale + i, load(V, scale + i) * found)
        store(V, inverse + i, load(V, inverse + i) / found)


@kernel
def how_far(V: Any, norm: Any, size: Any) -> Any:
    """How far a norm is from one at the most, where it is not zero."""
    zero, one = splat(V, 0.0), splat(V, 1.0)
    off = zero
    for i in range(size):
        found = load(V, norm + i)
        off = maximum(off, absolute(select(found, zero, found, one) - 1.0))
    return off


@kernel
def rescale_by(V: Any, norm: Any, scale: Any, inverse: Any, size: Any, going: Any) -> None:
    """Divide the scalings by the roots of the norms, which become the changes, in lanes that are still going."""
    zero, one = splat(V, 0.0), splat(V, 1.0)
    for i in range(size):
        found = load(V, norm + i)
        before = load(V, scale + i)
        root = minimum(maximum(sqrt(found), before * (1.0 / LIMIT)), before * LIMIT)
        root = select(found * going, zero, root, one)
        change = 1.0 / root
        store(V, scale + i, before * change)
        store(V, inverse + i, load(V, inverse + i) * root)
        store(V, norm + i, change)
