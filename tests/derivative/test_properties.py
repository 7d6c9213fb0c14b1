"""Random products of cones: the two paths agree, and forward and backward derivatives are adjoint."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from tests.derivative.problems import PARTS, cotangents, difference, inner, noise, random_problem, relative
from tests.derivative.test_exact import PATHS, derivative

CONES = st.builds(
    Cones,
    zero=st.integers(0, 3),
    nonneg=st.integers(0, 5),
    second_order=st.lists(st.integers(1, 5), max_size=3).map(tuple),
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
    for path in PATHS:
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


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_units_do_not_matter(path: str, scale: float, rng: np.random.Generator) -> None:
    """Variables in other units (x = scale * z) have the derivative in those units."""
    cones = Cones(zero=2, nonneg=3, second_order=(3,))
    problem = random_problem(rng, 9, cones, batch=2)
    values, solution = problem.values, problem.solution
    moved = type(values)(values.P * scale**2, values.q * scale, values.A * scale, values.b)
    scaled = type(solution)(
        solution.x / scale, solution.y, solution.s, solution.status, solution.iterations, solution.engine
    )
    gx, gy, gs = cotangents(problem, rng)
    exact = derivative(problem.structure, path)
    expected = exact.linearize(values, solution).vjp(gx, gy, gs)
    found = exact.linearize(moved, scaled).vjp(gx * scale, gy, gs)
    for part, power in zip(PARTS, (2, 1, 1, 0), strict=True):
        assert relative(getattr(found, part) * float(scale) ** power, getattr(expected, part)) < 1e-9
