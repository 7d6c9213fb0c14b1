"""The numeric factorization K = L D L' of W quasi-definite matrices of one pattern, and solutions with it.

Any order of pivots will do for a quasi-definite matrix (Vanderbei 1995), so it is the plan's; no pivot is searched for.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kernel import kernel
from cvxlayers.ipm.lanes import apart, fill, index, load, pick, store

__all__ = ["factorize", "solve"]

SMALLEST, REPLACED = 1e-13, 1e-8
"""A pivot of the wrong sign, or smaller than the first, becomes the second: the refinement makes up for it."""


@kernel
def factorize(plan: Any, at: Any, V: Any) -> None:
    """K, from its entries off the diagonal and on it, into L, D and 1 / D.

    Column i of L is K's, less what each column j with L[i, j] != 0 takes from it. The plan's ``slot`` is work space:
    where in L the entries of column i lie.
    """
    apart()
    l_start, l_row, r_start, r_column, r_entry = at.l_start, at.l_row, at.r_start, at.r_column, at.r_entry
    k_start, k_entry, slot, entries = at.k_start, at.k_entry, at.slot, at.entries
    L, D, inverse, diagonal, sign = at.L, at.pivot, at.inverse, at.diagonal, at.sign
    zero = fill(0.0)
    for i in range(at.size):
        begin, end = index(plan, l_start + i), index(plan, l_start + i + 1)
        for k in range(begin, end):
            plan[slot + index(plan, l_row + k)] = k
            store(V, L + k, zero)
        for e in range(index(plan, k_start + i), index(plan, k_start + i + 1)):
            store(V, L + index(plan, k_entry + e), load(V, entries + e))
        d = load(V, diagonal + i)
        for p in range(index(plan, r_start + i), index(plan, r_start + i + 1)):
            j = index(plan, r_column + p)
            k = index(plan, r_entry + p)
            value = load(V, L + k)
            t = value * load(V, D + j)
            d -= t * value
            for e in range(k + 1, index(plan, l_start + j + 1)):
                q = L + index(plan, slot + index(plan, l_row + e))
                store(V, q, load(V, q) - t * load(V, L + e))
        signs = fill(1.0 * index(plan, sign + i))
        d = pick(d * signs, fill(SMALLEST), d, REPLACED * signs)
        store(V, D + i, d)
        d = 1.0 / d
        store(V, inverse + i, d)
        for k in range(begin, end):
            store(V, L + k, load(V, L + k) * d)


@kernel
def solve(plan: Any, at: Any, V: Any) -> None:
    """Overwrite v, by place, with K^-1 v."""
    apart()
    l_start, l_row, L, inverse, v = at.l_start, at.l_row, at.L, at.inverse, at.v
    size = at.size
    for j in range(size):
        vj = load(V, v + j)
        for k in range(index(plan, l_start + j), index(plan, l_start + j + 1)):
            i = v + index(plan, l_row + k)
            store(V, i, load(V, i) - load(V, L + k) * vj)
    for j in range(size - 1, -1, -1):
        vj = load(V, v + j) * load(V, inverse + j)
        for k in range(index(plan, l_start + j), index(plan, l_start + j + 1)):
            vj -= load(V, L + k) * load(V, v + index(plan, l_row + k))
        store(V, v + j, vj)
