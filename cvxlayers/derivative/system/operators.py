"""Products with the matrices of a batch, in the form that suits them: one matrix for all elements or one for each,
sparse or dense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from cvxlayers.program.structure import Array, Pattern, is_shared

__all__ = [
    "DenseOperator",
    "Operator",
    "ScaledOperator",
    "SharedOperator",
    "SparseOperator",
    "dense",
    "operator",
    "stack",
]

# From this density on, or up to these sizes (of a batch, of a single element), a dense product is faster than one that
# follows the pattern.
_DENSE, _SMALL, _SMALL_ALONE = 0.25, 2048, 2**15


class Operator(ABC):
    """M for each element of a batch; the batch is the last axis of vectors."""

    @abstractmethod
    def times(self, x: Array) -> Array:
        """M x: (columns, B) gives (rows, B)."""

    @abstractmethod
    def transpose_times(self, y: Array) -> Array:
        """M'y: (rows, B) gives (columns, B)."""


@dataclass(frozen=True)
class SharedOperator(Operator):
    """One matrix for the whole batch, dense or sparse."""

    matrix: Array | sp.csc_array

    @cached_property
    def _transpose(self) -> Array | sp.csr_array:
        return self.matrix.T

    def times(self, x: Array) -> Array:
        return np.asarray(self.matrix @ x)

    def transpose_times(self, y: Array) -> Array:
        return np.asarray(self._transpose @ y)


@dataclass(frozen=True)
class SparseOperator(Operator):
    """A sparse matrix for each element: the values (nnz, B) of one pattern."""

    pattern: Pattern
    values: Array

    def times(self, x: Array) -> Array:
        return self.pattern.times(self.values, x)

    def transpose_times(self, y: Array) -> Array:
        return self.pattern.transpose_times(self.values, y)


@dataclass(frozen=True)
class DenseOperator(Operator):
    """A dense matrix for each element: (B, rows, columns)."""

    matrices: Array

    def times(self, x: Array) -> Array:
        return np.asarray((self.matrices @ _columns(x))[:, :, 0].T)

    def transpose_times(self, y: Array) -> Array:
        return np.asarray((self.matrices.swapaxes(1, 2) @ _columns(y))[:, :, 0].T)


@dataclass(frozen=True)
class ScaledOperator(Operator):
    """diag(rows) M diag(columns), with scales (rows, B) and (columns, B)."""

    plain: Operator
    rows: Array
    columns: Array

    def times(self, x: Array) -> Array:
        return self.rows * self.plain.times(self.columns * x)

    def transpose_times(self, y: Array) -> Array:
        return self.columns * self.plain.transpose_times(self.rows * y)


def operator(pattern: Pattern, values: Array) -> Operator:
    """The operator of the values (nnz, B) of a pattern, in the form that is fastest for its density."""
    size = pattern.shape[0] * pattern.shape[1]
    small = size <= (_SMALL_ALONE if values.shape[1] == 1 else _SMALL)
    full = pattern.nnz > 0 and (small or pattern.nnz >= _DENSE * size)
    if is_shared(values):
        column = np.ascontiguousarray(values[:, :1])
        matrix = stack(pattern, column)[0] if full else pattern.matrix(column[:, 0])
        return SharedOperator(matrix)
    return DenseOperator(stack(pattern, values)) if full else SparseOperator(pattern, values)


def stack(pattern: Pattern, values: Array) -> Array:
    """The dense matrices (B, rows, columns) of the values (nnz, B)."""
    rows, columns = pattern.shape
    batch, nnz = values.shape[1], pattern.nnz
    # Gathered, which is several times as fast as scattering; the last entry of each source is the zero of the rest.
    source = np.zeros((batch, nnz + 1))
    source[:, :nnz] = values.T
    place = np.full(rows * columns, nnz, dtype=np.intp)
    place[pattern.rows.astype(np.intp) * columns + pattern.columns] = np.arange(nnz)
    return np.take(source, place, axis=1).reshape(batch, rows, columns)


def dense(found: Operator) -> Array | None:
    """The matrices (B, rows, columns), or (1, rows, columns) where they are shared, if the operator has them dense."""
    if isinstance(found, DenseOperator):
        return found.matrices
    if isinstance(found, SharedOperator) and isinstance(found.matrix, np.ndarray):
        return found.matrix[None]
    return None


def _columns(x: Array) -> Array:
    return np.ascontiguousarray(x.T)[:, :, None]
