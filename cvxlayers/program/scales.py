"""Scales of a problem's variables, rows and objective, which change with the caller's units and with nothing else.

They equilibrate, in the infinity norm (Ruiz 2001), the symmetric matrix of the homogeneous embedding,

    [[P, A', q], [A, 0, b], [q', b', 0]],

of which every change of units is a scaling. With D, E and cost, the problem cost D P D, cost D q, E A D, E b has
entries of size one; its solutions are x / D, E s and cost y / E. Here stands what ``cvxlayers.ipm.kkt.equilibrate``
computes in compiled kernels, as array operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones.group import groups
from cvxlayers.program.structure import Array, Pattern, Structure, Values, is_shared

__all__ = ["ORDINARY", "Scales", "by_row", "far_apart", "scales"]

ORDINARY = 1e3
"""Numbers of up to this size, and down to its inverse, are no reason to scale a problem for a solver that scales it
itself."""

WILD, STEPS, DONE = 1e3, 15, 1e-18
"""A largest entry of a row or column, or its inverse, beyond which the logarithms of all entries decide first; the
steps of conjugate gradients for that, and what the square of the residual is to fall to."""

ROUNDS, NEAR_ONE, OUTWEIGHED = 10, 0.5, 10.0
"""At most so many rounds; fewer if no norm is further from one than the second.
A b_i of more than the third times the largest entry of its row of A says nothing of the sizes of x."""


@dataclass(frozen=True)
class Scales:
    """D (n, B), E (m, B) and cost (B,), all positive; the rows of a curved cone share their E. ``rows``, if they are
    given, are the three below one another."""

    D: Array
    E: Array
    cost: Array
    rows: Array | None = None

    @classmethod
    def of_rows(cls, rows: Array, n: int) -> Scales:
        """The scales that stand below one another, D first."""
        return cls(rows[:n], rows[n:-1], rows[-1], rows)

    @classmethod
    def one(cls, n: int, m: int, batch: int) -> Scales:
        """Those that change nothing."""
        return cls.of_rows(np.broadcast_to(1.0, (n + m + 1, batch)), n)

    def stacked(self) -> Array:
        """The three below one another, (n + m + 1, B)."""
        return np.concatenate([self.D, self.E, self.cost[None]]) if self.rows is None else self.rows

    def select(self, elements: NDArray[np.integer] | slice) -> Scales:
        """Those of some elements."""
        return Scales(self.D[:, elements], self.E[:, elements], self.cost[elements])

    def scaled(self, structure: Structure, values: Values) -> Values:
        """The scaled problem: cost D P D, cost D q, E A D and E b."""
        P, A, D, E = structure.P, structure.A, self.D, self.E
        return Values(
            values.P * (self.cost * D[P.rows] * D[P.columns]), values.q * (self.cost * D),
            values.A * (E[A.rows] * D[A.columns]), values.b * E,
        )  # fmt: skip

    def to(self, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
        """A point in the scaled problem's terms."""
        return x / self.D, y * (self.cost / self.E), s * self.E

    def back(self, x: Array, y: Array, s: Array) -> tuple[Array, Array, Array]:
        """A point of the scaled problem in the terms of the problem itself."""
        return x * self.D, y * (self.E / self.cost), s / self.E

    def where(self, elements: NDArray[np.bool_]) -> Scales:
        """Those of some elements; the others stay as they are."""
        return Scales(*(np.where(elements, part, 1.0) for part in (self.D, self.E, self.cost)))

    def _sound(self) -> Scales:
        """One in place of what is no number, as of elements with values that are none."""
        parts = (self.D, self.E, self.cost)
        return Scales(*(np.where(np.isfinite(part) & (part > 0), part, 1.0) for part in parts))

    def rounded(self) -> Scales:
        """The nearest powers of two, by which numbers are scaled without rounding."""
        D, E, t = (np.exp2(np.rint(np.log2(part))) for part in (self.D, self.E, np.sqrt(self.cost)))
        return Scales(D, E, t * t)


def far_apart(structure: Structure, values: Values) -> NDArray[np.bool_]:
    """In which elements the largest number of a row or column is so large or small that a solver should be given the
    scaled problem, (B,)."""
    P, A = structure.P, structure.A
    p, a, q, b = (np.abs(_column_of(part)) for part in (values.P, values.A, values.q, values.b))
    found = np.zeros(values.batch, dtype=bool)
    for sizes in (np.maximum(by_column(A, a), np.maximum(by_column(P, p), by_row(P, p))), by_row(A, a)):
        found |= (np.maximum(sizes, 1 / np.where(sizes > 0, sizes, 1.0)) > ORDINARY).any(axis=0)
    for sizes in (q, b):
        largest = sizes.max(axis=0, initial=0.0)
        found |= np.maximum(largest, 1 / np.where(largest > 0, largest, 1.0)) > ORDINARY
    return found


def scales(structure: Structure, values: Values) -> Scales:
    """The scales of every element.

    Examples
    --------
    >>> from cvxlayers.cones.product import Cones
    >>> one = Pattern.of(np.array([0]), np.array([0]), (1, 1))
    >>> structure = Structure(one, one, Cones(nonneg=1))
    >>> given = scales(structure, Values(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))))
    >>> metres = Values(*(np.full((1, 1), size) for size in (1e4, 1e2, 1e2, 1.0)))
    >>> inches = scales(structure, metres)
    >>> float(given.D[0, 0] / inches.D[0, 0]).__round__(9)  # the variable in a unit a hundred times as large
    100.0
    """
    P, A = structure.P, structure.A
    p, a, q, b = (np.abs(_column_of(part)) for part in (values.P, values.A, values.q, values.b))
    batch = values.batch
    d, e, t = np.ones((structure.n, batch)), np.ones((structure.m, batch)), np.ones(batch)
    going, bounds, positive = np.ones(batch, dtype=bool), _bounds(structure), _column_of(values.b) > 0
    t = _first_unit(structure, _column_of(values.b)) * t
    wild = np.broadcast_to(_wild(structure, p, a), batch)
    if wild.any():
        d, e = _geometric(structure, p, a, wild)
    for _ in range(ROUNDS):
        Pd, Ad = p * d[P.rows] * d[P.columns], a * e[A.rows] * d[A.columns]
        qd, be = q * d * t, b * e * t
        columns = np.maximum(np.maximum(by_column(A, Ad), qd), np.maximum(by_column(P, Pd), by_row(P, Pd)))
        rows = by_row(A, Ad)
        rows[bounds] = np.maximum(rows[bounds], (be * positive)[bounds])
        rows = _shared(structure, rows)
        last = np.maximum(qd.max(axis=0, initial=0.0), be.max(axis=0, initial=0.0))[None]
        norms = [np.where((size > 0) & np.isfinite(size), size, 1.0) for size in (columns, rows, last)]
        off = np.max([np.abs(size - 1).max(axis=0, initial=0.0) for size in norms], axis=0)
        going &= off >= NEAR_ONE  # no element's scales depend on its neighbours
        if not going.any():
            break
        d, e, t = (
            scale / np.sqrt(np.where(going, size, 1.0)) for scale, size in zip((d, e, t[None]), norms, strict=True)
        )
        t = t[0]
    return _settled(structure, Scales(d / t, e * t, t * t), p, q, a, b, positive)


def _first_unit(structure: Structure, b: Array) -> Array:
    """The first t: where the b_i that tell of the sizes of x are all very large or small, one unit common to x, b and q
    (the objective in its square) makes the largest of them one, before they tell the columns anything else."""
    counted = np.abs(b)
    counted[_bounds(structure)] = np.maximum(-b[_bounds(structure)], 0.0)
    size = counted.max(axis=0, initial=0.0)
    size = np.where(size > 0, size, 1.0)
    return np.where(np.maximum(size, 1 / size) > WILD, 1 / size, 1.0)


def _wild(structure: Structure, p: Array, a: Array) -> NDArray[np.bool_]:
    """The elements of which some row or column is so large or small that the logarithms of all entries decide first."""
    P, A = structure.P, structure.A
    columns = np.maximum(by_column(A, a), np.maximum(by_column(P, p), by_row(P, p)))
    high, low = np.ones(1), np.ones(1)
    for size in (columns, by_row(A, a)):
        high = np.maximum(high, size.max(axis=0, initial=1.0))
        low = np.minimum(low, np.where(size > 0, size, 1.0).min(axis=0, initial=1.0))
    return np.asarray(np.maximum(high, 1 / low) > WILD)


def _geometric(structure: Structure, p: Array, a: Array, wild: NDArray[np.bool_]) -> tuple[Array, Array]:
    """d and e by least squares in the logarithms of the entries (Curtis and Reid 1972), one where they are not wanted:
    see ``cvxlayers.ipm.kkt.geometric``, whose steps these are."""
    P, A, n, m = structure.P, structure.A, structure.n, structure.m
    rows, columns = np.concatenate([P.rows, A.rows + n]), np.concatenate([P.columns, A.columns])
    entries = np.concatenate([np.broadcast_to(part, (part.shape[0], wild.size)) for part in (p, a)])[:, wild]
    counted = entries > 0
    logs = np.log(np.where(counted, entries, 1.0))
    places = (np.ones(2 * rows.size), (np.concatenate([rows, columns]), np.tile(np.arange(rows.size), 2)))
    sums = sp.csr_array(places, shape=(n + m, rows.size))

    def shared(u: Array) -> Array:
        for group in groups(structure.cones):
            u[n + group.rows] = u[n + group.rows].mean(axis=1, keepdims=True)
        return u

    def product(u: Array) -> Array:
        return shared(sums @ (counted * (u[rows] + u[columns])))

    count = np.maximum(product(np.ones((n + m, logs.shape[1]))), 1.0) / 2
    rest, u, direction, before = -shared(sums @ (counted * logs)), np.zeros_like(count), np.zeros_like(count), 0.0
    first = (rest * rest / count).sum(axis=0)
    for step in range(STEPS):
        now = (rest * rest / count).sum(axis=0)
        beta = np.where(before > 0, now / np.where(before > 0, before, 1.0), 0.0) if step else 0.0
        direction = rest / count + beta * direction
        across = product(direction)
        along = (direction * across).sum(axis=0)
        # An element rests once its residual is rounding: there may be directions that no entry sees.
        moves = (now > DONE * first) & (along > DONE * now)
        alpha = np.where(moves, now / np.where(moves, along, 1.0), 0.0)
        u, rest, before = u + alpha * direction, rest - alpha * across, now
    found = np.ones((n + m, wild.size))
    found[:, wild] = np.exp(np.clip(u, -700, 700))
    return found[:n], found[n:]


def _settled(
    structure: Structure, found: Scales, p: Array, q: Array, a: Array, b: Array, positive: NDArray[np.bool_]
) -> Scales:
    """The scales with the two units that the norms leave open, that of all variables and rows and the objective's.

    With the first, the largest |b_i| becomes one, but for bounds that may mean "none", in which b_i outweighs the rest
    of the row (and shrinks the row again); with the second, the largest entry of P and q.
    """
    P, A, D, E, cost = structure.P, structure.A, found.D, found.E, found.cost
    norms, be, bounds = by_row(A, a * E[A.rows] * D[A.columns]), b * E, _bounds(structure)
    counted = be.copy()
    counted[bounds] = np.where((be < OUTWEIGHED * norms) | ~positive, be, 0.0)[bounds]
    size = counted.max(axis=0, initial=0.0)
    size = np.minimum(np.where(size > 0, size, 1.0), 1.0)
    shrink = np.ones_like(be)
    shrink[bounds] = np.maximum(be * positive / size, 1.0)[bounds]
    largest = np.maximum(
        (q * cost * D).max(axis=0, initial=0.0), size * (p * cost * D[P.rows] * D[P.columns]).max(axis=0, initial=0.0)
    )
    unit = 1.0 / np.where(largest > 0, largest, 1.0)
    return Scales(D * size, E / (size * shrink), unit * cost / size)._sound()


def _bounds(structure: Structure) -> slice:
    """The rows in which a large b_i > 0 may mean that there is no bound."""
    return slice(structure.cones.zero, structure.cones.zero + structure.cones.nonneg)


def by_column(pattern: Pattern, entries: Array) -> Array:
    """The largest of the entries (nnz, B), none of them negative, in each column: (columns, B)."""
    return _largest(entries, pattern.indptr)


def by_row(pattern: Pattern, entries: Array) -> Array:
    """The largest of the entries (nnz, B), none of them negative, in each row: (rows, B)."""
    order, starts = pattern.by_rows
    return _largest(entries[order], starts)


def _largest(entries: Array, starts: np.ndarray) -> Array:
    found = np.zeros((starts.size - 1, entries.shape[1]))
    there = np.flatnonzero(np.diff(starts))
    if there.size:
        found[there] = np.maximum.reduceat(entries, starts[there], axis=0)
    return found


def _column_of(part: Array) -> Array:
    """One column where it stands for the whole batch."""
    return part[:, :1] if is_shared(part) else part


def _shared(structure: Structure, rows: Array) -> Array:
    """The norms of the rows; all rows of a curved cone have their mean."""
    for group in groups(structure.cones):
        rows[group.rows] = rows[group.rows].mean(axis=1, keepdims=True)
    return rows
