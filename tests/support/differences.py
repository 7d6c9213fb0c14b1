"""Finite differences that say how far they can be trusted.

Central differences D(h) = (f(t + h) - f(t - h)) / 2h have errors in even powers of h, so that
R(h) = (4 D(h / 2) - D(h)) / 3 (Richardson 1911) has an error of order h^4. The step is halved until two
neighbouring R agree; where rounding forbids that, the pair that agrees best is taken, and the disagreement reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Derivative", "differentiate", "inner"]

FIRST_STEP = 2.0**-5
LEVELS = 8
AGREED = 1e-8


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
    richardson = [(4 * D[1:] - D[:-1]) / 3 for D in central]
    scale = max(1.0, *(float(np.abs(R[-1]).max(initial=0.0)) for R in richardson))
    best, agreement = 0, np.inf
    for level in range(1, levels - 1):
        gaps = [float(np.abs(R[level] - R[level - 1]).max(initial=0.0)) for R in richardson]
        gap = float(np.max(gaps)) / scale  # NaN if any is
        if gap < agreement:
            best, agreement = level, gap
        if agreement <= AGREED:
            break
    return Derivative(tuple(R[best] for R in richardson), agreement)


def inner(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> float:
    """The real inner product of two tuples of arrays; a complex entry counts as a pair of reals."""
    return float(sum(np.real(np.vdot(a, b)) for a, b in zip(left, right, strict=True)))
