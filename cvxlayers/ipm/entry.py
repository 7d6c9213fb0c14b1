"""The kernels that Python calls."""

from __future__ import annotations

import functools
from typing import Any

import numba
from numba import types

from cvxlayers.ipm.equilibrate import equilibrate, load_scaled
from cvxlayers.ipm.iteration import solve_group
from cvxlayers.ipm.kernel import FINGERPRINT, compiled
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

_PLAN, _AT, _INTEGER = types.Array(types.int32, 1, "C"), numba.from_dtype(FIELDS), types.int64
_FURTHER_AT = numba.from_dtype(FURTHER_FIELDS)
_NUMBERS, _MATRIX = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
_VALUES = types.Array(types.float64, 2, "C", readonly=True)


def _make_solve(fingerprint: int, at: Any, measuring: bool) -> Any:
    def solve_groups(plan: Any, at: Any, V: Any, maps: Any, weights: Any, theta: Any, values: Any,
                     P: Any, q: Any, A: Any, b: Any, begin: int, end: int, shared: bool, settings: Any,
                     out: Any) -> None:  # fmt: skip
        """Solve groups begin, ..., end - 1, of W elements each, and measure the points where ``residuals`` can.

        Map 0 makes values of theta, before; those of P, q, A, b that vary are rows of values. Map 1 makes the last rows
        of out of its others: x, y, s, info (3), residuals and cost (5). shared: P and A are the same for all.
        """
        if fingerprint < 0:
            return
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
        _PLAN, at, _MATRIX, _PLAN, _NUMBERS, _VALUES, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES,
        _INTEGER, _INTEGER, types.boolean, _NUMBERS, _MATRIX,
    )  # fmt: skip
    return compiled(signature, solve_groups)


def _make_differentiate(fingerprint: int, at: Any) -> Any:
    def differentiate_groups(plan: Any, at: Any, V: Any, P: Any, A: Any, state: Any, probe: Any, x: Any, y: Any,
                             maps: Any, weights: Any, cotangent: Any, right: Any, begin: int, end: int, shared: bool,
                             pairs: int, out: Any, info: Any, ends: Any, pulled: Any) -> None:  # fmt: skip
        """Solve the derivative's system for groups begin, ..., end - 1 (see ``sensitivity``).

        Either right (n + m, B) is given and the solutions are wanted, dx and u one below the other in out. Or map 0
        makes right of cotangent, before, and map 1 makes pulled of out, after (see ``map_group_apart``): then pairs is
        not negative, right and out have W columns, which each group uses again, and below dx and u out holds the
        cotangents of P if pairs has the bit 1, and those of A if it has the bit 2.
        """
        if fingerprint < 0:
            return
        pulls = pairs >= 0
        n, first = at.n, at.n + at.m
        second = first + at.P_nnz * (pairs & 1)
        for group in range(begin, end):
            column = group * W
            place = 0 if pulls else column
            if pulls:
                map_group(maps, weights, 0, cotangent, column, right, 0)
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, column)
            else:
                load_scaled(plan, at, V, P, A, column)
            f, g, dx, u = right[:n], right[n:], out[:n], out[n:first]
            differentiate_group(plan, at, V, state, probe, column, f, g, dx, u, place, info)
            if pulls:
                if pairs & 1:
                    pair_P(plan, at, dx, x, column, out[first:second])
                if pairs & 2:
                    pair_A(plan, at, dx, u, x, y, column, out[second:])
                map_group_apart(maps, weights, 1, out, 0, ends, info.shape[1], column, pulled)

    signature = types.void(
        _PLAN, at, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _PLAN, _NUMBERS, _VALUES, _MATRIX,
        _INTEGER, _INTEGER, types.boolean, _INTEGER, _MATRIX, _MATRIX, _PLAN, _NUMBERS,
    )  # fmt: skip
    return compiled(signature, differentiate_groups)


def _make_measure(fingerprint: int) -> Any:
    def measure_groups(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, x: Any, y: Any, s: Any,
                       begin: int, end: int, out: Any) -> None:  # fmt: skip
        """The residuals of groups begin, ..., end - 1 (see ``residuals``)."""
        if fingerprint < 0:
            return
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
