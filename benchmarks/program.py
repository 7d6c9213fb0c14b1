"""A convex quadratic program in two-sided form, and what Clarabel alone says of it: no part of cvxlayers takes part.

minimize  1/2 x'Px + q'x + r    subject to  low <= Ax <= high
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import clarabel
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = [
    "INFINITY",
    "Array",
    "Direction",
    "Point",
    "Program",
    "Slope",
    "clarabel_seconds",
    "slope",
    "solve",
    "typical",
]

Array = NDArray[np.float64]

INFINITY = 0.999e20
"""A side of this size is none; files that were computed on their way have 1e20 less a few units in the last place."""

TOLERANCES = (1e-12, 1e-11, 1e-10, 1e-9, 1e-8)
"""Which Clarabel is asked for, in turn, until it meets one."""

STEPS = (1e-4, 1e-5, 1e-6)
"""Relative steps of the differences; each is halved once."""

ROUNDING = 1e-9
"""Relative to the largest number beside it: what is smaller is zero."""

AGREED = 1e-5
"""How well the four differences have to agree."""


def typical(numbers: Array) -> float:
    """The median size of those that are neither zero, but for rounding, nor infinite; or one."""
    sizes = np.abs(numbers[np.abs(numbers) < INFINITY])
    sizes = sizes[sizes > ROUNDING * sizes.max(initial=0.0)]
    return float(np.median(sizes)) if sizes.size else 1.0


@dataclass(frozen=True)
class Direction:
    """How q and the sides move."""

    q: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Program:
    """The numbers of one program; sides at or beyond ``INFINITY`` are none."""

    name: str
    P: sp.csc_array
    q: Array
    r: float
    A: sp.csc_array
    low: Array
    high: Array

    @cached_property
    def equal(self) -> NDArray[np.bool_]:
        """The rows that are equalities."""
        return self.low == self.high

    def objective(self, x: Array) -> float:
        """Its value at x."""
        return float(0.5 * x @ (self.P @ x) + self.q @ x + self.r)

    def violation(self, x: Array) -> float:
        """By how much a row is violated at the worst, relative to its terms; a small x_j counts at its typical size."""
        Ax, terms = self.A @ x, abs(self.A) @ np.maximum(np.abs(x), typical(x))
        over = np.zeros(Ax.size)
        for side, beyond in ((self.low, self.low - Ax), (self.high, Ax - self.high)):
            there = np.abs(side) < INFINITY
            sizes = np.maximum(terms[there] + np.abs(side[there]), np.finfo(float).tiny)
            over[there] = np.maximum(over[there], beyond[there] / sizes)
        return float(over.max(initial=0.0))

    def moved(self, direction: Direction, step: float) -> Program:
        """The program a step along the direction."""
        low, high = self.low + step * direction.low, self.high + step * direction.high
        return replace(self, q=self.q + step * direction.q, low=low, high=high)


@dataclass(frozen=True)
class Point:
    """A solution, its objective, and the tolerance that Clarabel met (infinite: none)."""

    x: Array
    objective: float
    tolerance: float


@dataclass(frozen=True)
class Slope:
    """The derivative of w'x along a direction by differences: its value and size; whether they agree, and how well."""

    value: float
    size: float
    exists: bool
    agreement: float


def _call(program: Program) -> tuple[Any, ...]:
    """What Clarabel takes, without the sides that are none: P, q, rows, their sides and cones."""
    equal, A = program.equal, program.A.tocsr()
    above, below = ~equal & (program.high < INFINITY), ~equal & (program.low > -INFINITY)
    rows = sp.vstack([A[equal], A[above], -A[below]], format="csc")
    sides = np.concatenate([program.low[equal], program.high[above], -program.low[below]])
    cones = [clarabel.ZeroConeT(int(equal.sum())), clarabel.NonnegativeConeT(int(above.sum() + below.sum()))]
    return sp.csc_matrix(sp.triu(program.P)), program.q, sp.csc_matrix(rows), sides, cones


def _settings(tolerance: float | None = None) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    if tolerance is not None:
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
        settings.max_iter = 500
    return settings


def solve(program: Program, tolerances: Sequence[float] = TOLERANCES) -> Point:
    """Clarabel's point at the first of these tolerances that it meets."""
    given = _call(program)
    for tolerance in tolerances:
        found = clarabel.DefaultSolver(*given, _settings(tolerance)).solve()
        if str(found.status) == "Solved":
            x = np.array(found.x)
            return Point(x, program.objective(x), tolerance)
    x = np.array(found.x)
    return Point(x, program.objective(x), np.inf)


def clarabel_seconds(program: Program, repeats: int) -> float:
    """The median time of Clarabel alone at its defaults, set-up and solve; its matrices are ready."""
    given, seconds = _call(program), []
    for _ in range(repeats + 1):
        start = perf_counter()
        clarabel.DefaultSolver(*given, _settings()).solve()
        seconds.append(perf_counter() - start)
    return float(np.median(seconds[1:]))


def slope(program: Program, at: Point, direction: Direction, w: Array) -> Slope:
    """One-sided differences of w'x, at two step sizes in both directions: of the first steps at which they agree."""
    best = Slope(np.nan, np.nan, False, np.inf)
    for step in STEPS:
        found = []
        for signed in (step, step / 2, -step, -step / 2):
            moved = solve(program.moved(direction, signed))
            if not np.isfinite(moved.tolerance):
                break
            found.append(float(w @ (moved.x - at.x)) / signed)
        if len(found) < 4:
            continue
        size = max(float(np.abs(found).max()), _noise(at, w) / step)
        agreement = (max(found) - min(found)) / size if size else 0.0
        if agreement < best.agreement:
            best = Slope(float(np.mean(found)), size, agreement <= AGREED, agreement)
        if best.exists:
            break
    return best


def _noise(at: Point, w: Array) -> float:
    """What w'x means at the least: its terms' rounding at Clarabel's tightest."""
    return 1e-12 * float(np.abs(w) @ np.abs(at.x))
