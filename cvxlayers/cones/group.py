"""The blocks of a product cone sorted into groups of equal shape, so that one vectorized call serves a whole group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cvxlayers.cones.arrays import Array, Index
from cvxlayers.cones.kinds import KINDS
from cvxlayers.cones.product import Block, Cones

__all__ = ["Group", "groups"]


@dataclass(frozen=True)
class Group:
    """N cones of one kind and one dimension d.

    Parameters
    ----------
    kind : str
        A kind of cone that is not polyhedral, by its name.
    rows : (N, d) int
        The rows of each cone; not to be written to.
    exponents : (N,) or (k, N) float, optional
        The exponents of power cones.
    """

    kind: str
    rows: Index
    exponents: Array | None

    @property
    def count(self) -> int:
        """N, the number of cones."""
        return int(self.rows.shape[0])

    @property
    def dimension(self) -> int:
        """d, the number of rows of each cone."""
        return int(self.rows.shape[1])

    @property
    def rank_one_terms(self) -> int:
        """How many terms tell D beside a multiple of the identity; 0 where it takes a dense block."""
        return KINDS[self.kind].rank_one_terms

    @property
    def spectrum(self) -> int:
        """How many numbers the spectrum of D of one cone takes; 0 where it is not told by one."""
        return KINDS[self.kind].spectrum(self.dimension)

    def fold(self, v: Array) -> Array:
        """The group's rows of v (m, B), with the cones folded into the last axis: (d, N B)."""
        return v[self.rows.T].reshape(self.dimension, -1)

    def fold_rows(self, part: Array) -> Array:
        """(d, N, B) as (d, N B)."""
        return np.ascontiguousarray(part).reshape(self.dimension, -1)

    def unfold(self, folded: Array, batch: int) -> Array:
        """(d, N B) as (d, N, B), which is what ``v[rows.T]`` of v (m, B) has."""
        return folded.reshape(*folded.shape[:-1], self.count, batch)

    def per_lane(self, batch: int) -> tuple[Array, ...]:
        """What the cone's functions take beside v: the exponents in each of the N B folded lanes, if it has some."""
        return () if self.exponents is None else (np.repeat(self.exponents, batch, axis=-1),)


@lru_cache(maxsize=128)
def groups(cones: Cones) -> tuple[Group, ...]:
    """The groups of the cones that are not polyhedral, in the order of their first rows.

    The ``cones.flat`` rows before them are polyhedral.

    Examples
    --------
    >>> [(group.kind, group.rows.tolist()) for group in groups(Cones(nonneg=1, second_order=(2, 1, 2)))]
    [('second_order', [[1, 2], [4, 5]]), ('second_order', [[3]])]
    """
    members: dict[tuple[str, int], list[Block]] = {}
    for block in cones.blocks:
        if not block.polyhedral:
            members.setdefault((block.kind, block.stop - block.start), []).append(block)
    return tuple(_group(kind, dimension, blocks) for (kind, dimension), blocks in members.items())


def _group(kind: str, dimension: int, blocks: list[Block]) -> Group:
    starts = np.array([block.start for block in blocks], dtype=np.intp)
    rows = starts[:, None] + np.arange(dimension, dtype=np.intp)
    rows.setflags(write=False)
    return Group(kind, rows, _exponents(kind, [block.data for block in blocks]))


def _exponents(kind: str, data: list[Any]) -> Array | None:
    if KINDS[kind].measure not in ("exponent", "exponents"):
        return None
    exponents = np.ascontiguousarray(np.array(data, dtype=np.float64).T)
    exponents.setflags(write=False)
    return exponents
