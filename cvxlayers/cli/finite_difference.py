"""Finite differences that say whether they can be trusted: the step is halved until two Richardson estimates agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "directional_derivative", "steps"]

FIRST_STEP = 2.0**-5
HALVINGS = 11
SETTLED = 1e-5  # how closely two successive estimates must agree, relative to their size and the outputs' scale


@dataclass(frozen=True)
class Estimate:
    """A directional derivative, and how far its two best estimates are apart, relative to the scale.

    With ``settled`` false there is no derivative to compare with: a kink, or solutions that jump or are not unique.
    """

    value: NDArray[np.float64]
    disagreement: float

    @property
    def settled(self) -> bool:
        return self.disagreement <= SETTLED


def steps() -> NDArray[np.float64]:
    """The steps t at which the function is wanted: plus and minus each of the halved steps, largest first."""
    halved = FIRST_STEP * 0.5 ** np.arange(HALVINGS)
    return np.concatenate([halved, -halved])


def directional_derivative(function: Callable[[NDArray[np.float64]], np.ndarray], scale: float) -> Estimate:
    """The derivative at t = 0 of a function that takes all steps (T,) at once and returns values (T, size).

    Values that are NaN (no solution at that step) take no part. With D(t) the central difference, the estimate
    R(t) = (4 D(t/2) - D(t)) / 3 is exact up to t^4 (Richardson 1911). Of all pairs R(t), R(t/2) the closest one is
    taken: large steps suffer from curvature and kinks nearby, small ones from the solver's tolerance.
    """
    t = steps()
    values = function(t)
    half = t.size // 2
    central = (values[:half] - values[half:]) / (2 * t[:half, None])
    richardson = (4 * central[1:] - central[:-1]) / 3
    apart = np.abs(np.diff(richardson, axis=0)).max(axis=1, initial=0.0)
    size = np.abs(richardson[1:]).max(axis=1, initial=0.0)
    relative = apart / (scale + size)
    if not np.isfinite(relative).any():
        return Estimate(np.full(values.shape[1], np.nan), np.inf)
    best = int(np.nanargmin(relative))
    return Estimate(richardson[best + 1], float(relative[best]))
