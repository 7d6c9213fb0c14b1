"""The optimality residuals of points, for W elements of a batch at a time: what ``solution.measure`` computes.

They are computed from the problem's own numbers, without anything that the method has left behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxlayers.ipm.kernel import kernel
from cvxlayers.ipm.lanes import absolute, apart, fill, highest, load, load_from, maximum, pick, sqrt, store, store_to
from cvxlayers.ipm.method import SOLVED
from cvxlayers.ipm.products import A_and_transpose_times, P_times, dot, largest
from cvxlayers.ipm.scaling import cone, tail_dot

__all__ = ["largest_of", "measure_group", "verdict"]


@kernel
def measure_group(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any, column: Any,
                  out: Any) -> None:  # fmt: skip
    """The residuals of the elements column, ..., column + W - 1 into out (5, B).

    primal, dual, gap, cone, and the cost 1/2 x'Px + q'x.
    """
    load_points(at, V, P, q, A, b, x, y, s, column)
    P_times(plan, at, V, at.x, at.Px)
    A_and_transpose_times(plan, at, V, at.x, at.y, at.Ax, at.Aty)
    total, rest = fill(V, 0.0), fill(V, 0.0)
    for i in range(at.n):
        r = load(V, at.Px + i) + load(V, at.Aty + i) + load(V, at.q + i)
        rest, total = maximum(absolute(r), rest), total + r
    size = maximum(maximum(largest(V, at.Px, at.n), largest(V, at.Aty, at.n)), largest(V, at.q, at.n))
    dual = rest / (1.0 + size) + 0.0 * total  # NaN where there is one
    rest = fill(V, 0.0)
    for i in range(at.m):
        r = load(V, at.Ax + i) + load(V, at.s + i) - load(V, at.b + i)
        rest, total = maximum(absolute(r), rest), total + r
    s_size = largest(V, at.s, at.m)
    size = maximum(maximum(largest(V, at.Ax, at.m), s_size), largest(V, at.b, at.m))
    primal = rest / (1.0 + size) + 0.0 * total
    xPx, qx, by = dot(V, at.x, at.Px, at.n), dot(V, at.q, at.x, at.n), dot(V, at.b, at.y, at.m)
    cost = 0.5 * xPx + qx
    gap = absolute(xPx + qx + by) / (1.0 + maximum(absolute(cost), absolute(0.5 * xPx + by)))
    outside = maximum(distance(plan, at, V, at.s), largest(V, at.s, at.first)) / (1.0 + s_size)
    outside = maximum(outside, distance(plan, at, V, at.y) / (1.0 + largest(V, at.y, at.m)))
    outside = outside + 0.0 * (total + dot(V, at.y, at.y, at.m))
    store_to(out, 0, column, primal)
    store_to(out, 1, column, dual)
    store_to(out, 2, column, gap)
    store_to(out, 3, column, outside)
    store_to(out, 4, column, cost)


@kernel
def verdict(out: Any, info: Any, column: Any, measured: Any) -> Any:
    """The largest of the residuals below row info + 2 (if they were measured) in the W columns from this one on;
    infinity if one of them is NaN, or the state in row info is not SOLVED."""
    state, zero, never = load_from(out, info, column), fill(out, 0.0), fill(out, np.inf)
    unsolved = highest(pick(fill(out, SOLVED + 0.5), state, zero, never))
    return max(unsolved, largest_of(out, info + 3, info + 7, column)) if measured else unsolved


@kernel
def largest_of(out: Any, first: Any, end: Any, column: Any) -> Any:
    """The largest number, at least 0, in rows first, ..., end - 1 of the W columns from this one on; infinity if one
    is NaN."""
    never = fill(out, np.inf)
    found, total = fill(out, 0.0), fill(out, 0.0)
    for i in range(first, end):
        value = load_from(out, i, column)
        found, total = maximum(value, found), total + value
    return highest(pick(never, total, found, never))


@kernel
def load_points(at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any, column: Any) -> None:
    """Values and points, as they are."""
    apart()
    for k in range(at.P_nnz):
        store(V, at.P + k, load_from(P, k, column))
    for k in range(at.A_nnz):
        store(V, at.A + k, load_from(A, k, column))
    for i in range(at.n):
        store(V, at.q + i, load_from(q, i, column))
        store(V, at.x + i, load_from(x, i, column))
    for i in range(at.m):
        store(V, at.b + i, load_from(b, i, column))
        store(V, at.y + i, load_from(y, i, column))
        store(V, at.s + i, load_from(s, i, column))


@kernel
def distance(plan: Any, at: Any, V: Any, v: Any) -> Any:
    """How far v is from its nonnegative and second-order cones, in the infinity norm."""
    apart()
    zero = fill(V, 0.0)
    found = zero
    for i in range(at.first, at.cones):
        found = maximum(found, -load(V, v + i))
    for c in range(at.count):
        start, stop = cone(plan, at, c)
        v0, size = load(V, v + start), sqrt(tail_dot(V, v, v, start, stop))
        # Below the polar cone the projection is zero; else v - Proj(v) has its largest entry first, or none.
        entry = maximum(largest(V, v + start, stop - start), zero)
        found = maximum(found, pick(v0 + size, zero, 0.5 * (size - v0), entry))
    return found
