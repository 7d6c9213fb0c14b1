"""The kernel that Python calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import types

from cvxlayers.ipm.equilibrate import equilibrate
from cvxlayers.ipm.iteration import solve_group
from cvxlayers.ipm.kernel import FINGERPRINT, compiled
from cvxlayers.ipm.lanes import W
from cvxlayers.ipm.layout import FIELDS

__all__ = ["solve_groups"]


def _make(fingerprint: int) -> Callable[..., None]:
    def solve_groups(plan: Any, at: Any, V: Any, P: Any, q: Any, A: Any, b: Any, begin: int, end: int, shared: bool,
                     settings: Any, x: Any, y: Any, s: Any, info: Any) -> None:  # fmt: skip
        """Solve groups begin, ..., end - 1, of W elements each; ``shared``: P and A are the same for all."""
        if fingerprint < 0:
            return
        for group in range(begin, end):
            if group == begin or not shared:
                equilibrate(plan, at, V, P, A, group * W)
            solve_group(plan, at, V, P, q, A, b, group * W, settings, x, y, s, info)

    numbers, matrix = types.Array(types.float64, 1, "C"), types.Array(types.float64, 2, "C")
    values = types.Array(types.float64, 2, "C", readonly=True)
    integer = types.int64
    signature = types.void(
        types.Array(types.int32, 1, "C"), numba.from_dtype(FIELDS), matrix, values, values, values, values,
        integer, integer, types.boolean, numbers, matrix, matrix, matrix, matrix,
    )  # fmt: skip
    return compiled(signature, solve_groups)


solve_groups = _make(FINGERPRINT)
