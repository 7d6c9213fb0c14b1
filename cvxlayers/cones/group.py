"""The blocks of a product cone sorted into groups of equal shape, so that one vectorized call serves a whole group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cvxlayers.cones.arrays import Array, Index
from cvxlayers.cones.product import Block, Cones

__all__ = ["Group", "groups"]


@dataclass(frozen=True)
class Group:
    """N cones of one kind and one dimension d.

    Parameters
    ----------
    kind : str
        "second_order", "psd", "exponential" or "power".
    rows : (N, d) int
        The rows of each cone; not to be written to.
    data : (N,) float
        What ``Block.data`` says of each cone: the exponents alpha for power cones.
    """

    kind: str
    rows: Index
    data: Array

    @property
    def count(self) -> int:
        """N, the number of cones."""
        return int(self.rows.shape[0])

    @property
    def dimension(self) -> int:
        """d, the number of rows of each cone."""
        return int(self.rows.shape[1])

    def fold(self, v: Array) -> Array:
        """The group's rows of v (m, B), with the cones folded into the last axis: (d, N B)."""
        return v[self.rows.T].reshape(self.dimension, -1)

    def fold_rows(self, part: Array) -> Array:
        """(d, N, B) as (d, N B)."""
        return np.ascontiguousarray(part).reshape(self.dimension, -1)

    def unfold(self, folded: Array, batch: int) -> Array:
        """(d, N B) as (d, N, B), which is what ``v[rows.T]`` of v (m, B) has."""
        return folded.reshape(*folded.shape[:-1], self.count, batch)

    def per_lane(self, batch: int) -> Array:
        """The data of the cone in each of the N B folded lanes."""
        return np.repeat(self.data, batch)


@lru_cache(maxsize=128)
def groups(cones: Cones) -> tuple[Group, ...]:
    """The groups of the cones that are not polyhedral, in the order of their first rows.

    The rows before them are polyhedral: ``cones.zero`` equalities, then ``cones.nonneg`` inequalities.

    Examples
    --------
    >>> [(group.kind, group.rows.tolist()) for group in groups(Cones(nonneg=1, second_order=(2, 1, 2)))]
    [('second_order', [[1, 2], [4, 5]]), ('second_order', [[3]])]
    """
    members: dict[tuple[str, int], list[Block]] = {}
    for block in cones.blocks:
        if block.kind not in ("zero", "nonneg"):
            members.setdefault((block.kind, block.stop - block.start), []).append(block)
    return tuple(_group(kind, dimension, blocks) for (kind, dimension), blocks in members.items())


def _group(kind: str, dimension: int, blocks: list[Block]) -> Group:
    starts = np.array([block.start for block in blocks], dtype=np.intp)
    rows = starts[:, None] + np.arange(dimension, dtype=np.intp)
    data = np.array([block.data for block in blocks], dtype=np.float64)
    rows.setflags(write=False)
    data.setflags(write=False)
    return Group(kind, rows, data)
