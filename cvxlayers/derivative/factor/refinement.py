"""Iterative refinement: the neighbour M's solutions, corrected until they solve J z = r itself, or what of it can be
solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.arrays import largest
from cvxlayers.derivative.system.system import System
from cvxlayers.program.structure import Array

__all__ = ["COARSE", "Factor", "Refined", "choose", "examine", "least_norm", "lingers", "refine"]

Flags = NDArray[np.bool_]

COARSE = 1e-5
"""delta for systems that are singular: what the rounding of M's factors leaves along J's kernel is machine epsilon over
it, and eigenvalues of J that are smaller than it by orders of magnitude count as zero."""

# Relative residuals at which refinement ends: rounding.
_TARGET = 1e-14
# The least that one step has to gain for another to follow, and the largest number of steps.
_GAIN = 0.3
_STEPS = 12
# Relative change that the regularization may make in the solution for a random right-hand side. It is 1e-8 times a
# condition number, and near one where J is singular.
_HARMLESS = 3e-3
# Steps after which it has to be as small where J is only ill-conditioned. Curved cones know their D no better than the
# point is known, so that a kernel may be blurred.
_PATIENCE, _PATIENCE_CURVED = 6, 3
# What the last step may change, relative to the right side, and the largest number of steps for a singular system; what
# no longer falls by the third factor, while it is below the last, is rounding.
_SETTLED, _MOST, _FALLS, _SMALL = 1e-14, 40, 0.8, 1e-8
# The part left by one pass, relative to the right side, beyond which another one does without it; how many.
_CLEAN, _PASSES = 1e-9, 3
_REFINEMENTS_CURVED = 3


# J is singular where after so many steps a random right side keeps a part of more than the second length, which changes
# by less than the third factor of it.
_PROBES, _SEEN, _STAYS = 5, 1e-3, 0.3


class Factor(Protocol):
    """A solution operator of M; ``usable`` (B,) says which elements have one."""

    @property
    def usable(self) -> Flags: ...

    def solve(self, f: Array, g: Array, elements: NDArray[np.intp]) -> tuple[Array, Array]: ...


@dataclass(frozen=True)
class Refined:
    """Solutions dx (n, B) and u = D dv (m, B) of J z = r, with relative residuals (B,), infinite where there is none;
    and the length of the part of r that no solution serves, relative to r."""

    dx: Array
    u: Array
    residual: Array
    unserved: Array


def refine(system: System, factor: Factor, f: Array, g: Array) -> Refined:
    """Solve J (dx, dv) = (f, g) with M's factor.

    With e the error, one step leaves (I - M^-1 J) e = M^-1 (M - J) e, and M - J = delta diag(I, -D) is small: the
    proximal method of multipliers as a linear iteration.
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
        dx, dv = choose(better, next_x, dx), choose(better, next_v, dv)
        rest_f, rest_g = choose(better, next_f, rest_f), choose(better, next_g, rest_g)
        residual = choose(better, error, residual)
    return Refined(dx, system.D.matvec(dv), residual, np.zeros(system.batch))


def least_norm(system: System, factor: Factor, f: Array, g: Array) -> Refined:
    """The solution of least norm of the part of (f, g) that has one, with M's factor, for a singular J.

    J is symmetric up to D: in (dx, u), u = D dv, its kernel and its cokernel are the same, spanned by directions
    (x0, 0), with P x0 = 0 and D A x0 = 0, and (0, u0), with D u0 = u0 and A'u0 = 0. N' = (M - J) M^-1 is the identity
    there, and small on the rest, which is orthogonal to it: it is the resolvent of the monotone [[P, A'], [-A, H]]. So

        r_0 = (f, g),    t_k = M^-1 r_k,    r_k+1 = r_k - J t_k = (M - J) t_k

    tends to the part of r in the kernel, which no solution serves, and the sum of t_k - (M - J)^-1 r_inf to the
    solution of least norm of the rest. (M - J) t_k is as small as M^-1 is large: r_k+1 has no cancellation.
    Columns that are zero serve nothing. Where r_inf is not small, what rounding leaves of it in the solution is not,
    either, but for another pass without; one that has not come to its end would not leave less.
    """
    whole, lost = system.size(f, g), np.linalg.norm(f * system.free, axis=0)
    whole, f = np.where(whole > 0, whole, 1.0), f * ~system.free
    again, unserved, found = factor.usable, np.zeros(system.batch), None
    for k in range(_PASSES):
        now = _split(system, factor, f, g, again, whole)
        found = now if found is None else now.merged(again, found)
        f, g = choose(again, f - now.left_f, f), choose(again, g - now.left_g, g)
        left = system.size(now.left_f, now.left_g) / whole
        unserved = left if k == 0 else unserved
        again = again & (left > _CLEAN) & now.ended
        if not again.any():
            break
    assert found is not None
    dv = system.A.times(found.dx) - g + found.u
    residual = system.residual(found.dx, dv, f, g)[2]
    unserved = np.hypot(unserved, lost / whole)
    return Refined(found.dx, found.u, np.where(factor.usable, residual, np.inf), unserved)


@dataclass(frozen=True)
class _Split:
    """A solution dx and u of a part of a right side, and the rest of it, which in elements that have ``ended`` (B,) is
    all that a further step would leave."""

    dx: Array
    u: Array
    left_f: Array
    left_g: Array
    ended: Flags

    def merged(self, where: Flags, other: _Split) -> _Split:
        """The other for the elements that are not flagged."""
        return _Split(
            choose(where, self.dx, other.dx), choose(where, self.u, other.u), choose(where, self.left_f, other.left_f),
            choose(where, self.left_g, other.left_g), np.where(where, self.ended, other.ended),
        )  # fmt: skip


def _split(system: System, factor: Factor, f: Array, g: Array, asked: Flags, whole: Array) -> _Split:
    """One pass of ``least_norm`` over the elements that are asked for; whole is the size that counts as one."""
    D, delta = system.D.matvec, system.delta
    dx, u, left_f, left_g = np.zeros_like(f), np.zeros_like(g), f, g
    steps, before, ended = np.zeros(system.batch), np.full(system.batch, np.inf), np.zeros(system.batch, dtype=bool)
    for _ in range(_MOST):
        if not asked.any():
            break
        t, w = _solve_neighbour(system, factor, left_f, left_g, np.flatnonzero(asked))
        w = D(w)
        next_f, next_g = delta * t, -delta * w
        change = system.size(next_f - left_f, next_g - left_g) / whole
        dx, u = choose(asked, dx + t, dx), choose(asked, u + w, u)
        left_f, left_g = choose(asked, next_f, left_f), choose(asked, next_g, left_g)
        steps += asked
        ended |= asked & (change < _SMALL)
        rounding = (change >= _FALLS * before) & (change < _SMALL)
        asked = asked & (change > _SETTLED) & ~rounding & np.isfinite(change)
        before = change
    return _Split(dx - steps / delta * left_f, u + steps / delta * left_g, left_f, left_g, ended)


def _solve_neighbour(
    system: System, factor: Factor, f: Array, g: Array, elements: NDArray[np.intp]
) -> tuple[Array, Array]:
    """M^-1 (f, g), refined: the rounding of the factors is large where M^-1 is, and larger beside curved cones, whose
    flat directions have large numbers in M."""
    dx, dv = factor.solve(f, g, elements)
    for _ in range(1 if system.layout.structure.cones.polyhedral else _REFINEMENTS_CURVED):
        Ddv = system.D.matvec(dv)
        rest_f = f - system.P.times(dx) - system.A.transpose_times(Ddv) - system.delta * dx
        rest_g = g - system.A.times(dx) + dv - Ddv + system.delta * Ddv
        more_x, more_v = factor.solve(rest_f, rest_g, elements)
        dx, dv = dx + more_x, dv + more_v
    return dx, dv


def examine(system: System, factor: Factor) -> Flags:
    """Whether J is singular, (B,), from one random right-hand side r.

    What steps of refinement leave of r is (M - J) M^-1 r, and powers of that: where J z = 0 for some z it keeps a part
    of the size of r; where J is ill-conditioned it falls. Columns that are zero are not asked about.
    """
    f, g = (np.broadcast_to(part, (part.shape[0], system.batch)) for part in system.layout.probe)
    f, root = f * ~system.free, np.sqrt(f.shape[0] + g.shape[0])
    dx, dv, rest_f, rest_g = np.zeros_like(f), np.zeros_like(g), f, g
    singular = np.ones(system.batch, dtype=bool)
    before = np.full(system.batch, np.inf)
    patience = _PATIENCE if system.layout.structure.cones.polyhedral else _PATIENCE_CURVED
    for _ in range(patience):
        elements = np.flatnonzero(singular & factor.usable)
        if not elements.size:
            break
        step_x, step_v = factor.solve(rest_f, rest_g, elements)
        dx, dv = dx + step_x, dv + step_v
        rest_f, rest_g, _ = system.residual(dx, dv, f, g)
        left = root * np.maximum(largest(rest_f), largest(system.D.matvec(rest_g)))
        singular = singular & ~((left <= _HARMLESS) & factor.usable)
        if not (singular & (left < _GAIN * before)).any():
            break
        before = left
    return np.asarray(singular)


def lingers(system: System, factor: Factor) -> Flags:
    """Whether J is singular, (B,): whether a random right-hand side has a part that (M - J) M^-1 leaves as it is."""
    f, g = (np.broadcast_to(part, (part.shape[0], system.batch)) for part in system.layout.probe)
    f, change, elements = f * ~system.free, np.full(system.batch, np.inf), np.flatnonzero(factor.usable)
    for _ in range(_PROBES if elements.size else 0):
        dx, dv = factor.solve(f, g, elements)
        next_f, next_g = system.delta * dx, -system.delta * system.D.matvec(dv)
        change = system.size(next_f - f, next_g - g)
        f, g = next_f, next_g
    left = system.size(f, g)
    return np.asarray((left > _SEEN) & (change < _STAYS * left) & factor.usable)


def choose(flags: Flags, new: Array, old: Array) -> Array:
    """The new array for the elements (the last axis) that are flagged, the old one for the others."""
    return new if flags.all() else np.where(flags, new, old)
