"""How the block -C of each cone enters the quasi-definite matrix: densely, or diagonally with two unknowns more.

A cone's block may be diagonal but for a few rank-one terms of orthogonal vectors of length one; that of a second-order
cone is, with two of them:

    C = c I + b1 v1 v1' + b2 v2 v2'.

With one more unknown for each term, the matrix has d nonzeros where it had d^2: with r = sqrt|b| and s = sign b, the
elimination of the new unknowns takes

    [[-c I, r1 v1, r2 v2], [r1 v1', s1, 0], [r2 v2', 0, s2]]    to    -c I - b1 v1 v1' - b2 v2 v2'.

It stays quasi-definite: v1 and v2 are orthogonal, and where b < 0 the new unknown belongs to the negative part, which
is still definite because c + b > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.blocks import BlockDerivative
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.program.structure import Array

__all__ = ["ConicBlocks"]

Index = NDArray[np.intp]

# Cones told by few terms get an unknown more for each, if they have at least this many rows for each.
_WIDE = 3


@dataclass(frozen=True)
class ConicBlocks:
    """Where the entries of -C and of the additional unknowns stand.

    Attributes
    ----------
    rows, columns : (entries,) int
        With row i of the constraints as i, and the additional unknowns from m on.
    source : (entries,) int
        Where each value stands in the list that ``values`` makes.
    extra : int
        The number of additional unknowns.
    """

    rows: Index
    columns: Index
    source: Index
    extra: int

    @classmethod
    def of(cls, cones: Cones) -> ConicBlocks:
        flat = np.arange(cones.zero + cones.nonneg)
        found, count, extra = [(flat, flat, flat)], flat.size, 0
        for group in groups(cones):
            if _wide(group):
                rows, columns, source, size = _expanded(group, cones.m + extra)
                extra += group.rank_one_terms * group.count
            else:
                rows, columns, source, size = _dense(group)
            found.append((rows, columns, source + count))
            count += size
        rows, columns, source = (np.concatenate(part) for part in zip(*found, strict=True))
        return cls(rows, columns, source, extra)

    @staticmethod
    def count(cones: Cones) -> int:
        """The number of entries, without forming them."""
        total = cones.zero + cones.nonneg
        for group in groups(cones):
            d, terms = group.dimension, group.rank_one_terms
            total += group.count * ((2 * terms + 1) * d + terms if _wide(group) else d**2)
        return total

    @staticmethod
    def values(C: DualDerivative) -> list[Array]:
        """The values, in arrays (., B) to be concatenated."""
        listed = [-C.diagonal[: C.cones.zero + C.cones.nonneg]]
        for group, part in C.parts:
            if _wide(group):
                listed += _expanded_values(group, part, C.batch)
            else:
                listed.append(-group.unfold(part.dense(), C.batch).reshape(-1, C.batch))
        return listed


def _wide(group: Group) -> bool:
    return bool(group.rank_one_terms) and group.dimension >= _WIDE * group.rank_one_terms


def _dense(group: Group) -> tuple[Index, Index, Index, int]:
    """Rows, columns and sources of dense blocks, listed as (d, d, N), and how many values they take."""
    shape = (group.dimension, group.dimension, group.count)
    rows = np.broadcast_to(group.rows.T[:, None], shape).ravel()
    columns = np.broadcast_to(group.rows.T[None], shape).ravel()
    return rows, columns, np.arange(rows.size), rows.size


def _expanded(group: Group, start: int) -> tuple[Index, Index, Index, int]:
    """The same for -c (N), r1 v1 (d, N), r2 v2 (d, N) ... and s1 (N), s2 (N) ..., with new unknowns from ``start``."""
    d, count, terms = group.dimension, group.count, group.rank_one_terms
    rows = group.rows.T.ravel()
    cone = np.tile(np.arange(count), d)
    new = start + np.arange(terms * count)
    in_s = count + terms * d * count + np.arange(terms * count)
    listed = [(rows, rows, cone)]
    for k in range(terms):
        unknown, place = start + k * count + cone, count + k * d * count + np.arange(d * count)
        listed += [(rows, unknown, place), (unknown, rows, place)]
    first, second, source = zip(*listed, (new, new, in_s), strict=True)
    size = count * (terms * (d + 1) + 1)
    return np.concatenate(first), np.concatenate(second), np.concatenate(source), size


def _expanded_values(group: Group, part: BlockDerivative, batch: int) -> list[Array]:
    terms = part.rank_one_terms()
    vectors = [np.sqrt(np.abs(b)) * v for b, v in zip(terms.weights, terms.vectors, strict=True)]
    signs = np.where(terms.weights < 0, -1.0, 1.0)
    return [group.unfold(value, batch).reshape(-1, batch) for value in (-terms.unit[None], *vectors, signs)]
