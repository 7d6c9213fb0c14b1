"""What becomes of a solver's answers: each is verified, sharpened, or looked for elsewhere, until it is known for what
it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.layer.attainment import examine, far_out
from cvxlayers.layer.engine import Engine
from cvxlayers.layer.polish import polish
from cvxlayers.layer.report import Stopwatch
from cvxlayers.program.linear import broadcast_column
from cvxlayers.program.solution import Residuals, Solution, Status
from cvxlayers.program.structure import Structure, Values
from cvxlayers.verify.verification import keep_better, pending, verify

__all__ = ["Solve", "answer"]

SHARP, HOPELESS, STEPS = 1e-9, 1e-1, 2
"""The residual above which a point is sharpened, and above which that is not tried; the largest number of steps."""

_NONE = np.zeros(0, dtype=np.intp)

Solve = Callable[[Values], Solution]


def answer(
    structure: Structure, engine: Engine, others: Callable[[Engine], Iterable[Solve]], values: Values,
    solution: Solution, sharpen: bool, watch: Stopwatch,
) -> Solution:  # fmt: skip
    """The verified answers: a solver's own, those of the other solvers for elements of which it gave none.

    Parameters
    ----------
    others : engine -> iterable of callables
        Values of some elements -> what the next solver says of them.
    sharpen : bool
        Whether Newton's steps take points nearer to the solution.
    """
    solution = _judged(structure, engine, values, solution, sharpen, watch)
    endless = unattained = _NONE
    if not structure.cones.polyhedral:
        solution, endless, unattained = _examined(structure, engine, values, solution)
    watch.lap("verification")
    if solution.whole:
        return solution
    for solve in others(engine):
        elements = np.setdiff1d(pending(solution), unattained)
        if not elements.size:
            break
        subset = values.select(elements)
        found = solve(subset)
        watch.lap("solving")
        second = verify(structure, engine.measure, subset, found, engine.tolerance)
        if sharpen:
            second = _sharpened(structure, engine, subset, second, watch)
        solution = keep_better(solution, second, elements)
        watch.lap("verification")
    solution = _unbounded_or_infeasible(structure, engine, values, solution, endless)
    return solution.flagged(unattained) if unattained.size else solution


def _judged(
    structure: Structure, engine: Engine, values: Values, solution: Solution, sharpen: bool, watch: Stopwatch
) -> Solution:
    """A solver's own answers, verified, and sharpened if that is asked for."""
    second = None
    if sharpen and solution.whole and solution.residuals is None and not structure.cones.polyhedral:
        second = _polished(structure, engine, values, solution)  # curved ones need it, whatever their residuals
        watch.lap("polishing")
        if second.whole and second.residuals is not None and second.residuals.within(SHARP):
            return second
    solution = verify(structure, engine.measure, values, solution, engine.tolerance)
    if second is not None:
        return keep_better(solution, second, np.arange(solution.batch), SHARP)
    return _sharpened(structure, engine, values, solution, watch) if sharpen else solution


def _examined(
    structure: Structure, engine: Engine, values: Values, solution: Solution
) -> tuple[Solution, NDArray[np.intp], NDArray[np.intp]]:
    """Which elements fall for ever, and of which the infimum is not attained (see ``attainment``): the latter are
    inaccurate whatever their residuals are."""
    elements = far_out(structure, values, solution, engine.scales)
    if not solution.whole:
        elements = np.concatenate([elements, pending(solution), np.flatnonzero(solution.status == Status.UNBOUNDED)])
    if not elements.size:
        return solution, _NONE, _NONE
    subset = values.select(elements)
    found = solution.scales.select(elements) if solution.scales else engine.scales(subset)
    scaled = found.rounded().scaled(structure, subset)
    outcomes = [examine(structure, scaled.select(np.array([i]))) for i in range(elements.size)]
    unbounded, unattained = (
        elements[[outcome == status for outcome in outcomes]] for status in (Status.UNBOUNDED, Status.INACCURATE)
    )
    if not unbounded.size + unattained.size:
        return solution, _NONE, _NONE
    assert solution.residuals is not None
    x, y, s, parts = (part.copy() for part in (solution.x, solution.y, solution.s, solution.residuals.parts))
    x[:, unbounded] = y[:, unbounded] = s[:, unbounded] = parts[:, unbounded] = np.nan
    status = solution.status.copy()
    status[unbounded], status[unattained] = Status.UNBOUNDED, Status.INACCURATE
    return replace(solution, x=x, y=y, s=s, status=status, residuals=Residuals(parts)), unbounded, unattained


def _sharpened(structure: Structure, engine: Engine, values: Values, solution: Solution, watch: Stopwatch) -> Solution:
    """Newton's steps from the points that are near their solutions, and not at them; where cones are curved, from all
    that are near, so that no element is the sharper or the less for what its neighbours are."""
    assert solution.residuals is not None
    flat = structure.cones.polyhedral
    sharp = flat and solution.whole and solution.residuals.within(SHARP)
    if sharp and not np.count_nonzero(solution.residuals.gap):  # nothing is lacking in any row: cheaper to see
        return solution
    crossed = _crossed(structure, solution)
    if sharp and not crossed.any():
        return solution
    worst = solution.residuals.worst
    elements = np.flatnonzero(((worst > (SHARP if flat else 0.0)) | crossed) & (worst <= HOPELESS))
    if not elements.size:
        return solution
    watch.lap("verification")
    some = elements.size < solution.batch
    subset, near = (values.select(elements), solution.select(elements)) if some else (values, solution)
    better = keep_better(solution, _polished(structure, engine, subset, near), elements, SHARP)
    watch.lap("polishing")
    return better


def _polished(structure: Structure, engine: Engine, values: Values, near: Solution) -> Solution:
    """Points after Newton's steps, verified."""
    better = polish(structure, values, near, near.scales or engine.scales(values), engine.newton, STEPS)
    return verify(structure, engine.measure, values, better, engine.tolerance)


def _crossed(structure: Structure, solution: Solution) -> NDArray[np.bool_]:
    """The elements that have s_i and y_i both positive in some nonnegative row, so that what is active is not said."""
    flat = slice(structure.cones.zero, structure.cones.zero + structure.cones.nonneg)
    return np.asarray((np.minimum(solution.s[flat], solution.y[flat]) > 0).any(axis=0))


def _unbounded_or_infeasible(
    structure: Structure, engine: Engine, values: Values, solution: Solution, known: NDArray[np.intp]
) -> Solution:
    """A direction along which the objective falls for ever is of use only where there is a feasible point.

    So the problem is solved without its objective: one that is both infeasible and unbounded is infeasible. ``known``
    elements have a feasible point.
    """
    elements = np.setdiff1d(np.flatnonzero(solution.status == Status.UNBOUNDED), known)
    if not elements.size:
        return solution
    subset = values.select(elements)
    zeros = (broadcast_column(np.zeros(part.shape[0]), elements.size) for part in (subset.P, subset.q))
    P, q = zeros
    without = Values(P, q, subset.A, subset.b)
    found = verify(structure, engine.measure, without, engine.solver.solve(without), engine.tolerance)
    status = np.where(
        found.ok, Status.UNBOUNDED, np.where(found.status == Status.INFEASIBLE, found.status, Status.FAILED)
    )
    statuses = solution.status.copy()
    statuses[elements] = status
    return replace(solution, status=statuses)
