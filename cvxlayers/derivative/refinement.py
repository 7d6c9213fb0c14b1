"""Iterative refinement: the neighbour M's solutions, corrected until they solve J z = r itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cvxlayers.derivative.system import System, largest
from cvxlayers.program import Array

__all__ = ["Factor", "Health", "Refined", "choose", "examine", "in_range", "refine", "without_kernel"]

Flags = NDArray[np.bool_]

# Relative residuals at which refinement ends: rounding.
_TARGET = 1e-14
# The least that one step has to gain for another to follow, and the largest number of steps.
_GAIN = 0.3
_STEPS = 12
# The largest power of N or N' that is taken for a projection.
_POWERS = 5
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

    def merged(self, where: Flags, other: Refined) -> Refined:
        """The other solutions for the elements that are flagged."""
        dx, dv = choose(where, other.dx, self.dx), choose(where, other.dv, self.dv)
        return Refined(dx, dv, choose(where, other.residual, self.residual))


@dataclass(frozen=True)
class Health:
    """What is known of J, (B,): whether it is singular or nearly so, and whether refinement is slow besides.

    Slow refinement comes from a J of rows and columns of very different sizes.
    """

    singular: Flags
    slow: Flags


def refine(system: System, factor: Factor, f: Array, g: Array, where: Flags | None = None) -> Refined:
    """Solve J (dx, dv) = (f, g) with M's factor, for all elements or for some.

    With e the error, one step leaves (I - M^-1 J) e = M^-1 (M - J) e, and M - J = diag(delta I, -eps D) is small: the
    proximal method of multipliers as a linear iteration. Where J is singular but the system consistent, the
    iterates stay orthogonal to J's kernel, so that they tend to the solution of least norm.
    """
    dx, dv, rest_f, rest_g = np.zeros_like(f), np.zeros_like(g), f, g
    residual, asked = np.full(system.batch, np.inf), factor.usable if where is None else factor.usable & where
    for _ in range(_STEPS):
        if not asked.any():
            break
        step_x, step_v = factor.solve(rest_f, rest_g, np.flatnonzero(asked))
        next_x, next_v = dx + step_x, dv + step_v
        next_f, next_g, error = system.residual(next_x, next_v, f, g)
        better = asked & (error < residual)
        asked = better & (error > _TARGET) & (error < _GAIN * residual)
        dx, dv = choose(better, next_x, dx), choose(better, next_v, dv)
        rest_f, rest_g = choose(better, next_f, rest_f), choose(better, next_g, rest_g)
        residual = choose(better, error, residual)
    return Refined(dx, dv, residual)


def in_range(system: System, factor: Factor, f: Array, g: Array, where: Flags) -> tuple[Array, Array]:
    """(f, g) without its part in the cokernel of J, where asked: what is left has a solution.

    J is symmetric up to D, and its cokernel is spanned by directions (x0, 0), with P x0 = 0 and D A x0 = 0, and
    (0, v1), with D v1 = v1 and A'v1 = 0. On these, N' = (M - J) M^-1 is the identity, and it is small on the range of
    J, which is orthogonal to them, so that N'^k tends to the orthogonal projection onto the cokernel; orthogonal in
    the units in which delta and eps are the same for all rows and columns.
    """
    lost_f, lost_g, elements = f, g, np.flatnonzero(where)
    for _ in range(_POWERS):
        dx, dv = factor.solve(lost_f, lost_g, elements)
        lost_f, lost_g = system.delta * dx, -system.eps * system.D.matvec(dv)
    return choose(where, f - lost_f, f), choose(where, g - lost_g, g)


def without_kernel(system: System, factor: Factor, f: Array, g: Array, found: Refined, where: Flags) -> Refined:
    """The solutions ``found``, freed where asked from what rounding has put into J's kernel.

    M^-1 makes large what rounding leaves of a residual in the cokernel of J. But N = M^-1 (M - J) is the identity on
    the kernel and small elsewhere, so that N^k tends to the projection onto the kernel, and N itself is applied without
    loss, because (M - J) z is as small as M^-1 is large.
    """
    dx, dv, residual = found.dx, found.dv, found.residual
    limit = np.maximum(_TARGET, 4.0 * residual)
    kernel_x, kernel_v = dx, dv
    for power in range(_POWERS):
        elements = np.flatnonzero(where)
        if not elements.size:
            break
        kernel_x, kernel_v = factor.solve(system.delta * kernel_x, -system.eps * system.D.matvec(kernel_v), elements)
        if power == 0:
            continue
        next_x, next_v = found.dx - kernel_x, found.dv - kernel_v
        error = system.residual(next_x, next_v, f, g)[2]
        done = where & (error <= limit)
        dx, dv, residual = choose(done, next_x, dx), choose(done, next_v, dv), choose(done, error, residual)
        where = where & ~done
    return Refined(dx, dv, residual)


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


def choose(flags: Flags, new: Array, old: Array) -> Array:
    """The new array for the elements (the last axis) that are flagged, the old one for the others."""
    return new if flags.all() else np.where(flags, new, old)
