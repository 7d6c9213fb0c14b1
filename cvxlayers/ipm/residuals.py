"""The optimality residuals of points, for W elements of a batch at a time: what ``cvxlayers.verify.measure`` computes.

They are computed from the problem's own numbers, without anything that the method has left behind but the problem's own
scales, D and E, below which a number counts as nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxlayers.ipm.cones.symmetric import cone
from cvxlayers.ipm.method import SOLVED
from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.products import dot
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
from cvxlayers.verify.measure import ABSURD, FAR, FLOOR

__all__ = ["largest_of", "measure_group", "verdict"]


@kernel
def measure_group(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any, column: Any,
                  out: Any) -> None:  # fmt: skip
    """The residuals of the elements column, ..., column + W - 1 into out (5, B); D and E are in V.

    primal, dual, gap, cone, and the cost 1/2 x'Px + q'x.
    """
    load_points(at, V, P, q, A, b, x, y, s, column)
    products(plan, at, V)
    primal, dual = equations(at, V)
    # Where of s and y one is zero and none negative in every row, nothing is lacking, whatever it would cost.
    some = highest(crossed(at, V)) > 0.0
    if some or at.count > 0:
        find_prices(plan, at, V)
    gap, outside = splat(V, 0.0), splat(V, 0.0)
    if some:
        gap, outside = rows_apart(at, V)
    for i in range(at.first):
        outside = maximum(absolute(load(V, at.s + i)) / load(V, at.y1 + i), outside)
    for c in range(at.count):
        gap = maximum(cone_apart(plan, at, V, c), gap)
    store_to(out, 0, column, primal)
    store_to(out, 1, column, dual)
    store_to(out, 2, column, gap)
    store_to(out, 3, column, outside)
    store_to(out, 4, column, 0.5 * dot(V, at.x, at.Px, at.n) + dot(V, at.q, at.x, at.n))


@kernel
def products(plan: Any, at: Any, V: Any) -> None:
    """Px, A'y and Ax, and the sums of the sizes of their terms: those of the columns into x1, of the rows into y1."""
    noinline()
    zero = splat(V, 0.0)
    for i in range(at.m):
        store(V, at.Ax + i, zero)
        store(V, at.y1 + i, zero)
    for j in range(at.n):
        xj, total, size = load(V, at.x + j), zero, absolute(load(V, at.q + j))
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            i, p = index(plan, at.P_row + k), load(V, at.P + k)
            term, other = p * load(V, at.x + i), p * xj
            if i != j:  # i < j: this row of Px has been begun
                store(V, at.Px + i, load(V, at.Px + i) + other)
                store(V, at.x1 + i, load(V, at.x1 + i) + absolute(other))
            total, size = total + term, size + absolute(term)
        store(V, at.Px + j, total)
        total = zero
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i, a = index(plan, at.A_row + k), load(V, at.A + k)
            term, other = a * load(V, at.y + i), a * xj
            store(V, at.Ax + i, load(V, at.Ax + i) + other)
            store(V, at.y1 + i, load(V, at.y1 + i) + absolute(other))
            total, size = total + term, size + absolute(term)
        store(V, at.Aty + j, total)
        store(V, at.x1 + j, size)


@kernel
def equations(at: Any, V: Any) -> Any:
    """The worst relative residuals of the rows and of the columns, NaN where there is one or a size is infinite. Their
    sizes become those of all terms, and the floors."""
    noinline()
    row_floor, column_floor = splat(V, FLOOR), splat(V, FLOOR) / load(V, at.cost)
    primal, dual, total = splat(V, 0.0), splat(V, 0.0), splat(V, 0.0)
    unit = FAR * load(V, at.cost)
    for j in range(at.n):
        primal = maximum(FAR * absolute(load(V, at.x + j)) * load(V, at.D_inverse + j), primal)
        primal = maximum(ABSURD * maximum(load(V, at.D + j), load(V, at.D_inverse + j)), primal)
        size = load(V, at.x1 + j) + column_floor * load(V, at.D_inverse + j)
        r = (load(V, at.Px + j) + load(V, at.Aty + j) + load(V, at.q + j)) / size
        store(V, at.x1 + j, size)
        dual, total = maximum(absolute(r), dual), total + r + 0.0 * size
    for i in range(at.m):
        s, b = load(V, at.s + i), load(V, at.b + i)
        dual = maximum(unit * absolute(load(V, at.y + i)) * load(V, at.E_inverse + i), dual)
        dual = maximum(ABSURD * maximum(load(V, at.E + i), load(V, at.E_inverse + i)), dual)
        size = load(V, at.y1 + i) + absolute(s) + absolute(b) + row_floor * load(V, at.E_inverse + i)
        r = (load(V, at.Ax + i) + s - b) / size
        store(V, at.y1 + i, size)
        primal, total = maximum(absolute(r), primal), total + r + 0.0 * size
    return primal + 0.0 * total, dual + 0.0 * total


@kernel
def crossed(at: Any, V: Any) -> Any:
    """0 in lanes in which of s and y one is zero and none negative in every nonnegative row; more where one is NaN."""
    noinline()
    found, total = splat(V, 0.0), splat(V, 0.0)
    for i in range(at.first, at.cones):
        s, y = load(V, at.s + i), load(V, at.y + i)
        found = maximum(maximum(minimum(absolute(s), absolute(y)), -minimum(s, y)), found)
        total += s + y
    return select(splat(V, np.inf), absolute(total), found, splat(V, 1.0))


@kernel
def find_prices(plan: Any, at: Any, V: Any) -> None:
    """What a change of y_i costs in the columns, relative to their sizes, into y2."""
    noinline()
    for i in range(at.m):
        store(V, at.y2 + i, splat(V, 0.0))
    for j in range(at.n):
        over = 1.0 / load(V, at.x1 + j)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = at.y2 + index(plan, at.A_row + k)
            store(V, i, maximum(absolute(load(V, at.A + k)) * over, load(V, i)))


@kernel
def rows_apart(at: Any, V: Any) -> Any:
    """The gap of the nonnegative rows, and what s and y lack of their cones in them."""
    noinline()
    zero = splat(V, 0.0)
    gap, outside, total = zero, zero, zero
    for i in range(at.first, at.cones):
        s, y = load(V, at.s + i) / load(V, at.y1 + i), load(V, at.y + i) * load(V, at.y2 + i)
        gap = maximum(minimum(absolute(s), absolute(y)), gap)
        outside, total = maximum(-minimum(s, y), outside), total + s * y
    return gap, outside + 0.0 * total


@kernel
def cone_apart(plan: Any, at: Any, V: Any, c: Any) -> Any:
    """The gap of a second-order cone: how far y is from Proj(y - s), where y is in prices and s in sizes."""
    noinline()
    start, stop = cone(plan, at, c)
    zero, one, rows, price = splat(V, 0.0), splat(V, 1.0), splat(V, 0.0), splat(V, 0.0)
    for i in range(start, stop):
        rows, price = maximum(load(V, at.y1 + i), rows), maximum(load(V, at.y2 + i), price)
    over = 1.0 / rows
    t, size = load(V, at.y + start) * price - load(V, at.s + start) * over, zero
    for i in range(start + 1, stop):
        z = load(V, at.y + i) * price - load(V, at.s + i) * over
        size += z * z
    size = sqrt(size)
    # Inside the cone the projection is v, below its polar zero, else (|z|, z) (t + |z|) / (2 |z|).
    half = 0.5 * (t + size)
    inside, below = select(size, t, zero, one), select(t + size, zero, zero, one)
    first = select(inside, zero, t, select(below, zero, zero, half))
    share = select(inside, zero, one, select(below, zero, zero, half / maximum(size, splat(V, 1e-300))))
    found = absolute(load(V, at.y + start) * price - first)
    for i in range(start + 1, stop):
        y = load(V, at.y + i) * price
        found = maximum(absolute(y - share * (y - load(V, at.s + i) * over)), found)
    return found + 0.0 * size


@kernel
def verdict(out: Any, info: Any, column: Any, measured: Any) -> Any:
    """The largest of the residuals below row info + 2 (if they were measured) in the W columns from this one on;
    infinity if one of them is NaN, or the state in row info is not SOLVED."""
    state, zero, never = load_from(out, info, column), splat(out, 0.0), splat(out, np.inf)
    unsolved = highest(select(splat(out, SOLVED + 0.5), state, zero, never))
    return max(unsolved, largest_of(out, info + 3, info + 7, column)) if measured else unsolved


@kernel
def largest_of(out: Any, first: Any, end: Any, column: Any) -> Any:
    """The largest number, at least 0, in rows first, ..., end - 1 of the W columns from this one on; infinity if one
    is NaN."""
    never = splat(out, np.inf)
    found, total = splat(out, 0.0), splat(out, 0.0)
    for i in range(first, end):
        value = load_from(out, i, column)
        found, total = maximum(value, found), total + value
    return highest(select(never, total, found, never))


@kernel
def load_points(at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any, column: Any) -> None:
    """Values and points, as they are."""
    noinline()
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
