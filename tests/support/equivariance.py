"""Problems solved in many units at once, each number of the answer set beside what algebra says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Array, Values
from tests.support.polish import polished_outputs
from tests.support.scaling import Units, as_parameters, factors, rescaled

__all__ = ["Found", "Reference", "compare", "reference"]

ZERO = 1e-9
"""Relative to the largest of all: a kind of numbers that is smaller is zero but for rounding."""


@dataclass(frozen=True)
class Reference:
    """A problem at one point, in its own units.

    Attributes
    ----------
    values : Values
        Of the standard form, one column.
    point : (n + 2 m + 1,)
        x, y, s of the standard form and the status, as ``Layer.restore`` takes them.
    rows, weights : (rows,)
        The outputs, and the cotangents for which there is the gradient.
    objective : float
    gradient : (k,)
        Of the parameters' features.
    """

    compiled: CompiledProblem
    values: Values
    point: Array
    rows: Array
    weights: Array
    objective: float
    gradient: Array

    @cached_property
    def sizes(self) -> tuple[Array, float, Array]:
        """The natural size of each output's number, of the objective, and of each entry of the gradient.

        Numbers are compared with the largest of their kind: of one output, of the objective's terms, of the gradient
        of one parameter. A kind that is zero has the size of the largest of all.
        """
        outputs = _by_kind(self.rows, [(spec.start, spec.stop) for spec in self.compiled.outputs])
        gradients = _by_kind(self.gradient, [(one.start, one.stop) for one in self.compiled.features])
        n, P = self.compiled.structure.n, self.compiled.structure.P
        x = np.full(n, float(np.abs(self.point[:n]).max(initial=0.0)))
        terms = float(np.abs(self.values.q[:, 0]) @ x) + float(np.abs(self.values.P[:, 0]) @ (x[P.rows] * x[P.columns]))
        return outputs, terms or 1.0, gradients


def _by_kind(numbers: Array, kinds: Sequence[tuple[int, int]]) -> Array:
    overall = float(np.abs(numbers).max(initial=0.0)) or 1.0
    sizes = np.full(numbers.size, overall)
    for start, stop in kinds:
        largest = float(np.abs(numbers[start:stop]).max(initial=0.0))
        if largest > ZERO * overall:
            sizes[start:stop] = largest
    return sizes


@dataclass(frozen=True)
class Found:
    """What came out in each of the units, (B,): errors relative to the natural sizes, NaN where not optimal."""

    statuses: np.ndarray
    engines: np.ndarray
    outputs: Array
    objective: Array
    gradient: Array
    flagged: np.ndarray

    @property
    def optimal(self) -> np.ndarray:
        return self.statuses == "optimal"

    @property
    def worst(self) -> Array:
        """The largest of the three errors; zero where not optimal."""
        with np.errstate(invalid="ignore"):
            return np.where(self.optimal, np.maximum(np.maximum(self.outputs, self.objective), self.gradient), 0.0)


def reference(compiled: CompiledProblem, theta: Array, seed: int = 0) -> Reference:
    """The answer in the problem's own units, sharpened by Newton's method; theta (k,) are the features.

    Raises
    ------
    AssertionError
        It does not converge to rounding.
    """
    values = compiled.evaluate(theta[:, None])
    posed = as_parameters(compiled.structure)
    layer = Layer(posed.compiled, check_parameters=False)
    given = [posed.theta(values)]
    x, y = (part[0] for part in polished_outputs(layer, [given[0][0]], given))
    assert np.isfinite(x).all() and np.isfinite(y).all(), "the reference does not converge"
    s = values.b[:, 0] - compiled.structure.A.times(values.A, x[:, None])[:, 0]
    point = np.concatenate([x, y, s, [0.0]])
    record = layer.restore(given, point[:, None])
    rows = compiled.recover(x[:, None], y[:, None])[:, 0]
    weights = np.random.default_rng([seed, 3]).normal(size=rows.size)
    gradient = _gradient(compiled, posed.values, record, weights, Values(*(np.ones((1, 1)),) * 4))
    cost = values.q[:, 0] @ x + x @ compiled.structure.P_times(values.P, x[:, None])[:, 0] / 2
    return Reference(compiled, values, point, rows, weights, float(cost), gradient[:, 0])


def _gradient(compiled, split, record: Record, weights: Array, scale: Values, units: Units | None = None) -> Array:
    """The gradient of weights'rows in the features, (k, B), through a problem in other units."""
    dx, dy = (part[:, None] for part in (compiled.primal.T @ weights, compiled.dual.T @ weights))
    if units is not None:
        dx, dy = dx * units.d, dy * units.r / units.c
    batch = record.solution.batch
    given = [np.broadcast_to(part, (part.shape[0], batch)).T.reshape(record.outputs[i].shape)
             for i, part in enumerate((dx, dy))]  # fmt: skip
    (found,) = record.vjp(given)
    values = split(np.atleast_2d(found))
    return compiled.pullback(Values(*(part * factor for part, factor in zip(values, scale, strict=True))))


def compare(right: Reference, engine: str | None, units: Units, **options: object) -> Found:
    """The same problem in these units, as one batch on an engine, mapped back and compared."""
    compiled = right.compiled
    posed = as_parameters(compiled.structure)
    layer = Layer(posed.compiled, engine, on_failure="nan", check_parameters=False, **options)  # type: ignore[arg-type]
    record = layer.solve([posed.theta(rescaled(compiled.structure, right.values, units))])
    info, solution = record.info, record.solution
    scale = factors(compiled.structure, units)
    rows = compiled.recover(solution.x * units.d, solution.y * units.r / units.c)
    gradient = _gradient(compiled, posed.values, record, right.weights, scale, units)
    sizes = right.sizes
    outputs = _largest((rows - right.rows[:, None]) / sizes[0][:, None])
    gradients = _largest((gradient - right.gradient[:, None]) / sizes[2][:, None])
    objective = np.abs(info.objective / units.c - right.objective) / sizes[1]
    return Found(
        info.statuses, info.engines, *(np.where(solution.ok, part, np.nan) for part in (outputs, objective, gradients)),
        _flagged(record),
    )  # fmt: skip


def _largest(errors: Array) -> Array:
    return np.abs(errors).max(axis=0, initial=0.0)


def _flagged(record: Record) -> np.ndarray:
    """Which elements' derivative the report warns of."""
    flagged, report = np.ones(record.solution.batch, dtype=bool), record.info.derivative
    if report is not None:
        told = report.fallback | (np.asarray(getattr(report, "unserved", 0.0)) > 1e-6)
        flagged[np.flatnonzero(record.solution.ok)] = told
    return flagged
