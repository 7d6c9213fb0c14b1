"""The derivative smoothed along the central path."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones import svec
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import project_dual
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.system.smoothing import smoothed_derivative, smoothed_projection
from cvxlayers.errors import OptionError
from cvxlayers.program.structure import Structure, Values
from tests.derivative.problems import (
    Problem,
    at,
    cotangents,
    difference,
    inner,
    noise,
    pattern,
    polished,
    random_problem,
    relative,
)

SPECTRAL = Cones(zero=2, nonneg=3, second_order=(1, 3, 4), psd=(1, 3))
ALL = Cones(zero=1, nonneg=2, second_order=(3,), psd=(2,), exponential=1, power=(0.4,))


@pytest.mark.parametrize("mu", [1.0, 1e-3, 1e-8])
def test_points_lie_on_the_central_path(mu: float, rng: np.random.Generator) -> None:
    v = rng.standard_normal((SPECTRAL.m, 20))
    y = smoothed_projection(SPECTRAL, v, mu)
    s = y - v
    np.testing.assert_allclose(s[:2], 0.0, atol=1e-15)
    np.testing.assert_allclose(y[2:5] * s[2:5], mu, rtol=1e-6)
    for block in SPECTRAL.blocks[2:]:
        ys, ss = y[block.rows], s[block.rows]
        if block.kind == "second_order":
            np.testing.assert_allclose((ys * ss).sum(axis=0), mu, atol=1e-14)
            np.testing.assert_allclose(ys[0] * ss[1:] + ss[0] * ys[1:], 0.0, atol=1e-14)
        else:
            Y, S = (np.moveaxis(svec.unpack(part), -1, 0) for part in (ys, ss))
            np.testing.assert_allclose(Y @ S, np.broadcast_to(mu * np.eye(Y.shape[1]), Y.shape), atol=1e-14)


@pytest.mark.parametrize("mu", [1.0, 1e-2])
def test_the_derivative_of_the_smoothed_projection(mu: float, rng: np.random.Generator) -> None:
    v, w = rng.standard_normal((2, SPECTRAL.m, 10))
    ends = [smoothed_projection(SPECTRAL, v + k * w, mu) for k in (-1e-3, -5e-4, 5e-4, 1e-3)]
    expected = (8 * (ends[2] - ends[1]) - (ends[3] - ends[0])) / 6e-3
    assert relative(smoothed_derivative(SPECTRAL, v, mu).matvec(w), expected) < 1e-7


def test_eigenvalues_are_between_zero_and_one(rng: np.random.Generator) -> None:
    v = rng.standard_normal((ALL.m, 30))
    v[:, 0] = 0.0
    for mu in (1.0, 1e-4):
        D = smoothed_derivative(ALL, v, mu)
        assert (D.diagonal[1:3] > 0).all() and (D.diagonal[1:3] < 1).all()
        for _, blocks in D.blocks:
            values = np.linalg.eigvalsh(np.moveaxis(blocks, (0, 1), (-2, -1)))
            assert values.min() > 0 and values.max() < 1
    np.testing.assert_allclose(smoothed_derivative(ALL, v[:, :1], 1.0).matvec(v[:, 1:2])[1:], v[1:, 1:2] / 2)


def test_large_and_small_numbers_do_not_cancel() -> None:
    cones = Cones(nonneg=2, second_order=(2,))
    v = np.array([[-1e6], [1e6], [-1e6], [0.0]])
    y, D = smoothed_projection(cones, v, 1e-6), smoothed_derivative(cones, v, 1e-6)
    np.testing.assert_allclose(y[:2, 0], [1e-12, 1e6], rtol=1e-12)
    np.testing.assert_allclose(y[2:, 0], [1e-12, 0.0], rtol=1e-12)
    np.testing.assert_allclose(D.diagonal[0], 1e-18, rtol=1e-6)


def smoothly_solved(mu: float):  # type: ignore[no-untyped-def]
    """``polished`` for the smoothed optimality conditions."""

    def solve(problem: Problem, values: Values) -> tuple[np.ndarray, ...]:
        return polished(
            problem, values, 60, lambda cones, v: smoothed_projection(cones, v, mu),
            lambda cones, v: smoothed_derivative(cones, v, mu),
        )  # fmt: skip

    return solve


@pytest.mark.parametrize("mu", [0.3, 1e-2])
@pytest.mark.parametrize("quadratic", [True, False])
def test_it_is_the_derivative_of_the_smoothed_solution(mu: float, quadratic: bool, rng: np.random.Generator) -> None:
    # The point (x, v) solves the smoothed conditions for other q and b than the exact ones; there is the derivative.
    problem = random_problem(rng, 8, SPECTRAL, batch=2, density=1.0, quadratic=quadratic)
    x, v, values = problem.solution.x, problem.solution.y - problem.solution.s, problem.values
    structure, y = problem.structure, smoothed_projection(SPECTRAL, v, mu)
    q = -structure.P_times(values.P, x) - structure.A.transpose_times(values.A, y)
    smooth = Values(values.P, q, values.A, structure.A.times(values.A, x) + y - v)
    linearization = ExactDerivative(structure, smoothing=mu).linearize(values, problem.solution)
    tangent = noise(rng, problem)
    expected = difference(Problem(structure, smooth, problem.solution), tangent, smoothly_solved(mu))
    for found, part in zip(linearization.jvp(tangent), expected, strict=True):
        assert relative(found, part) < 1e-7
    gx, gy, gs = cotangents(problem, rng)
    left = sum((g * d).sum(axis=0) for g, d in zip((gx, gy, gs), linearization.jvp(tangent), strict=True))
    assert relative(inner(linearization.vjp(gx, gy, gs), tangent), left) < 1e-10


def vertex(q: np.ndarray) -> Problem:
    """minimize q'x over the simplex: all weight on the smallest entry of q (n, B)."""
    n, batch = q.shape
    mask = np.concatenate([np.ones((1, n), bool), np.eye(n, dtype=bool)])
    structure = Structure(pattern(np.zeros((n, n), bool)), pattern(mask), Cones(zero=1, nonneg=n))
    A = np.concatenate([np.ones((1, n)), -np.eye(n)])[structure.A.rows, structure.A.columns]
    x = np.where(q == q.min(axis=0), 1.0, 0.0)
    v = np.concatenate([-q.min(axis=0)[None], q - q.min(axis=0) - x])
    problem = at(structure, np.zeros((0, batch)), np.broadcast_to(A[:, None], (A.size, batch)), x, v)
    np.testing.assert_allclose(problem.values.q, q, atol=1e-15)
    return problem


def barrier_solution(q: np.ndarray, mu: float) -> np.ndarray:
    """x minimizing q'x - mu sum(log x) over the simplex: x = mu / (q + tau), with the tau for which they sum to one."""
    low, high = -q.min(axis=0), -q.min(axis=0) + q.shape[0] * mu
    for _ in range(200):
        middle = (low + high) / 2
        total = (mu / np.maximum(q + middle, 1e-300)).sum(axis=0)
        low, high = np.where(total > 1, middle, low), np.where(total > 1, high, middle)
    return mu / (q + (low + high) / 2)


def test_a_linear_program_over_the_simplex(rng: np.random.Generator) -> None:
    q = rng.uniform(0.0, 2.0, (4, 3))
    q[0] = -0.5
    problem, g = vertex(q), rng.standard_normal((4, 3))
    exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
    np.testing.assert_allclose(exact.vjp(g, np.zeros((5, 3))).q, 0.0, atol=1e-13)
    errors = []
    for mu in (1e-3, 1e-4):
        h = 1e-4
        expected = np.empty_like(q)
        for i in range(4):
            step = h * np.eye(4)[:, i : i + 1]
            expected[i] = (g * (barrier_solution(q + step, mu) - barrier_solution(q - step, mu))).sum(axis=0) / (2 * h)
        smooth = ExactDerivative(problem.structure, smoothing=mu).linearize(problem.values, problem.solution)
        found = smooth.vjp(g, np.zeros((5, 3))).q
        errors.append(relative(found, expected))
        assert not smooth.report.fallback.any()
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 5  # of the order of mu


@pytest.mark.parametrize("q", [0.5, 3.0])
def test_one_variable_in_closed_form(q: float) -> None:
    # minimize q x subject to x >= 0: on the central path x = mu / q.
    structure = Structure(pattern(np.zeros((1, 1), bool)), pattern(np.ones((1, 1), bool)), Cones(nonneg=1))
    problem = at(structure, np.zeros((0, 1)), np.array([[-1.0]]), np.zeros((1, 1)), np.array([[q]]))
    for mu in (1e-2, 1e-5):
        smooth = ExactDerivative(structure, smoothing=mu).linearize(problem.values, problem.solution)
        found = -smooth.vjp(np.ones((1, 1)), np.zeros((1, 1))).q[0, 0]
        root = np.sqrt(q * q + 4 * mu)
        np.testing.assert_allclose(found, (root - q) / (root + q), rtol=1e-10)
        np.testing.assert_allclose(found, mu / q**2, rtol=3 * mu / q**2)


def test_it_tends_to_the_exact_derivative(rng: np.random.Generator) -> None:
    problem = random_problem(rng, ALL.m + 1, ALL, batch=3)
    cotangent = cotangents(problem, rng)
    exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution).vjp(*cotangent)
    errors = []
    for mu in (1e-6, 1e-7, 1e-8):
        smooth = ExactDerivative(problem.structure, smoothing=mu).linearize(problem.values, problem.solution)
        found = smooth.vjp(*cotangent)
        errors.append(max(relative(getattr(found, k), getattr(exact, k)) for k in "PqAb"))
    assert errors[2] < 1e-4
    np.testing.assert_allclose(np.array(errors[:2]) / np.array(errors[1:]), 10.0, rtol=0.2)


def test_kinks_and_ties_have_useful_derivatives() -> None:
    q = np.array([[0.3, 1.0], [0.3, 1.0], [0.9, 1.0]])  # two, then three, equal costs: the solution is not unique
    n, batch = q.shape
    problem = vertex(np.array([[0.3], [0.4], [0.9]]).repeat(batch, axis=1))
    x = np.where(q == q.min(axis=0), 1.0, 0.0)
    x /= x.sum(axis=0)
    v = np.concatenate([-q.min(axis=0)[None], q - q.min(axis=0) - x])
    problem = at(problem.structure, problem.values.P, problem.values.A, x, v)
    g = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
    exact.vjp(g, np.zeros((n + 1, batch)))
    assert exact.report.fallback.all()
    smooth = ExactDerivative(problem.structure, smoothing=1e-3).linearize(problem.values, problem.solution)
    found = smooth.vjp(g, np.zeros((n + 1, batch))).q
    assert not smooth.report.fallback.any()
    # A larger cost of the first takes its share away, and gives it to the others of equal cost.
    assert (found[0] < -1.0).all() and (found[1] > 1.0).all()
    np.testing.assert_allclose(found[1, 1], found[2, 1], rtol=1e-9)
    assert abs(found[2, 0]) < 0.01 * found[1, 0]


def test_the_limit_at_a_kink_of_the_projection() -> None:
    # minimize (x - z)^2 / 2 subject to x >= 0 at z = 0: x = max(z, 0) has the mean slope 1 / 2, smoothed or not.
    structure = Structure(pattern(np.ones((1, 1), bool)), pattern(np.ones((1, 1), bool)), Cones(nonneg=1))
    problem = at(structure, np.ones((1, 1)), np.array([[-1.0]]), np.zeros((1, 1)), np.zeros((1, 1)))
    for smoothing in (None, 1e-4):
        linearization = ExactDerivative(structure, smoothing=smoothing).linearize(problem.values, problem.solution)
        np.testing.assert_allclose(linearization.vjp(np.ones((1, 1)), np.zeros((1, 1))).q, -0.5, rtol=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, -1.0, np.nan, np.inf])
def test_smoothing_must_be_positive(smoothing: float) -> None:
    structure = Structure(pattern(np.ones((1, 1), bool)), pattern(np.ones((1, 1), bool)), Cones(nonneg=1))
    with pytest.raises(OptionError, match=r"smoothing is .* must be a positive number"):
        ExactDerivative(structure, smoothing=smoothing)


def test_exponential_and_power_cones_keep_their_projection(rng: np.random.Generator) -> None:
    cones = Cones(exponential=2, power=(0.3,))
    v = rng.standard_normal((cones.m, 5))
    np.testing.assert_array_equal(smoothed_projection(cones, v, 1e-3), project_dual(cones, v))
