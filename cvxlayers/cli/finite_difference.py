"""Finite differences that say whether they can be trusted: the step is halved until extrapolated estimates agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST_STEP", "Estimate", "directional_derivative", "steps"]

Array = NDArray[np.float64]

FIRST_STEP = 0.25
HALVINGS = 11
SETTLED = 2e-5  # how closely the two best estimates must agree, relative to the derivative's size and the scale
KINK = 1e-2  # by how much the derivatives to the two sides may differ at the best step, relative to the same


@dataclass(frozen=True)
class Estimate:
    """A directional derivative, and how much of it to believe.

    Attributes
    ----------
    value : (size,) array
    disagreement : float
        How far the two best estimates are apart, relative to the derivative's size and the scale.
    kink : float
        How far the derivatives to the two sides are apart, relative to the same.
    """

    value: Array
    disagreement: float
    kink: float

    @property
    def settled(self) -> bool:
        """Whether there is a derivative: no kink, no jump, no noise that drowns it."""
        return self.disagreement <= SETTLED and self.kink <= KINK


def steps() -> Array:
    """The steps t at which the function is wanted: plus and minus each of the halved steps, largest first, and 0."""
    halved = FIRST_STEP * 0.5 ** np.arange(HALVINGS)
    return np.concatenate([halved, -halved, [0.0]])


def directional_derivative(function: Callable[[Array], np.ndarray], scale: float) -> Estimate:
    """The derivative at t = 0 of a function that takes all steps (T,) at once and returns values (T, size).

    Values that are NaN (no solution at that step) take no part. ``scale`` is the size of derivatives that still matter.

    Examples
    --------
    >>> estimate = directional_derivative(lambda t: np.exp(t)[:, None], scale=1.0)
    >>> bool(estimate.settled), float(estimate.value[0].round(9))
    (True, 1.0)
    """
    t = steps()
    values = function(t)
    forward, backward, here = values[:HALVINGS], values[HALVINGS:-1], values[-1]
    length = t[:HALVINGS, None]
    value, apart = _extrapolate((forward - backward) / (2 * length))
    size = scale + float(np.abs(value).max(initial=0.0))
    # For a smooth function this falls in proportion to the step, until the solver's noise lets it rise again.
    sides = np.abs(forward - 2 * here + backward).max(axis=1, initial=0.0) / length[:, 0]
    kink = float(np.nanmin(sides)) if np.isfinite(sides).any() else np.inf
    return Estimate(value, apart / size, kink / size)


def _extrapolate(central: Array) -> tuple[Array, float]:
    """The best estimate in Richardson's tableau of central differences at halved steps, and its distance from others.

    Column j of the tableau, R_j(t) = R_{j-1}(t/2) + (R_{j-1}(t/2) - R_{j-1}(t)) / (4^j - 1), is exact up to t^(2j + 2)
    (Richardson 1911). An entry is believed as far as it agrees with both that it is made of (Ridders 1982): large steps
    suffer from curvature and kinks nearby, small ones from the solver's tolerance.
    """
    best, apart = np.full(central.shape[1], np.nan), np.inf
    column = central
    for order in range(1, min(5, central.shape[0])):
        finer, coarser = column[1:], column[:-1]
        column = finer + (finer - coarser) / (4.0**order - 1)
        error = np.maximum(np.abs(column - finer), np.abs(column - coarser)).max(axis=1, initial=0.0)
        if np.isfinite(error).any() and np.nanmin(error) < apart:
            at = int(np.nanargmin(error))
            best, apart = column[at], float(error[at])
    return best, apart
