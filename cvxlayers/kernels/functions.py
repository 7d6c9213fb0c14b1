"""Logarithm and exponential in vector instructions; the C library would take one lane at a time."""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.simd import maximum, minimum, nearest, noinline, select, splat, split, two_to

__all__ = ["cross", "exp", "one_minus_exp_neg", "log", "log_of_one_plus"]

NEAR = 0.4
"""Up to this x the series is in x itself. (Compilers may simplify 1 + x - 1, so that no trick with it is safe.)"""

LOG_2 = 0.6931471805599453


@kernel
def series(z: Any) -> Any:
    """2 artanh z for |z| <= 0.1716 (numbers between the roots of 1/2 and 2, as (1 + z) / (1 - z))."""
    square = z * z
    total = splat(z, 2.0 / 21.0)
    for k in range(19, 0, -2):
        total = total * square + 2.0 / k
    return z * total


@kernel
def log(x: Any) -> Any:
    """log x for x > 0. For other x it is a number that means nothing, or NaN for NaN and infinity."""
    noinline()
    m, e = split(x)
    return e * LOG_2 + series((m - 1.0) / (m + 1.0)) + 0.0 * x


@kernel
def exp(x: Any) -> Any:
    """exp x, for x kept between -700 and 700."""
    noinline()
    x = minimum(maximum(splat(x, -700.0), x), splat(x, 700.0)) + 0.0 * x
    k = nearest(x * 1.4426950408889634)
    x -= k * LOG_2
    total = splat(x, 1.0)
    for j in range(13, 0, -1):
        total = 1.0 + x * total / j
    return total * two_to(k)


@kernel
def log_of_one_plus(x: Any) -> Any:
    """log(1 + x) for x >= 0, without loss of digits for small x."""
    noinline()
    m, e = split(1.0 + x)
    near = splat(x, NEAR)
    above, below = select(x, near, m - 1.0, x), select(x, near, m + 1.0, 2.0 + x)
    return select(x, near, e, splat(x, 0.0)) * LOG_2 + series(above / below) + 0.0 * x


@kernel
def one_minus_exp_neg(x: Any) -> Any:
    """1 - exp(-x) for x >= 0, without loss of digits for small x."""
    noinline()
    total = splat(x, 1.0)
    for k in range(15, 1, -1):
        total = 1.0 - x * total / k
    return select(x, splat(x, NEAR), 1.0 - exp(-x), x * total)


@kernel
def cross(a1: Any, a2: Any, a3: Any, b1: Any, b2: Any, b3: Any) -> Any:
    """The cross product a x b, orthogonal to both."""
    return a2 * b3 - a3 * b2, a3 * b1 - a1 * b3, a1 * b2 - a2 * b1
