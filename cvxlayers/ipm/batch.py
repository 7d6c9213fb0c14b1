"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

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
    "Point",
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


class Sensitivity(NamedTuple):
    """dx (n, B), u (m, B), and the relative residual (B,), which is huge for singular elements."""

    dx: Array
    u: Array
    residual: Array


class Pulled(NamedTuple):
    """What was asked for, an array (B, size) for each part of it, with the systems' residuals as in ``Sensitivity``."""

    parts: list[Array]
    residual: Array


class Point(NamedTuple):
    """Where a derivative is taken: P and A, v and what else ``sensitivity`` calls the state, the smoothing's mu or 0,
    and x and y (see ``pairing``), each (rows, B)."""

    P: Array
    A: Array
    state: Array
    mu: float
    x: Array
    y: Array


class Given(NamedTuple):
    """Something (rows, B) of which a stack's first map makes what the kernel begins with; its second map makes what
    the caller wants of what the kernel leaves."""

    stack: Stack
    source: Array


_EMPTY = sp.csr_array((0, 0))
_NO_MAPS = Stack.of((_EMPTY, None), (_EMPTY, None))
_NOTHING = Given(_NO_MAPS, np.zeros((0, 1)))
_NO_ENDS = np.zeros(0, np.int32)


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
    target, numbers = out[:0] if made is None else made, method.numbers
    index, weights = given.stack.index, given.stack.weights
    solve = solve_further_groups() if layout.further else solve_groups

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            solve(plan, layout.record, V, index, weights, source, target, P, q, A, b, begin, end, numbers, out)

    spread(work_on, groups, layout.seconds, threads)
    return Answer(out if size == groups * W else out[:, :size], layout.n, layout.m, layout.further)


def differentiate_batch(layout: Layout, point: Point, f: Array, g: Array, threads: int) -> Sensitivity:
    """Solve J (dx, dv) = (f, g) for every element, with u = D dv (see ``sensitivity``)."""
    n, size, given = layout.n, f.shape[1], Given(_NO_MAPS, np.concatenate([f, g]))
    result = _differentiated(layout, point, given, n + layout.m, -1, _NO_ENDS, threads)
    return Sensitivity(result[1 : 1 + n, :size], result[1 + n :, :size], result[0, :size])


def pull_batch(
    layout: Layout, point: Point, varying: Collection[str], given: Given, ends: NDArray[np.int32], threads: int
) -> Pulled:
    """The adjoint of what leads from parameters to outputs, for every element.

    ``given`` leads from the outputs' cotangents to those of x and y; and from the solution of the system, and from the
    cotangents of P and of A if these are among the varying, to those of the parameters, of which the first are those
    before ends[0], and so on.
    """
    pairs = ("P" in varying) + 2 * ("A" in varying)
    result = _differentiated(layout, point, given, given.stack.rows[1], pairs, ends, threads)
    numbers, size, width, parts, start = result.ravel(), given.source.shape[1], result.shape[1], [], 1
    for end in (1 + ends).tolist():
        parts.append(numbers[start * width : end * width].reshape(width, end - start)[:size])
        start = end
    return Pulled(parts, result[0, :size])


def _differentiated(
    layout: Layout, point: Point, given: Given, rows: int, pairs: int, ends: NDArray[np.int32], threads: int
) -> Array:
    """The residuals, and below them so many rows of what the kernel makes of what is given."""
    (stack, source), groups = given, -(-given.source.shape[1] // W)
    width = groups * W
    P, A, state, x, y, source = (
        _padded(part, width) for part in (point.P, point.A, point.state, point.x, point.y, source)
    )
    result = np.empty((1 + rows, width))
    differentiate = differentiate_further_groups() if layout.further else differentiate_groups

    def work_on(begin: int, end: int) -> None:
        with layout.work() as (plan, V):
            differentiate(
                plan, layout.record, V, P, A, state, point.mu, x, y, stack.index, stack.weights, source, ends, pairs,
                begin, end, result,
            )  # fmt: skip

    spread(work_on, groups, layout.derivative_seconds, threads)
    return result


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
            measure_groups(plan, layout.record, V, P, q, A, b, x, y, s, begin, end, out)

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
