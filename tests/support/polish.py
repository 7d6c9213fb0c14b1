"""Solutions to the last digit: Newton's method on the optimality conditions, from a solver's point.

Solvers stop at a duality gap of about 1e-12, and on curved cones a gap of g leaves the point off by a multiple of
sqrt(g): far too much noise for finite differences. With v = y - s and y = Proj_{K*}(v) the conditions are the equation

    R(x, v) = (Px + q + A'y,  Ax + y - v - b) = 0

(DESIGN, section 4). Its Jacobian is taken by differences of R itself: the derivative under test has no part in it.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.cones import project_dual
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["polished_outputs"]

STEP = 1e-6
ITERATIONS = 30
ACCEPTED = 1e-12


def polished_outputs(layer: Layer, point: list[np.ndarray], batch: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """The outputs for a batch of parameters near ``point``; NaN for elements where the iteration does not converge."""
    compiled = layer.compiled
    base, near = layer.solve(point), layer.solve(batch)
    center = _stack(base.solution.x, base.solution.y - base.solution.s)
    inverse = np.linalg.pinv(_jacobian(compiled.structure, _values(compiled, point), center), rcond=1e-9)
    values = _values(compiled, batch)
    z = _stack(near.solution.x, near.solution.y - near.solution.s)
    z, left = _newton(compiled.structure, values, inverse, z)
    x, y = z[: compiled.structure.n], project_dual(compiled.structure.cones, z[compiled.structure.n :])
    rows = compiled.recover(x, y)
    rows[:, ~(left <= ACCEPTED)] = np.nan
    return packing.unpack(compiled, rows, near.packed.batch)


def _values(compiled: CompiledProblem, parameters: list[np.ndarray]) -> Values:
    return compiled.evaluate(packing.pack(compiled, parameters).theta)


def _stack(x: Array, v: Array) -> Array:
    return np.concatenate([x, v])


def _residual(structure: Structure, values: Values, z: Array) -> Array:
    x, v = z[: structure.n], z[structure.n :]
    y = project_dual(structure.cones, v)
    above = structure.P_times(values.P, x) + values.q + structure.A.transpose_times(values.A, y)
    return _stack(above, structure.A.times(values.A, x) + y - v - values.b)


def _jacobian(structure: Structure, values: Values, z: Array) -> Array:
    size = z.shape[0]
    many = values.select(np.zeros(2 * size, dtype=int))
    moved = z + STEP * np.concatenate([np.eye(size), -np.eye(size)], axis=1)
    R = _residual(structure, many, moved)
    return (R[:, :size] - R[:, size:]) / (2 * STEP)


def _newton(structure: Structure, values: Values, inverse: Array, z: Array) -> tuple[Array, Array]:
    """Newton's method with one Jacobian for all elements and steps; each element keeps its best point."""
    best, least = z, np.full(z.shape[1], np.inf)
    for _ in range(ITERATIONS):
        R = _residual(structure, values, z)
        size = np.abs(R).max(axis=0) / (1 + np.abs(z).max(axis=0))
        better = size < least
        best, least = np.where(better, z, best), np.where(better, size, least)
        with np.errstate(over="ignore", invalid="ignore"):
            z = np.where(size <= 1e6, z - inverse @ R, z)
    return best, least
