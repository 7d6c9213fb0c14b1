"""Where the system is singular: what is determined is exact, the rest is of least norm, finite and reported."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.factor.choice import WAYS, Choice
from cvxlayers.derivative.factor.part import Part
from cvxlayers.derivative.system.system import SystemLayout
from cvxlayers.program.structure import Structure, Values
from tests.derivative.problems import (
    PARTS,
    Problem,
    at,
    cotangents,
    difference,
    inner,
    noise,
    pattern,
    pseudoinverse,
    random_problem,
    relative,
)
from tests.derivative.test_exact import derivative


def constant(matrix: np.ndarray, mask: np.ndarray, batch: int) -> np.ndarray:
    """The values (nnz, B) of a matrix that is the same for all elements."""
    found = pattern(mask)
    return np.repeat(matrix[found.rows, found.columns][:, None], batch, axis=1)


def redundant(rng: np.random.Generator, batch: int = 3) -> Problem:
    """A quadratic program whose third equality is the sum of the first two."""
    n = 5
    A = rng.standard_normal((4, n))
    A[2] = A[0] + A[1]
    mask = np.ones((4, n), dtype=bool)
    upper = np.triu(np.ones((n, n), dtype=bool))
    L = rng.standard_normal((n, n))
    structure = Structure(pattern(upper), pattern(mask), Cones(zero=3, nonneg=1))
    P = constant(L @ L.T + np.eye(n), upper, batch)
    v = rng.uniform(0.5, 1.5, (4, batch))
    return at(structure, P, constant(A, mask, batch), rng.standard_normal((n, batch)), v)


def flat(rng: np.random.Generator, batch: int = 3) -> tuple[Problem, np.ndarray]:
    """A program whose last variable no term and no active row fixes, and that direction."""
    n, m = 5, 4
    A = rng.standard_normal((m, n))
    A[:3, -1] = 0.0
    mask = np.ones((m, n), dtype=bool)
    upper = np.triu(np.ones((n, n), dtype=bool))
    L = np.zeros((n, n))
    L[:-1, :-1] = rng.standard_normal((n - 1, n - 1)) + 2 * np.eye(n - 1)
    structure = Structure(pattern(upper), pattern(mask), Cones(zero=1, nonneg=3))
    v = rng.uniform(0.5, 1.5, (m, batch)) * np.array([1.0, 1.0, -1.0, -1.0])[:, None]
    P = constant(L @ L.T, upper, batch)
    return at(structure, P, constant(A, mask, batch), rng.standard_normal((n, batch)), v), np.eye(n)[-1]


def adjoint_gap(problem: Problem, linearization, cotangent, tangent: Values) -> float:  # type: ignore[no-untyped-def]
    left = sum((g * d).sum(axis=0) for g, d in zip(cotangent, linearization.jvp(tangent), strict=True))
    return relative(inner(linearization.vjp(*cotangent), tangent), left)


@pytest.mark.parametrize("path", WAYS)
def test_redundant_equalities_leave_the_derivative_of_x_exact(path: str, rng: np.random.Generator) -> None:
    problem = redundant(rng)
    smaller = _without_row(problem, 2)
    gx = rng.standard_normal(problem.solution.x.shape)
    found = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    expected = ExactDerivative(smaller.structure).linearize(smaller.values, smaller.solution)
    one = found.vjp(gx, np.zeros_like(problem.solution.y))
    other = expected.vjp(gx, np.zeros_like(smaller.solution.y))
    assert relative(one.q, other.q) < 1e-10
    # b can only move along the directions that keep the equalities consistent: there the cotangents agree.
    move = np.array([[1.0, 0.3], [0.2, 1.0]])
    for u, w in move:
        full = u * one.b[0] + w * one.b[1] + (u + w) * one.b[2]
        assert relative(full, u * other.b[0] + w * other.b[1]) < 1e-10
    assert found.report.fallback.all()
    assert found.report.residual.max() < 1e-12
    assert found.report.unserved.max() < 1e-12
    # Among the multipliers with that effect, it is the one of least norm: orthogonal to the redundancy.
    r = problem.system(own_scales=True).scales[1]
    scaled = one.b / r
    redundancy = np.array([[1.0], [1.0], [-1.0], [0.0]]) / r
    assert np.abs((redundancy * scaled).sum(axis=0)).max() < 1e-10 * np.abs(scaled * redundancy).max()


def _without_row(problem: Problem, row: int) -> Problem:
    A = problem.structure.A
    keep = A.rows != row
    rows = A.rows[keep] - (A.rows[keep] > row)
    smaller = Structure(
        problem.structure.P,
        type(A).of(rows, A.columns[keep], (A.shape[0] - 1, A.shape[1])),
        Cones(zero=problem.structure.cones.zero - 1, nonneg=problem.structure.cones.nonneg),
    )
    y, s = problem.solution.y.copy(), problem.solution.s
    y[0] += y[row]  # the row is the sum of the first two, whose multipliers take its own over
    y[1] += y[row]
    v = np.delete(y - s, row, axis=0)
    return at(smaller, problem.values.P, problem.values.A[keep], problem.solution.x, v)


@pytest.mark.parametrize("path", WAYS)
def test_inconsistent_equalities_are_reported(path: str, rng: np.random.Generator) -> None:
    problem = redundant(rng)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    dy = rng.standard_normal(problem.solution.y.shape)
    dy[:, 1] = 0.0
    found = linearization.vjp(np.zeros_like(problem.solution.x), dy)
    assert all(np.isfinite(getattr(found, part)).all() for part in PARTS)
    report = linearization.report
    assert report.fallback.all()
    assert (report.unserved[[0, 2]] > 1e-3).all() and report.unserved[1] == 0.0
    assert report.residual.max() < 1e-12


@pytest.mark.parametrize("path", WAYS)
def test_a_free_direction_of_x(path: str, rng: np.random.Generator) -> None:
    problem, direction = flat(rng)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    gx = rng.standard_normal(problem.solution.x.shape)
    gx -= direction[:, None] * (direction @ gx)
    gx[:, 1] += direction
    found = linearization.vjp(gx, np.zeros_like(problem.solution.y))
    report = linearization.report
    assert report.fallback.tolist() == [False, True, False]
    assert report.unserved[1] > 1e-3
    assert (report.unserved[[0, 2]] < 1e-12).all()
    assert (report.residual < 1e-12).all()
    assert all(np.isfinite(getattr(found, part)).all() for part in PARTS)
    assert np.abs(direction @ found.q).max() < 1e-9
    # What the cotangent has along the free direction does not disturb the rest.
    gx[:, 1] -= direction
    again = linearization.vjp(gx, np.zeros_like(problem.solution.y))
    for part in PARTS:
        assert relative(getattr(found, part), getattr(again, part)) < 1e-9


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("kind", ["redundant", "flat"])
def test_forward_and_backward_stay_adjoint(path: str, kind: str, rng: np.random.Generator) -> None:
    problem = redundant(rng) if kind == "redundant" else flat(rng)[0]
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    assert adjoint_gap(problem, linearization, cotangents(problem, rng), noise(rng, problem)) < 1e-9
    assert linearization.report.fallback.all()


@pytest.mark.parametrize("path", WAYS)
def test_degenerate_vertex(path: str, rng: np.random.Generator) -> None:
    # Three inequalities meet in the vertex of a linear program in two variables; two multipliers are positive.
    structure = Structure(pattern(np.zeros((2, 2), bool)), pattern(np.ones((3, 2), bool)), Cones(nonneg=3))
    A = np.array([[-1.0, 0.0], [0.0, -1.0], [-1.0, -1.0]])[structure.A.rows, structure.A.columns][:, None]
    v = np.array([[1.0], [2.0], [0.0]])
    problem = at(structure, np.zeros((0, 1)), A, np.zeros((2, 1)), v)
    linearization = derivative(structure, path).linearize(problem.values, problem.solution)
    found = linearization.vjp(np.ones((2, 1)), np.zeros((3, 1)))
    report = linearization.report
    assert all(np.isfinite(getattr(found, part)).all() for part in PARTS)
    assert report.margin[0] == 0.0
    # x does not move with q; with b it moves along one of the one-sided derivatives or between them.
    np.testing.assert_allclose(found.q, 0.0, atol=1e-12)
    assert (found.b <= 1e-9).all() and (found.b >= -1 - 1e-9).all()


@pytest.mark.parametrize("path", WAYS)
def test_slacks_of_inactive_rows_may_be_free(path: str, rng: np.random.Generator) -> None:
    # minimize (x - a)^2 / 2 subject to |x| <= t, t <= 1: where |a| < 1, any t in between is a solution.
    structure = Structure(
        pattern(np.array([[True, False], [False, False]])),
        pattern(np.array([[True, True], [True, True], [False, True]])),
        Cones(nonneg=3),
    )
    A = np.array([[1.0, -1.0], [-1.0, -1.0], [0.0, 1.0]])[structure.A.rows, structure.A.columns]
    a = np.array([0.3, -0.4])
    t = np.array([0.6, 0.8])
    v = -np.stack([t - a, t + a, 1 - t])
    problem = at(structure, np.ones((1, 2)), np.repeat(A[:, None], 2, axis=1), np.stack([a, t]), v)
    np.testing.assert_allclose(problem.values.q, np.stack([-a, 0 * a]), atol=1e-15)
    linearization = derivative(structure, path).linearize(problem.values, problem.solution)
    found = linearization.vjp(np.array([[1.0, 2.0], [0.0, 0.0]]), np.zeros((3, 2)))
    np.testing.assert_allclose(found.q, [[-1.0, -2.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(found.b, 0.0, atol=1e-12)
    assert not linearization.report.fallback.any()


@pytest.mark.parametrize("path", WAYS)
def test_semidefinite_solutions_of_low_rank(path: str, rng: np.random.Generator) -> None:
    # Rank 1 for s and 2 for y: strictly complementary, so that the derivative exists.
    cones = Cones(zero=2, psd=(3,))
    problem = random_problem(rng, 6, cones, batch=2, density=1.0)
    Q = np.linalg.qr(rng.standard_normal((2, 3, 3)))[0]
    V = (Q * np.array([1.0, 0.4, -2.0])) @ Q.swapaxes(1, 2)
    rows, columns = np.array([0, 0, 1, 0, 1, 2]), np.array([0, 1, 1, 2, 2, 2])
    packed = V[:, rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))
    v = np.concatenate([rng.standard_normal((2, 2)), packed.T])
    problem = at(problem.structure, problem.values.P, problem.values.A, problem.solution.x, v)
    linearization = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    tangent = noise(rng, problem)
    for found, expected in zip(linearization.jvp(tangent), difference(problem, tangent), strict=True):
        assert relative(found, expected) < 1e-8
    assert not linearization.report.fallback.any()


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("kind", ["redundant", "flat"])
def test_solutions_are_those_of_the_pseudoinverse(path: str, kind: str, rng: np.random.Generator) -> None:
    problem = redundant(rng) if kind == "redundant" else flat(rng)[0]
    f, g, _ = cotangents(problem, rng)
    solved = Part.of(Choice.of(SystemLayout.of(problem.structure), path).fastest(3), problem.system()).solve(f, g)
    dx, dy, unserved = pseudoinverse(problem.system(own_scales=True), f, g)
    assert relative(solved.dx, dx) < 1e-10
    assert relative(solved.dy, dy) < 1e-10
    np.testing.assert_allclose(solved.quality.unserved, unserved, rtol=1e-9)
    assert (unserved > 1e-3).all() and solved.quality.singular.all()


def test_ill_conditioned_but_regular_systems_are_no_fallback(rng: np.random.Generator) -> None:
    n = 4
    upper = np.eye(n, dtype=bool)
    structure = Structure(pattern(upper), pattern(np.ones((2, n), bool)), Cones(zero=1, nonneg=1))
    P = np.repeat(np.array([1e6, 1.0, 1e-3, 1e-5])[:, None], 2, axis=1)
    A = rng.standard_normal((structure.A.nnz, 2)) * 1e3
    problem = at(structure, P, A, rng.standard_normal((n, 2)), np.array([[1.0, 1.0], [1.0, -1.0]]))
    linearization = ExactDerivative(structure).linearize(problem.values, problem.solution)
    dx = np.eye(n)[:, [2, 3]]
    found = linearization.vjp(dx, np.zeros((2, 2)))
    for i in range(2):
        active = [0, 1] if i == 0 else [0]
        rows = A[:, i].reshape(n, 2).T[active]
        K = np.block([[np.diag(P[:, i]), rows.T], [rows, np.zeros((len(active),) * 2)]])
        expected = np.linalg.solve(K, np.concatenate([dx[:, i], np.zeros(len(active))]))
        assert relative(-found.q[:, i], expected[:n]) < 1e-7
    assert not linearization.report.fallback.any()
    assert linearization.report.residual.max() < 1e-12


@pytest.mark.parametrize("path", WAYS)
def test_what_is_not_finite_spoils_only_its_own_element(path: str, rng: np.random.Generator) -> None:
    problem = random_problem(rng, 6, Cones(zero=1, nonneg=3, second_order=(3,)), batch=3)
    A = problem.values.A.copy()
    A[2, 1] = np.nan
    values = Values(problem.values.P, problem.values.q, A, problem.values.b)
    gx, gy, _ = cotangents(problem, rng)
    linearization = derivative(problem.structure, path).linearize(values, problem.solution)
    clean = derivative(problem.structure, path).linearize(problem.values, problem.solution)
    found, expected = linearization.vjp(gx, gy), clean.vjp(gx, gy)
    for part in PARTS:
        kept = [0, 2]
        assert relative(getattr(found, part)[:, kept], getattr(expected, part)[:, kept]) < 1e-11
    assert np.isnan(found.q[:, 1]).all()
    assert linearization.report.fallback.tolist() == [False, True, False]
