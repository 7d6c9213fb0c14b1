"""The symbolic factorization K = L D L' of a sparse symmetric matrix: where L has nonzeros, and in which order to work.

The elimination tree and the rows of L follow from the pattern alone (Liu 1990; Davis 2006, chapter 4): row i of L is
what the tree's paths from the nonzeros of K's row i meet on their way to i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cvxlayers.ipm.ordering import minimum_degree

__all__ = ["Elimination", "analyse"]

Index = NDArray[np.int32]


@dataclass(frozen=True)
class Elimination:
    """L's pattern by columns and by rows.

    Parameters
    ----------
    order : (N,) int32
        Entry i is the variable that is eliminated i-th; everything below is in the new numbers.
    column_start : (N + 1,) int32
    row : (nnz,) int32
        L by columns, below the diagonal: the row of each entry, sorted inside each column.
    row_start : (N + 1,) int32
    column, entry : (nnz,) int32
        L by rows: the column of each entry, and its place in the order by columns.
    """

    order: Index
    column_start: Index
    row: Index
    row_start: Index
    column: Index
    entry: Index

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
        counts = np.diff(self.column_start).astype(np.int64)
        return int((counts * (counts + 3)).sum() // 2)

    def position(self, rows: Index, columns: Index) -> Index:
        """Where the entries of K below the diagonal, in the new numbers, lie among L's: all of them do."""
        keys = self.row.astype(np.int64) + self.size * np.repeat(
            np.arange(self.size, dtype=np.int64), np.diff(self.column_start)
        )
        return np.searchsorted(keys, rows.astype(np.int64) + self.size * columns.astype(np.int64)).astype(np.int32)


def analyse(
    rows: NDArray[np.integer], columns: NDArray[np.integer], size: int, largest: int = 2**31 - 1
) -> Elimination | None:
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
    return min(fit, key=lambda candidate: candidate.operations) if fit else None


def _eliminate(
    rows: NDArray[np.integer], columns: NDArray[np.integer], order: Index, largest: int
) -> Elimination | None:
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
    return _assemble(order, by_row)


def _assemble(order: Index, by_row: list[list[int]]) -> Elimination:
    size = order.size
    lengths = np.fromiter(map(len, by_row), dtype=np.int64, count=size)
    row_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    column = np.fromiter((k for found in by_row for k in found), dtype=np.int32, count=int(lengths.sum()))
    row = np.repeat(np.arange(size, dtype=np.int32), lengths)
    by_column = np.argsort(column, kind="stable")
    entry = np.empty(column.size, dtype=np.int32)
    entry[by_column] = np.arange(column.size, dtype=np.int32)
    counts = np.bincount(column, minlength=size)
    column_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return Elimination(order, column_start, row[by_column], row_start, column, entry)
