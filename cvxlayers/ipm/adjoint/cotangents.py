"""The cotangents of P and A for multipliers of the optimality conditions, for W elements of a batch at a time."""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import index, load, load_from, noinline, store

__all__ = ["pair_P", "pair_A"]


@kernel
def pair_P(plan: Any, at: Any, rx: Any, x: Any, column: Any, dP: Any) -> None:
    """-(rx x' + x rx') / 2 on P's pattern, where an entry off the diagonal stands for both of its places.

    rx and dP have W columns, x those of the batch.
    """
    noinline()
    for j in range(at.n):
        xj, rj = load_from(x, j, column), load(rx, j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            i = index(plan, at.P_row + k)
            if i == j:
                store(dP, k, -(rj * xj))
            else:
                store(dP, k, -(load(rx, i) * xj + load_from(x, i, column) * rj))


@kernel
def pair_A(plan: Any, at: Any, r: Any, x: Any, y: Any, column: Any, dA: Any) -> None:
    """-(y rx' + rv x') on A's pattern; r = (rx, rv) and dA have W columns, x and y those of the batch."""
    noinline()
    for j in range(at.n):
        xj, rj = load_from(x, j, column), load(r, j)
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            i = index(plan, at.A_row + k)
            store(dA, k, -(load_from(y, i, column) * rj + load(r, at.n + i) * xj))
