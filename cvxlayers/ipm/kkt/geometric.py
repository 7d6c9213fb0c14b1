"""Scales for problems whose numbers lie far apart: by least squares in the logarithms of the entries.

The largest entries of rows and columns alone do not fix the scales that make them one: where a column's largest entry
stands in a row whose largest is another, a whole range of scales does. Those that minimize

    sum over the nonzeros of [[P, A'], [A, 0]] of (log |M_ij| + u_i + u_j)^2

(Curtis and Reid 1972) are unique but for what no entry sees, and a change of units shifts u and nothing else. The
normal equations, diag(counts) + the pattern, are solved by conjugate gradients. (With q and b among the entries the
scales would be unique, too, but the method needs many more iterations.)
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.functions import exp, log
from cvxlayers.kernels.simd import absolute, index, load, maximum, noinline, select, splat, store

__all__ = ["geometric_scales", "share"]

STEPS = 15
"""Of conjugate gradients: enough for a deviation of some percent."""

DONE = 1e-18
"""What the square of the residual is to fall to, and the least that a direction must weigh."""

NONE = -1e200
"""Stands for the logarithm of zero."""


@kernel
def geometric_scales(plan: Any, at: Any, V: Any, wanted: Any) -> None:
    """Put exp(u) into x1 and y1, and 1 in lanes in which they are not wanted."""
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    for j in range(at.n):
        store(V, at.x1 + j, zero)
        store(V, at.tx + j, one)
    for i in range(at.m):
        store(V, at.y1 + i, zero)
        store(V, at.ty + i, one)
    for k in range(at.P_nnz):
        store(V, at.out + k, logarithm(load(V, at.P + k)))
    for k in range(at.A_nnz):
        store(V, at.out + at.P_nnz + k, logarithm(load(V, at.A + k)))
    # What (1, ..., 1) gives is twice the number of entries in each row.
    normal_product(plan, at, V, False)
    for j in range(at.n):
        store(V, at.rx + j, 0.5 * maximum(load(V, at.x2 + j), one))
    for i in range(at.m):
        store(V, at.r + i, 0.5 * maximum(load(V, at.y2 + i), one))
    normal_product(plan, at, V, True)
    for j in range(at.n):
        store(V, at.ex + j, -load(V, at.x2 + j))
    for i in range(at.m):
        store(V, at.ey + i, -load(V, at.y2 + i))
    conjugate_gradients(plan, at, V)
    for j in range(at.n):
        store(V, at.x1 + j, select(wanted, zero, exp(load(V, at.x1 + j)), one))
    for i in range(at.m):
        store(V, at.y1 + i, select(wanted, zero, exp(load(V, at.y1 + i)), one))


@kernel
def logarithm(value: Any) -> Any:
    """log |value|, or NONE."""
    zero, one, size = splat(value, 0.0), splat(value, 1.0), absolute(value)
    return select(size, zero, log(select(size, zero, size, one)), splat(value, NONE))


@kernel
def term(V: Any, place: Any, total: Any, logs: Any) -> Any:
    """u_i + u_j of an entry, or its logarithm instead; 0 where the entry is."""
    found, none = load(V, place), splat(V, 0.5 * NONE)
    if logs:
        return select(found, none, found, splat(V, 0.0))
    return select(found, none, total, splat(V, 0.0))


@kernel
def normal_product(plan: Any, at: Any, V: Any, logs: Any) -> None:
    """The normal matrix times (tx, ty), into x2 and y2; or M'log |M| instead."""
    noinline()
    base = at.out
    for j in range(at.n):
        store(V, at.x2 + j, splat(V, 0.0))
    for i in range(at.m):
        store(V, at.y2 + i, splat(V, 0.0))
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
    share(plan, at, V, at.y2)


@kernel
def conjugate_gradients(plan: Any, at: Any, V: Any) -> None:
    """u into x1 and y1, from the right side in ex and ey and the counts in rx and r.

    A lane rests once its residual is rounding: there may be directions that no entry sees, and it would run along them.
    """
    noinline()
    zero, one = splat(V, 0.0), splat(V, 1.0)
    before, first = splat(V, 0.0), splat(V, 0.0)
    for step in range(STEPS):
        now = zero
        for j in range(at.n):
            now += load(V, at.ex + j) * load(V, at.ex + j) / load(V, at.rx + j)
        for i in range(at.m):
            now += load(V, at.ey + i) * load(V, at.ey + i) / load(V, at.r + i)
        if step == 0:
            first = now
        going = select(now, DONE * first, one, zero)
        beta = select(before, zero, now / before, zero) if step > 0 else zero
        for j in range(at.n):
            store(V, at.tx + j, load(V, at.ex + j) / load(V, at.rx + j) + beta * load(V, at.tx + j))
        for i in range(at.m):
            store(V, at.ty + i, load(V, at.ey + i) / load(V, at.r + i) + beta * load(V, at.ty + i))
        normal_product(plan, at, V, False)
        along = zero
        for j in range(at.n):
            along += load(V, at.tx + j) * load(V, at.x2 + j)
        for i in range(at.m):
            along += load(V, at.ty + i) * load(V, at.y2 + i)
        alpha = select(along * going, DONE * now, now / along, zero)
        for j in range(at.n):
            store(V, at.x1 + j, load(V, at.x1 + j) + alpha * load(V, at.tx + j))
            store(V, at.ex + j, load(V, at.ex + j) - alpha * load(V, at.x2 + j))
        for i in range(at.m):
            store(V, at.y1 + i, load(V, at.y1 + i) + alpha * load(V, at.ty + i))
            store(V, at.ey + i, load(V, at.ey + i) - alpha * load(V, at.y2 + i))
        before = now


@kernel
def share(plan: Any, at: Any, V: Any, y: Any) -> None:
    """Let all rows of a curved cone have their mean."""
    noinline()
    for c in range(at.blocks):
        start, stop = index(plan, at.cone_start + c), index(plan, at.cone_start + c + 1)
        total = splat(V, 0.0)
        for i in range(start, stop):
            total += load(V, y + i)
        for i in range(start, stop):
            store(V, y + i, total / (1.0 * (stop - start)))
