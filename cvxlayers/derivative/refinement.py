"""Iterative refinement: the neighbour M's solutions, corrected until they solve J z = r itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.system import System, largest
from cvxlayers.program import Array

__all__ = ["Factor", "Health", "Refined", "examine", "refine", "without_kernel"]

Flags = NDArray[np.bool_]

# Relative residuals at which refinement ends: rounding.
_TARGET = 1e-14
# The least that one step has to gain for another to follow, and the largest number of steps.
_GAIN = 0.3
_STEPS = 12
# The largest power of N, less one, that is taken for a projection.
_POWERS = 4
# Relative change that the regularization may make in the solution for a random right-hand side. It is 1e-8 times a
# condition number, and near one where J is singular.
_HARMLESS = 3e-3
# The same for the change that a second step makes: what J's kernel takes from the first is then the same again.
_FAST = 3e-2


class Factor(Protocol):
    """A solution operator of M; ``usable`` (B,) says which elements have one."""

    @property
    def usable(self) -> Flags: ...

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Refined:
    """Solutions dx (n, B) and dv (m, B) of J z = r, with relative residuals (B,), infinite where there is none."""

    dx: Array
    dv: Array
    residual: Array


@dataclass(frozen=True)
class Health:
    """What is known of J, (B,): whether it is singular or nearly so, and whether refinement is slow besides.

    Slow refinement comes from a J of rows and columns of very different sizes.
    """

    singular: Flags
    slow: Flags


def refine(system: System, factor: Factor, f: Array, g: Array) -> Refined:
    """Solve J (dx, dv) = (f, g) with M's factor.

    With e the error, one step leaves (I - M^-1 J) e = M^-1 (M - J) e, and M - J = diag(delta I, -eps D) is small: the
    proximal method of multipliers as a linear iteration. Where J is singular but the system consistent, the
    iterates stay orthogonal to J's kernel, so that they tend to the solution of least norm.
    """
    dx, dv, rest_f, rest_g = np.zeros_like(f), np.zeros_like(g), f, g
    residual, asked = np.full(system.batch, np.inf), factor.usable
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


def without_kernel(system: System, factor: Factor, f: Array, g: Array, found: Refined, where: Flags) -> Refined:
    """The solutions ``found``, freed where asked from what rounding has put into J's kernel.

    M^-1 makes large what rounding leaves of a residual in the cokernel of J. But N = M^-1 (M - J) is the identity on
    the kernel and small elsewhere, so that N^k tends to the projection onto the kernel, and N itself is applied without
    loss, because (M - J) z is as small as M^-1 is large.
    """
    dx, dv, residual = found.dx, found.dv, found.residual
    limit = np.maximum(_TARGET, 4.0 * residual)
    kernel_x, kernel_v = _toward_kernel(system, factor, dx, dv, where)
    for _ in range(_POWERS):
        if not where.any():
            break
        kernel_x, kernel_v = _toward_kernel(system, factor, kernel_x, kernel_v, where)
        next_x, next_v = found.dx - kernel_x, found.dv - kernel_v
        error = system.residual(next_x, next_v, f, g)[2]
        done = where & (error <= limit)
        dx, dv, residual = _choose(done, next_x, dx), _choose(done, next_v, dv), _choose(done, error, residual)
        where = where & ~done
    return Refined(dx, dv, residual)


def _toward_kernel(system: System, factor: Factor, dx: Array, dv: Array, where: Flags) -> tuple[Array, Array]:
    """N (dx, dv) = M^-1 (delta dx, -eps D dv)."""
    return factor.solve(system.delta * dx, -system.eps * system.D.matvec(dv), np.flatnonzero(where))


def examine(system: System, factor: Factor) -> Health:
    """How good a neighbour of J M is, from one random right-hand side r.

    r - J M^-1 r = (M - J) M^-1 r has, where J z = 0 for some z, a part of the size of r that lies in the cokernel of J;
    a second step leaves it as it is. What a second step changes is due to bad conditioning alone.
    """
    c, r = system.units
    f, g = system.layout.probe
    f, g, root = f / c, g / r, np.sqrt(f.shape[0] + g.shape[0])
    dx, dv = factor.solve(f, g, np.flatnonzero(factor.usable))
    rest_f, rest_g, _ = system.residual(dx, dv, f, g)
    singular = ~(root * np.maximum(largest(c * rest_f), largest(r * rest_g)) <= _HARMLESS)
    slow = singular & ~factor.usable
    asked = np.flatnonzero(singular & factor.usable)
    if asked.size:
        step_x, step_v = factor.solve(rest_f, rest_g, asked)
        next_f, next_g, _ = system.residual(dx + step_x, dv + step_v, f, g)
        change = root * np.maximum(largest(c * (next_f - rest_f)), largest(r * (next_g - rest_g)))
        slow |= singular & ~(change <= _FAST)
    return Health(np.asarray(singular), np.asarray(slow))


def _choose(flags: Flags, new: Array, old: Array) -> Array:
    return new if flags.all() else np.where(flags, new, old)
