"""The kernels that Python calls: for groups of W problems, and for a single one.

A single problem's arrays have one dimension (see ``simd``), and its group is number 0. The kernels for it, and those
for PSD, exponential and power cones, are made when they are first asked for.

Their record of offsets (see ``layout``) comes as an array of one: a record itself goes through Python's buffers, which
takes Numba longer than all of the other arguments together.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
from numba import types

from cvxlayers.ipm.adjoint.cotangents import pair_A, pair_P
from cvxlayers.ipm.adjoint.maps import map_group, map_group_apart
from cvxlayers.ipm.adjoint.sensitivity import INFO, differentiate_group
from cvxlayers.ipm.iteration import solve_group
from cvxlayers.ipm.kkt.equilibrate import equilibrate, load_scales, write_scales
from cvxlayers.ipm.kkt.layout import FIELDS, OPTIONAL_FIELDS
from cvxlayers.ipm.residuals import largest_of, measure_group, verdict
from cvxlayers.kernels import jit
from cvxlayers.kernels.decorators import compiled
from cvxlayers.kernels.simd import load, load_from, store, store_to
from cvxlayers.kernels.width import W

__all__ = ["differentiate_groups", "measure_groups", "scale_groups", "solve_groups"]

_FINGERPRINT = jit.fingerprint("kernels", "ldl", "ipm", "verify/measure.py")
"""Changes with the source of any kernel that is called here, and of what they take from elsewhere."""

_PLAN, _INTEGER, _NUMBER = types.Array(types.int32, 1, "C"), types.int64, types.float64
_NUMBERS = types.Array(types.float64, 1, "C")


def _record(optional: bool) -> Any:
    return types.Array(numba.from_dtype(OPTIONAL_FIELDS if optional else FIELDS), 1, "C")


def _arrays(single: bool) -> tuple[Any, Any]:
    """The types of arrays (rows, batch), or (rows,), that are written to and that are read."""
    dimensions = 1 if single else 2
    return types.Array(types.float64, dimensions, "C"), types.Array(types.float64, dimensions, "C", readonly=True)


@functools.lru_cache(maxsize=4)
def solve_groups(optional: bool = False, single: bool = False) -> Any:
    """Solve every problem; with ``optional`` for structures with PSD, exponential or power cones."""
    return _make_solve(_FINGERPRINT, not optional, _record(optional), *_arrays(single))


@functools.lru_cache(maxsize=4)
def differentiate_groups(optional: bool = False, single: bool = False) -> Any:
    """Solve the derivative's systems, likewise."""
    return _make_differentiate(_FINGERPRINT, _record(optional), *_arrays(single))


@functools.lru_cache(maxsize=2)
def measure_groups(single: bool = False) -> Any:
    """Measure points, for structures without these cones."""
    return _make_measure(_FINGERPRINT, _record(False), *_arrays(single))


@functools.lru_cache(maxsize=4)
def scale_groups(optional: bool = False, single: bool = False) -> Any:
    """The scales of problems."""
    return _make_scale(_FINGERPRINT, _record(optional), *_arrays(single))


def _make_solve(fingerprint: int, measuring: bool, record: Any, matrix: Any, given: Any) -> Any:
    def solve_groups(plan: Any, records: Any, V: Any, maps: Any, weights: Any, theta: Any, values: Any,
                     P: Any, q: Any, A: Any, b: Any, begin: int, end: int, settings: Any,
                     out: Any) -> float:  # fmt: skip
        """Solve groups begin, ..., end - 1, of W elements each, and measure the points where ``residuals`` can.

        Map 0 makes values of theta, before; those of P, q, A, b that vary are rows of values. Map 1 makes the last rows
        of out of the first: x, y, s, info (3), residuals and cost (5). Between them stand the scales, D, E and cost.
        What comes back is the largest residual that was measured, or infinity if some problem is not solved.
        """
        if fingerprint < 0:
            return 0.0
        at, worst = records[0], 0.0
        y, s, info = at.n, at.n + at.m, at.n + 2 * at.m
        scales, last = info + 8, info + 8 + at.n + at.m + 1
        for group in range(begin, end):
            map_group(maps, weights, 0, theta, group * W, values, group * W)
            equilibrate(plan, at, V, P, q, A, b, group * W)
            write_scales(at, V, group * W, out[scales:last])
            solve_group(plan, at, V, group * W, settings, out[:y], out[y:s], out[s:info], out[info:])
            if measuring:
                measure_group(plan, at, V, P, q, A, b, out[:y], out[y:s], out[s:info], group * W, out[info + 3 :])
            worst = max(worst, verdict(out, info, group * W, measuring))
            map_group(maps, weights, 1, out, group * W, out[last:], group * W)
        return worst

    signature = _NUMBER(
        _PLAN, record, matrix, _PLAN, _NUMBERS, given, matrix, given, given, given, given,
        _INTEGER, _INTEGER, _NUMBERS, matrix,
    )  # fmt: skip
    return compiled(signature, solve_groups)


def _make_differentiate(fingerprint: int, record: Any, matrix: Any, given: Any) -> Any:
    def differentiate_groups(plan: Any, records: Any, V: Any, P: Any, q: Any, A: Any, b: Any, mu: float, x: Any,
                             y: Any, state: Any, scales: Any, maps: Any, weights: Any, source: Any, ends: Any,
                             pairs: int, begin: int, end: int, result: Any) -> float:  # fmt: skip
        """Solve the derivative's system for groups begin, ..., end - 1 (see ``sensitivity``).

        scales are D, E and cost, one below the other, or have no rows where they are yet to be found.
        The first rows of result receive what ``INFO`` tells. If pairs is negative, source (n + m, B) is the right
        side, and the other rows of result receive the solutions, dx and u one below the other. Otherwise map 0 makes
        the right side of source, before; and map 1, after, makes what comes below these rows (see
        ``map_group_apart``) of dx, u, the cotangents of P if pairs has the bit 1, and those of A if it has the bit 2.
        What comes back is the largest residual, or infinity if one is NaN.
        """
        if fingerprint < 0:
            return 0.0
        worst, at = 0.0, records[0]
        size, right, out = at.n + at.m, V[at.right :], V[at.out :]
        for group in range(begin, end):
            column = group * W
            if pairs < 0:
                for i in range(size):
                    store(right, i, load_from(source, i, column))
            else:
                map_group(maps, weights, 0, source, column, right, 0)
            if scales.shape[0]:
                load_scales(plan, at, V, P, q, A, b, scales, column)
            else:
                equilibrate(plan, at, V, P, q, A, b, column)
            differentiate_group(plan, at, V, x, y, state, mu, column, result)
            if pairs < 0:
                for i in range(size):
                    store_to(result, INFO + i, column, load(out, i))
            else:
                if pairs & 1:
                    pair_P(plan, at, out, x, column, out[size:])
                if pairs & 2:
                    pair_A(plan, at, out, x, y, column, out[size + at.P_nnz * (pairs & 1) :])
                map_group_apart(maps, weights, 1, out, ends, column, result[INFO - 1 :])
            worst = max(worst, largest_of(result, 0, 1, column))
        return worst

    signature = _NUMBER(
        _PLAN, record, matrix, given, given, given, given, _NUMBER, given, given, given, given, _PLAN, _NUMBERS, given,
        _PLAN,
        _INTEGER, _INTEGER, _INTEGER, matrix,
    )  # fmt: skip
    return compiled(signature, differentiate_groups)


def _make_measure(fingerprint: int, record: Any, matrix: Any, given: Any) -> Any:
    def measure_groups(plan: Any, records: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any,
                       begin: int, end: int, out: Any) -> float:  # fmt: skip
        """The residuals of groups begin, ..., end - 1 (see ``residuals``), and the largest (infinity if one is NaN)."""
        if fingerprint < 0:
            return 0.0
        at, worst = records[0], 0.0
        for group in range(begin, end):
            equilibrate(plan, at, V, P, q, A, b, group * W)
            measure_group(plan, at, V, P, q, A, b, x, y, s, group * W, out)
            worst = max(worst, largest_of(out, 0, 4, group * W))
        return worst

    signature = _NUMBER(
        _PLAN, record, matrix, given, given, given, given, given, given, given,
        _INTEGER, _INTEGER, matrix,
    )  # fmt: skip
    return compiled(signature, measure_groups)


def _make_scale(fingerprint: int, record: Any, matrix: Any, given: Any) -> Any:
    def scale_groups(plan: Any, records: Any, V: Any, P: Any, q: Any, A: Any, b: Any, begin: int, end: int,
                     out: Any) -> None:  # fmt: skip
        """D, E and cost of groups begin, ..., end - 1, one below the other."""
        if fingerprint < 0:
            return
        at = records[0]
        for group in range(begin, end):
            equilibrate(plan, at, V, P, q, A, b, group * W)
            write_scales(at, V, group * W, out)

    signature = types.void(_PLAN, record, matrix, given, given, given, given, _INTEGER, _INTEGER, matrix)
    return compiled(signature, scale_groups)
