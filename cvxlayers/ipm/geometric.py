"""Scales for problems whose numbers lie far apart: by least squares in the logarithms of the entries.

The largest entries of rows and columns alone do not fix the scales that make them one: where a column's largest entry
stands in a row whose largest is another, a whole range of scales does. Those that minimize

    sum over the nonzeros of [[P, A', q], [A, 0, b], [q', b', 0]] of (log |M_ij| + u_i + u_j)^2

(Curtis and Reid 1972) are unique, and a change of units shifts u and nothing else. Bounds b_i > 0 of nonnegative rows,
which may mean "none", do not count. The normal equations, diag(counts) + the pattern, are solved by conjugate
gradients.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.functions import exp, log
from cvxlayers.ipm.kernel import kernel
from cvxlayers.ipm.lanes import absolute, apart, fill, index, load, maximum, pick, store

__all__ = ["geometric_scales", "share"]

STEPS = 15
"""Of conjugate gradients: enough for a deviation of some percent."""

NONE = -1e200
"""Stands for the logarithm of zero."""


@kernel
def geometric_scales(plan: Any, at: Any, V: Any, wanted: Any) -> Any:
    """Put exp(u) into x1 and y1, and return the last row's; 1 in lanes in which they are not wanted."""
    apart()
    zero, one = fill(V, 0.0), fill(V, 1.0)
    for j in range(at.n):
        store(V, at.x1 + j, zero)
        store(V, at.tx + j, one)
    for i in range(at.m):
        store(V, at.y1 + i, zero)
        store(V, at.ty + i, one)
    load_logarithms(plan, at, V)
    # What (1, ..., 1) gives is twice the number of entries in each row.
    last_count = 0.5 * maximum(normal_product(plan, at, V, one, False), one)
    share(plan, at, V, at.y2)
    for j in range(at.n):
        store(V, at.rx + j, 0.5 * maximum(load(V, at.x2 + j), one))
    for i in range(at.m):
        store(V, at.r + i, 0.5 * maximum(load(V, at.y2 + i), one))
    last_rest = -normal_product(plan, at, V, zero, True)
    share(plan, at, V, at.y2)
    for j in range(at.n):
        store(V, at.ex + j, -load(V, at.x2 + j))
    for i in range(at.m):
        store(V, at.ey + i, -load(V, at.y2 + i))
    last = conjugate_gradients(plan, at, V, last_rest, last_count)
    for j in range(at.n):
        store(V, at.x1 + j, pick(wanted, zero, exp(load(V, at.x1 + j)), one))
    for i in range(at.m):
        store(V, at.y1 + i, pick(wanted, zero, exp(load(V, at.y1 + i)), one))
    return pick(wanted, zero, exp(last), one)


@kernel
def load_logarithms(plan: Any, at: Any, V: Any) -> None:
    """The logarithms of q, b, P and A, one below the other from ``out`` on."""
    apart()
    base = at.out
    for j in range(at.n):
        store(V, base + j, logarithm(load(V, at.q + j)))
    base += at.n
    for i in range(at.m):
        b = load(V, at.b + i)
        counted = maximum(-b, fill(V, 0.0)) if at.first <= i < at.cones else b
        store(V, base + i, logarithm(counted))
    base += at.m
    for k in range(at.P_nnz):
        store(V, base + k, logarithm(load(V, at.P + k)))
    base += at.P_nnz
    for k in range(at.A_nnz):
        store(V, base + k, logarithm(load(V, at.A + k)))


@kernel
def logarithm(value: Any) -> Any:
    """log |value|, or NONE."""
    zero, one, size = fill(value, 0.0), fill(value, 1.0), absolute(value)
    return pick(size, zero, log(pick(size, zero, size, one)), fill(value, NONE))


@kernel
def term(V: Any, place: Any, total: Any, logs: Any) -> Any:
    """u_i + u_j of an entry, or its logarithm instead; 0 where the entry is."""
    found, none = load(V, place), fill(V, 0.5 * NONE)
    if logs:
        return pick(found, none, found, fill(V, 0.0))
    return pick(found, none, total, fill(V, 0.0))


@kernel
def normal_product(plan: Any, at: Any, V: Any, last: Any, logs: Any) -> Any:
    """The normal matrix times (tx, ty, last), into x2 and y2, and what belongs to the last row; or M'log |M|
    instead."""
    apart()
    whole, base = fill(V, 0.0), at.out
    for j in range(at.n):
        value = term(V, base + j, load(V, at.tx + j) + last, logs)
        store(V, at.x2 + j, value)
        whole += value
    base += at.n
    for i in range(at.m):
        value = term(V, base + i, load(V, at.ty + i) + last, logs)
        store(V, at.y2 + i, value)
        whole += value
    base += at.m
    for j in range(at.n):
        own, total = load(V, at.tx + j), load(V, at.x2 + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            i = index(plan, at.P_row + k)
            value = term(V, base + k, load(V, at.tx + i) + own, logs)
            if i == j:
                total += 2.0 * value
            else:
                total += value
                store(V, at.x2 + i, load(V, at.x2 + i) + value)
        store(V, at.x2 + j, total)
    base += at.P_nnz
    for j in range(at.n):
        own, total = load(V, at.tx + j), load(V, at.x2 + j)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = index(plan, at.A_row + k)
            value = term(V, base + k, load(V, at.ty + i) + own, logs)
            total += value
            store(V, at.y2 + i, load(V, at.y2 + i) + value)
        store(V, at.x2 + j, total)
    return whole


@kernel
def conjugate_gradients(plan: Any, at: Any, V: Any, last_rest: Any, last_count: Any) -> Any:
    """u into x1 and y1, from the right side in ex and ey and the counts in rx and r; return the last of u."""
    apart()
    zero, u = fill(V, 0.0), fill(V, 0.0)
    before, direction = fill(V, 0.0), fill(V, 0.0)
    for step in range(STEPS):
        now = last_rest * last_rest / last_count
        for j in range(at.n):
            now += load(V, at.ex + j) * load(V, at.ex + j) / load(V, at.rx + j)
        for i in range(at.m):
            now += load(V, at.ey + i) * load(V, at.ey + i) / load(V, at.r + i)
        beta = pick(before, zero, now / before, zero) if step > 0 else zero
        direction = last_rest / last_count + beta * direction
        for j in range(at.n):
            store(V, at.tx + j, load(V, at.ex + j) / load(V, at.rx + j) + beta * load(V, at.tx + j))
        for i in range(at.m):
            store(V, at.ty + i, load(V, at.ey + i) / load(V, at.r + i) + beta * load(V, at.ty + i))
        last = normal_product(plan, at, V, direction, False)
        share(plan, at, V, at.y2)
        along = direction * last
        for j in range(at.n):
            along += load(V, at.tx + j) * load(V, at.x2 + j)
        for i in range(at.m):
            along += load(V, at.ty + i) * load(V, at.y2 + i)
        alpha = pick(along, fill(V, 1e-280), now / along, zero)
        u += alpha * direction
        last_rest = last_rest - alpha * last
        for j in range(at.n):
            store(V, at.x1 + j, load(V, at.x1 + j) + alpha * load(V, at.tx + j))
            store(V, at.ex + j, load(V, at.ex + j) - alpha * load(V, at.x2 + j))
        for i in range(at.m):
            store(V, at.y1 + i, load(V, at.y1 + i) + alpha * load(V, at.ty + i))
            store(V, at.ey + i, load(V, at.ey + i) - alpha * load(V, at.y2 + i))
        before = now
    return u


@kernel
def share(plan: Any, at: Any, V: Any, y: Any) -> None:
    """Let all rows of a curved cone have their mean."""
    apart()
    for c in range(at.blocks):
        start, stop = index(plan, at.cone_start + c), index(plan, at.cone_start + c + 1)
        total = fill(V, 0.0)
        for i in range(start, stop):
            total += load(V, y + i)
        for i in range(start, stop):
            store(V, y + i, total / (1.0 * (stop - start)))
