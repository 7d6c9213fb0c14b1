"""Sparse affine maps between what callers have and what the method works on, for W elements of a batch at a time."""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.kernel import kernel
from cvxlayers.ipm.lanes import apart, fill, index, load_from, store_to

__all__ = ["map_group"]


@kernel
def map_group(maps: Any, weights: Any, which: Any, source: Any, column: Any, target: Any) -> None:
    """Map number ``which`` of a ``Stack``: the columns column, ..., column + W - 1 of source give those of target."""
    apart()
    at, place = index(maps, 2 * which), index(maps, 2 * which + 1)
    rows = index(maps, at)
    starts, columns, nonzeros = at + 1, at + rows + 2, place + rows
    for row in range(rows):
        total = fill(weights[place + row])
        for k in range(index(maps, starts + row), index(maps, starts + row + 1)):
            total += load_from(source, index(maps, columns + k), column) * weights[nonzeros + k]
        store_to(target, row, column, total)
