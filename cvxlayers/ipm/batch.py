"""A batch of problems of one structure, solved on several threads: W at a time, or, where they are few, one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.ipm.adjoint.sensitivity import INFO
from cvxlayers.ipm.entry import differentiate_groups, measure_groups, scale_groups, solve_groups
from cvxlayers.ipm.kkt.layout import KktLayout
from cvxlayers.ipm.method import Method
from cvxlayers.kernels.threads import WORTH_A_THREAD, parallel_for
from cvxlayers.kernels.width import ALONE, W
from cvxlayers.program.packed_maps import Stack
from cvxlayers.program.structure import Array, Values

__all__ = [
    "KernelResult",
    "MapInput",
    "Measured",
    "DerivativeAt",
    "ParameterGradients",
    "Sensitivity",
    "differentiate_batch",
    "measure_batch",
    "pull_batch",
    "room",
    "scale_batch",
    "solve_batch",
    "solve_mapped_batch",
]

_RESIDUALS, _INFO = 5, 3

NEAR = 2
"""Where each thread has fewer elements it pays to take them one by one."""

FAR, CACHED = 4, 2**14
"""The same where the work space has more rows than ``CACHED``, which take a MiB for W problems."""

LARGEST = 2**23
"""Rows of the work space, which take half a GiB for W problems, beyond which elements are worked on one by one."""


class KernelResult(NamedTuple):
    """What the kernel leaves, (rows, B): x (n), y and s (m each); state (see ``method``), iterations and error, one row
    each; what ``measure_batch`` says of the points (5), or None where it does not know all of the cones; the scales,
    as ``scale_batch`` gives them; and the rows that were asked for. And ``worst``, the largest of the residuals in
    ``measured``, or infinity if not every element is solved."""

    x: Array
    y: Array
    s: Array
    info: Array
    measured: Array | None
    scales: Array
    recovered: Array
    worst: float

    @property
    def state(self) -> Array:
        return self.info[0]

    @property
    def iterations(self) -> Array:
        return self.info[1]

    @property
    def error(self) -> Array:
        return self.info[2]

    @classmethod
    def of(cls, out: Array, layout: KktLayout, worst: float) -> KernelResult:
        """The parts of the kernel's output."""
        y, s, info = layout.n, layout.n + layout.m, layout.n + 2 * layout.m
        measured, scales = info + _INFO, info + _INFO + _RESIDUALS
        rest = scales + layout.n + layout.m + 1
        residuals = None if layout.optional else out[measured:scales]
        return cls(out[:y], out[y:s], out[s:info], out[info:measured], residuals, out[scales:rest], out[rest:], worst)


class Sensitivity(NamedTuple):
    """dx (n, B), u (m, B), what there is to say of them (INFO, B) (see ``sensitivity``), and the largest residual, its
    first row (infinity if one is NaN)."""

    dx: Array
    u: Array
    info: Array
    worst: float


class Measured(NamedTuple):
    """Residuals and cost (5, B), and the largest of the residuals (infinity if one is NaN)."""

    parts: Array
    largest: float


class ParameterGradients(NamedTuple):
    """What was asked for, an array (B, size) for each part of it, with ``info`` and ``worst`` as in ``Sensitivity``."""

    parts: list[Array]
    info: Array
    worst: float


class DerivativeAt(NamedTuple):
    """Where a derivative is taken: the smoothing's mu or 0; and (rows, B) each, P, q, A and b, x (see ``cotangents``)
    and y, and what ``sensitivity`` calls the state: s and more; and the scales, without a row if they are not known."""

    mu: float
    P: Array
    q: Array
    A: Array
    b: Array
    x: Array
    y: Array
    state: Array
    scales: Array


class MapInput(NamedTuple):
    """Something (rows, B) of which a stack's first map makes what the kernel begins with; its second map makes what
    the caller wants of what the kernel leaves."""

    stack: Stack
    source: Array


_FLOAT = np.dtype(np.float64)

_EMPTY = sp.csr_array((0, 0))
_NO_MAPS = Stack.of((_EMPTY, None), (_EMPTY, None))
_NOTHING = MapInput(_NO_MAPS, np.zeros((0, 1)))
_NO_ENDS = np.zeros(0, np.int32)


def room(layout: KktLayout, rows: int, size: int, threads: int) -> Array:
    """An empty array (rows, columns) with what ``solve_mapped_batch`` is to make of a batch of this size."""
    return _room(rows, size, _pays_one_by_one(layout, layout.seconds, size, threads))


def solve_batch(layout: KktLayout, values: Values, method: Method, threads: int) -> KernelResult:
    """Solve every element; their values are finite."""
    made = room(layout, 0, values.batch, threads)
    return _solved(layout, values, made, _NOTHING, values.batch, method, threads)


def solve_mapped_batch(
    layout: KktLayout, parts: Sequence[Array], made: Array, given: MapInput, method: Method, threads: int
) -> KernelResult:
    """The same for P, q, A and b of which each is a column or rows of ``made`` (see ``room``), which the first map is
    yet to write."""
    return _solved(layout, parts, made, given, given.source.shape[1], method, threads)


def _solved(
    layout: KktLayout, parts: Sequence[Array], made: Array, given: MapInput, size: int, method: Method, threads: int
) -> KernelResult:
    stack, numbers, one_by_one = given.stack, method.numbers, _pays_one_by_one(layout, layout.seconds, size, threads)
    out = _room(2 * layout.n + 3 * layout.m + 1 + _INFO + _RESIDUALS + stack.rows[1], size, one_by_one)
    solve, record, index, weights = solve_groups(layout.optional, one_by_one), layout.record, stack.index, stack.weights

    def call(plan: Any, V: Array, begin: int, end: int, *arrays: Array) -> float:
        *values, points = arrays
        worst: float = solve(plan, record, V, index, weights, *values, begin, end, numbers, points)
        return worst

    arrays = given.source, made, *parts, out
    worst = _each(layout, call, arrays, size, one_by_one, layout.seconds, threads)
    return KernelResult.of(out if out.shape[1] == size else out[:, :size], layout, worst)


def differentiate_batch(layout: KktLayout, point: DerivativeAt, f: Array, g: Array, threads: int) -> Sensitivity:
    """Solve J (dx, dv) = (f, g) for every element, with u = D dv (see ``sensitivity``)."""
    n, size, given = layout.n, f.shape[1], MapInput(_NO_MAPS, np.concatenate([f, g]))
    result, worst, _ = _differentiated(layout, point, given, n + layout.m, -1, _NO_ENDS, threads)
    return Sensitivity(result[INFO : INFO + n, :size], result[INFO + n :, :size], result[:INFO, :size], worst)


def pull_batch(
    layout: KktLayout, point: DerivativeAt, pairs: int, given: MapInput, ends: NDArray[np.int32], threads: int
) -> ParameterGradients:
    """The adjoint of what leads from parameters to outputs, for every element.

    ``given`` leads from the outputs' cotangents to those of x and y; and from the solution of the system, and from the
    cotangents of P if ``pairs`` has the bit 1 and of A if it has the bit 2, to those of the parameters, of which the
    first are those before ends[0], and so on.
    """
    result, worst, one_by_one = _differentiated(layout, point, given, given.stack.rows[1], pairs, ends, threads)
    size, columns, numbers = given.source.shape[1], result.shape[1], result.ravel("K")
    parts, start = [], 0
    for end in ends.tolist():
        if one_by_one:
            parts.append(np.ascontiguousarray(result.T[:, INFO + start : INFO + end]))
        else:
            part = numbers[(INFO + start) * columns : (INFO + end) * columns]
            parts.append(part.reshape(columns, end - start)[:size])
        start = end
    return ParameterGradients(parts, result[:INFO, :size], worst)


def _differentiated(
    layout: KktLayout,
    point: DerivativeAt,
    given: MapInput,
    rows: int,
    pairs: int,
    ends: NDArray[np.int32],
    threads: int,
) -> tuple[Array, float, bool]:
    """What there is to say, and below it so many rows of what the kernel makes of what is given; the largest residual;
    and whether each column is for itself in memory."""
    (mu, *parts), stack, size = point, given.stack, given.source.shape[1]
    seconds = layout.derivative_seconds
    one_by_one = _pays_one_by_one(layout, seconds, size, threads)
    result = _room(INFO + rows, size, one_by_one)
    differentiate, record = differentiate_groups(layout.optional, one_by_one), layout.record
    index, weights = stack.index, stack.weights

    def call(plan: Any, V: Array, begin: int, end: int, *arrays: Array) -> float:
        P, q, A, b, x, y, state, scales, source, out = arrays
        worst: float = differentiate(
            plan, record, V, P, q, A, b, mu, x, y, state, scales, index, weights, source, ends, pairs, begin, end, out
        )
        return worst

    worst = _each(layout, call, (*parts, given.source, result), size, one_by_one, seconds, threads)
    return result, worst, one_by_one


def measure_batch(layout: KktLayout, values: Values, x: Array, y: Array, s: Array, threads: int) -> Measured:
    """The residuals of every element's point, and the cost (see ``residuals``)."""
    size, seconds = values.batch, layout.measure_seconds
    one_by_one = _pays_one_by_one(layout, seconds, size, threads)
    out, measure = _room(_RESIDUALS, size, one_by_one), measure_groups(one_by_one)

    def call(plan: Any, V: Array, begin: int, end: int, *arrays: Array) -> float:
        worst: float = measure(plan, layout.record, V, *arrays[:-1], begin, end, arrays[-1])
        return worst

    worst = _each(layout, call, (*values, x, y, s, out), size, one_by_one, seconds, threads)
    return Measured(out[:, :size], worst)


def scale_batch(layout: KktLayout, values: Values, threads: int) -> Array:
    """D, E and cost of every element, (n + m + 1, B) (see ``equilibrate``)."""
    size, seconds, n, m = values.batch, layout.measure_seconds, layout.n, layout.m
    one_by_one = _pays_one_by_one(layout, seconds, size, threads)
    out, scale = _room(n + m + 1, size, one_by_one), scale_groups(layout.optional, one_by_one)

    def call(plan: Any, V: Array, begin: int, end: int, *arrays: Array) -> float:
        scale(plan, layout.record, V, *arrays[:-1], begin, end, arrays[-1])
        return 0.0

    _each(layout, call, (*values, out), size, one_by_one, seconds, threads)
    return out[:, :size]


def _each(
    layout: KktLayout, call: Callable[..., float], arrays: Sequence[Array], size: int, one_by_one: bool, seconds: float,
    threads: int,
) -> float:  # fmt: skip
    """Call a kernel for every element or group, and return the largest of what comes back."""
    if size == 1:
        plan, V = space = layout.take(True)
        worst = call(plan, V, 0, 1, *[_flat(part) for part in arrays])
        layout.give(space)
        return worst
    if not one_by_one:
        groups = -(-size // W)
        padded = [_padded(part, groups * W) for part in arrays]
        return max(parallel_for(partial(_together, layout, call, padded), groups, seconds, threads), default=0.0)
    columns = [_by_columns(part) for part in arrays]
    return max(parallel_for(partial(_one_by_one, layout, call, columns), size, seconds * ALONE, threads))


def _together(layout: KktLayout, call: Callable[..., float], arrays: Sequence[Array], begin: int, end: int) -> float:
    plan, V = space = layout.take()
    worst = call(plan, V, begin, end, *arrays)
    layout.give(space)
    return worst


def _one_by_one(layout: KktLayout, call: Callable[..., float], arrays: Sequence[Array], begin: int, end: int) -> float:
    plan, V = space = layout.take(True)
    columns = ([part[:, j if part.shape[1] > 1 else 0] for part in arrays] for j in range(begin, end))
    worst = max([call(plan, V, 0, 1, *column) for column in columns])
    layout.give(space)
    return worst


def _pays_one_by_one(layout: KktLayout, seconds: float, size: int, threads: int) -> bool:
    """Whether elements are worked on one by one: one for each thread, or a few, where groups of W would not fit into
    the cache; all, where they would take too much memory."""
    if size < 2 or layout.rows > LARGEST:
        return size > 0
    if size >= W * threads:
        return False
    busy = min(threads, 1 + int(size * seconds * ALONE / WORTH_A_THREAD))
    return -(-size // busy) < (FAR if layout.rows > CACHED else NEAR)


def _room(rows: int, size: int, one_by_one: bool) -> Array:
    """An empty array (rows, size), each column for itself in memory; or of a whole number of groups."""
    return np.empty((size, rows)).T if one_by_one else np.empty((rows, -(-size // W) * W))


def _by_columns(part: Array) -> Array:
    """An array (rows, batch), each column for itself in memory, or one column that is the same for all elements.

    Rows of an array that is so already stay where they are: the kernels write values to it, and read them there.
    """
    if part.shape[1] > 1 and part.strides[1] == 0:
        part = part[:, :1]
    return part if part.strides[0] == part.itemsize else np.asarray(part, dtype=float, order="F")


def _flat(part: Array) -> Array:
    """One column; ``ravel`` takes a view, in a third of the time of what makes sure of the type."""
    return part.ravel() if part.dtype is _FLOAT else part.astype(float).ravel()


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
