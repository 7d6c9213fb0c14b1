"""Iterative refinement: the neighbour M's solutions, corrected until they solve J z = r itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.system import System, largest
from cvxlayers.program import Array

__all__ = ["Factor", "Refined", "nearly_singular", "refine"]

# Relative residuals at which refinement ends: rounding.
_TARGET = 1e-14
# The least that one step has to gain for another to follow, and the largest number of steps.
_GAIN = 0.3
_STEPS = 12
# Relative change that the regularization may make in the solution for a random right-hand side. It is 1e-8 times a
# condition number, and near one where J is singular.
_HARMLESS = 3e-3


class Factor(Protocol):
    """A solution operator of M; ``usable`` (B,) says which elements have one."""

    @property
    def usable(self) -> NDArray[np.bool_]: ...

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Refined:
    """Solutions dx (n, B) and dv (m, B) of J z = r, with relative residuals (B,), infinite where there is none."""

    dx: Array
    dv: Array
    residual: Array


def refine(system: System, factor: Factor, f: Array, g: Array) -> Refined:
    """Solve J (dx, dv) = (f, g) with M's factor.

    With e the error, one step leaves (I - M^-1 J) e = M^-1 (M - J) e, and M - J = diag(delta I, -eps D) is small: the
    proximal method of multipliers as a linear iteration. Where J is singular but the system consistent, the
    iterates stay orthogonal to J's kernel, so that they tend to the solution of least norm.
    """
    dx, dv = np.zeros_like(f), np.zeros_like(g)
    rest_f, rest_g = f, g
    residual = np.full(system.batch, np.inf)
    asked = factor.usable
    for _ in range(_STEPS):
        if not asked.any():
            break
        step_x, step_v = factor.solve(rest_f, rest_g, np.flatnonzero(asked))
        next_x, next_v = dx + step_x, dv + step_v
        next_f, next_g, error = system.residual(next_x, next_v, f, g)
        better = asked & (error < residual)
        asked = better & (error > _TARGET) & (error < _GAIN * residual)
        dx, dv = _choose(better, next_x, dx), _choose(better, next_v, dv)
        rest_f, rest_g = _choose(better, next_f, rest_f), _choose(better, next_g, rest_g)
        residual = _choose(better, error, residual)
    return Refined(dx, dv, residual)


def nearly_singular(system: System, factor: Factor) -> NDArray[np.bool_]:
    """Where M is no good approximation of J, (B,): for a random r, J M^-1 r differs too much from r.

    (M - J) M^-1 r has, where J z = 0 for some z, a part of the size of r that lies in the cokernel of J.
    """
    p, a = system.scales
    structure, (f, g) = system.layout.structure, system.layout.probe
    f, g = f * np.sqrt(p), g * np.sqrt(a / p)
    rest_f, rest_g, _ = system.residual(*factor.solve(f, g, np.flatnonzero(factor.usable)), f, g)
    change = np.maximum(largest(rest_f) / np.sqrt(p), largest(rest_g) / np.sqrt(a / p))
    return np.asarray(~(change * np.sqrt(structure.n + structure.m) <= _HARMLESS))


def _choose(flags: NDArray[np.bool_], new: Array, old: Array) -> Array:
    return new if flags.all() else np.where(flags, new, old)
