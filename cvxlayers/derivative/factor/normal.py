"""The normal matrix H = P + A'WA + delta C^-2 of a batch, W block-diagonal over the cones, as dense upper triangles.

Two ways, chosen once by counting operations: a sparse map from the entries of W to those of H, which costs one
multiplication for each pair of nonzeros that meet in H, or products of dense matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones.blocks import BlockDerivative
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.derivative.system.operators import dense, stack
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array, Structure, is_shared

__all__ = ["DenseNormal", "PairNormal", "normal"]

# Nanoseconds for one pair of the map (A shared by the batch; A of its own for each element) and for one operation of a
# dense product: measured, and needed only in their proportions.
_PAIR_SHARED, _PAIR_OWN, _DENSE = 1.0, 5.0, 0.05
# Pairs beyond which the map would take too much memory.
_MOST_PAIRS = 1_000_000


def normal(structure: Structure) -> DenseNormal | PairNormal:
    """The cheaper of the two ways for this structure."""
    dense = _DENSE * 2 * _count_dense(structure)
    count = _count_pairs(structure)
    pairs = count * (_PAIR_OWN if "A" in structure.varying else _PAIR_SHARED)
    if count <= _MOST_PAIRS and pairs <= dense:
        return PairNormal.of(structure, pairs)
    return DenseNormal(structure, dense)


@dataclass(frozen=True)
class DenseNormal:
    """H by products of dense matrices; ``cost`` in predicted nanoseconds for one element."""

    structure: Structure
    cost: float

    @property
    def bytes_per_element(self) -> int:
        """Bytes of the temporary arrays."""
        return 16 * self.structure.m * self.structure.n

    def assemble(self, system: System) -> Array:
        """The matrices (B, n, n), whose upper triangles are to be read."""
        values, structure = system.values, self.structure
        A = dense(system.plain_A)
        if A is None:
            A = stack(structure.A, values.A[:, :1] if is_shared(values.A) else values.A)
        W = system.plain_W
        weights = W.diagonal.copy()
        terms = [_rank_one_terms(group, part, weights) for group, part in W.parts if group.rank_one_terms]
        H = A.swapaxes(1, 2) @ (np.ascontiguousarray(weights.T)[:, :, None] * A)
        for vectors, scale in terms:
            G = vectors @ A
            H += G.swapaxes(1, 2) @ (scale[:, :, None] * G)
        for group, part in W.parts:
            if not group.rank_one_terms:
                _add_blocks(H, A, group, part)
        return _with_objective(H, system)


def _rank_one_terms(group: Group, part: BlockDerivative, weights: Array) -> tuple[Array, Array]:
    """The rank-one terms of W on the rows of a group: vectors (B, terms N, m) and their factors (B, terms N).

    The multiples of the identity beside them go into ``weights`` (m, B).
    """
    terms, (m, batch) = part.rank_one_terms(), weights.shape
    weights[group.rows.T] = group.unfold(terms.unit[None], batch)
    count = group.rank_one_terms
    vectors = np.zeros((batch, count, group.count, m))
    own = np.moveaxis(group.unfold(terms.vectors, batch), (0, 1, 2, 3), (1, 3, 2, 0))
    np.put_along_axis(vectors, np.broadcast_to(group.rows, own.shape), own, axis=3)
    factors = group.unfold(terms.weights, batch).reshape(-1, batch)
    return vectors.reshape(batch, -1, m), np.ascontiguousarray(factors.T)


def _add_blocks(H: Array, A: Array, group: Group, part: BlockDerivative) -> None:
    """Add A'WA over the rows of a group of dense blocks to H (B, n, n)."""
    batch, n, _ = H.shape
    blocks = np.ascontiguousarray(np.moveaxis(group.unfold(part.dense(), batch), (2, 3), (1, 0)))
    rows = A[:, group.rows]
    WA = (blocks @ rows).reshape(batch, -1, n)
    H += rows.reshape(A.shape[0], -1, n).swapaxes(1, 2) @ WA


@dataclass(frozen=True)
class PairNormal:
    """H by a sparse map from the entries of W, whose structure is known once for all.

    Attributes
    ----------
    positions : (h,) int
        The entries of H that are ever nonzero through A'WA, as row * n + column, row <= column.
    left, right : (pairs,) int
        The nonzeros of A whose product weighs one entry of W.
    weights : (pairs,) int
        That entry of W.
    starts : (h + 1,) int
        The pairs of each entry of H.
    size : int
        The number of entries of W.
    cost : float
        Predicted nanoseconds for one element.
    """

    structure: Structure
    positions: NDArray[np.intp]
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weights: NDArray[np.int32]
    starts: NDArray[np.int32]
    size: int
    cost: float

    @classmethod
    def of(cls, structure: Structure, cost: float) -> PairNormal:
        first, second, size = _entries(structure)
        left, right, weights = _pairs(structure, first, second)
        rows, columns = structure.A.columns[left].astype(np.intp), structure.A.columns[right].astype(np.intp)
        keep = rows <= columns
        place = rows[keep] * structure.n + columns[keep]
        order = np.argsort(place, kind="stable")
        positions, counts = np.unique(place, return_counts=True)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        chosen = np.flatnonzero(keep)[order]
        return cls(
            structure, positions, left[chosen], right[chosen], weights[chosen].astype(np.int32), starts, size, cost
        )

    @property
    def bytes_per_element(self) -> int:
        """Bytes of the temporary arrays."""
        return 8 * self.weights.size if "A" in self.structure.varying else 8 * self.positions.size

    def assemble(self, system: System) -> Array:
        """The matrices (B, n, n), whose upper triangles are to be read."""
        n, A = self.structure.n, system.values.A
        W = self._weights(system.plain_W)
        H = np.zeros((system.batch, n * n))
        if self.positions.size:
            if system.batch == 1:
                terms = A[self.left, 0] * A[self.right, 0] * W[self.weights, 0]
                H[0, self.positions] = np.add.reduceat(terms, self.starts[:-1])
                return _with_objective(H.reshape(-1, n, n), system)
            if is_shared(A):
                products, weights, right = A[self.left, 0] * A[self.right, 0], self.weights, W
            else:
                right = A[self.left] * A[self.right] * W[self.weights]
                products, weights = np.ones(right.shape[0]), np.arange(right.shape[0], dtype=np.int32)
            shape = (self.positions.size, right.shape[0])
            entries = sp.csr_array((products, weights, self.starts), shape=shape) @ right
            H[:, self.positions] = entries.T
        return _with_objective(H.reshape(-1, n, n), system)

    def _weights(self, W: DualDerivative) -> Array:
        flat = self.structure.cones.zero + self.structure.cones.nonneg
        blocks = [part.reshape(-1, W.batch) for _, part in W.blocks]
        return np.concatenate([W.diagonal[:flat], *blocks]) if blocks else W.diagonal


def _with_objective(H: Array, system: System) -> Array:
    P, n = system.layout.structure.P, H.shape[1]
    matrices = dense(system.plain_P)
    if matrices is not None:
        H += matrices
    elif P.nnz:
        H.reshape(-1, n * n)[:, P.rows.astype(np.intp) * n + P.columns] += system.values.P.T
    H.reshape(-1, n * n)[:, :: n + 1] += (system.delta / system.scales[0] ** 2).T
    return H


def _entries(structure: Structure) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """The rows and columns of the entries of W: the diagonal, then each group's blocks as (d, d, N)."""
    flat = np.arange(structure.cones.zero + structure.cones.nonneg)
    rows, columns = [flat], [flat]
    for group in groups(structure.cones):
        d = group.dimension
        rows.append(np.broadcast_to(group.rows.T[:, None], (d, d, group.count)).ravel())
        columns.append(np.broadcast_to(group.rows.T[None], (d, d, group.count)).ravel())
    first, second = np.concatenate(rows), np.concatenate(columns)
    return first, second, first.size


def _pairs(
    structure: Structure, first: NDArray[np.intp], second: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """All (nonzero of A in row i, nonzero of A in row k, entry of W) for the entries (i, k) of W."""
    by_row = np.argsort(structure.A.rows, kind="stable")
    counts = np.bincount(structure.A.rows, minlength=structure.m)
    starts = np.concatenate([[0], np.cumsum(counts)])
    number = counts[first] * counts[second]
    weights = np.repeat(np.arange(first.size), number)
    within = np.arange(weights.size) - np.repeat(np.cumsum(number) - number, number)
    width = counts[second][weights]
    left = by_row[starts[first][weights] + within // np.maximum(width, 1)]
    right = by_row[starts[second][weights] + within % np.maximum(width, 1)]
    return left, right, weights


def _count_pairs(structure: Structure) -> int:
    """How many of those pairs there are in one triangle of H."""
    counts = np.bincount(structure.A.rows, minlength=structure.m).astype(np.int64)
    flat = counts[: structure.cones.zero + structure.cones.nonneg]
    total = int((flat * (flat + 1) // 2).sum())
    return total + sum(int((counts[group.rows].sum(axis=1) ** 2).sum()) // 2 for group in groups(structure.cones))


def _count_dense(structure: Structure) -> int:
    """How many multiplications the products of dense matrices take."""
    m, n = structure.m, structure.n
    total = m * n * n
    for group in groups(structure.cones):
        if group.rank_one_terms:
            total += group.rank_one_terms * group.count * (m * n + n * n)
        else:
            total += group.count * group.dimension * n * (group.dimension + n)
    return total
