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
from cvxlayers.ipm.pairing import pair_A, pair_P
from cvxlayers.ipm.residuals import measure_group
from cvxlayers.ipm.sensitivity import differentiate_group
from cvxlayers.ipm.width import W

__all__ = [
    "differentiate_further_groups",
    "differentiate_groups",
    "measure_groups",
    "pair_groups",
    "solve_further_groups",
    "solve_groups",
]

_PLAN, _AT, _INTEGER = types.Array(types.int32, 1, "C"), numba.from_dtype(FIELDS), types.int64
_FURTHER_AT = numba.from_dtype(FURTHER_FIELDS)
_NUMBERS, _MATRIX = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
_VALUES = types.Array(types.float64, 2, "C", readonly=True)


def _make_solve(fingerprint: int, at: Any, measuring: bool) -> Any:
    def solve_groups(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, begin: int, end: int, shared: bool,
                     settings: Any, x: Any, y: Any, s: Any, info: Any, measured: Any) -> None:  # fmt: skip
        """Solve groups begin, ..., end - 1, of W elements each, and measure the points where ``residuals`` can.

        ``shared``: P and A are the same for all.
        """
        if fingerprint < 0:
            return
        for group in range(begin, end):
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, group * W)
            else:
                load_scaled(plan, at, V, P, A, group * W)
            solve_group(plan, at, V, q, b, group * W, settings, x, y, s, info)
            if measuring:
                measure_group(plan, at, V, P, q, A, b, x, y, s, group * W, measured)

    signature = types.void(
        _PLAN, at, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES, _INTEGER, _INTEGER, types.boolean,
        _NUMBERS, _MATRIX, _MATRIX, _MATRIX, _MATRIX, _MATRIX,
    )  # fmt: skip
    return compiled(signature, solve_groups)


def _make_differentiate(fingerprint: int, at: Any) -> Any:
    def differentiate_groups(plan: Any, at: Any, V: Any, P: Any, A: Any, state: Any, probe: Any, f: Any, g: Any,
                             begin: int, end: int, shared: bool, dx: Any, u: Any, info: Any) -> None:  # fmt: skip
        """Solve the derivative's system for groups begin, ..., end - 1 (see ``sensitivity``)."""
        if fingerprint < 0:
            return
        for group in range(begin, end):
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, group * W)
            else:
                load_scaled(plan, at, V, P, A, group * W)
            differentiate_group(plan, at, V, state, probe, f, g, group * W, dx, u, info)

    signature = types.void(
        _PLAN, at, _MATRIX, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _VALUES, _INTEGER, _INTEGER, types.boolean,
        _MATRIX, _MATRIX, _MATRIX,
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


def _make_pair(fingerprint: int) -> Any:
    def pair_groups(plan: Any, at: Any, rx: Any, rv: Any, x: Any, y: Any, begin: int, end: int,
                    dP: Any, dA: Any) -> None:  # fmt: skip
        """The cotangents of P and A for groups begin, ..., end - 1; those without rows are not wanted."""
        if fingerprint < 0:
            return
        for group in range(begin, end):
            if dP.shape[0] > 0:
                pair_P(plan, at, rx, x, group * W, dP)
            if dA.shape[0] > 0:
                pair_A(plan, at, rx, rv, x, y, group * W, dA)

    signature = types.void(
        _PLAN, _AT, _VALUES, _VALUES, _VALUES, _VALUES, _INTEGER, _INTEGER, _MATRIX, _MATRIX,
    )  # fmt: skip
    return compiled(signature, pair_groups)


solve_groups = _make_solve(FINGERPRINT, _AT, True)
differentiate_groups = _make_differentiate(FINGERPRINT, _AT)
measure_groups = _make_measure(FINGERPRINT)
pair_groups = _make_pair(FINGERPRINT)


@functools.lru_cache(maxsize=1)
def solve_further_groups() -> Any:
    """The first of these kernels for structures with PSD, exponential or power cones, made when first asked for."""
    return _make_solve(FINGERPRINT, _FURTHER_AT, False)


@functools.lru_cache(maxsize=1)
def differentiate_further_groups() -> Any:
    """Likewise the second."""
    return _make_differentiate(FINGERPRINT, _FURTHER_AT)
