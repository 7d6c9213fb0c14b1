"""L in panels: neighbouring columns that are stored and worked on together, as small dense matrices.

Where neighbouring columns of L have the same rows, they are a supernode (Ashcraft, Grimes 1989; Ng, Peyton 1993), and
each number that the processor loads takes part in several multiplications. Two kinds:

* chains: each column is the parent of the one before, and their block on the diagonal is a dense triangle;
* twins: columns of the same parent, such as the rows of a dense A with a diagonal H, whose block is diagonal.

Wide panels are cut, so that what a product works on stays in the first two caches. Where working together would save
less than it costs, columns are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BELOW",
    "COLUMN",
    "ENTRIES",
    "FIELDS",
    "NAMES",
    "ROWS",
    "START",
    "UPDATES",
    "WIDEST",
    "WIDTH",
    "Panels",
    "divide",
]

Index = NDArray[np.int32]
Long = NDArray[np.int64]

WIDEST, LEAST = 24, 32
"""Columns of a panel, at most; and numbers of a panel of several columns, at least."""

COLUMN, WIDTH, ROWS, START, BELOW, NAMES, UPDATES, ENTRIES = range(8)
FIELDS = 8
"""A panel's record in the plan: its first column, its columns, the rows below; where in L its numbers begin and where
those of the rows below; and the first of its rows' names, of its updates and of K's entries."""


@dataclass(frozen=True)
class Panels:
    """L by panels.

    A panel of w columns with r rows below has its numbers by rows: those of its block on the diagonal, which are the
    lower triangle of a chain or the diagonal of twins, then r rows of w. Below, it is an array (panels + 1,) whose last
    entry is the end of all.

    Parameters
    ----------
    column : (panels + 1,) int64
        The first column of each.
    start, below : (panels + 1,) int64
        Where in L the numbers of each begin, and those of the rows below its block.
    name : (panels + 1,) int64
        Where the names of its rows begin in ``row``.
    row : int64
        The rows below each panel.
    update : (panels + 1,) int64
        Where its updates begin.
    source, begin, end : (updates,) int64
        By panel, the panels that it takes something from, and which of their rows are among its columns.
    """

    column: Long
    start: Long
    below: Long
    name: Long
    row: Long
    update: Long
    source: Long
    begin: Long
    end: Long

    @classmethod
    def of(cls, column: Long, chain: NDArray[np.bool_], column_start: Index, row: Index) -> Panels:
        """The panels with these first columns, and N; the rows below a panel are those of its last column."""
        width, count = np.diff(column), column.size - 1
        rows = [row[column_start[j - 1] : column_start[j]] for j in column[1:]]
        lengths = np.array([part.size for part in rows], dtype=np.int64)
        names = np.concatenate([*rows, np.zeros(0, dtype=np.int64)]).astype(np.int64)
        name = np.concatenate([[0], np.cumsum(lengths)])
        block = np.where(chain, width * (width + 1) // 2, width)
        start = np.concatenate([[0], np.cumsum(block + lengths * width)])
        source = np.repeat(np.arange(count), lengths)
        target = np.repeat(np.arange(count), width)[names]
        place = np.arange(names.size) - name[source]
        heads = np.flatnonzero(np.diff(source * count + target, prepend=-1))
        ends = np.append(heads[1:], names.size)
        order = np.argsort(target[heads], kind="stable")
        heads, ends = heads[order], ends[order]
        update = np.searchsorted(target[heads], np.arange(count + 1))
        below = np.append(start[:-1] + block, start[-1])
        return cls(column, start, below, name, names, update, source[heads], place[heads], place[ends - 1] + 1)

    @property
    def count(self) -> int:
        """How many there are."""
        return self.column.size - 1

    @property
    def nnz(self) -> int:
        """Numbers that are stored, those on the diagonal among them."""
        return int(self.start[-1])

    def position(self, rows: Index, columns: Index) -> Index:
        """Where the entries on and below the diagonal lie among L's: all of them do."""
        width, size = np.diff(self.column), int(self.column[-1])
        owner = np.repeat(np.arange(self.count), width)
        panel = owner[columns]
        own, local = columns - self.column[panel], rows - self.column[panel]
        keys = self.row + size * np.repeat(np.arange(self.count), np.diff(self.name))
        place = np.searchsorted(keys, rows + size * panel) - self.name[panel]
        chain = self.below[panel] - self.start[panel] > width[panel]
        inside = self.start[panel] + own + np.where(chain, local * (local + 1) // 2, 0)
        return np.where(owner[rows] == panel, inside, self.below[panel] + place * width[panel] + own).astype(np.int32)

    def records(self, columns: Index) -> Index:
        """The records (panels + 1, FIELDS); K's entries are in these columns, in order."""
        width, rows = np.diff(self.column, append=self.column[-1]), np.diff(self.name, append=self.name[-1])
        entries = np.searchsorted(columns, self.column)
        parts = (self.column, width, rows, self.start, self.below, self.name, self.update, entries)
        return np.stack(parts, axis=1).astype(np.int32)

    def updates(self) -> Index:
        """For each update, where the record of its source begins, and which of its rows (updates, 3)."""
        return np.stack([FIELDS * self.source, self.begin, self.end], axis=1).astype(np.int32)


def divide(column_start: Index, row: Index) -> tuple[Long, NDArray[np.bool_]]:
    """The first columns of the panels, and N, and which panels are chains; from a pattern with sorted rows.

    Examples
    --------
    >>> starts = np.cumsum([0, *range(29, -1, -1)])  # a dense matrix of order 30
    >>> rows = np.concatenate([np.arange(j + 1, 30) for j in range(30)])
    >>> divide(starts, rows)
    (array([ 0, 15, 30]), array([ True,  True]))
    """
    size = column_start.size - 1
    counts = np.diff(column_start)
    parent = np.full(size, -1)
    parent[counts > 0] = row[column_start[:-1][counts > 0]]
    chained = (parent[:-1] == np.arange(1, size)) & (counts[:-1] == counts[1:] + 1)
    alike = np.array([_same(column_start, row, j) for j in range(size - 1)], dtype=bool)
    first, chain = [], []
    j = 0
    while j < size:
        k, joined = j, alike if j + 1 < size and alike[j] else chained
        while k + 1 < size and joined[k] and (joined is alike or k + 2 >= size or not alike[k + 1]):
            k += 1
        if (k + 1 - j) * (k + 1 - j + counts[k]) < LEAST:
            k = j
        pieces = -(-(k + 1 - j) // WIDEST)
        first += [j + (k + 1 - j) * piece // pieces for piece in range(pieces)]
        chain += [joined is chained] * pieces
        j = k + 1
    return np.array([*first, size]), np.array(chain, dtype=bool)


def _same(column_start: Index, row: Index, j: int) -> bool:
    """Whether column j and the next have equal rows."""
    begin, middle, end = column_start[j : j + 3]
    return middle - begin == end - middle and bool((row[begin:middle] == row[middle:end]).all())
