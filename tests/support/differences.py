"""Finite differences that say how far they can be trusted.

Central differences D(h) = (f(t + h) - f(t - h)) / 2h have errors in even powers of h; each Richardson step
T_j(h / 2) = (4^j T_{j-1}(h / 2) - T_{j-1}(h)) / (4^j - 1) removes one of them (Richardson 1911). The step is halved
until an estimate agrees with the two that it was made of (Ridders 1982); where rounding forbids that, the one that
agrees best is taken, and the disagreement reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Derivative", "differentiate", "inner"]

FIRST_STEP = 2.0**-5
LEVELS = 8
AGREED = 1e-9


@dataclass(frozen=True)
class Derivative:
    """The derivative of every output along one direction, and how well the last two estimates agreed (relative)."""

    tangents: tuple[np.ndarray, ...]
    agreement: float


def differentiate(
    function: Callable[[list[np.ndarray]], Sequence[np.ndarray]],
    point: Sequence[np.ndarray],
    directions: Sequence[Sequence[np.ndarray]],
    levels: int = LEVELS,
) -> list[Derivative]:
    """Derivatives of ``function`` at ``point`` along each direction.

    ``function`` maps parameters with one leading batch dimension to outputs with that dimension; all directions and
    steps go through it in one call. An output that is NaN (a step out of the domain) spoils only its own estimates.
    """
    steps = FIRST_STEP * 0.5 ** np.arange(levels)
    signed = np.concatenate([steps, -steps])
    batch = [
        np.concatenate([p + signed.reshape(-1, *[1] * p.ndim) * d[i] for d in directions])
        for i, p in enumerate(map(np.asarray, point))
    ]
    outputs = [np.asarray(o).reshape(len(directions), 2 * levels, *np.shape(o)[1:]) for o in function(batch)]
    return [_extrapolate([o[j] for o in outputs], steps) for j in range(len(directions))]


def _extrapolate(outputs: Sequence[np.ndarray], steps: np.ndarray) -> Derivative:
    levels = len(steps)
    central = [(o[:levels] - o[levels:]) / (2 * steps.reshape(-1, *[1] * (o.ndim - 1))) for o in outputs]
    rows = [[[D[level] for D in central]] for level in range(levels)]  # rows[level][order] is a list of arrays
    best, agreement = rows[-1][0], np.inf
    for level in range(1, levels):
        for order in range(1, level + 1):
            factor = 4.0**order
            parents = rows[level][order - 1], rows[level - 1][order - 1]
            pairs = zip(*parents, strict=True)
            estimate = [(factor * fine - coarse) / (factor - 1) for fine, coarse in pairs]
            rows[level].append(estimate)
            gap = max(_gap(estimate, parent) for parent in parents)
            if gap < agreement:
                best, agreement = estimate, gap
        if agreement <= AGREED:
            break
    return Derivative(tuple(best), agreement)


def _gap(estimate: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    """The largest difference, relative to the largest entry or one; infinite where any is NaN."""
    scale = max(1.0, *(float(np.abs(part).max(initial=0.0)) for part in estimate))
    gaps = [float(np.abs(a - b).max(initial=0.0)) for a, b in zip(estimate, other, strict=True)]
    return np.inf if np.isnan(gaps).any() else max(gaps) / scale


def inner(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """The real inner product of two tuples of arrays; a complex entry counts as a pair of reals."""
    return float(sum(np.real(np.vdot(a, b)) for a, b in zip(left, right, strict=True)))
