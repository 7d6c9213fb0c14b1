"""Random products of cones: the two paths agree, and forward and backward derivatives are adjoint."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.factor.choice import WAYS
from tests.derivative.problems import PARTS, cotangents, difference, inner, noise, random_problem, relative
from tests.derivative.test_exact import derivative

CONES = st.builds(
    Cones,
    zero=st.integers(0, 3),
    nonneg=st.integers(0, 5),
    second_order=st.lists(st.integers(1, 8), max_size=3).map(tuple),
    psd=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    exponential=st.integers(0, 2),
    power=st.lists(st.floats(0.1, 0.9), max_size=2).map(tuple),
)


@settings(max_examples=60)
@given(
    cones=CONES,
    extra=st.integers(0, 3),
    batch=st.integers(1, 3),
    density=st.floats(0.1, 1.0),
    shared=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_paths_agree_and_are_adjoint(
    cones: Cones, extra: int, batch: int, density: float, shared: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # With a positive definite P and at least as many variables as rows, the system is regular almost surely.
    problem = random_problem(rng, max(cones.m, 1) + extra, cones, batch, density, shared=shared)
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    answers = []
    for path in WAYS:
        linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
        backward, forward = linearization.vjp(*cotangent), linearization.jvp(tangent)
        left = sum((g * d).sum(axis=0) for g, d in zip(cotangent, forward, strict=True))
        assert linearization.report.residual.max() < 1e-9
        if linearization.report.residual.max() < 1e-12:
            scale = sum((np.abs(g) * np.abs(d)).sum(axis=0) for g, d in zip(cotangent, forward, strict=True))
            assert (np.abs(inner(backward, tangent) - left) < 1e-8 * scale).all()
        answers.append([*(getattr(backward, part) for part in PARTS), *forward])
    largest = max(float(np.abs(part).max(initial=0.0)) for part in answers[0])
    for answer in answers[1:]:
        for one, other in zip(answer, answers[0], strict=True):
            assert np.abs(one - other).max(initial=0.0) < 1e-7 * largest


@settings(max_examples=15)
@given(cones=CONES, seed=st.integers(0, 2**32 - 1))
def test_finite_differences(cones: Cones, seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_problem(rng, cones.m + 2, cones, batch=1, density=1.0)
    linearization = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
    if linearization.report.margin.min() < 1e-3:
        return  # too near a kink for differences
    tangent = noise(rng, problem)
    for found, expected in zip(linearization.jvp(tangent), difference(problem, tangent), strict=True):
        assert relative(found, expected) < 1e-6


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("decades", [1, 4])
def test_units_do_not_matter(path: str, decades: int, rng: np.random.Generator) -> None:
    """Variables and rows in other units, x = c z and r (A x + s) = r b, have the derivative in those units."""
    cones = Cones(zero=2, nonneg=3, second_order=(3,))
    problem = random_problem(rng, 9, cones, batch=4, density=1.0)
    structure, values, solution = problem.structure, problem.values, problem.solution
    c, r = 10.0 ** rng.uniform(-decades, decades, (structure.n, 4)), 10.0 ** rng.uniform(-decades, decades, (8, 4))
    r[5:] = 1.0  # the derivative of a projection that is not onto an orthant mixes y and s
    A, P = structure.A, structure.P
    units = {"P": c[P.rows] * c[P.columns], "q": c, "A": r[A.rows] * c[A.columns], "b": r}
    moved = type(values)(*(getattr(values, part) * units[part] for part in PARTS))
    point = replace(solution, x=solution.x / c, y=solution.y / r, s=solution.s * r)
    gx, gy, gs = cotangents(problem, rng)
    exact = derivative(structure, path)
    reference, scaled = exact.linearize(values, solution), exact.linearize(moved, point)
    expected, found = reference.vjp(gx, gy, gs), scaled.vjp(gx * c, gy * r, gs / r)
    assert not (scaled.report.fallback | reference.report.fallback).any()
    for part in PARTS:
        assert relative(getattr(found, part) * units[part], getattr(expected, part)) < 1e-8
