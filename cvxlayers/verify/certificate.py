"""Whether a point proves that a problem has no solution: whoever claims it, from the problem's own numbers.

As an answer is measured (see ``verify.measure``), so is a proof. A y in K* with b'y < 0 proves that there is no
feasible point if A'y is so small that a feasible point would have to be larger than ``1 / PROOF`` beside the problem's
own scales: 0 = y'(Ax + s - b) needs (A'y)'x = b'y - s'y <= b'y. (That A'y is small beside its own terms says less:
where curved cones express (t + 1)^2 - (t - 1)^2, a change of A in the eighth digit makes a feasible problem
infeasible.) Likewise for a direction x along which the objective falls for ever.

Small entries of a solver's ray are often what should be zero: a ray is also tried without those. And where what must
vanish does not quite, the ray is taken to the nearest one with which it does, and back into its cone, a few times.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import projection
from cvxlayers.cones.arrays import largest
from cvxlayers.program.scales import Scales, scales
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["proves_infeasible", "proves_unbounded"]

ROUNDING = 1e-13
"""What rounding may leave of what must vanish, beside the terms that it is summed from."""

PROOF = 1e-10
"""What may be left of it in scaled units, relative to -b'y or -q'x: what a point is feasible for is larger than 1 /
PROOF times the scales."""

CANCELLED = 1e-9
"""-b'y and -q'x must be more than this part of the terms that they are summed from."""

FLAT = 1e-9
"""x'Px / 2 may end the fall along x only where the scaled objective is below some -1 / FLAT."""

STEPS, DENSE = 4, 4_000_000
"""How often a ray is taken nearer; not where a dense A would have more entries."""

SMALL = (0.0, 1e-9, 1e-7, 1e-5)
"""Entries up to so small a part of the largest, in scaled units, are tried as zeros."""


def proves_infeasible(structure: Structure, values: Values, y: Array) -> NDArray[np.bool_]:
    """Whether y (m, B) proves that no x has b - Ax in K."""
    found = scales(structure, values)
    unit, scaled = found.cost / found.E, found.scaled(structure, values)

    def proves(elements: NDArray[np.intp], y: Array) -> NDArray[np.bool_]:
        part = values.select(elements), Scales(found.D[:, elements], found.E[:, elements], found.cost[elements])
        tried = (_no_point(structure, *part, _without(structure, y, unit[:, elements], small)) for small in SMALL)
        return np.logical_or.reduce(list(tried))

    def nearer(i: int, y: Array) -> Array:
        A = structure.A.matrix(scaled.A[:, i]).toarray()
        ray = y[:, 0] * unit[:, i]
        ray = ray - A @ np.linalg.lstsq(A, ray)[0]
        moved: Array = projection.project_dual(structure.cones, ray[:, None]) / unit[:, [i]]
        return moved

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _proved(y / largest(y * unit), proves, nearer, structure)


def proves_unbounded(structure: Structure, values: Values, x: Array) -> NDArray[np.bool_]:
    """Whether along x (n, B) every feasible point may be moved for ever, and the objective falls."""
    found = scales(structure, values)
    scaled = found.scaled(structure, values)

    def proves(elements: NDArray[np.intp], x: Array) -> NDArray[np.bool_]:
        part = values.select(elements), Scales(found.D[:, elements], found.E[:, elements], found.cost[elements])
        sizes = np.abs(x / found.D[:, elements])
        tried = (_no_minimum(structure, *part, np.where(sizes > small, x, 0.0)) for small in SMALL)
        return np.logical_or.reduce(list(tried))

    def nearer(i: int, x: Array) -> Array:
        A, P = structure.A.matrix(scaled.A[:, i]).toarray(), structure.P.matrix(scaled.P[:, i]).toarray()
        ray = x[:, 0] / found.D[:, i]
        s = projection.project(structure.cones, -(A @ ray)[:, None])[:, 0]
        both = np.concatenate([A, P + np.triu(P, 1).T])
        ray = ray - np.linalg.lstsq(both, both @ ray + np.concatenate([s, np.zeros(structure.n)]))[0]
        moved: Array = ray[:, None] * found.D[:, [i]]
        return moved

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _proved(x / largest(x / found.D), proves, nearer, structure)


def _proved(
    rays: Array, proves: Callable[[NDArray[np.intp], Array], NDArray[np.bool_]],
    nearer: Callable[[int, Array], Array], structure: Structure,
) -> NDArray[np.bool_]:  # fmt: skip
    """Which rays prove what they are to prove, as they are or after a few steps towards one that does."""
    finite = np.isfinite(rays).all(axis=0)
    proved = proves(np.arange(rays.shape[1]), np.where(finite, rays, 0.0)) & finite
    if structure.m * structure.n > DENSE:
        return proved
    for i in np.flatnonzero(finite & ~proved).tolist():
        ray = rays[:, [i]]
        for _ in range(STEPS):
            ray = nearer(i, ray)
            if proves(np.array([i]), ray)[0]:
                proved[i] = True
                break
    return proved


def _without(structure: Structure, y: Array, unit: Array, small: float) -> Array:
    """The nearest y in K*, without small entries of its polyhedral rows."""
    flat = structure.cones.zero + structure.cones.nonneg
    y = projection.project_dual(structure.cones, y)
    y[:flat] = np.where(np.abs(y[:flat] * unit[:flat]) > small, y[:flat], 0.0)
    return y


def _no_point(structure: Structure, values: Values, found: Scales, y: Array) -> NDArray[np.bool_]:
    fall, real = _fall(values.b, y)
    left = np.abs(structure.A.transpose_times(values.A, y))
    terms = structure.A.transpose_times(np.abs(values.A), np.abs(y))
    return real & (left <= ROUNDING * terms + PROOF * fall / found.D).all(axis=0)


def _no_minimum(structure: Structure, values: Values, found: Scales, x: Array) -> NDArray[np.bool_]:
    fall, real = _fall(values.q, x)
    direction = -structure.A.times(values.A, x)
    left = np.abs(direction - projection.project(structure.cones, direction))
    terms = structure.A.times(np.abs(values.A), np.abs(x))
    stays = (left <= ROUNDING * terms + PROOF * found.cost * fall / found.E).all(axis=0)
    curved = np.einsum("ib,ib->b", x, structure.P_times(values.P, x))
    return real & stays & (curved <= FLAT * found.cost * fall**2)


def _fall(prices: Array, point: Array) -> tuple[Array, NDArray[np.bool_]]:
    """-prices'point, and whether it is more than what rounding leaves of its terms."""
    terms = prices * point
    fall = -terms.sum(axis=0)
    return fall, fall > CANCELLED * np.abs(terms).sum(axis=0)
