"""Never a silent wrong answer: every point is measured, what fails is tried elsewhere, what still fails says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.program import Array, Values
from cvxlayers.solution import Residuals, Solution, Status

__all__ = ["Measure", "improve", "retry", "spread", "verify"]

# A point whose residuals are within this factor of the tolerance is called inaccurate, beyond it failed.
_INACCURATE = 1e3


Measure = Callable[[Values, Array, Array, Array], Residuals]
"""Values and points x, y, s -> their residuals."""


def verify(measure: Measure, values: Values, solution: Solution, tolerance: float) -> Solution:
    """Measure the residuals of every element and let them decide between optimal, inaccurate and failed.

    A solver's certificate of infeasibility or unboundedness stands; its claim of optimality does not.
    """
    residuals = solution.residuals or measure(values, solution.x, solution.y, solution.s)
    if solution.whole and residuals.within(tolerance):
        return solution if solution.residuals else solution.measured(residuals)
    worst = residuals.worst
    judged = np.where(
        worst <= tolerance, Status.OPTIMAL, np.where(worst <= _INACCURATE * tolerance, Status.INACCURATE, Status.FAILED)
    )
    claimed = (solution.status == Status.INFEASIBLE) | (solution.status == Status.UNBOUNDED)
    status = np.where(claimed, solution.status, judged).astype(np.int8)
    return replace(solution, status=status, residuals=residuals)


def improve(
    measure: Measure,
    values: Values,
    solution: Solution,
    tolerance: float,
    elements: NDArray[np.intp],
    better: Solution,
) -> Solution:
    """Put other points, of some elements and their values, in place where their residuals are smaller."""
    return _keep_better(solution, verify(measure, values, better, tolerance), elements)


def retry(
    measure: Measure,
    values: Values,
    solution: Solution,
    tolerance: float,
    others: Iterable[Callable[[Values], Solution]],
) -> Solution:
    """Give the elements that are neither optimal nor certified to the next solvers, keeping the better point."""
    for solve in others:
        pending = np.flatnonzero(np.isin(solution.status, (Status.INACCURATE, Status.FAILED)))
        if not pending.size:
            break
        subset = values.select(pending)
        second = verify(measure, subset, solve(subset), tolerance)
        solution = _keep_better(solution, second, pending)
    return solution


def _keep_better(first: Solution, second: Solution, where: NDArray[np.intp]) -> Solution:
    """Put those elements of ``second`` in place that are better than what stands at ``where``."""
    assert first.residuals is not None and second.residuals is not None
    before, after = first.residuals.worst[where], second.residuals.worst
    if after.size == first.batch and (after < before).all():
        return second
    certified = np.isin(second.status, (Status.INFEASIBLE, Status.UNBOUNDED))
    better = certified | (after < before) | (np.isfinite(after) & ~np.isfinite(before))
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
    return Solution(x, y, s, status, iterations, engine, Residuals(merged))


def spread(solution: Solution, elements: NDArray[np.intp], batch: int, n: int, m: int) -> Solution:
    """Spread the solution of some elements over the whole batch; the others are failed, without a point."""
    x, y, s = np.full((n, batch), np.nan), np.full((m, batch), np.nan), np.full((m, batch), np.nan)
    x[:, elements], y[:, elements], s[:, elements] = solution.x, solution.y, solution.s
    status = np.full(batch, Status.FAILED, dtype=np.int8)
    iterations, engine = np.zeros(batch, dtype=np.int64), np.full(batch, "", dtype="U16")
    status[elements], iterations[elements], engine[elements] = solution.status, solution.iterations, solution.engine
    assert solution.residuals is not None
    measured = np.full((5, batch), np.nan)
    measured[:, elements] = solution.residuals.parts
    return Solution(x, y, s, status, iterations, engine, Residuals(measured))
