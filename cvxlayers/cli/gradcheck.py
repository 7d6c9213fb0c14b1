"""``check --gradcheck``: the layer's derivative, forwards and backwards, beside trustworthy finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np

from cvxlayers.cli.finite_difference import FIRST_STEP, directional_derivative
from cvxlayers.cli.sampling import allowed_direction, sample_value
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.errors import ParameterError, SolveError
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.polish import polish
from cvxlayers.layer.record import Record
from cvxlayers.program.scales import scales

__all__ = ["GradientReport", "ParameterErrors", "Sample", "SampleReport", "gradcheck", "sampled_points"]

TOLERANCE = 1e-4
ADJOINT_TOLERANCE = 1e-6
DIRECTIONS = 2
FLOOR = 1e-3  # changes below this, relative to the outputs for a change of the whole parameter, compare absolutely


@dataclass(frozen=True)
class Sample:
    """Parameter values to check at, in the layer's order, and where they come from."""

    label: str
    values: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class ParameterErrors:
    """The worst relative errors of one parameter's derivative over all samples and directions.

    ``forward`` compares Jv with finite differences, ``backward`` compares <v, J'w> with them, and ``adjoint`` compares
    <Jv, w> with <v, J'w>. Zero where nothing was compared, NaN where the derivative itself is NaN. ``unsettled`` of
    ``directions`` have no derivative that finite differences agree on.
    """

    name: str
    directions: int
    unsettled: int
    forward: float
    backward: float
    adjoint: float

    @property
    def compared(self) -> int:
        return self.directions - self.unsettled

    @property
    def passed(self) -> bool:
        """Whether there was a comparison, and none failed; a NaN fails."""
        right = self.forward <= TOLERANCE and self.backward <= TOLERANCE and self.adjoint <= ADJOINT_TOLERANCE
        return right and self.compared > 0


@dataclass(frozen=True)
class SampleReport:
    """One point: its status ("optimal", or why nothing was compared there), and how the derivative was solved."""

    label: str
    status: str
    singular: bool = False
    margin: float = float("nan")


@dataclass(frozen=True)
class GradientReport:
    """The outcome of the gradient check."""

    samples: tuple[SampleReport, ...]
    parameters: tuple[ParameterErrors, ...]
    tolerance: float = TOLERANCE
    adjoint_tolerance: float = ADJOINT_TOLERANCE

    @property
    def solved(self) -> int:
        """At how many samples there was a solution."""
        return sum(sample.status == "optimal" for sample in self.samples)

    @property
    def compared(self) -> int:
        """Over how many directions a comparison was possible."""
        return sum(errors.compared for errors in self.parameters)

    @property
    def passed(self) -> bool:
        """Whether every comparison passed, and there was at least one for each parameter."""
        return self.solved > 0 and all(errors.passed for errors in self.parameters)


def sampled_points(
    parameters: Sequence[cp.Parameter], gp: bool, samples: int, random: np.random.Generator
) -> Iterator[Sample]:
    """Points whose values respect the parameters' attributes; the first keeps the values that the file has set."""
    for number in range(samples):
        given = [_set_value(parameter) if number == 0 else None for parameter in parameters]
        values = tuple(
            sample_value(parameter, gp, random) if value is None else value
            for parameter, value in zip(parameters, given, strict=True)
        )
        all_given = bool(given) and all(value is not None for value in given)
        yield Sample("the file's values" if all_given else f"sample {number + 1}", values)


def gradcheck(
    layer: Layer,
    parameters: Sequence[cp.Parameter],
    names: Sequence[str],
    points: Sequence[Sample],
    random: np.random.Generator,
    advance: Callable[[], None] = lambda: None,
) -> GradientReport:
    """Compare the layer's derivative with finite differences at each point, along random directions.

    ``parameters`` are the problem's own, in the layer's order, whose attributes the directions respect; ``advance`` is
    called after each point.
    """
    comparisons: list[list[_Comparison]] = [[] for _ in parameters]
    samples = []
    for point in points:
        samples.append(_check_point(layer, parameters, point, random, comparisons))
        advance()
    rows = tuple(_summary(name, found) for name, found in zip(names, comparisons, strict=True))
    return GradientReport(tuple(samples), rows)


@dataclass(frozen=True)
class _Comparison:
    """The relative errors along one direction; the first two are zero where finite differences do not settle."""

    settled: bool
    forward: float
    backward: float
    adjoint: float


def _set_value(parameter: cp.Parameter) -> np.ndarray | None:
    """The value that the file has given the parameter, if any."""
    if parameter.attributes["sparsity"]:
        sparse = parameter.value_sparse
        return None if sparse is None else sparse.toarray()
    return None if parameter.value is None else np.asarray(parameter.value)


def _check_point(
    layer: Layer,
    parameters: Sequence[cp.Parameter],
    point: Sample,
    random: np.random.Generator,
    comparisons: list[list[_Comparison]],
) -> SampleReport:
    checked = Layer(layer.compiled, layer.solver, layer.solver_args)
    try:
        record = checked.solve(point.values)
    except ParameterError as exc:
        return SampleReport(point.label, f"not allowed: {exc}")
    except SolveError as exc:
        return SampleReport(point.label, exc.statuses[0])
    status = str(record.info.statuses[0])
    free = Layer(layer.compiled, layer.solver, layer.solver_args, on_failure="nan", check_parameters=False)
    for position, parameter in enumerate(parameters):
        for _ in range(DIRECTIONS):
            value = point.values[position]
            direction = allowed_direction(parameter, value, layer.compiled.gp, FIRST_STEP, random)
            if direction.any():
                found = _compare(free, record, point.values, position, direction, random)
                comparisons[position].append(found)
    report = record.info.derivative
    if report is None:
        return SampleReport(point.label, status)
    return SampleReport(point.label, status, bool(report.fallback[0]), float(report.margin[0]))


def _compare(
    layer: Layer,
    record: Record,
    values: tuple[np.ndarray, ...],
    position: int,
    direction: np.ndarray,
    random: np.random.Generator,
) -> _Comparison:
    """Along v (``direction`` of one parameter) and against w (random, for all outputs)."""
    outputs = _flat(record.outputs)
    scale = FLOOR * (1.0 + float(np.abs(outputs).max(initial=0.0)))

    def along(t: np.ndarray) -> np.ndarray:
        moved = [*values]
        moved[position] = values[position] + t.reshape(t.shape + (1,) * direction.ndim) * direction
        return _flat(_exact_outputs(layer.solve(moved)), batch=t.size)

    estimate = directional_derivative(along, scale)
    tangents: list[np.ndarray | None] = [None] * len(values)
    tangents[position] = direction
    Jv = _flat(record.jvp(tangents))
    w = [_random_like(part, random) for part in record.outputs]
    flat_w = _flat(w)
    # Real inner products: a complex cotangent is dL/d(real part) + i dL/d(imaginary part).
    backward = float(np.vdot(record.vjp(w)[position], direction).real)
    weight = float(np.linalg.norm(flat_w))
    adjoint = abs(Jv @ flat_w - backward) / (weight * (scale + np.linalg.norm(Jv)))
    if not estimate.settled:
        return _Comparison(False, 0.0, 0.0, float(adjoint))
    reference = estimate.value
    forward = np.abs(Jv - reference).max(initial=0.0) / (scale + np.abs(reference).max(initial=0.0))
    against = abs(backward - reference @ flat_w) / (weight * (scale + np.linalg.norm(reference)))
    return _Comparison(True, float(forward), float(against), float(adjoint))


def _exact_outputs(record: Record) -> tuple[np.ndarray, ...]:
    """The outputs to machine precision; NaN where there is no verified solution."""
    compiled, good = record.compiled, np.flatnonzero(record.solution.ok)
    rows = np.full_like(record.rows, np.nan)
    if good.size:
        values = record.values_of(good)
        structure = compiled.structure
        near, found = record.solution.select(good), scales(structure, values)
        polished = polish(structure, values, near, found, ExactDerivative(structure), 6)
        rows[:, good] = compiled.recover(polished.x, polished.y)
    return packing.unpack(compiled, rows, record.packed.batch)


def _random_like(part: np.ndarray, random: np.random.Generator) -> np.ndarray:
    w = random.standard_normal(part.shape)
    return w + 1j * random.standard_normal(part.shape) if np.iscomplexobj(part) else w


def _flat(parts: Sequence[np.ndarray], batch: int | None = None) -> np.ndarray:
    """All entries as one real vector, or with ``batch`` one real row for each of its elements."""
    rows = [np.reshape(part, (batch or 1, -1)) for part in parts]
    real = [half for row in rows for half in ((row.real, row.imag) if np.iscomplexobj(row) else (row,))]
    joined = np.concatenate(real, axis=1)
    return joined if batch else joined[0]


def _summary(name: str, found: list[_Comparison]) -> ParameterErrors:
    errors = np.array([(one.forward, one.backward, one.adjoint) for one in found]).reshape(-1, 3)
    worst = errors.max(axis=0, initial=0.0).tolist()  # a NaN stays
    return ParameterErrors(name, len(found), sum(not one.settled for one in found), *worst)
