"""Solutions closer to machine precision than solvers end: Newton's method on the optimality conditions.

An interior-point method stops at a complementarity s'y of about its tolerance; x may then still be off by the root of
that, most of all on exponential and power cones, where more iterations gain little. A point is first made
complementary, in scaled units (see ``cvxlayers.scales``), in which s and y are comparable: with v = y - s, it is
y = Proj_{K*}(v) and s = y - v. Then only

    R1 = Px + q + A'y,    R2 = Ax + s - b

are not zero, so that (x, y, s) solves the problem with q - R1 and b + R2 exactly. Newton's step is the derivative of
the solution along dq = R1, db = -R2. The residuals alone decide whether a step is kept: a wrong derivative cannot lead
to a wrong point, only to no better one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cvxlayers.cones.projection import project_dual
from cvxlayers.derivative.base import Derivative
from cvxlayers.program import Array, Structure, Values
from cvxlayers.scales import Scales
from cvxlayers.solution import Solution

__all__ = ["polish"]

# Residual of a complementary point, relative to 1 + the size of x and y - s, at which no further step is worth it.
ENOUGH = 1e-13


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
    values = found.scaled(structure, values)
    x, y, s = found.to(solution.x, solution.y, solution.s)
    near = replace(solution, scales=Scales.one(structure.n, structure.m, solution.batch))
    now = _steps(structure, values, _split(structure, near, x, y - s), derivative, steps)
    x, y, s = found.back(now.x, now.y, now.s)
    return replace(now, x=x, y=y, s=s, scales=found)


def _steps(structure: Structure, values: Values, now: Solution, derivative: Derivative, steps: int) -> Solution:
    """Newton's steps on the scaled problem."""
    v, (R1, R2) = now.y - now.s, _residuals(structure, values, now)
    size = np.maximum(_largest(R1), _largest(R2))
    unchanged = [np.broadcast_to(np.zeros((part.shape[0], 1)), part.shape) for part in (values.P, values.A)]
    for _ in range(steps):
        if (size <= ENOUGH * (1 + np.maximum(_largest(now.x), _largest(v)))).all():
            break
        dx, dy, ds = derivative.linearize(values, now).jvp(Values(unchanged[0], R1, unchanged[1], -R2))
        trial = _split(structure, now, now.x + dx, v + dy - ds)
        S1, S2 = _residuals(structure, values, trial)
        after = np.maximum(_largest(S1), _largest(S2))
        smaller = after < size
        if smaller.all():
            now, R1, R2, size = trial, S1, S2, after
        elif smaller.any():
            x, y, s = (np.where(smaller, getattr(trial, part), getattr(now, part)) for part in ("x", "y", "s"))
            now = replace(now, x=x, y=y, s=s)
            R1, R2, size = np.where(smaller, S1, R1), np.where(smaller, S2, R2), np.where(smaller, after, size)
        else:
            break
        v = now.y - now.s
    return now


def _split(structure: Structure, solution: Solution, x: Array, v: Array) -> Solution:
    y = project_dual(structure.cones, v)
    return replace(solution, x=x, y=y, s=y - v, residuals=None)


def _residuals(structure: Structure, values: Values, point: Solution) -> tuple[Array, Array]:
    R1 = structure.P_times(values.P, point.x) + values.q + structure.A.transpose_times(values.A, point.y)
    return R1, structure.A.times(values.A, point.x) + point.s - values.b


def _largest(part: Array) -> Array:
    return np.abs(part).max(axis=0, initial=0.0)
