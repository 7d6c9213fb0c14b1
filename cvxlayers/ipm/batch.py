"""A batch of problems of one structure, solved W at a time on several threads."""

from __future__ import annotations

from collections.abc import Sequence
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
    "solve_mapped_batch",
]

_RESIDUALS, _INFO = 5, 3


class Answer(NamedTuple):
    """What the kernel leaves, (rows, B): x (n), y and s (m each); state (see ``method``), iterations and error, one row
    each; what ``measure_batch`` says of the points (5), or None where it does not know all of the cones; and the rows
    that were asked for."""

    x: Array
    y: Array
    s: Array
    state: Array
    iterations: Array
    error: Array
    measured: Array | None
    recovered: Array

    @classmethod
    def of(cls, out: Array, n: int, m: int, further: bool) -> Answer:
        """The parts of the kernel's output."""
        y, s, info = n, n + m, n + 2 * m
        rest = info + _INFO + _RESIDUALS
        measured = None if further else out[info + _INFO : rest]
        return cls(out[:y], out[y:s], out[s:info], out[info], out[info + 1], out[info + 2], measured, out[rest:])


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
    """Where a derivative is taken: the smoothing's mu or 0; and (rows, B) each, P and A, x (see ``pairing``) and y, and
    what ``sensitivity`` calls the state: s and more."""

    mu: float
    P: Array
    A: Array
    x: Array
    y: Array
    state: Array


class Given(NamedTuple):
    """Something (rows, B) of which a stack's first map makes what the kernel begins with; its second map makes what
    the caller wants of what the kernel leaves."""

    stack: Stack
    source: Array


_EMPTY = sp.csr_array((0, 0))
_NO_MAPS = Stack.of((_EMPTY, None), (_EMPTY, None))
_NOTHING = Given(_NO_MAPS, np.zeros((0, 1)))
_NO_ENDS = np.zeros(0, np.int32)


def solve_batch(layout: Layout, values: Values, method: Method, threads: int) -> Answer:
    """Solve every element; their values are finite."""
    width = -(-values.batch // W) * W
    parts = [_padded(part, width) for part in values]
    return _solved(layout, parts, np.empty((0, width)), _NOTHING, values.batch, method, threads)


def solve_mapped_batch(
    layout: Layout, parts: Sequence[Array], made: Array, given: Given, method: Method, threads: int
) -> Answer:
    """The same for P, q, A and b of which each is a column or rows of ``made``, with W columns for each group, which
    the first map is yet to write."""
    size = given.source.shape[1]
    return _solved(layout, parts, made, Given(given.stack, _padded(given.source, made.shape[1])), size, method, threads)


def _solved(
    layout: Layout, parts: Sequence[Array], made: Array, given: Given, size: int, method: Method, threads: int
) -> Answer:
    (stack, source), (P, q, A, b), width, numbers = given, parts, made.shape[1], method.numbers
    out = np.empty((layout.n + 2 * layout.m + _INFO + _RESIDUALS + stack.rows[1], width))
    solve = solve_further_groups() if layout.further else solve_groups

    def work_on(begin: int, end: int) -> None:
        plan, V = space = layout.take()
        solve(plan, layout.record, V, stack.index, stack.weights, source, made, P, q, A, b, begin, end, numbers, out)
        layout.give(space)

    spread(work_on, width // W, layout.seconds, threads)
    return Answer.of(out if size == width else out[:, :size], layout.n, layout.m, layout.further)


def differentiate_batch(layout: Layout, point: Point, f: Array, g: Array, threads: int) -> Sensitivity:
    """Solve J (dx, dv) = (f, g) for every element, with u = D dv (see ``sensitivity``)."""
    n, size, given = layout.n, f.shape[1], Given(_NO_MAPS, np.concatenate([f, g]))
    result = _differentiated(layout, point, given, n + layout.m, -1, _NO_ENDS, threads)
    return Sensitivity(result[1 : 1 + n, :size], result[1 + n :, :size], result[0, :size])


def pull_batch(layout: Layout, point: Point, pairs: int, given: Given, ends: NDArray[np.int32], threads: int) -> Pulled:
    """The adjoint of what leads from parameters to outputs, for every element.

    ``given`` leads from the outputs' cotangents to those of x and y; and from the solution of the system, and from the
    cotangents of P if ``pairs`` has the bit 1 and of A if it has the bit 2, to those of the parameters, of which the
    first are those before ends[0], and so on.
    """
    result = _differentiated(layout, point, given, given.stack.rows[1], pairs, ends, threads)
    numbers, size, width = result.reshape(-1), given.source.shape[1], result.shape[1]
    parts, start = [], 0
    for end in ends.tolist():
        part = numbers[(1 + start) * width : (1 + end) * width]
        parts.append(part.reshape(width, end - start)[:size])
        start = end
    return Pulled(parts, result[0, :size])


def _differentiated(
    layout: Layout, point: Point, given: Given, rows: int, pairs: int, ends: NDArray[np.int32], threads: int
) -> Array:
    """The residuals, and below them so many rows of what the kernel makes of what is given."""
    groups, mu, (stack, source) = -(-given.source.shape[1] // W), point.mu, given
    width = groups * W
    P, A, x, y, state, source = [_padded(part, width) for part in (*point[1:], source)]
    result = np.empty((1 + rows, width))
    differentiate = differentiate_further_groups() if layout.further else differentiate_groups

    def work_on(begin: int, end: int) -> None:
        plan, V = space = layout.take()
        differentiate(
            plan, layout.record, V, P, A, mu, x, y, state, stack.index, stack.weights, source, ends, pairs, begin, end,
            result,
        )  # fmt: skip
        layout.give(space)

    spread(work_on, groups, layout.derivative_seconds, threads)
    return result


def measure_batch(layout: Layout, values: Values, x: Array, y: Array, s: Array, threads: int) -> Array:
    """The residuals of every element's point, and the cost, (5, B) (see ``residuals``)."""
    size = values.batch
    groups = -(-size // W)
    width = groups * W
    P, q, A, b, x, y, s = [_padded(part, width) for part in (*values, x, y, s)]
    out = np.empty((5, width))

    def work_on(begin: int, end: int) -> None:
        plan, V = space = layout.take()
        measure_groups(plan, layout.record, V, P, q, A, b, x, y, s, begin, end, out)
        layout.give(space)

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
