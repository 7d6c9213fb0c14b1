"""Scaling of variables and rows, so that the entries of P and A have comparable sizes (Ruiz 2001)."""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kernel import kernel
from cvxlayers.ipm.lanes import (
    absolute,
    apart,
    fill,
    highest,
    index,
    load,
    load_from,
    maximum,
    minimum,
    pick,
    sqrt,
    store,
)

__all__ = ["equilibrate", "load_scaled", "norms"]

ROUNDS, NEAR_ONE, LIMIT = 10, 0.5, 1e4
"""At most so many rounds; fewer if no norm is further from one than the second; no scaling beyond the third."""


@kernel
def equilibrate(plan: Any, at: Any, V: Any, P: Any, A: Any, column: Any) -> None:
    """Find D and E, the scalings of variables and rows, and load D P D and E A D.

    In the scaled matrices the largest entry of each column of [[P, A'], [A, 0]] is about one; the rows of a curved cone
    share their scaling. The batch, in which an element's entries lie far apart, is read once.
    """
    apart()
    for i in range(at.n):
        store(V, at.D + i, fill(V, 1.0))
        store(V, at.D_inverse + i, fill(V, 1.0))
    for i in range(at.m):
        store(V, at.E + i, fill(V, 1.0))
        store(V, at.E_inverse + i, fill(V, 1.0))
    load_scaled(plan, at, V, P, A, column)
    for _ in range(ROUNDS):
        norms(plan, at, V)
        x_off = rescale_by(V, at.x1, at.D, at.D_inverse, at.n)
        off = maximum(x_off, rescale_by(V, at.y1, at.E, at.E_inverse, at.m))
        scale_further(plan, at, V)
        if highest(off) < NEAR_ONE:
            break


@kernel
def load_scaled(plan: Any, at: Any, V: Any, P: Any, A: Any, column: Any) -> None:
    """The matrices of W elements, from this column of the batch on: D P D and E A D."""
    apart()
    for j in range(at.n):
        scale = load(V, at.D + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            other = load(V, at.D + index(plan, at.P_row + k))
            store(V, at.P + k, load_from(P, k, column) * (scale * other))
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            other = load(V, at.E + index(plan, at.A_row + k))
            store(V, at.A + k, load_from(A, k, column) * (scale * other))


@kernel
def scale_further(plan: Any, at: Any, V: Any) -> None:
    """Multiply the matrices by the changes of the scalings, which are in x1 and y1."""
    apart()
    for j in range(at.n):
        scale = load(V, at.x1 + j)
        for k in range(index(plan, at.P_start + j), index(plan, at.P_start + j + 1)):
            store(V, at.P + k, load(V, at.P + k) * (scale * load(V, at.x1 + index(plan, at.P_row + k))))
        for k in range(index(plan, at.A_start + j), index(plan, at.A_start + j + 1)):
            store(V, at.A + k, load(V, at.A + k) * (scale * load(V, at.y1 + index(plan, at.A_row + k))))


@kernel
def norms(plan: Any, at: Any, V: Any) -> None:
    """The largest entries of the columns of [[P, A'], [A, 0]], into x1 and y1; the mean over a cone's rows."""
    apart()
    x, y = at.x1, at.y1
    for i in range(at.n):
        store(V, x + i, fill(V, 0.0))
    for i in range(at.m):
        store(V, y + i, fill(V, 0.0))
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
    for c in range(at.blocks):
        start, stop = index(plan, at.cone_start + c), index(plan, at.cone_start + c + 1)
        total = fill(V, 0.0)
        for i in range(start, stop):
            total += load(V, y + i)
        for i in range(start, stop):
            store(V, y + i, total / (1.0 * (stop - start)))


@kernel
def rescale_by(V: Any, norm: Any, scale: Any, inverse: Any, size: Any) -> Any:
    """Divide the scalings by the roots of the norms, which become the changes; return how far a norm was from one."""
    off = fill(V, 0.0)
    for i in range(size):
        found = load(V, norm + i)
        found = pick(found, fill(V, 0.0), found, fill(V, 1.0))
        off = maximum(off, absolute(found - 1.0))
        before = load(V, scale + i)
        root = minimum(maximum(sqrt(found), before * (1.0 / LIMIT)), before * LIMIT)
        change = 1.0 / root
        store(V, scale + i, before * change)
        store(V, inverse + i, load(V, inverse + i) * root)
        store(V, norm + i, change)
    return off
