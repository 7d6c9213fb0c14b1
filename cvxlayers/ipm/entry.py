"""The kernels that Python calls.

Their record of offsets (see ``layout``) comes as an array of one: a record itself goes through Python's buffers, which
takes Numba longer than all of the other arguments together.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
from numba import types

from cvxlayers.ipm.equilibrate import equilibrate, load_scaled
from cvxlayers.ipm.iteration import solve_group
from cvxlayers.ipm.kernel import FINGERPRINT, compiled
from cvxlayers.ipm.lanes import load, load_from, store, store_to
from cvxlayers.ipm.layout import FIELDS, FURTHER_FIELDS
from cvxlayers.ipm.mapping import map_group, map_group_apart
from cvxlayers.ipm.pairing import pair_A, pair_P
from cvxlayers.ipm.residuals import measure_group
from cvxlayers.ipm.sensitivity import differentiate_group
from cvxlayers.ipm.width import W

__all__ = [
    "differentiate_further_groups",
    "differentiate_groups",
    "measure_groups",
    "solve_further_groups",
    "solve_groups",
]

_PLAN, _INTEGER, _NUMBER = types.Array(types.int32, 1, "C"), types.int64, types.float64
_AT, _FURTHER_AT = (types.Array(numba.from_dtype(fields), 1, "C") for fields in (FIELDS, FURTHER_FIELDS))
_NUMBERS, _MATRIX = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
_VALUES = types.Array(types.float64, 2, "C", readonly=True)


def _make_solve(fingerprint: int, record: Any, measuring: bool) -> Any:
    def solve_groups(plan: Any, records: Any, V: Any, maps: Any, weights: Any, theta: Any, values: Any,
                     P: Any, q: Any, A: Any, b: Any, begin: int, end: int, settings: Any,
                     out: Any) -> None:  # fmt: skip
        """Solve groups begin, ..., end - 1, of W elements each, and measure the points where ``residuals`` can.

        Map 0 makes values of theta, before; those of P, q, A, b that vary are rows of values. Map 1 makes the last rows
        of out of its others: x, y, s, info (3), residuals and cost (5).
        """
        if fingerprint < 0:
            return
        at, shared = records[0], P.shape[1] == 1 and A.shape[1] == 1
        y, s, info = at.n, at.n + at.m, at.n + 2 * at.m
        for group in range(begin, end):
            map_group(maps, weights, 0, theta, group * W, values, group * W)
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, group * W)
            else:
                load_scaled(plan, at, V, P, A, group * W)
            solve_group(plan, at, V, q, b, group * W, settings, out[:y], out[y:s], out[s:info], out[info:])
            if measuring:
                measure_group(plan, at, V, P, q, A, b, out[:y], out[y:s], out[s:info], group * W, out[info + 3 :])
            map_group(maps, weights, 1, out, group * W, out[info + 8 :], group * W)

    signature = types.void(
        _PLAN, record, _MATRIX, _PLAN, _NUMBERS, _VALUES, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES,
        _INTEGER, _INTEGER, _NUMBERS, _MATRIX,
    )  # fmt: skip
    return compiled(signature, solve_groups)


def _make_differentiate(fingerprint: int, record: Any) -> Any:
    def differentiate_groups(plan: Any, records: Any, V: Any, P: Any, A: Any, mu: float, x: Any, y: Any, state: Any,
                             maps: Any, weights: Any, source: Any, ends: Any, pairs: int, begin: int, end: int,
                             result: Any) -> None:  # fmt: skip
        """Solve the derivative's system for groups begin, ..., end - 1 (see ``sensitivity``).

        The first row of result receives the relative residuals. If pairs is negative, source (n + m, B) is the right
        side, and the other rows of result receive the solutions, dx and u one below the other. Otherwise map 0 makes
        the right side of source, before; and map 1, after, makes what comes below the residuals (see
        ``map_group_apart``) of dx, u, the cotangents of P if pairs has the bit 1, and those of A if it has the bit 2.
        """
        if fingerprint < 0:
            return
        at, shared = records[0], P.shape[1] == 1 and A.shape[1] == 1
        size, right, out = at.n + at.m, V[at.right :], V[at.out :]
        for group in range(begin, end):
            column = group * W
            if pairs < 0:
                for i in range(size):
                    store(right, i, load_from(source, i, column))
            else:
                map_group(maps, weights, 0, source, column, right, 0)
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, column)
            else:
                load_scaled(plan, at, V, P, A, column)
            differentiate_group(plan, at, V, y, state, mu, column, result)
            if pairs < 0:
                for i in range(size):
                    store_to(result, 1 + i, column, load(out, i))
            else:
                if pairs & 1:
                    pair_P(plan, at, out, x, column, out[size:])
                if pairs & 2:
                    pair_A(plan, at, out, x, y, column, out[size + at.P_nnz * (pairs & 1) :])
                map_group_apart(maps, weights, 1, out, ends, column, result)

    signature = types.void(
        _PLAN, record, _MATRIX, _VALUES, _VALUES, _NUMBER, _VALUES, _VALUES, _VALUES, _PLAN, _NUMBERS, _VALUES, _PLAN,
        _INTEGER, _INTEGER, _INTEGER, _MATRIX,
    )  # fmt: skip
    return compiled(signature, differentiate_groups)


def _make_measure(fingerprint: int) -> Any:
    def measure_groups(plan: Any, records: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any,
                       begin: int, end: int, out: Any) -> None:  # fmt: skip
        """The residuals of groups begin, ..., end - 1 (see ``residuals``)."""
        if fingerprint < 0:
            return
        at = records[0]
        for group in range(begin, end):
            measure_group(plan, at, V, P, q, A, b, x, y, s, group * W, out)

    signature = types.void(
        _PLAN, _AT, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES,
        _INTEGER, _INTEGER, _MATRIX,
    )  # fmt: skip
    return compiled(signature, measure_groups)


solve_groups = _make_solve(FINGERPRINT, _AT, True)
differentiate_groups = _make_differentiate(FINGERPRINT, _AT)
measure_groups = _make_measure(FINGERPRINT)


@functools.lru_cache(maxsize=1)
def solve_further_groups() -> Any:
    """The first of these kernels for structures with PSD, exponential or power cones, made when first asked for."""
    return _make_solve(FINGERPRINT, _FURTHER_AT, False)


@functools.lru_cache(maxsize=1)
def differentiate_further_groups() -> Any:
    """Likewise the second."""
    return _make_differentiate(FINGERPRINT, _FURTHER_AT)
