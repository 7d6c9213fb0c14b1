"""The symbolic factorization K = L D L' of a sparse symmetric matrix: where L has nonzeros, and in which order to work.

The elimination tree and the rows of L follow from the pattern alone (Liu 1990; Davis 2006, chapter 4): row i of L is
what the tree's paths from the nonzeros of K's row i meet on their way to i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cvxlayers.ldl.ordering import minimum_degree
from cvxlayers.ldl.panels import Panels, divide

__all__ = ["SymbolicFactorization", "analyse"]

Index = NDArray[np.int32]


@dataclass(frozen=True)
class SymbolicFactorization:
    """L's pattern.

    Parameters
    ----------
    order : (N,) int32
        Entry i is the variable that is eliminated i-th; everything below is in the new numbers.
    column_start : (N + 1,) int32
    row : (nnz,) int32
        L by columns, below the diagonal: the row of each entry, sorted inside each column.
    panels : Panels
        The columns that are stored and worked on together.
    """

    order: Index
    column_start: Index
    row: Index
    panels: Panels

    @property
    def size(self) -> int:
        """N."""
        return int(self.order.size)

    @property
    def nnz(self) -> int:
        return int(self.row.size)

    @cached_property
    def operations(self) -> int:
        """Multiplications and additions, in pairs, of one numeric factorization."""
        return _operations(self.column_start)


class _Pattern(NamedTuple):
    """An order, and L's pattern by columns in it."""

    order: Index
    column_start: Index
    row: Index

    @classmethod
    def of(cls, order: Index, row: Index, column: Index) -> _Pattern:
        counts = np.bincount(column, minlength=order.size)
        column_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return cls(order, column_start, row[np.lexsort((row, column))])

    def moved(self, old: Index) -> _Pattern:
        """The same, with column old[j] as column j: parents still come after their children."""
        place = np.empty(old.size, dtype=np.int32)
        place[old] = np.arange(old.size, dtype=np.int32)
        column = np.repeat(np.arange(old.size), np.diff(self.column_start))
        return _Pattern.of(self.order[old], place[self.row], place[column])


def analyse(
    rows: NDArray[np.integer], columns: NDArray[np.integer], size: int, largest: int = 2**31 - 1
) -> SymbolicFactorization | None:
    """Order a symmetric matrix, given by its nonzeros off the diagonal, and find L's pattern.

    None where L would have more than ``largest`` nonzeros in every order that is tried.

    Examples
    --------
    >>> analyse(np.array([1, 2]), np.array([0, 1]), 3).nnz  # a chain has no fill
    2
    """
    orders = [minimum_degree(rows, columns, size, external) for external in (True, False)]
    tried = [_eliminate(rows, columns, order, largest) for order in orders]
    fit = [candidate for candidate in tried if candidate is not None]
    if not fit:
        return None
    found = min(fit, key=lambda candidate: _operations(candidate.column_start))
    old = _neighbours(found)
    column, chain = divide(*found.moved(old)[1:])
    # The panels in the order in which minimum degree takes the last of their columns: it goes from leaf to leaf, and
    # work on columns that do not wait for each other overlaps in the processor.
    turn = np.argsort(np.maximum.reduceat(old, column[:-1])) if size else column[:-1]
    old = np.concatenate([*(old[column[s] : column[s + 1]] for s in turn), old[:0]])
    order, column_start, row = found.moved(old)
    column = np.concatenate([[0], np.cumsum(np.diff(column)[turn])])
    return SymbolicFactorization(order, column_start, row, Panels.of(column, chain[turn], column_start, row))


def _operations(column_start: Index) -> int:
    counts = np.diff(column_start).astype(np.int64)
    return int((counts * (counts + 3)).sum() // 2)


def _eliminate(rows: NDArray[np.integer], columns: NDArray[np.integer], order: Index, largest: int) -> _Pattern | None:
    size = order.size
    place = np.empty(size, dtype=np.int64)
    place[order] = np.arange(size)
    i, j = place[rows], place[columns]
    above: list[list[int]] = [[] for _ in range(size)]
    for low, high in zip(np.minimum(i, j).tolist(), np.maximum(i, j).tolist(), strict=True):
        above[high].append(low)
    parent, mark = [-1] * size, [-1] * size
    by_row: list[list[int]] = []
    for i, neighbours in enumerate(above):
        mark[i] = i
        found: list[int] = []
        for k in neighbours:
            while mark[k] != i:
                mark[k] = i
                found.append(k)
                if parent[k] < 0:
                    parent[k] = i
                k = parent[k]
        by_row.append(found)
        largest -= len(found)
        if largest < 0:
            return None
    lengths = np.fromiter(map(len, by_row), dtype=np.int64, count=size)
    column = np.fromiter((k for found in by_row for k in found), dtype=np.int32, count=int(lengths.sum()))
    return _Pattern.of(order, np.repeat(np.arange(size, dtype=np.int32), lengths), column)


def _neighbours(found: _Pattern) -> Index:
    """The columns in an order in which those that can share a panel are neighbours.

    Each comes right after its child with the most rows, and columns of one parent with equal rows, of which none
    continues a chain, come together.
    """
    starts, size = found.column_start.tolist(), found.order.size
    children: list[list[int]] = [[] for _ in range(size + 1)]
    for j in range(size):
        children[found.row[starts[j]] if starts[j] < starts[j + 1] else size].append(j)

    def count(j: int) -> int:
        return starts[j + 1] - starts[j]

    def groups(j: int) -> list[list[int]]:
        alike: dict[bytes | int, list[int]] = {}
        for child in children[j]:
            chained = any(count(k) == count(child) + 1 for k in children[child])
            rows = found.row[starts[child] : starts[child + 1]].tobytes()
            alike.setdefault(child if chained else rows, []).append(child)
        return sorted(alike.values(), key=lambda group: (len(group) == 1, count(group[0])))

    backwards: list[int] = []
    pending = groups(size)
    while pending:
        group = pending.pop()
        backwards += group
        for j in group:
            pending += groups(j)
    return np.array(backwards[::-1], dtype=np.int32)
