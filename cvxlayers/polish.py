"""Solutions closer to machine precision than interior-point methods end: Newton's method on the optimality conditions.

An interior-point method stops at a complementarity s'y of about its tolerance; x may then still be off by the root of
that, most of all on exponential and power cones, where more iterations gain little. A point is first made
complementary: with v = y - s, y = Proj_{K*}(v) and s = y - v. Then only

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
from cvxlayers.solution import Solution

__all__ = ["natural_residual", "polish"]

# Residual of a complementary point, relative to 1 + the size of x and y - s, at which no further step is worth it.
ENOUGH = 1e-12


def natural_residual(structure: Structure, solution: Solution) -> Array:
    """|y - Proj_{K*}(y - s)| / (1 + |y - s|) in the largest entry, (B,): zero at a complementary point.

    It bounds the error of a point as the duality gap does not: near a solution it grows like the root of s'y (Facchinei
    and Pang 2003, section 6.2, on the natural map).
    """
    v = solution.y - solution.s
    return _largest(solution.y - project_dual(structure.cones, v)) / (1 + _largest(v))


def polish(structure: Structure, values: Values, solution: Solution, derivative: Derivative, steps: int) -> Solution:
    """Improve the points of a solved batch by up to ``steps`` steps; one that does not improve stays complementary.

    Parameters
    ----------
    solution : Solution
        Finite points near their solutions; its residuals are not those of what comes back.
    derivative : Derivative
        Of the same structure.
    """
    x, v = solution.x, solution.y - solution.s
    now = _complementary(structure, solution, x, v)
    R1, R2 = _residuals(structure, values, now)
    size = np.maximum(_largest(R1), _largest(R2))
    unchanged = [np.broadcast_to(np.zeros((part.shape[0], 1)), part.shape) for part in (values.P, values.A)]
    for _ in range(steps):
        if (size <= ENOUGH * (1 + np.maximum(_largest(now.x), _largest(v)))).all():
            break
        dx, dy, ds = derivative.linearize(values, now).jvp(Values(unchanged[0], R1, unchanged[1], -R2))
        trial = _complementary(structure, solution, now.x + dx, v + dy - ds)
        S1, S2 = _residuals(structure, values, trial)
        smaller = np.maximum(_largest(S1), _largest(S2)) < size
        if not smaller.any():
            break
        x, y, s = (np.where(smaller, getattr(trial, part), getattr(now, part)) for part in ("x", "y", "s"))
        now, v = replace(now, x=x, y=y, s=s), y - s
        R1, R2 = np.where(smaller, S1, R1), np.where(smaller, S2, R2)
        size = np.maximum(_largest(R1), _largest(R2))
    return now


def _complementary(structure: Structure, solution: Solution, x: Array, v: Array) -> Solution:
    y = project_dual(structure.cones, v)
    return replace(solution, x=x, y=y, s=y - v, residuals=None)


def _residuals(structure: Structure, values: Values, point: Solution) -> tuple[Array, Array]:
    R1 = structure.P_times(values.P, point.x) + values.q + structure.A.transpose_times(values.A, point.y)
    return R1, structure.A.times(values.A, point.x) + point.s - values.b


def _largest(part: Array) -> Array:
    return np.abs(part).max(axis=0, initial=0.0)
