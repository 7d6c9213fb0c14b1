"""What the kernels of all cones need: vectors in R^3 of any size, and the root of an increasing function."""

from __future__ import annotations

import math
from typing import Any

import numba

__all__ = ["FALL", "OPTIONS", "cross", "direction", "increasing_root", "kernel", "length", "size_of"]

OPTIONS: Any = {"nogil": True, "error_model": "numpy"}
"""How kernels are compiled: floating-point arithmetic as it stands, as rounding errors are weighed in it."""

_INNER: Any = {**OPTIONS, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

kernel: Any = numba.njit(**_INNER)
"""A kernel that other kernels call."""

FALL = 1e-13
"""A Newton step of this relative size leaves an error far below rounding."""

TRUSTED, LIMIT = 24, 400
"""After so many steps every second one is a bisection, so that the bracket must close; and never more than these."""


@kernel
def size_of(a: Any, b: Any, c: Any) -> Any:
    """The largest absolute entry; NaN or infinity if one of the entries is not finite."""
    found = max(max(abs(a), abs(b)), abs(c))
    return found + 0.0 * (a + b + c)


@kernel
def length(a: Any, b: Any, c: Any) -> Any:
    """The 2-norm of finite numbers of any size."""
    size = max(max(abs(a), abs(b)), abs(c))
    if size == 0.0:
        return 0.0
    a, b, c = a / size, b / size, c / size
    return size * math.sqrt(a * a + b * b + c * c)


@kernel
def direction(a: Any, b: Any, c: Any) -> Any:
    """The vector over its 2-norm, and 0 for 0."""
    norm = length(a, b, c)
    if norm == 0.0:
        return 0.0, 0.0, 0.0
    return a / norm, b / norm, c / norm


@kernel
def cross(a1: Any, a2: Any, a3: Any, b1: Any, b2: Any, b3: Any) -> Any:
    """The cross product a x b."""
    return a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1


@kernel
def increasing_root(step: Any, start: Any, lower: Any, upper: Any, data: Any) -> Any:
    """The root of an increasing function between ``lower`` and ``upper``: Newton steps inside a shrinking bracket.

    ``step(x, data)`` gives the function's value, the next x that a Newton step proposes, and the size of the value's
    rounding errors. Without a sign change the nearer end is the answer; NaN gives NaN. (See ``cones.root``.)
    """
    x = start
    for count in range(LIMIT):
        value, proposed, noise = step(x, data)
        if math.isnan(value):
            return math.nan
        if abs(value) <= noise:
            return x
        if value < 0.0:
            lower = x
        else:
            upper = x
        small = FALL * max(1.0, abs(x))
        if abs(proposed - x) <= small:
            return proposed
        if lower <= proposed <= upper and (count < TRUSTED or count % 2 == 0):
            # A step onto an end is pulled inside by less than the tolerance, where it can close the bracket.
            x = min(max(proposed, lower + 0.5 * small), upper - 0.5 * small)
        else:
            x = lower + 0.5 * (upper - lower)
        if upper - lower <= small:
            return x
    return x
