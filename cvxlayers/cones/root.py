"""Roots of many increasing scalar functions at once: Newton steps inside a shrinking bracket."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cvxlayers.cones.arrays import Array

__all__ = ["increasing_root"]

_STEP = 1e-13  # a Newton step of this relative size leaves an error far below rounding
_TRUSTED = 24  # steps after which every second one is a bisection, so that the bracket must close
_LIMIT = 400

Step = Callable[..., tuple[Array, Array, Array]]


def increasing_root(step: Step, start: Array, lower: Array, upper: Array, *data: Array) -> Array:
    """The root of an increasing function between ``lower`` and ``upper``, for each of the L lanes.

    Lanes that have converged are left out of the following steps.

    Parameters
    ----------
    step : callable
        ``step(x, *data)`` gives, for some of the lanes, the function's value, the next x that a Newton step proposes
        (in whatever variable makes the function nearly linear), and the size of the value's rounding errors.
    start, lower, upper : (L,)
        A first guess and a finite bracket. Where the function has no sign change between, the nearer end is the answer.
    data : (L,) each
        What the function of each lane depends on; lanes with a NaN give NaN.
    """
    root = start.copy()
    lanes = np.arange(start.size)
    x = start
    for count in range(_LIMIT):
        value, proposed, noise = step(x, *data)
        lower, upper = np.where(value < 0, x, lower), np.where(value > 0, x, upper)
        small = _STEP * np.maximum(1.0, np.abs(x))
        settled = np.abs(proposed - x) <= small
        # A step onto an end of the bracket is pulled inside by less than the tolerance, where it can close the bracket.
        inner = np.clip(proposed, lower + 0.5 * small, upper - 0.5 * small)
        trusted = (proposed >= lower) & (proposed <= upper) & (count < _TRUSTED or count % 2 == 0)
        following = np.where(settled, proposed, np.where(trusted, inner, lower + 0.5 * (upper - lower)))
        exact = np.abs(value) <= noise
        following = np.where(exact, x, following)
        done = exact | settled | (upper - lower <= small) | np.isnan(value)
        root[lanes] = np.where(np.isnan(value), np.nan, following)
        if done.all():
            break
        if done.any():
            going = ~done
            lanes, x, lower, upper = lanes[going], following[going], lower[going], upper[going]
            data = tuple(part[going] for part in data)
        else:
            x = following
    return root
