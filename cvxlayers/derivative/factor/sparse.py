"""The sparse path: the quasi-definite matrix of each element, factorized by SuperLU.

Rows on which D is zero have u = 0 and are left out, so that constraints that are not active cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from cvxlayers.derivative.factor.quasidefinite import SUPERLU, QuasiDefinite
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array

__all__ = ["SparseFactor", "SparseFactorization"]


class SparseFactorization:
    """Factorizations of sparse matrices one by one, for problems that are large and sparse.

    ``pairs`` is the number of products that the elimination takes.
    """

    def __init__(self, matrix: QuasiDefinite, pairs: int) -> None:
        self._matrix = matrix
        self._cost = 2.5e5 + 1e3 * matrix.order.size + 10.0 * matrix.fill + 0.5 * pairs
        self.bytes_per_element = 12 * matrix.fill + 8 * matrix.source.size

    def cost(self, batch: int) -> float:
        """The predicted nanoseconds for a batch."""
        return batch * self._cost

    def factorize(self, system: System) -> SparseFactor:
        """The factors of every element; those that have none are marked."""
        matrix = self._matrix
        values = np.take(matrix.values(system).T, matrix.source, axis=1)
        kept = np.ones((system.batch, matrix.order.size), dtype=bool)
        n, m = system.layout.structure.n, system.layout.structure.m
        kept[:, n : n + m] = ~system.idle.T
        kept = np.take(kept, matrix.order, axis=1)
        factors = [_factor(matrix, values[i], kept[i]) for i in range(system.batch)]
        usable = np.array([factor is not None for factor in factors], dtype=bool)
        return SparseFactor(system, matrix, factors, [matrix.order[row] for row in kept], usable)


@dataclass(frozen=True)
class SparseFactor:
    """M's solution operator; ``usable`` (B,) says which elements have one, ``kept`` which unknowns of each stay, in the
    order of its factors."""

    system: System
    matrix: QuasiDefinite
    factors: list[Any]
    kept: list[NDArray[np.intp]]
    usable: NDArray[np.bool_]

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]:
        """M^-1 (f, g) for some elements; the columns of the others have no meaning."""
        n, m = f.shape[0], g.shape[0]
        right = np.zeros((f.shape[1], self.matrix.order.size))
        right[:, :n], right[:, n : n + m] = f.T, g.T
        z = np.zeros_like(right)
        for i in elements:
            kept = self.kept[i]
            z[i, kept] = self.factors[i].solve(right[i, kept])
        return self.matrix.split(self.system, np.ascontiguousarray(z.T), g)


def _factor(pattern: QuasiDefinite, values: Array, kept: NDArray[np.bool_]) -> Any | None:
    """SuperLU's factors of the kept rows and columns, or None where a pivot is zero or a value is not finite."""
    if not np.isfinite(values).all():
        return None
    indptr, indices = pattern.indptr, pattern.indices
    if not kept.all():
        stays = kept[indices] & np.repeat(kept, np.diff(indptr))
        place = np.cumsum(kept, dtype=np.int32) - 1
        ends = np.concatenate([[0], np.cumsum(stays, dtype=np.int32)])[indptr[1:]]
        indptr = np.concatenate([[0], ends[kept]]).astype(np.int32)
        values, indices = values[stays], place[indices[stays]]
    size = indptr.size - 1
    matrix = sp.csc_array((values, indices, indptr), shape=(size, size))
    try:
        return splu(matrix, permc_spec="NATURAL", **SUPERLU)
    except RuntimeError:  # "Factor is exactly singular"
        return None
