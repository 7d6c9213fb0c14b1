"""Sparse affine maps between what callers have and what the method works on, for W elements of a batch at a time."""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import columns_of, index, load_from, noinline, scatter_to, splat, store_to

__all__ = ["map_group", "map_group_apart"]


@kernel
def map_group(maps: Any, weights: Any, which: Any, source: Any, column: Any, target: Any, place: Any) -> None:
    """Map number ``which`` of a ``Stack``: the columns column, ..., column + W - 1 of source give those of target from
    place on."""
    noinline()
    for row in range(index(maps, index(maps, 2 * which))):
        store_to(target, row, place, mapped_row(maps, weights, which, row, source, column))


@kernel
def map_group_apart(maps: Any, weights: Any, which: Any, source: Any, ends: Any, column: Any, target: Any) -> None:
    """The same for a source of W columns, but for each element the results of rows 0, ..., ends[0] - 1 lie side by
    side, and so on.

    Below its first row target (rows, batch) consists of (batch, ends[0]) numbers for the first rows, then of those for
    rows ends[0], ..., ends[1] - 1, and so on.
    """
    noinline()
    start, batch = 0, columns_of(target)
    for part in range(len(ends)):
        end = index(ends, part)
        size = end - start
        for row in range(start, end):
            value = mapped_row(maps, weights, which, row, source, 0)
            scatter_to(target, (1 + start) * batch + column * size + row - start, size, value)
        start = end


@kernel
def mapped_row(maps: Any, weights: Any, which: Any, row: Any, source: Any, column: Any) -> Any:
    """One row of the map's result."""
    at, place = index(maps, 2 * which), index(maps, 2 * which + 1)
    rows = index(maps, at)
    starts, columns, nonzeros = at + 1, at + rows + 2, place + rows
    total = splat(source, weights[place + row])
    for k in range(index(maps, starts + row), index(maps, starts + row + 1)):
        total += load_from(source, index(maps, columns + k), column) * weights[nonzeros + k]
    return total
