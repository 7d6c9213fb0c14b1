"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.ipm.entry import (
    differentiate_further_groups,
    differentiate_groups,
    measure_groups,
    solve_further_groups,
    solve_groups,
)
from cvxlayers.ipm.layout import Layout
from cvxlayers.ipm.method import Method
from cvxlayers.ipm.threads import spread
from cvxlayers.ipm.width import W
from cvxlayers.program import Array, Values
from cvxlayers.stack import Stack

__all__ = [
    "Answer",
    "Given",
    "Pairing",
    "Pulled",
    "Sensitivity",
    "differentiate_batch",
    "measure_batch",
    "pull_batch",
    "solve_batch",
]

_RESIDUALS, _INFO = 5, 3


@dataclass(frozen=True)
class Answer:
    """What the kernel leaves, (rows, B): x (n), y and s (m each), state (see ``method``), iterations, error, what
    ``measure_batch`` says of the points (5) where it knows all of the cones, and the rows that were asked for."""

    out: Array
    n: int
    m: int
    further: bool

    @property
    def x(self) -> Array:
        return self.out[: self.n]

    @property
    def y(self) -> Array:
        return self.out[self.n : self.n + self.m]

    @property
    def s(self) -> Array:
        return self.out[self.n + self.m : self._info]

    @property
    def state(self) -> Array:
        return self.out[self._info]

    @property
    def iterations(self) -> Array:
        return self.out[self._info + 1]

    @property
    def error(self) -> Array:
        return self.out[self._info + 2]

    @property
    def measured(self) -> Array | None:
        return None if self.further else self.out[self._info + _INFO : self._info + _INFO + _RESIDUALS]

    @property
    def recovered(self) -> Array:
        return self.out[self._info + _INFO + _RESIDUALS :]

    @cached_property
    def _info(self) -> int:
        return self.n + 2 * self.m


@dataclass(frozen=True)
class Sensitivity:
    """dx (n, B), u (m, B), and the relative residual (B,), which is huge for singular elements."""

    dx: Array
    u: Array
    residual: Array


@dataclass(frozen=True)
class Pulled:
    """What was asked for, an array (B, size) for each part of it, with the systems' residuals as in ``Sensitivity``."""

    parts: list[Array]
    residual: Array


@dataclass(frozen=True)
class Pairing:
    """The points x (n, B) and y (m, B) with which multipliers are paired, and whether the cotangents of P and of A are
    asked for (see ``pairing``)."""

    x: Array
    y: Array
    P: bool
    A: bool


@dataclass(frozen=True)
class Given:
    """Something (rows, B) of which a stack's first map makes what the kernel begins with; its second map makes what
    the caller wants of what the kernel leaves."""

    stack: Stack
    source: Array


_EMPTY = sp.csr_array((0, 0))
_NOTHING = Given(Stack.of((_EMPTY, None), (_EMPTY, None)), np.zeros((0, 1)))
_NO_PULLING = (
    Pairing(np.zeros((0, 1)), np.zeros((0, 1)), P=False, A=False), _NOTHING, np.zeros(0, np.int32), np.zeros(0)
)  # fmt: skip


def solve_batch(
    layout: Layout, values: Values, method: Method, threads: int, made: Array | None = None, given: Given = _NOTHING
) -> Answer:
    """Solve every element; their values are finite.

    With ``given``, those values that are rows of ``made`` (a contiguous array of W columns for each group) are yet to
    be written there, by the first map.
    """
    size = given.source.shape[1] if made is not None else values.batch
    groups = -(-size // W)
    P, q, A, b = (_padded(part, groups * W) for part in (values.P, values.q, values.A, values.b))
    source = _padded(given.source, groups * W)
    out = np.empty((layout.n + 2 * layout.m + _INFO + _RESIDUALS + given.stack.rows[1], groups * W))
    shared, target = P.shape[1] == 1 and A.shape[1] == 1, out[:0] if made is None else made
    numbers, index, weights = method.numbers, given.stack.index, given.stack.weights
    solve = solve_further_groups() if layout.further else solve_groups

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            solve(plan, layout.at, V, index, weights, source, target, P, q, A, b, begin, end, shared, numbers, out)

    spread(work_on, groups, layout.seconds, threads)
    return Answer(out if size == groups * W else out[:, :size], layout.n, layout.m, layout.further)


def differentiate_batch(
    layout: Layout, P: Array, A: Array, state: Array, probe: Array, f: Array, g: Array, threads: int
) -> Sensitivity:
    """Solve J (dx, dv) = (f, g) for every element, with u = D dv (see ``sensitivity``, also for ``state``).

    ``probe`` (n + m, 1) is a random right-hand side.
    """
    n, m, size = layout.n, layout.m, state.shape[1]
    width = -(-size // W) * W
    right, out = np.empty((n + m, width)), np.empty((n + m, width))
    for part, rows in ((f, right[:n]), (g, right[n:])):
        rows[:, :size], rows[:, size:] = part, part[:, -1:]
    info = _differentiated(layout, (P, A, state), probe, (right, out), threads)
    return Sensitivity(out[:n, :size], out[n:, :size], info[0, :size])


def pull_batch(
    layout: Layout, P: Array, A: Array, state: Array, probe: Array, pairing: Pairing, given: Given,
    ends: NDArray[np.int32], threads: int,
) -> Pulled:  # fmt: skip
    """The adjoint of what leads from parameters to outputs, for every element.

    ``given`` leads from the outputs' cotangents to those of x and y; and from the solution of the system, and from the
    cotangents of P and of A that are asked for, to those of the parameters, of which the first are those before
    ends[0], and so on.
    """
    width = -(-state.shape[1] // W) * W
    pulled = np.empty(given.stack.rows[1] * width)
    info = _differentiated(layout, (P, A, state), probe, None, threads, (pairing, given, ends, pulled))
    starts, size = [0, *ends.tolist()], state.shape[1]
    parts = [pulled[start * width : end * width].reshape(width, end - start)[:size] for start, end in pairwise(starts)]
    return Pulled(parts, info[0, :size])


def _differentiated(
    layout: Layout, data: tuple[Array, Array, Array], probe: Array, wide: tuple[Array, Array] | None, threads: int,
    pulling: tuple[Pairing, Given, NDArray[np.int32], Array] = _NO_PULLING,
) -> Array:  # fmt: skip
    """Run the kernel on P, A and the state; ``wide`` are its right and its out where nothing is pulled."""
    pairing, given, ends, pulled = pulling
    size = data[2].shape[1]
    groups = -(-size // W)
    width = groups * W
    info = np.empty((1, width))
    P, A, state = _padded(data[0], width), _padded(data[1], width), _padded(data[2], width)
    x, y, source = _padded(pairing.x, width), _padded(pairing.y, width), _padded(given.source, width)
    shared, pairs = P.shape[1] == 1 and A.shape[1] == 1, -1 if wide else pairing.P + 2 * pairing.A
    rows = layout.n + layout.m
    more = P.shape[0] * pairing.P + A.shape[0] * pairing.A
    differentiate = differentiate_further_groups() if layout.further else differentiate_groups

    def work_on(begin: int, end: int) -> None:
        right, out = wide or (np.empty((rows, W)), np.empty((rows + more, W)))
        with layout.work() as (plan, V):
            differentiate(
                plan, layout.at, V, P, A, state, probe, x, y, given.stack.index, given.stack.weights, source, right,
                begin, end, shared, pairs, out, info, ends, pulled,
            )  # fmt: skip

    spread(work_on, groups, layout.derivative_seconds, threads)
    return info


def measure_batch(layout: Layout, values: Values, x: Array, y: Array, s: Array, threads: int) -> Array:
    """The residuals of every element's point, and the cost, (5, B) (see ``residuals``)."""
    size = values.batch
    groups = -(-size // W)
    width = groups * W
    P, q, A, b = (_padded(part, width) for part in (values.P, values.q, values.A, values.b))
    x, y, s = (_padded(part, width) for part in (x, y, s))
    out = np.empty((5, width))

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            measure_groups(plan, layout.at, V, P, q, A, b, x, y, s, begin, end, out)

    spread(work_on, groups, layout.measure_seconds, threads)
    return out[:, :size]


def _padded(part: Array, width: int) -> Array:
    """The values for a whole number of groups: the last element stands in for those that are missing.

    Of values that are the same for all elements there is one column, which the kernels read for each.
    """
    rows, batch = part.shape
    if batch == 1:
        return np.ascontiguousarray(part, dtype=float)
    if batch > 1 and part.strides[1] == 0:
        return np.ascontiguousarray(part[:, :1], dtype=float)
    if batch == width:
        return np.ascontiguousarray(part, dtype=float)
    padded = np.empty((rows, width))
    padded[:, :batch] = part
    padded[:, batch:] = part[:, -1:]
    return padded
