"""How the block -C of each cone enters the quasi-definite matrix: densely, or diagonally with two unknowns more.

A second-order cone's block is diagonal but for two rank-one terms, with v1, v2 = (1, +-e) / sqrt(2) of length one:

    C = c3 I + b1 v1 v1' + b2 v2 v2',    b1 = c1 - c3,    b2 = c2 - c3.

With one more unknown for each term, the matrix has d nonzeros where it had d^2: with r = sqrt|b| and s = sign b, the
elimination of the new unknowns takes

    [[-c3 I, r1 v1, r2 v2], [r1 v1', s1, 0], [r2 v2', 0, s2]]    to    -c3 I - b1 v1 v1' - b2 v2 v2'.

It stays quasi-definite: v1 and v2 are orthogonal, and where b < 0 the new unknown belongs to the negative part, which
is still definite because c3 + b > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.cones.second_order import SecondOrderDerivative
from cvxlayers.program.structure import Array

__all__ = ["ConicBlocks"]

Index = NDArray[np.intp]

# Second-order cones of this dimension or more get two unknowns more.
_WIDE = 6


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
                extra += 2 * group.count
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
            total += group.count * (5 * group.dimension + 2 if _wide(group) else group.dimension**2)
        return total

    @staticmethod
    def values(C: DualDerivative) -> list[Array]:
        """The values, in arrays (., B) to be concatenated."""
        listed = [-C.diagonal[: C.cones.zero + C.cones.nonneg]]
        for group, part in C.parts:
            if isinstance(part, SecondOrderDerivative) and _wide(group):
                listed += _expanded_values(group, part, C.batch)
            else:
                listed.append(-group.unfold(part.dense(), C.batch).reshape(-1, C.batch))
        return listed


def _wide(group: Group) -> bool:
    return group.kind == "second_order" and group.dimension >= _WIDE


def _dense(group: Group) -> tuple[Index, Index, Index, int]:
    """Rows, columns and sources of dense blocks, listed as (d, d, N), and how many values they take."""
    shape = (group.dimension, group.dimension, group.count)
    rows = np.broadcast_to(group.rows.T[:, None], shape).ravel()
    columns = np.broadcast_to(group.rows.T[None], shape).ravel()
    return rows, columns, np.arange(rows.size), rows.size


def _expanded(group: Group, start: int) -> tuple[Index, Index, Index, int]:
    """The same for -c3 (N), r1 v1 (d, N), r2 v2 (d, N), s1 (N) and s2 (N), with new unknowns from ``start`` on."""
    d, count = group.dimension, group.count
    rows = group.rows.T.ravel()
    cone = np.tile(np.arange(count), d)
    first, second = start + cone, start + count + cone
    new = start + np.arange(2 * count)
    in_v1, in_v2 = count + np.arange(d * count), count + d * count + np.arange(d * count)
    in_s = count + 2 * d * count + np.arange(2 * count)
    return (
        np.concatenate([rows, rows, first, rows, second, new]),
        np.concatenate([rows, first, rows, second, rows, new]),
        np.concatenate([cone, in_v1, in_v1, in_v2, in_v2, in_s]),
        count * (2 * d + 3),
    )


def _expanded_values(group: Group, part: SecondOrderDerivative, batch: int) -> list[Array]:
    ones = np.ones((1, part.e.shape[1]))
    values, signs = [-part.w3[None]], []
    for weight, sign in ((part.w1, 1.0), (part.w2, -1.0)):
        b = weight - part.w3
        values.append(np.sqrt(0.5 * np.abs(b)) * np.concatenate([ones, sign * part.e]))
        signs.append(np.where(b < 0, -1.0, 1.0)[None])
    return [group.unfold(value, batch).reshape(-1, batch) for value in (*values, *signs)]
