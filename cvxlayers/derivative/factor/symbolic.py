"""Symbolic elimination: which entries the triangular factor of a symmetric matrix has, and in which order they arise.

The columns of a sparse matrix form a tree (Liu 1990): each depends only on its descendants, so that all columns of the
same height are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Elimination", "Level", "count_pairs", "eliminate", "structures"]

Index = NDArray[np.intp]


@dataclass(frozen=True)
class Level:
    """The columns of one height: entries ``start:stop`` of the factor, the diagonal ones first.

    Attributes
    ----------
    columns : (c,) int
        The columns; entry ``start + i`` is the diagonal of ``columns[i]``.
    owner : (entries,) int
        For each entry, which of those columns it is in.
    left, right : (pairs,) int
        Entries of earlier levels whose products are subtracted from entries of this level.
    ends : (entries + 1,) int
        The pairs of each entry.
    """

    start: int
    stop: int
    columns: Index
    owner: Index
    left: Index
    right: Index
    ends: NDArray[np.int32]


@dataclass(frozen=True)
class Elimination:
    """The factor L of K = L diag(d) L', as a list of entries in the order of their levels.

    Attributes
    ----------
    rows, columns : (entries,) int
        Where each entry stands, diagonal entries included.
    levels : tuple of Level
    """

    order: int
    rows: Index
    columns: Index
    levels: tuple[Level, ...]

    @cached_property
    def pairs(self) -> int:
        return sum(level.left.size for level in self.levels)

    def positions(self, rows: Index, columns: Index) -> Index:
        """Where the entries (row, column), row >= column, stand in the list."""
        keys = self.columns * self.order + self.rows
        sort = np.argsort(keys)
        return sort[np.searchsorted(keys, columns * self.order + rows, sorter=sort)]


def structures(rows: Index, columns: Index, order: int) -> list[Index]:
    """The rows below the diagonal in each column of the factor, sorted; for the lower entries (rows, columns) of K."""
    below = rows > columns
    sort = np.lexsort((rows[below], columns[below]))
    starts = np.searchsorted(columns[below][sort], np.arange(order + 1))
    own = rows[below][sort]
    inherited: list[list[Index]] = [[] for _ in range(order)]
    found = []
    for j in range(order):
        parts = [own[starts[j] : starts[j + 1]], *inherited[j]]
        inherited[j] = []
        column = np.unique(np.concatenate(parts)) if len(parts) > 1 else parts[0]
        if column.size > 1:
            inherited[column[0]].append(column[1:])
        found.append(column)
    return found


def count_pairs(found: list[Index]) -> int:
    """How many products the numeric elimination takes."""
    counts = np.array([column.size for column in found], dtype=np.int64)
    return int((counts * (counts + 1) // 2).sum())


def eliminate(found: list[Index]) -> Elimination:
    """The schedule for the columns' structures."""
    order = len(found)
    height = np.zeros(order, dtype=np.intp)
    for j, column in enumerate(found):
        if column.size:
            height[column[0]] = max(height[column[0]], height[j] + 1)
    rows = np.concatenate([np.arange(order), *found])
    columns = np.concatenate([np.arange(order), np.repeat(np.arange(order), [column.size for column in found])])
    # By height; inside a height the diagonal entries come first.
    sort = np.lexsort((rows, columns, rows > columns, height[columns]))
    rows, columns = rows[sort], columns[sort]
    bare = Elimination(order, rows, columns, ())
    target, left, right = _pairs(found, bare)
    bounds = np.searchsorted(height[columns], np.arange(height.max(initial=-1) + 2))
    levels = [_level(bare, start, stop, target, left, right) for start, stop in pairwise(bounds)]
    return Elimination(order, rows, columns, tuple(levels))


def _level(bare: Elimination, start: int, stop: int, target: Index, left: Index, right: Index) -> Level:
    columns = bare.columns[start:stop][bare.rows[start:stop] == bare.columns[start:stop]]
    place = np.empty(bare.order, dtype=np.intp)
    place[columns] = np.arange(columns.size)
    ends = np.searchsorted(target, np.arange(start, stop + 1))
    within = slice(ends[0], ends[-1])
    owner = place[bare.columns[start:stop]]
    return Level(start, stop, columns, owner, left[within], right[within], (ends - ends[0]).astype(np.int32))


def _pairs(found: list[Index], bare: Elimination) -> tuple[Index, Index, Index]:
    """For each product L_ik d_k L_jk: the entries (i, j), (i, k) and (j, k), i >= j > k, sorted by the first."""
    sizes = np.array([column.size for column in found], dtype=np.intp)
    i, j, k = ([np.zeros(0, dtype=np.intp)] for _ in range(3))
    for size in np.unique(sizes[sizes > 0]):
        columns = np.flatnonzero(sizes == size)
        rows = np.stack([found[column] for column in columns])
        low, high = np.triu_indices(size)
        i.append(rows[:, high].ravel())
        j.append(rows[:, low].ravel())
        k.append(np.repeat(columns, low.size))
    one, two, source = np.concatenate(i), np.concatenate(j), np.concatenate(k)
    target = bare.positions(one, two)
    sort = np.argsort(target, kind="stable")
    left, right = bare.positions(one, source), bare.positions(two, source)
    return target[sort], left[sort], right[sort]
