"""The numeric factorization K = L D L' of W quasi-definite matrices of one pattern, and solutions with it.

Any order of pivots will do for a quasi-definite matrix (Vanderbei 1995), so it is the plan's; no pivot is searched for.
L is in panels (see ``panels``, also for their records in the plan). Each takes what it is to take from earlier ones by
tiles, a few rows times a few columns, whose sums stay in registers, so that a number that is loaded takes part in
several multiplications. Panels of one column have short cuts, as sparse problems have hardly any others.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import index, load, noinline, select, splat, store
from cvxlayers.ldl.panels import BELOW, COLUMN, ENTRIES, FIELDS, NAMES, ROWS, START, UPDATES, WIDEST, WIDTH

__all__ = ["factorize", "solve"]

SMALLEST, REPLACED = 1e-13, 1e-8
"""A pivot of the wrong sign, or smaller than the first, becomes the second: the refinement makes up for it."""


@kernel
def factorize(plan: Any, at: Any, V: Any) -> None:
    """K, from its entries off the diagonal and on it, into L, D and 1 / D, panel by panel.

    The plan's ``slot`` is work space: where in L the entries of each of the panel's rows begin, less its first column.
    """
    noinline()
    panel, names, sources, k_entry, slot, sign = at.panel, at.panel_row, at.update, at.k_entry, at.slot, at.sign
    L, D, inverse, diagonal, entries = at.L, at.pivot, at.inverse, at.diagonal, at.entries
    zero = splat(V, 0.0)
    for s in range(panel, panel + FIELDS * at.panels, FIELDS):
        if index(plan, s + WIDTH) > 1:
            factorize_panel(plan, at, V, s)
            continue
        j, start, rows = index(plan, s + COLUMN), L + index(plan, s + START), index(plan, s + ROWS)
        row = names + index(plan, s + NAMES)
        plan[slot + j] = start - j
        for i in range(rows):
            store(V, start + 1 + i, zero)
            plan[slot + index(plan, row + i)] = start + 1 + i - j
        for e in range(index(plan, s + ENTRIES), index(plan, s + FIELDS + ENTRIES)):
            store(V, L + index(plan, k_entry + e), load(V, entries + e))
        d = load(V, diagonal + j)
        for u in range(index(plan, s + UPDATES), index(plan, s + FIELDS + UPDATES)):
            source, begin = panel + index(plan, sources + 3 * u), index(plan, sources + 3 * u + 1)
            if index(plan, source + WIDTH) > 1:
                store(V, start, d)
                update_by_strips(plan, at, V, source, begin, begin + 1)
                d = load(V, start)
                continue
            values, other = L + index(plan, source + BELOW), names + index(plan, source + NAMES)
            value = load(V, values + begin)
            t = value * load(V, D + index(plan, source + COLUMN))
            d -= t * value
            for i in range(begin + 1, index(plan, source + ROWS)):
                q = j + index(plan, slot + index(plan, other + i))
                store(V, q, load(V, q) - t * load(V, values + i))
        d = store_pivot(V, D, inverse, j, d, splat(V, 1.0 * index(plan, sign + j)))
        for i in range(start + 1, start + 1 + rows):
            store(V, i, load(V, i) * d)


@kernel
def factorize_panel(plan: Any, at: Any, V: Any, s: Any) -> None:
    """The same for a panel of several columns."""
    noinline()
    L, inverse, slot = at.L, at.inverse, at.slot
    first, width, rows = index(plan, s + COLUMN), index(plan, s + WIDTH), index(plan, s + ROWS)
    start, below, row = L + index(plan, s + START), L + index(plan, s + BELOW), at.panel_row + index(plan, s + NAMES)
    twins, end = below - start == width, below + rows * width
    for k in range(start, end):
        store(V, k, splat(V, 0.0))
    for i in range(width):
        q = start + i if twins else start + i * (i + 1) // 2 + i
        plan[slot + first + i] = q - first - i
        store(V, q, load(V, at.diagonal + first + i))
    for i in range(rows):
        plan[slot + index(plan, row + i)] = below + i * width - first
    for e in range(index(plan, s + ENTRIES), index(plan, s + FIELDS + ENTRIES)):
        store(V, L + index(plan, at.k_entry + e), load(V, at.entries + e))
    for u in range(index(plan, s + UPDATES), index(plan, s + FIELDS + UPDATES)):
        source, other = at.panel + index(plan, at.update + 3 * u), at.update + 3 * u + 1
        if index(plan, source + WIDTH) > 1:
            update_by_strips(plan, at, V, source, index(plan, other), index(plan, other + 1))
        else:
            update_by_column(plan, at, V, source, index(plan, other), index(plan, other + 1))
    if twins:
        for k in range(width):
            sign = splat(V, 1.0 * index(plan, at.sign + first + k))
            store_pivot(V, at.pivot, inverse, first + k, load(V, start + k), sign)
    else:
        eliminate_triangle(plan, at, V, start, first, width)
        eliminate_rows(V, start, below, width, rows)
    for k in range(width):
        d = load(V, inverse + first + k)
        for e in range(below + k, end, width):
            store(V, e, load(V, e) * d)


@kernel
def store_pivot(V: Any, D: Any, inverse: Any, i: Any, d: Any, sign: Any) -> Any:
    """Keep D's entry and its inverse, which is returned."""
    d = select(d * sign, splat(V, SMALLEST), d, REPLACED * sign)
    store(V, D + i, d)
    d = 1.0 / d
    store(V, inverse + i, d)
    return d


@kernel
def update_by_column(plan: Any, at: Any, V: Any, source: Any, begin: Any, end: Any) -> None:
    """Take from a panel what an earlier one of one column, the source, takes from it.

    begin, ..., end - 1 are those rows of the source that are the columns of the panel.
    """
    slot, below, names = at.slot, at.L + index(plan, source + BELOW), at.panel_row + index(plan, source + NAMES)
    d, rows = load(V, at.pivot + index(plan, source + COLUMN)), index(plan, source + ROWS)
    for j in range(begin, end):
        t = load(V, below + j) * d
        column = index(plan, names + j)
        for i in range(j, rows):
            q = index(plan, slot + index(plan, names + i)) + column
            store(V, q, load(V, q) - load(V, below + i) * t)


@kernel
def update_by_strips(plan: Any, at: Any, V: Any, source: Any, j: Any, end: Any) -> None:
    """The same for a source of several columns: by strips of three columns of the panel, or one."""
    noinline()
    width, rows, strip = index(plan, source + WIDTH), index(plan, source + ROWS), at.strip
    below, names = at.L + index(plan, source + BELOW), at.panel_row + index(plan, source + NAMES)
    D = at.pivot + index(plan, source + COLUMN)
    while j < end:
        columns = 3 if end - j >= 2 else 1
        for c in range(columns):
            a = below + min(j + c, end - 1) * width
            for k in range(width):
                store(V, strip + c * WIDEST + k, load(V, a + k) * load(V, D + k))
        if columns == 1:
            update_column(plan, V, at.slot, strip, below, names, width, j, rows)
        else:
            update_columns(plan, V, at.slot, strip, below, names, width, j, end, rows)
        j += columns


@kernel
def update_columns(plan: Any, V: Any, slot: Any, strip: Any, below: Any, names: Any, width: Any, j: Any, end: Any,
                   rows: Any) -> None:  # fmt: skip
    """The rows j, j + 1, ... of the source times the strip, which stands for its rows j, j + 1, j + 2 (if < end)."""
    zero = splat(V, 0.0)
    t = index(plan, names + j)
    t1, t2 = index(plan, names + min(j + 1, end - 1)), index(plan, names + min(j + 2, end - 1))
    for i in range(j, rows, 2):
        i1 = min(i + 1, rows - 1)
        a, a1 = below + i * width, below + i1 * width
        c00, c01, c02, c10, c11, c12 = zero, zero, zero, zero, zero, zero
        for k in range(width):
            b0, b1, b2 = load(V, strip + k), load(V, strip + WIDEST + k), load(V, strip + 2 * WIDEST + k)
            x = load(V, a + k)
            c00 += x * b0
            c01 += x * b1
            c02 += x * b2
            x = load(V, a1 + k)
            c10 += x * b0
            c11 += x * b1
            c12 += x * b2
        q, q1 = index(plan, slot + index(plan, names + i)), index(plan, slot + index(plan, names + i1))
        store(V, q + t, load(V, q + t) - c00)
        if i > j:
            store(V, q + t1, load(V, q + t1) - c01)
            if j + 2 < end:
                store(V, q + t2, load(V, q + t2) - c02)
        if i1 > i:
            store(V, q1 + t, load(V, q1 + t) - c10)
            store(V, q1 + t1, load(V, q1 + t1) - c11)
            if i > j and j + 2 < end:
                store(V, q1 + t2, load(V, q1 + t2) - c12)


@kernel
def update_column(plan: Any, V: Any, slot: Any, strip: Any, below: Any, names: Any, width: Any, j: Any,
                  rows: Any) -> None:  # fmt: skip
    """The rows j, j + 1, ... of the source times the strip's first row, which stands for its row j."""
    column = index(plan, names + j)
    for i in range(j, rows):
        a = below + i * width
        total = load(V, a) * load(V, strip)
        for k in range(1, width):
            total += load(V, a + k) * load(V, strip + k)
        q = index(plan, slot + index(plan, names + i)) + column
        store(V, q, load(V, q) - total)


@kernel
def eliminate_triangle(plan: Any, at: Any, V: Any, start: Any, first: Any, width: Any) -> None:
    """Factorize the block on the diagonal."""
    noinline()
    row = start
    for i in range(width):
        row += i
        d = load(V, row + i)
        other = start
        for k in range(i):
            other += k
            x = load(V, row + k)
            for p in range(k):
                x -= load(V, row + p) * load(V, other + p)
            store(V, row + k, x)
        for k in range(i):
            x = load(V, row + k)
            value = x * load(V, at.inverse + first + k)
            d -= x * value
            store(V, row + k, value)
        store_pivot(V, at.pivot, at.inverse, first + i, d, splat(V, 1.0 * index(plan, at.sign + first + i)))


@kernel
def eliminate_rows(V: Any, start: Any, below: Any, width: Any, rows: Any) -> None:
    """The rows below, times the inverse transpose of the triangle, four at a time."""
    noinline()
    for i in range(0, rows, 4):
        a = below + i * width
        a1 = below + min(i + 1, rows - 1) * width
        a2 = below + min(i + 2, rows - 1) * width
        a3 = below + min(i + 3, rows - 1) * width
        other = start
        for k in range(1, width):
            other += k
            x, x1, x2, x3 = load(V, a + k), load(V, a1 + k), load(V, a2 + k), load(V, a3 + k)
            for p in range(k):
                t = load(V, other + p)
                x -= load(V, a + p) * t
                x1 -= load(V, a1 + p) * t
                x2 -= load(V, a2 + p) * t
                x3 -= load(V, a3 + p) * t
            store(V, a + k, x)
            store(V, a1 + k, x1)
            store(V, a2 + k, x2)
            store(V, a3 + k, x3)


@kernel
def solve(plan: Any, at: Any, V: Any) -> None:
    """Overwrite v, by place, with K^-1 v."""
    noinline()
    v, L, names, inverse, panels = at.v, at.L, at.panel_row, at.inverse, FIELDS * at.panels
    for s in range(at.panel, at.panel + panels, FIELDS):
        if index(plan, s + WIDTH) > 1:
            forward(plan, at, V, s)
            continue
        x = load(V, v + index(plan, s + COLUMN))
        below, row = L + index(plan, s + BELOW), names + index(plan, s + NAMES)
        for i in range(index(plan, s + ROWS)):
            q = v + index(plan, row + i)
            store(V, q, load(V, q) - load(V, below + i) * x)
    for s in range(at.panel + panels - FIELDS, at.panel - FIELDS, -FIELDS):
        if index(plan, s + WIDTH) > 1:
            backward(plan, at, V, s)
            continue
        j = index(plan, s + COLUMN)
        x = load(V, v + j) * load(V, inverse + j)
        below, row = L + index(plan, s + BELOW), names + index(plan, s + NAMES)
        for i in range(index(plan, s + ROWS)):
            x -= load(V, below + i) * load(V, v + index(plan, row + i))
        store(V, v + j, x)


@kernel
def forward(plan: Any, at: Any, V: Any, s: Any) -> None:
    """One panel of the solution with L."""
    noinline()
    v, names, width = at.v, at.panel_row + index(plan, s + NAMES), index(plan, s + WIDTH)
    own, a, below = v + index(plan, s + COLUMN), at.L + index(plan, s + START), at.L + index(plan, s + BELOW)
    if below - a > width:
        for i in range(width):
            total = load(V, own + i)
            for k in range(i):
                total -= load(V, a + k) * load(V, own + k)
            store(V, own + i, total)
            a += i + 1
    a = below
    for i in range(names, names + index(plan, s + ROWS)):
        q = v + index(plan, i)
        total = load(V, q)
        for k in range(width):
            total -= load(V, a + k) * load(V, own + k)
        store(V, q, total)
        a += width


@kernel
def backward(plan: Any, at: Any, V: Any, s: Any) -> None:
    """One panel of the solution with D L', by four columns, or one, at a time."""
    noinline()
    v, names, width, rows = at.v, at.panel_row + index(plan, s + NAMES), index(plan, s + WIDTH), index(plan, s + ROWS)
    own, start, below = index(plan, s + COLUMN), at.L + index(plan, s + START), at.L + index(plan, s + BELOW)
    for k in range(own, own + width):
        store(V, v + k, load(V, v + k) * load(V, at.inverse + k))
    own += v
    k = 0
    while k + 4 <= width:
        x, x1, x2, x3 = load(V, own + k), load(V, own + k + 1), load(V, own + k + 2), load(V, own + k + 3)
        a = below + k
        for i in range(rows):
            t = load(V, v + index(plan, names + i))
            x -= load(V, a) * t
            x1 -= load(V, a + 1) * t
            x2 -= load(V, a + 2) * t
            x3 -= load(V, a + 3) * t
            a += width
        store(V, own + k, x)
        store(V, own + k + 1, x1)
        store(V, own + k + 2, x2)
        store(V, own + k + 3, x3)
        k += 4
    for c in range(k, width):
        x = load(V, own + c)
        for i in range(rows):
            x -= load(V, below + i * width + c) * load(V, v + index(plan, names + i))
        store(V, own + c, x)
    if below - start > width:
        for j in range(width - 1, 0, -1):
            t = load(V, own + j)
            row = start + j * (j + 1) // 2
            for c in range(j):
                store(V, own + c, load(V, own + c) - load(V, row + c) * t)
