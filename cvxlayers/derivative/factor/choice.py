"""Which way of factorizing M is the fastest, by the costs that the structure predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cvxlayers.derivative.factor.condensed import CondensedFactorization
from cvxlayers.derivative.factor.conic_blocks import ConicBlocks
from cvxlayers.derivative.factor.lanes import LanesFactorization
from cvxlayers.derivative.factor.quasidefinite import QuasiDefinite
from cvxlayers.derivative.factor.refinement import Factor
from cvxlayers.derivative.factor.sparse import SparseFactorization
from cvxlayers.derivative.factor.symbolic import count_pairs, eliminate
from cvxlayers.derivative.system.system import System, SystemLayout

__all__ = ["Factorization", "Choice", "WAYS"]

WAYS = ("condensed", "sparse", "lanes")
"""The ways by name: dense and condensed, sparse one by one, sparse side by side."""

# Beyond this n, a dense H of one element takes more than 288 MB, and is not considered.
_LARGEST_DENSE = 6000
# A matrix of larger order and density than these is not considered as sparse.
_SMALL, _DENSE = 200, 0.15
# Fill beyond which the elimination is not simulated, and that of all elements at once not considered.
_LARGEST_FILL = 1_000_000


class Factorization(Protocol):
    """A way of factorizing M, with the memory that it takes for an element and the nanoseconds for a batch."""

    @property
    def bytes_per_element(self) -> int: ...

    def cost(self, batch: int) -> float: ...

    def factorize(self, system: System) -> Factor: ...


@dataclass(frozen=True)
class Choice:
    """The ways that may be the fastest, each for some size of the batch."""

    candidates: tuple[Factorization, ...]

    @classmethod
    def of(cls, layout: SystemLayout, prefer: str | None = None) -> Choice:
        """Those of one layout, or the one of ``WAYS`` that is preferred, whatever it costs."""
        structure = layout.structure
        if prefer is not None:
            return cls((_preferred(layout, prefer),))
        found: list[Factorization] = []
        if structure.n <= _LARGEST_DENSE:
            found.append(CondensedFactorization(structure))
        order = structure.n + structure.m
        nonzeros = structure.n + layout.P.nnz + 2 * structure.A.nnz + ConicBlocks.count(structure.cones)
        if not found or order <= _SMALL or nonzeros <= _DENSE * order**2:
            sparse, lanes = _sparse(layout, min((path.cost(1) for path in found), default=np.inf))
            found += [sparse, *lanes]
        return cls(tuple(found))

    def fastest(self, batch: int) -> Factorization:
        """The way with the least predicted cost for this size of the batch."""
        return min(self.candidates, key=lambda path: path.cost(batch))


def _preferred(layout: SystemLayout, way: str) -> Factorization:
    if way == "condensed":
        return CondensedFactorization(layout.structure)
    matrix = QuasiDefinite.of(layout)
    return (
        SparseFactorization(matrix, 0)
        if way == "sparse"
        else LanesFactorization(matrix, eliminate(matrix.structures()))
    )


def _sparse(layout: SystemLayout, limit: float) -> tuple[Factorization, list[Factorization]]:
    """The sparse way, and the elimination of all elements at once if it may be the fastest for some batch."""
    matrix = QuasiDefinite.of(layout)
    if matrix.fill > _LARGEST_FILL:
        # The columns of the factor are taken to be equally long.
        return SparseFactorization(matrix, matrix.fill**2 // (8 * matrix.order.size)), []
    found = matrix.structures()
    pairs = count_pairs(found)
    sparse = SparseFactorization(matrix, pairs)
    if LanesFactorization.cost_per_element(pairs, matrix.fill // 2) >= min(limit, sparse.cost(1)):
        return sparse, []
    return sparse, [LanesFactorization(matrix, eliminate(found))]
