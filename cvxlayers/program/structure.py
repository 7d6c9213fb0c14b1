"""The standard form: its structure, shared by all elements of a batch, and its values, per call.

    minimize  1/2 x'Px + q'x    subject to  Ax + s = b,  s in K          (x: n,  s and y: m)

P and A are sparse with a fixed pattern. The batch is the last axis of every array of values.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones
from cvxlayers.program.linear import LinearMap, broadcast_column

__all__ = ["Array", "Pattern", "Structure", "Values", "is_shared"]

Array = NDArray[np.float64]
Index = NDArray[np.int32]


@dataclass(frozen=True)
class Pattern:
    """Where the nonzeros of a sparse matrix lie: compressed columns, row indices sorted inside each.

    Parameters
    ----------
    shape : (int, int)
    indptr : (columns + 1,) int32
    indices : (nnz,) int32
        Row of each nonzero.
    """

    shape: tuple[int, int]
    indptr: Index
    indices: Index

    @classmethod
    def of(cls, rows: NDArray[np.integer], columns: NDArray[np.integer], shape: tuple[int, int]) -> Pattern:
        """The pattern of distinct positions that are already sorted by column, then row."""
        counts = np.bincount(columns, minlength=shape[1])
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return cls(shape, indptr, rows.astype(np.int32))

    @property
    def nnz(self) -> int:
        return int(self.indices.size)

    @property
    def rows(self) -> Index:
        """Row of each nonzero."""
        return self.indices

    @cached_property
    def columns(self) -> Index:
        """Column of each nonzero."""
        return np.repeat(np.arange(self.shape[1], dtype=np.int32), np.diff(self.indptr))

    @cached_property
    def by_rows(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The nonzeros' order by rows, and where each row begins in it, (rows + 1,)."""
        order = np.argsort(self.rows, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(self.rows, minlength=self.shape[0]))])
        return order, starts.astype(np.intp)

    def matrix(self, values: Array) -> sp.csc_array:
        """The matrix with these values, (nnz,); it shares the pattern's arrays."""
        return _filled(self._matrix, values)

    def transposed(self, values: Array) -> sp.csr_array:
        """Its transpose, likewise."""
        return _filled(self._transposed, values)

    @cached_property
    def _matrix(self) -> sp.csc_array:
        return sp.csc_array((np.zeros(self.nnz), self.indices, self.indptr), shape=self.shape)

    @cached_property
    def _transposed(self) -> sp.csr_array:
        return sp.csr_array((np.zeros(self.nnz), self.indices, self.indptr), shape=self.shape[::-1])

    @cached_property
    def _row_sums(self) -> LinearMap:
        places = (np.ones(self.nnz), (self.rows, np.arange(self.nnz)))
        return LinearMap(sp.csr_array(places, shape=(self.shape[0], self.nnz)))

    @cached_property
    def _column_sums(self) -> LinearMap:
        places = (np.ones(self.nnz), (self.columns, np.arange(self.nnz)))
        return LinearMap(sp.csr_array(places, shape=(self.shape[1], self.nnz)))

    def times(self, values: Array, x: Array) -> Array:
        """M x for each element of the batch: values (nnz, B) and x (columns, B) give (rows, B)."""
        if self._worth_sharing(values):
            return np.asarray(self.matrix(np.ascontiguousarray(values[:, 0])) @ x)
        return self._row_sums(values * x[self.columns])

    def transpose_times(self, values: Array, y: Array) -> Array:
        """M'y for each element of the batch: values (nnz, B) and y (rows, B) give (columns, B)."""
        if self._worth_sharing(values):
            return np.asarray(self.transposed(np.ascontiguousarray(values[:, 0])) @ y)
        return self._column_sums(values * y[self.rows])

    def _worth_sharing(self, values: Array) -> bool:
        """Whether one matrix serves the whole batch and pays for being made and multiplied with."""
        return values.shape[1] > 8 and is_shared(values)


def _filled(matrix: Any, values: Array) -> Any:
    """A sparse matrix with other values; SciPy's constructors would check its pattern anew, which takes far longer."""
    found = copy.copy(matrix)
    found.data = values
    return found


def is_shared(values: Array) -> bool:
    """Whether one column of values stands for the whole batch: a broadcast view, or a batch of one."""
    return values.shape[1] == 1 or (values.shape[1] > 1 and values.strides[1] == 0)


@dataclass(frozen=True)
class Structure:
    """What depends on the problem alone: sizes, sparsity patterns and cones.

    Parameters
    ----------
    P : Pattern
        Upper triangle (with the diagonal) of the (n, n) matrix P; no nonzeros for a linear objective.
    A : Pattern
        The (m, n) matrix A.
    cones : Cones
        K, with ``cones.m == m``.
    varying : frozenset of str
        Those of "P", "q", "A", "b" that depend on parameters; the others have the same values in every call.
    """

    P: Pattern
    A: Pattern
    cones: Cones
    varying: frozenset[str] = frozenset("PqAb")

    @property
    def n(self) -> int:
        return self.A.shape[1]

    @property
    def m(self) -> int:
        return self.A.shape[0]

    @property
    def quadratic(self) -> bool:
        """Whether the objective has a quadratic part."""
        return self.P.nnz > 0

    @cached_property
    def _off_diagonal(self) -> NDArray[np.bool_]:
        return self.P.rows != self.P.columns

    def P_times(self, values: Array, x: Array) -> Array:
        """P x from the upper triangle's values (nnz, B): (n, B)."""
        if not self.quadratic:
            return np.zeros_like(x)
        above = values[self._off_diagonal] if not is_shared(values) else _shared_rows(values, self._off_diagonal)
        return self.P.times(values, x) + self._strict.transpose_times(above, x)

    @cached_property
    def _strict(self) -> Pattern:
        """The part of P's pattern above the diagonal."""
        keep = self._off_diagonal
        return Pattern.of(self.P.rows[keep], self.P.columns[keep], self.P.shape)


def _shared_rows(values: Array, keep: NDArray[np.bool_]) -> Array:
    return broadcast_column(values[keep, 0], values.shape[1])


class Values(NamedTuple):
    """The numbers of one call: P (nnz of P, B), q (n, B), A (nnz of A, B), b (m, B).

    Arrays that are the same for the whole batch may be broadcast views; none is ever written to.
    """

    P: Array
    q: Array
    A: Array
    b: Array

    @property
    def batch(self) -> int:
        return int(self.q.shape[1])

    def select(self, indices: NDArray[np.integer]) -> Values:
        """The values of some elements of the batch."""
        return Values(*(_take(part, indices) for part in self))


def _take(part: Array, indices: NDArray[np.integer]) -> Array:
    if is_shared(part):
        return broadcast_column(np.ascontiguousarray(part[:, 0]), len(indices))
    return part[:, indices]
