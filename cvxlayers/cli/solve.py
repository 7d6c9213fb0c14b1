"""``cvxlayers solve``: a file of parameter values in, a file of solutions out, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cvxlayers.cli.load import known_solver, one_problem, parse_target, unique_names
from cvxlayers.cli.npz import ParameterFile, read_parameters, refuse_unwritable, write_npz
from cvxlayers.cli.terminal import progress
from cvxlayers.errors import SolveError
from cvxlayers.layer import checks
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["RESERVED", "Results", "solve_all", "solve_file"]

RESIDUALS = ("primal", "dual", "gap", "cone")
RESERVED = ("status", "objective", "engine", "iterations", *(f"residual_{name}" for name in RESIDUALS))
"""Names in the file of results that are no variables; a variable of such a name gets a suffix."""


@dataclass(frozen=True)
class Results:
    """The arrays of the file of results: each variable's is ``batch + shape``, those of RESERVED are ``batch``."""

    arrays: dict[str, np.ndarray]
    variables: tuple[str, ...]


def solve_file(
    file: str, params: Path, out: Path, solver: str | None, gp: bool, on_failure: str, chunk: int, broadcast: bool
) -> Results:
    """Load, solve and write; the arguments are those of the command."""
    named = one_problem(parse_target(file), "solve")
    refuse_unwritable(out)
    layer = Layer.from_problem(
        named.problem,
        solver=known_solver(solver),
        gp=gp,
        on_failure="nan" if on_failure == "raise" else on_failure,
        # With "raise" they are checked here, so that the error counts the elements of the whole batch.
        check_parameters=on_failure != "raise",
    )
    parameters = read_parameters(params, layer.compiled.parameters, broadcast)
    with progress("solving", parameters.size) as advance:
        results = solve_all(layer, parameters, on_failure, chunk, advance)
    write_npz(out, results.arrays)
    return results


def solve_all(
    layer: Layer, parameters: ParameterFile, on_failure: str, chunk: int, advance: Callable[[int], None]
) -> Results:
    """Solve all elements, ``chunk`` at a time; ``advance`` is called with the number of elements done.

    ``layer`` has the policy ``on_failure``, or "nan" where that is "raise": the error is raised here, so that it counts
    the elements of the whole batch.

    Raises
    ------
    ParameterError
        With "raise": values that break their parameter's attributes, or that are not finite.
    SolveError
        With "raise", after the first chunk with an element that has no verified solution.
    """
    if on_failure == "raise":
        checks.refuse_nonpositive(layer.compiled, parameters.arrays)
        checks.check_attributes(parameters.arrays, parameters.specs)
        checks.refuse_infinite(parameters.arrays, parameters.specs, layer.bounds)
    outputs, facts = _empty(layer.compiled, parameters.size)
    for start in range(0, parameters.size, chunk):
        stop = min(start + chunk, parameters.size)
        record = layer.solve(parameters.part(start, stop))
        if on_failure == "raise" and not record.solution.ok.all():
            raise _failure(record, start, parameters)
        for whole, part in zip(outputs, record.outputs, strict=True):
            whole[start:stop] = part
        for name, part in _facts(record).items():
            facts[name][start:stop] = part
        advance(stop - start)
    names = unique_names([spec.name for spec in layer.compiled.outputs], RESERVED)
    shaped = {name: _shaped(whole, parameters.batch) for name, whole in zip(names, outputs, strict=True)}
    shaped |= {name: _shaped(whole, parameters.batch) for name, whole in facts.items()}
    return Results(shaped, tuple(names))


def _empty(compiled: CompiledProblem, size: int) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    outputs = [np.empty((size, *s.shape), dtype=complex if s.complex else float) for s in compiled.outputs]
    kinds = {"status": "U10", "engine": "U16", "iterations": np.int64}
    return outputs, {name: np.empty(size, dtype=kinds.get(name, float)) for name in RESERVED}


def _facts(record: Record) -> dict[str, np.ndarray]:
    info = record.info
    residuals = {f"residual_{name}": getattr(info.residuals, name) for name in RESIDUALS}
    found = {
        "status": info.statuses,
        "objective": info.objective,
        "engine": info.engines,
        "iterations": info.iterations,
    }
    return found | residuals


def _shaped(whole: np.ndarray, batch: tuple[int, ...]) -> np.ndarray:
    return whole.reshape(batch + whole.shape[1:])


def _failure(record: Record, start: int, parameters: ParameterFile) -> SolveError:
    bad = np.flatnonzero(~record.solution.ok)
    statuses = record.info.statuses[bad].tolist()
    places = [_place(start + int(i), parameters.batch) for i in bad]
    shown = ", ".join(f"{place}{status}" for place, status in list(zip(places, statuses, strict=True))[:10])
    more = f" and {bad.size - 10} more" if bad.size > 10 else ""
    checked = min(start + record.solution.batch, parameters.size)
    return SolveError(
        f"{bad.size} of the first {checked} batch elements have no verified solution: {shown}{more}. Nothing was "
        "written. With --on-failure nan (or zero_grad) the others are solved, and the status tells which failed.",
        (bad + start).tolist(),
        statuses,
    )


def _place(i: int, batch: tuple[int, ...]) -> str:
    index = [int(part) for part in np.unravel_index(i, batch)] if batch else []
    return f"element [{', '.join(map(str, index))}] is " if index else "the only element is "
