"""Never a silent wrong answer: every point is measured, what fails is tried elsewhere, what still fails says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.program.scales import Scales
from cvxlayers.program.solution import Residuals, Solution, Status
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.verify import certificate

__all__ = ["Measure", "keep_better", "pending", "scatter", "verify"]

_INACCURATE = 1e3
"""A point whose residuals are within this factor of the tolerance is called inaccurate, beyond it failed."""

_SHARP = 1e-3
"""A point that a solver does not call a solution is one where its residuals are below this part of the tolerance."""

_CLAIMS = (Status.INFEASIBLE, Status.UNBOUNDED)


Measure = Callable[[Values, Array, Array, Array, Scales | None], Residuals]
"""Values, points x, y, s and the problem's scales, where they are known -> the points' residuals."""


def verify(structure: Structure, measure: Measure, values: Values, solution: Solution, tolerance: float) -> Solution:
    """Measure every element, and let that decide what it is, whatever the solver says.

    A claim that there is no solution has to be proved by the solver's ray (see ``certificate``); no point is left of
    such an element. What cannot be proved is failed.
    """
    if solution.whole:
        residuals = solution.residuals or _measured(measure, values, solution)
        solution = solution if solution.residuals else solution.measured(residuals)
        if residuals.within(tolerance):
            return solution
    claimed = np.flatnonzero(np.isin(solution.status, _CLAIMS))
    claims = _proved(structure, values, solution, claimed)
    if claimed.size:
        x, y, s = (np.array(part) for part in (solution.x, solution.y, solution.s))
        x[:, claimed] = y[:, claimed] = s[:, claimed] = np.nan
        solution = replace(solution, x=x, y=y, s=s, residuals=None)
    residuals = solution.residuals or _measured(measure, values, solution)
    worst = residuals.worst
    good = (worst <= tolerance) & ((solution.status == Status.OPTIMAL) | (worst <= _SHARP * tolerance))
    status = np.where(worst <= _INACCURATE * tolerance, Status.INACCURATE, Status.FAILED)
    status = np.where(good, Status.OPTIMAL, status).astype(np.int8)
    status[claimed] = claims
    return replace(solution, status=status, residuals=residuals)


def _measured(measure: Measure, values: Values, solution: Solution) -> Residuals:
    return measure(values, solution.x, solution.y, solution.s, solution.scales)


def _proved(structure: Structure, values: Values, solution: Solution, claimed: NDArray[np.intp]) -> NDArray[np.int8]:
    """What the rays of some elements prove: their status, or failed."""
    found = np.full(claimed.size, Status.FAILED, dtype=np.int8)
    for status, proves, ray in (
        (Status.INFEASIBLE, certificate.proves_infeasible, solution.y),
        (Status.UNBOUNDED, certificate.proves_unbounded, solution.x),
    ):
        own = np.flatnonzero(solution.status[claimed] == status)
        if own.size:
            elements = claimed[own]
            found[own[proves(structure, values.select(elements), ray[:, elements])]] = status
    return found


def pending(solution: Solution) -> NDArray[np.intp]:
    """The elements that are neither optimal nor proved to have no solution."""
    return np.flatnonzero(np.isin(solution.status, (Status.INACCURATE, Status.FAILED)))


def keep_better(first: Solution, second: Solution, where: NDArray[np.intp], good: float | None = None) -> Solution:
    """Put those elements of ``second`` in place that are better than what stands at ``where``, or that are optimal with
    residuals of at most ``good``."""
    assert first.residuals is not None and second.residuals is not None
    before, after = first.residuals.worst[where], second.residuals.worst
    fine = (second.status == Status.OPTIMAL) & (after <= (0.0 if good is None else good))
    if after.size == first.batch and ((after < before) | fine).all():
        return second
    proved = np.isin(second.status, _CLAIMS)
    solved = (second.status == Status.OPTIMAL) & (first.status[where] != Status.OPTIMAL)
    better = fine | proved | solved | (after < before) | (np.isfinite(after) & ~np.isfinite(before))
    better &= ~np.isin(first.status[where], _CLAIMS)
    better &= solved | proved | ~((first.status[where] == Status.OPTIMAL) & (second.status != Status.OPTIMAL))
    source, target = np.flatnonzero(better), where[better]
    if not target.size:
        return first
    x, y, s = first.x.copy(), first.y.copy(), first.s.copy()
    x[:, target], y[:, target], s[:, target] = second.x[:, source], second.y[:, source], second.s[:, source]
    status, iterations = first.status.copy(), first.iterations.copy()
    status[target], iterations[target] = second.status[source], second.iterations[source]
    engine = first.engine.astype("U16")
    engine[target] = second.engine[source]
    merged = first.residuals.parts.copy()
    merged[:, target] = second.residuals.parts[:, source]
    return Solution(x, y, s, status, iterations, engine, Residuals(merged), first.scales)


def scatter(solution: Solution, elements: NDArray[np.intp], batch: int, n: int, m: int) -> Solution:
    """Spread the solution of some elements over the whole batch; the others are failed, without a point."""
    x, y, s = np.full((n, batch), np.nan), np.full((m, batch), np.nan), np.full((m, batch), np.nan)
    x[:, elements], y[:, elements], s[:, elements] = solution.x, solution.y, solution.s
    status = np.full(batch, Status.FAILED, dtype=np.int8)
    iterations, engine = np.zeros(batch, dtype=np.int64), np.full(batch, "", dtype="U16")
    status[elements], iterations[elements], engine[elements] = solution.status, solution.iterations, solution.engine
    assert solution.residuals is not None
    measured = np.full((5, batch), np.nan)
    measured[:, elements] = solution.residuals.parts
    found = Solution(x, y, s, status, iterations, engine, Residuals(measured))
    return found if solution.unattained is None else found.flagged(elements[solution.unattained])
