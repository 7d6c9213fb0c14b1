"""How far a point is from a solution, whatever the units of rows, variables and objective.

A point is as good as the changes of the problem's numbers are small, each relative to itself, of which it is the exact
solution (the componentwise backward error of Oettli and Prager 1964):

    primal       |Ax + s - b|_i / (|A||x| + |s| + |b|)_i       in the worst row,
    dual         |Px + q + A'y|_j / (|P||x| + |q| + |A'||y|)_j in the worst column,
    cone         negative s and y in nonnegative rows, s in zero rows,
    gap          what it costs to make s and y complementary members of their cones, in the worst one.

A change of s_i is relative to the size of its row. One of y_i is felt in the columns j with A_ij: it costs itself times
the largest |A_ij| / (column j's size). With s and y in these terms, the gap is |y - Proj_{K*}(y - s)|, the natural
residual (Facchinei and Pang 2003, section 1.5): in a nonnegative row the smaller of the two. Unlike s'y it is, for
curved cones, as large as the error of s and y themselves.

What should be zero and is only small needs a floor beside its terms: FLOOR times the problem's own scale of the row or
column (see ``scales``).
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.group import groups
from cvxlayers.cones.projection import project_group
from cvxlayers.program.scales import Scales, by_row, scales
from cvxlayers.program.solution import Residuals
from cvxlayers.program.structure import Array, Pattern, Structure, Values, is_shared

__all__ = ["ABSURD", "FAR", "FLOOR", "Sizes", "measure", "sizes"]

FLOOR = 1e-3
"""The part of a row's or column's own scale that counts beside its terms."""


FAR = 1e-16
"""Times the largest entry of x and y in scaled units, it counts as a residual: of a point that lies so far out the
terms hide the problem, and a direction in which there is no end is none at which there is one."""


ABSURD = 1e-56
"""Times the largest scale or its inverse it counts as a residual: what is computed with numbers of 1e100 proves
nothing."""


class Sizes:
    """What residuals are relative to: ``rows`` (m, B), ``columns`` (n, B), and ``prices`` (m, B) of changes of y."""

    def __init__(self, structure: Structure, values: Values, rows: Array, columns: Array) -> None:
        self.rows, self.columns, A = rows, columns, structure.A
        size = 1.0 / columns
        self.prices = by_row(A, _magnitudes(values.A) * size[A.columns])

    def of_group(self, rows: np.ndarray) -> tuple[Array, Array]:
        """The size of each cone's rows (N, B), which have one unit, and the price of its y."""
        return self.rows[rows].max(axis=1), self.prices[rows].max(axis=1)


def sizes(structure: Structure, values: Values, x: Array, y: Array, s: Array, found: Scales) -> Sizes:
    """The sizes at a point."""
    P, A = structure.P, structure.A
    p, a = _magnitudes(values.P), _magnitudes(values.A)
    rows = _times(A, a, np.abs(x)) + np.abs(s) + np.abs(values.b) + FLOOR / found.E
    columns = structure.P_times(_wide(p, x.shape[1]), np.abs(x)) if P.nnz else np.zeros_like(x)
    columns = columns + np.abs(values.q) + A.transpose_times(_wide(a, x.shape[1]), np.abs(y))
    return Sizes(structure, values, rows, columns + FLOOR / (found.D * found.cost))


def measure(
    structure: Structure, values: Values, x: Array, y: Array, s: Array, found: Scales | None = None
) -> Residuals:
    """The residuals of points x (n, B), y and s (m, B); the problem's scales may be handed in."""
    Px = structure.P_times(values.P, x)
    Ax = structure.A.times(values.A, x)
    Ay = structure.A.transpose_times(values.A, y)
    with np.errstate(invalid="ignore", over="ignore"):
        found = found or scales(structure, values)
        size = sizes(structure, values, x, y, s, found)
        far_x = np.maximum(FAR * _largest(x / found.D), ABSURD * _spread(found.D))
        far_y = np.maximum(FAR * _largest(y * found.cost / found.E), ABSURD * _spread(found.E))
        primal = np.maximum(_worst(Ax + s - values.b, size.rows), far_x)
        dual = np.maximum(_worst(Px + Ay + values.q, size.columns), far_y)
        cost = np.einsum("ib,ib->b", x, Px) / 2 + np.einsum("ib,ib->b", values.q, x)
        outside, gap = _complementarity(structure, size, y, s)
    return Residuals(np.stack([primal, dual, gap, outside, cost]))


def _complementarity(structure: Structure, size: Sizes, y: Array, s: Array) -> tuple[Array, Array]:
    """What s and y lack of their cones, and of being complementary, each (B,)."""
    cones, batch = structure.cones, y.shape[1]
    flat, first = slice(cones.zero, cones.zero + cones.nonneg), slice(0, cones.zero)
    of_s, of_y = s[flat] / size.rows[flat], y[flat] * size.prices[flat]
    outside = _largest(s[first] / size.rows[first])
    outside = np.maximum(outside, np.maximum(-of_s, -of_y).max(axis=0, initial=0.0))
    gap = np.minimum(np.abs(of_s), np.abs(of_y)).max(axis=0, initial=0.0)
    for group in groups(cones):
        rows, prices = size.of_group(group.rows)
        own_y = y[group.rows] * prices[:, None]
        v = (own_y - s[group.rows] / rows[:, None]).swapaxes(0, 1)
        apart = group.fold_rows(own_y.swapaxes(0, 1)) - project_group(group, group.fold_rows(v))
        gap = np.maximum(gap, np.abs(group.unfold(apart, batch)).max(axis=(0, 1), initial=0.0))
    return outside, gap


def _magnitudes(part: Array) -> Array:
    """|part|, one column where it stands for the whole batch."""
    return np.abs(part[:, :1] if is_shared(part) else part)


def _wide(part: Array, batch: int) -> Array:
    return np.broadcast_to(part, (part.shape[0], batch))


def _times(pattern: Pattern, values: Array, x: Array) -> Array:
    return pattern.times(_wide(values, x.shape[1]), x)


def _spread(scale: Array) -> Array:
    return np.maximum(scale, 1.0 / scale).max(axis=0, initial=0.0)


def _worst(rest: Array, size: Array) -> Array:
    """The largest of what is relative to the sizes; NaN where one is infinite, beside which everything is nothing."""
    return _largest(rest / size + 0.0 * size)


def _largest(part: Array) -> Array:
    return np.abs(part).max(axis=0, initial=0.0)
