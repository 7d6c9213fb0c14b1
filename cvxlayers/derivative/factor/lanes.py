"""The path for batches of sparse problems: the quasi-definite matrices of all elements factorized at once.

The entries of L and d in K = L diag(d) L' are arrays over the batch, and the schedule of the elimination, which is the
same for all elements, is a handful of array operations for each level of the elimination tree (see ``symbolic``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.derivative.factor.quasidefinite import QuasiDefinite
from cvxlayers.derivative.factor.symbolic import Elimination, Level
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array

__all__ = ["LanesFactor", "LanesFactorization"]


class LanesFactorization:
    """Factorizations of sparse matrices side by side, for batches of small or very sparse problems."""

    def __init__(self, matrix: QuasiDefinite, elimination: Elimination) -> None:
        self._matrix = matrix
        self._elimination = elimination
        lower = np.flatnonzero(matrix.indices >= matrix.columns)
        self._source = matrix.source[lower]
        self._position = elimination.positions(matrix.indices[lower].astype(np.intp), matrix.columns[lower])
        self._sums = [_sums(level) for level in elimination.levels]
        self._solves = _Substitution.of(elimination)
        widest = max((level.left.size for level in elimination.levels), default=0)
        self.bytes_per_element = 16 * elimination.rows.size + 24 * widest

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        elimination = self._elimination
        each = self.cost_per_element(elimination.pairs, elimination.rows.size)
        return 2e5 * len(elimination.levels) + batch * each

    @staticmethod
    def cost_per_element(pairs: int, entries: int) -> float:
        """The part of the predicted cost that grows with the batch."""
        return 5.0 * pairs + 80.0 * entries

    def factorize(self, system: System) -> LanesFactor:
        """The factors of every element; those that have none are marked."""
        matrix, elimination = self._matrix, self._elimination
        V = np.zeros((elimination.rows.size, system.batch))
        V[self._position] = matrix.values(system)[self._source]
        L = np.empty_like(V)
        reciprocal = np.empty((elimination.order, system.batch))
        with np.errstate(all="ignore"):
            for level, sums in zip(elimination.levels, self._sums, strict=True):
                entries = V[level.start : level.stop]
                if level.left.size:
                    entries -= sums @ (V[level.left] * L[level.right])
                inverse = 1.0 / entries[: level.columns.size]
                np.multiply(entries, inverse[level.owner], out=L[level.start : level.stop])
                reciprocal[level.columns] = inverse
        usable = np.asarray(np.isfinite(reciprocal).all(axis=0))
        return LanesFactor(system, matrix, self._solves, L, reciprocal, usable)


@dataclass(frozen=True)
class LanesFactor:
    """M's solution operator; ``usable`` (B,) says which elements have one."""

    system: System
    matrix: QuasiDefinite
    solves: _Substitution
    L: Array
    reciprocal: Array
    usable: NDArray[np.bool_]

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]:
        """M^-1 (f, g) for some elements; the columns of the others have no meaning."""
        z = self.matrix.right(self.system, f, g)
        with np.errstate(all="ignore"):
            self.solves.forward(self.L, z)
            z *= self.reciprocal
            self.solves.backward(self.L, z)
            return self.matrix.solution(self.system, z, g)


@dataclass(frozen=True)
class _Step:
    """Part of a substitution: z[target] -= sums @ (L[entries] * z[source])."""

    target: NDArray[np.intp]
    entries: NDArray[np.intp]
    source: NDArray[np.intp]
    sums: sp.csr_array

    def apply(self, L: Array, z: Array) -> None:
        z[self.target] -= self.sums @ (L[self.entries] * z[self.source])


@dataclass(frozen=True)
class _Substitution:
    """Solves with L and L' for all elements at once, level by level."""

    up: tuple[_Step, ...]
    down: tuple[_Step, ...]

    @classmethod
    def of(cls, elimination: Elimination) -> _Substitution:
        rows, columns = elimination.rows, elimination.columns
        below = np.flatnonzero(rows != columns)
        height = np.empty(elimination.order, dtype=np.intp)
        for h, level in enumerate(elimination.levels):
            height[level.columns] = h
        up, down = [], []
        for h in range(len(elimination.levels)):
            into, out = below[height[rows[below]] == h], below[height[columns[below]] == h]
            if into.size:
                up.append(_step(rows, columns, into))
            if out.size:
                down.append(_step(columns, rows, out))
        return cls(tuple(up), tuple(reversed(down)))

    def forward(self, L: Array, z: Array) -> None:
        """z <- L^-1 z."""
        for step in self.up:
            step.apply(L, z)

    def backward(self, L: Array, z: Array) -> None:
        """z <- L'^-1 z."""
        for step in self.down:
            step.apply(L, z)


def _step(target: NDArray[np.intp], source: NDArray[np.intp], entries: NDArray[np.intp]) -> _Step:
    entries = entries[np.argsort(target[entries], kind="stable")]
    distinct, counts = np.unique(target[entries], return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    return _Step(distinct, entries, source[entries], _ones(ends))


def _sums(level: Level) -> sp.csr_array:
    return _ones(level.ends)


def _ones(ends: NDArray[np.integer]) -> sp.csr_array:
    """The matrix that sums consecutive terms: row i those from ends[i] to ends[i + 1]."""
    size = int(ends[-1])
    indices = np.arange(size, dtype=np.int32)
    return sp.csr_array((np.ones(size), indices, ends.astype(np.int32)), shape=(ends.size - 1, size))
