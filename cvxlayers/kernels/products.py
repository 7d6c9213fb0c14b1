"""Products with P, A and their transposes, lane by lane. Vectors are given by the row of V where they begin."""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import absolute, index, load, maximum, noinline, splat, store

__all__ = ["A_and_transpose_times", "P_times", "dot", "largest"]


@kernel
def P_times(plan: Any, at: Any, V: Any, x: Any, Px: Any) -> None:
    """Px from the upper triangle of P, by columns."""
    noinline()
    starts, rows, P = at.P_start, at.P_row, at.P
    for j in range(at.n):
        xj = load(V, x + j)
        total = splat(V, 0.0)
        for k in range(index(plan, starts + j), index(plan, starts + j + 1)):
            i = index(plan, rows + k)
            p = load(V, P + k)
            if i != j:  # i < j: this row of Px has been begun
                store(V, Px + i, load(V, Px + i) + p * xj)
            total += p * load(V, x + i)
        store(V, Px + j, total)


@kernel
def A_and_transpose_times(plan: Any, at: Any, V: Any, x: Any, y: Any, Ax: Any, Aty: Any) -> None:
    """Ax and A'y in one pass over A, by columns."""
    noinline()
    starts, rows, A = at.A_start, at.A_row, at.A
    zero = splat(V, 0.0)
    for i in range(at.m):
        store(V, Ax + i, zero)
    for j in range(at.n):
        xj = load(V, x + j)
        total = splat(V, 0.0)
        for k in range(index(plan, starts + j), index(plan, starts + j + 1)):
            i = index(plan, rows + k)
            a = load(V, A + k)
            store(V, Ax + i, load(V, Ax + i) + a * xj)
            total += a * load(V, y + i)
        store(V, Aty + j, total)


@kernel
def dot(V: Any, u: Any, v: Any, size: Any) -> Any:
    """u'v in each lane."""
    total = splat(V, 0.0)
    for i in range(size):
        total += load(V, u + i) * load(V, v + i)
    return total


@kernel
def largest(V: Any, u: Any, size: Any) -> Any:
    """The largest absolute value in each lane; NaN does not count."""
    found = splat(V, 0.0)
    for i in range(size):
        found = maximum(absolute(load(V, u + i)), found)
    return found
