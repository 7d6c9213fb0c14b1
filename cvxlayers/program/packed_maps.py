"""Sparse affine maps as compiled kernels read them: two flat arrays for several maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["Stack"]


@dataclass(frozen=True)
class Stack:
    """Maps v -> matrix @ v + constant, numbered from 0.

    Attributes
    ----------
    index : int32
        For each map, where it begins here and where it begins in ``weights``; then for each map, from there on, the
        number of its rows, the first of each row's nonzeros (and the end), counted from the map's first nonzero, and
        the nonzeros' columns.
    weights : float64
        For each map the constants of its rows, then its nonzeros.
    rows : tuple of int
        How many rows each map has.

    Examples
    --------
    >>> stack = Stack.of((sp.csr_array([[0.0, 2.0]]), np.array([1.0])))
    >>> stack.index.tolist(), stack.weights.tolist()
    ([2, 0, 1, 0, 1, 1], [1.0, 2.0])
    """

    index: NDArray[np.int32]
    weights: NDArray[np.float64]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, *maps: tuple[sp.csr_array, NDArray[np.float64] | None]) -> Stack:
        """The stack of some maps; None stands for no constant."""
        index, weights = [], []
        starts, at, place = [], 2 * len(maps), 0
        for matrix, constant in maps:
            rows = matrix.shape[0]
            starts += [at, place]
            index += [[rows], matrix.indptr, matrix.indices]
            weights += [np.zeros(rows) if constant is None else constant, matrix.data]
            at, place = at + rows + 2 + matrix.nnz, place + rows + matrix.nnz
        return cls(_joined([starts, *index], np.int32), _joined(weights, float), tuple(m.shape[0] for m, _ in maps))


def _joined(parts: Sequence[Sequence[float] | NDArray[np.generic]], dtype: type) -> NDArray:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts]) if parts else np.zeros(0, dtype=dtype)
