"""Derivatives of every engine against finite differences, and forward against backward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.contracts.case import Case
from tests.contracts.table import CASES
from tests.support import differences, layers, reference
from tests.support.differences import inner
from tests.support.tolerance import assert_all_close, assert_close, say

TOLERANCE = 1e-6
WITH_PARAMETERS = [row for row in CASES if row.point()]


def pairs() -> list[object]:
    return [pair for pair in layers.pairs() if pair.values[0].point()]


def noise(rng: np.random.Generator, like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Random arrays of the same shapes, complex where those are."""
    return [
        rng.normal(size=np.shape(a)) + (1j * rng.normal(size=np.shape(a)) if np.iscomplexobj(a) else 0) for a in like
    ]


@pytest.mark.parametrize("row", WITH_PARAMETERS, ids=str)
def test_finite_differences_can_be_trusted(row: Case) -> None:
    """Their own estimates agree, and so do those of CVXPY along a dense direction."""
    worst = max(derivative.agreement for derivative in layers.derivatives(row))
    say(f"{row.name}: worst disagreement of two estimates {worst:.1e}")
    assert worst <= 1e-8
    built = row.build()

    def solve(batch: list[np.ndarray]) -> list[np.ndarray]:
        found = [
            reference.solve(built.problem, built.parameters, built.variables, values, row.gp).outputs
            for values in zip(*batch, strict=True)
        ]
        return [np.stack(outputs) for outputs in zip(*found, strict=True)]

    (other,) = differences.differentiate(solve, row.point(), layers.directions(row)[:1], levels=5)
    tolerance = max(1e-5, 10 * other.agreement)
    assert tolerance <= 1e-3, f"CVXPY's own differences disagree by {other.agreement:.1e}"
    assert_all_close(layers.derivatives(row)[0].tangents, other.tangents, tolerance, row.name)


@pytest.mark.parametrize(("row", "engine"), pairs())
def test_jvp_against_finite_differences(row: Case, engine: str) -> None:
    record = layers.layer(row, engine).solve(row.point())
    for number, (direction, found) in enumerate(zip(layers.directions(row), layers.derivatives(row), strict=True)):
        tangents = record.jvp(direction)
        assert_all_close(tangents, found.tangents, TOLERANCE, f"{row.name} on {engine}, direction {number}")


@pytest.mark.parametrize(("row", "engine"), pairs())
def test_vjp_against_finite_differences(row: Case, engine: str, rng: np.random.Generator) -> None:
    record = layers.layer(row, engine).solve(row.point())
    cotangents = noise(rng, record.outputs)
    gradients = record.vjp(cotangents)
    assert [g.shape for g in gradients] == [np.shape(p) for p in row.point()]
    along = [inner(gradients, direction) for direction in layers.directions(row)]
    found = [inner(cotangents, derivative.tangents) for derivative in layers.derivatives(row)]
    assert_close(along, found, TOLERANCE, f"{row.name} on {engine}")


@pytest.mark.parametrize(("row", "engine"), pairs())
def test_forward_and_backward_are_adjoint(row: Case, engine: str, rng: np.random.Generator) -> None:
    record = layers.layer(row, engine).solve(row.point())
    cotangents, tangents = noise(rng, record.outputs), noise(rng, row.point())
    forward, backward = record.jvp(tangents), record.vjp(cotangents)
    scale = _norm(forward) * _norm(cotangents) + _norm(tangents) * _norm(backward)
    gap = abs(inner(forward, cotangents) - inner(tangents, backward)) / scale
    say(f"{row.name} on {engine}: <Jv, w> and <v, J'w> differ by {gap:.1e}")
    assert gap <= 1e-8


@pytest.mark.parametrize(("row", "engine"), pairs())
def test_gradients_of_a_batch_are_those_of_its_elements(row: Case, engine: str, rng: np.random.Generator) -> None:
    layer, points = layers.layer(row, engine), [row.point(seed) for seed in range(3)]
    batch = layer.solve([np.stack(values) for values in zip(*points, strict=True)])
    cotangents = noise(rng, batch.outputs)
    together = batch.vjp(cotangents)
    for i, point in enumerate(points):
        alone = layer.solve(point).vjp([w[i] for w in cotangents])
        assert_all_close([g[i] for g in together], alone, TOLERANCE, f"{row.name} on {engine}, element {i}")


@pytest.mark.parametrize(("row", "engine"), pairs())
def test_report_of_a_derivative(row: Case, engine: str, rng: np.random.Generator) -> None:
    record = layers.layer(row, engine).solve(row.point())
    assert record.info.derivative is None
    record.vjp(noise(rng, record.outputs))
    report = record.info.derivative
    assert report is not None
    residual, margin = float(report.residual[0]), float(report.margin[0])
    say(f"{row.name} on {engine}: residual {residual:.1e}, margin {margin:.1e}")
    assert residual <= 1e-6
    assert margin > 1e-6
    assert row.loose or not report.fallback.any()


@pytest.mark.parametrize("row", WITH_PARAMETERS, ids=str)
def test_shared_parameters_get_the_sum(row: Case, rng: np.random.Generator) -> None:
    layer = layers.layer(row, "CLARABEL")
    single = layer.solve(row.point())
    first, *rest = row.point()
    batch = layer.solve([np.stack([first] * 3), *rest])
    cotangents = [np.stack([noise(rng, [o])[0] for _ in range(3)]) for o in single.outputs]
    gradients = batch.vjp(cotangents)
    each = [single.vjp([w[i] for w in cotangents]) for i in range(3)]
    assert_close(gradients[0], np.stack([g[0] for g in each]), 1e-5, "batched")
    assert_all_close(gradients[1:], [sum(g[j] for g in each) for j in range(1, len(row.point()))], 1e-5, "shared")


@pytest.mark.parametrize("row", WITH_PARAMETERS, ids=str)
def test_missing_cotangents_count_as_zero(row: Case, rng: np.random.Generator) -> None:
    record = layers.layer(row, "CLARABEL").solve(row.point())
    first = noise(rng, record.outputs)[0]
    zeros = [np.zeros_like(o) for o in record.outputs[1:]]
    assert_all_close(record.vjp([first] + [None] * len(zeros)), record.vjp([first, *zeros]), 1e-12, "cotangents")
    tangent = noise(rng, row.point())[0]
    others = [np.zeros_like(p) for p in row.point()[1:]]
    assert_all_close(record.jvp([tangent] + [None] * len(others)), record.jvp([tangent, *others]), 1e-12, "tangents")


def _norm(arrays: Sequence[np.ndarray]) -> float:
    return float(np.sqrt(inner(arrays, arrays)))
