"""Solutions closer to machine precision than solvers end: Newton's method on the optimality conditions.

An interior-point method stops at a complementarity s'y of about its tolerance; x may then still be off by the root of
that, most of all on exponential and power cones, where more iterations gain little. A point is first made
complementary, in scaled units (see ``cvxlayers.program.scales``), in which s and y are comparable: with v = y - s,
it is y = Proj_{K*}(v) and s = y - v. Then only

    R1 = Px + q + A'y,    R2 = Ax + s - b

are not zero, so that (x, y, s) solves the problem with q - R1 and b + R2 exactly. Newton's step is the derivative of
the solution along dq = R1, db = -R2. The residuals alone decide whether a step is kept: a wrong derivative cannot lead
to a wrong point, only to no better one.

Where a part of the problem has multipliers of 1e-7 beside those of another, s in its cones hides y, or y hides s. What
stays away from a solution is tried once more in units of the point itself (see ``cvxlayers.derivative.system.units``).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.arrays import largest
from cvxlayers.cones.projection import project_dual
from cvxlayers.derivative.base import Derivative
from cvxlayers.derivative.system.units import FAINT, Units
from cvxlayers.program.scales import Scales
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["polish"]

# Residual of a complementary point, relative to 1 + the size of x and y - s, at which no further step is worth it.
ENOUGH = 1e-13

# Above this one it is tried in other units; the terms of a row in the scales of the problem below which they are
# rounding, for points that are not exact; and how many times the steps it may take there.
AWAY, LEAST, MORE = 1e-12, 1e-3, 2


def polish(
    structure: Structure, values: Values, solution: Solution, found: Scales, derivative: Derivative, steps: int
) -> Solution:
    """Improve finite points by up to ``steps`` steps; one that does not improve stays the complementary one.

    Parameters
    ----------
    solution : Solution
        Finite points near their solutions.
    found : Scales
        Of the problem.
    derivative : Derivative
        Of the same structure.
    """
    values, one = found.scaled(structure, values), Scales.one(structure.n, structure.m, solution.batch)
    x, y, s = found.to(solution.x, solution.y, solution.s)
    now, rest = _steps(structure, values, _split(structure, replace(solution, scales=one), x, y - s), derivative, steps)
    away = np.flatnonzero(rest > AWAY * _size(now))
    if away.size and not structure.cones.polyhedral:
        near = replace(solution, x=x, y=y, s=s, scales=one, residuals=None).select(away)
        now = _elsewhere(structure, values.select(away), near, derivative, steps, now, away)
    x, y, s = found.back(now.x, now.y, now.s)
    return replace(now, x=x, y=y, s=s, scales=found)


def _elsewhere(
    structure: Structure, values: Values, near: Solution, derivative: Derivative, steps: int, now: Solution,
    elements: NDArray[np.intp],
) -> Solution:  # fmt: skip
    """The same from other units: of each row those in which the y and s of the near points are comparable."""
    assert near.scales is not None
    units = Units.of(structure, values, near.scales, near.x, near.y, near.s)
    units = replace(units, sigma=np.maximum(units.sigma, LEAST))
    columns = np.where(units.dual > 0, units.dual, np.maximum(FAINT * largest(units.dual), ENOUGH))
    balanced = replace(near.scales, E=units.balance, rows=None)
    x, y, s = balanced.to(near.x, near.y, near.s)
    there = balanced.scaled(structure, values)
    found, _ = _steps(structure, there, _split(structure, near, x, y - s), derivative, MORE * steps)
    x, y, s = balanced.back(found.x, found.y, found.s)
    found = replace(found, x=x, y=y, s=s)

    def rest(point: Solution) -> Array:
        R1, R2 = _residuals(structure, values, point)
        return np.maximum(largest(R1 / columns), largest(R2 / units.sigma))

    better = rest(found) < rest(now.select(elements))
    x, y, s = (part.copy() for part in (now.x, now.y, now.s))
    for part, other in ((x, found.x), (y, found.y), (s, found.s)):
        part[:, elements[better]] = other[:, better]
    return replace(now, x=x, y=y, s=s)


def _steps(
    structure: Structure, values: Values, now: Solution, derivative: Derivative, steps: int
) -> tuple[Solution, Array]:
    """Newton's steps on the scaled problem; the points, and the residuals that are left (B,)."""
    R1, R2 = _residuals(structure, values, now)
    rest = np.maximum(largest(R1), largest(R2))
    unchanged = [np.broadcast_to(np.zeros((part.shape[0], 1)), part.shape) for part in (values.P, values.A)]
    for _ in range(steps):
        if (rest <= ENOUGH * _size(now)).all():
            break
        dx, dy, ds = derivative.linearize(values, now).jvp(Values(unchanged[0], R1, unchanged[1], -R2))
        trial = _split(structure, now, now.x + dx, now.y - now.s + dy - ds)
        S1, S2 = _residuals(structure, values, trial)
        after = np.maximum(largest(S1), largest(S2))
        smaller = after < rest
        if smaller.all():
            now, R1, R2, rest = trial, S1, S2, after
        elif smaller.any():
            x, y, s = (np.where(smaller, getattr(trial, part), getattr(now, part)) for part in ("x", "y", "s"))
            now = replace(now, x=x, y=y, s=s)
            R1, R2, rest = np.where(smaller, S1, R1), np.where(smaller, S2, R2), np.where(smaller, after, rest)
        else:
            break
    return now, rest


def _size(point: Solution) -> Array:
    """1 + the size of x and y - s, (B,)."""
    return 1 + np.maximum(largest(point.x), largest(point.y - point.s))


def _split(structure: Structure, solution: Solution, x: Array, v: Array) -> Solution:
    y = project_dual(structure.cones, v)
    return replace(solution, x=x, y=y, s=y - v, residuals=None)


def _residuals(structure: Structure, values: Values, point: Solution) -> tuple[Array, Array]:
    R1 = structure.P_times(values.P, point.x) + values.q + structure.A.transpose_times(values.A, point.y)
    return R1, structure.A.times(values.A, point.x) + point.s - values.b
