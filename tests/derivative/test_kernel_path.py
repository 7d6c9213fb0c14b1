"""The derivative by the batched solver's kernels: against finite differences, its adjoint, and the other ways."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import project, project_dual
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.kernel_path import KernelPath
from cvxlayers.derivative.system.system import SystemLayout, SystemPoint
from cvxlayers.derivative.system.units import Units
from cvxlayers.program.structure import Structure
from tests.derivative.problems import (
    PARTS,
    Problem,
    at,
    cotangents,
    difference,
    inner,
    noise,
    one,
    pattern,
    random_problem,
    relative,
)
from tests.derivative.test_exact import derivative

CASES: dict[str, tuple[int, Cones]] = {
    "equalities": (7, Cones(zero=3)),
    "inequalities": (9, Cones(zero=2, nonneg=8)),
    "second_order": (12, Cones(zero=1, nonneg=3, second_order=(4, 3, 1, 4, 8))),
    "large_cones": (60, Cones(zero=1, nonneg=3, second_order=(40, 5, 35))),
    "exponential": (14, Cones(zero=1, nonneg=3, exponential=4)),
    "power": (12, Cones(nonneg=2, power=(0.3, 0.5, 0.9))),
    "semidefinite": (22, Cones(zero=2, psd=(3, 1, 4, 3))),
    "every_cone": (30, Cones(zero=1, nonneg=3, second_order=(4, 3), psd=(3, 2), exponential=2, power=(0.4, 0.7))),
    "unconstrained": (5, Cones()),
    "single_variable": (1, Cones()),
    "single_row": (1, Cones(nonneg=1)),
}


def made(name: str, batch: int = 3, seed: int = 1, **options: object) -> Problem:
    n, cones = CASES[name]
    return random_problem(np.random.default_rng(seed), n, cones, batch, **options)  # type: ignore[arg-type]


def kernels(structure: Structure, smoothing: float | None = None) -> ExactDerivative:
    """The derivative that takes the kernels whatever the size of the batch."""
    exact = ExactDerivative(structure, threads=2, smoothing=smoothing, prefer="kernels")
    assert exact.kernels is not None
    return exact


@pytest.mark.parametrize("name", CASES)
def test_jvp_is_the_finite_difference(name: str, rng: np.random.Generator) -> None:
    problem = made(name)
    linearization = kernels(problem.structure).linearize(problem.values, problem.solution)
    tangent = noise(rng, problem)
    for found, expected in zip(linearization.jvp(tangent), difference(problem, tangent), strict=True):
        assert relative(found, expected) < 1e-8
    assert not linearization.report.fallback.any()
    assert linearization.report.residual.max() < 1e-13
    assert linearization.kept == 0  # nothing was left to the others


@pytest.mark.parametrize("name", CASES)
def test_vjp_is_the_adjoint_of_jvp(name: str, rng: np.random.Generator) -> None:
    problem = made(name)
    linearization = kernels(problem.structure).linearize(problem.values, problem.solution)
    gx, gy, gs = cotangents(problem, rng)
    found = linearization.vjp(gx, gy, gs)
    for parts in (*PARTS, "PqAb"):
        tangent = noise(rng, problem, parts)
        dx, dy, ds = linearization.jvp(tangent)
        left = (gx * dx).sum(axis=0) + (gy * dy).sum(axis=0) + (gs * ds).sum(axis=0)
        assert relative(inner(found, tangent), left) < 1e-10


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_the_factors(name: str, shared: bool, rng: np.random.Generator) -> None:
    problem = made(name, batch=19, shared=shared)
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    answers = []
    for exact in (kernels(problem.structure), derivative(problem.structure, "condensed")):
        linearization = exact.linearize(problem.values, problem.solution)
        back = linearization.vjp(*cotangent)
        answers.append([*(getattr(back, part) for part in PARTS), *linearization.jvp(tangent)])
    for left, right in zip(*answers, strict=True):
        assert relative(left, right) < 1e-9


def test_an_element_does_not_depend_on_its_company(rng: np.random.Generator) -> None:
    problem = made("second_order", batch=11)
    cotangent, exact = cotangents(problem, rng), kernels(problem.structure)
    together = exact.linearize(problem.values, problem.solution).vjp(*cotangent)
    for i in range(11):
        alone, index = one(problem, i), np.array([i])
        found = exact.linearize(alone.values, alone.solution).vjp(*(part[:, index] for part in cotangent))
        for part in PARTS:
            assert relative(getattr(found, part), getattr(together, part)[:, index]) < 1e-11


def test_rows_and_columns_of_any_size(rng: np.random.Generator) -> None:
    problem = made("inequalities")
    structure, values = problem.structure, problem.values
    rows, columns = 10.0 ** rng.uniform(-3, 3, structure.m), 10.0 ** rng.uniform(-3, 3, structure.n)
    A = values.A * (rows[structure.A.rows] * columns[structure.A.columns])[:, None]
    P = values.P * (columns[structure.P.rows] * columns[structure.P.columns])[:, None]
    v = problem.solution.y - problem.solution.s
    scaled = at(structure, P, A, problem.solution.x, v)
    tangent = noise(rng, scaled)
    found = kernels(structure).linearize(scaled.values, scaled.solution)
    expected = derivative(structure, "condensed").linearize(scaled.values, scaled.solution)
    for left, right in zip(found.jvp(tangent), expected.jvp(tangent), strict=True):
        assert relative(left, right) < 1e-7
    assert found.report.residual.max() < 1e-12


def test_a_variable_that_nothing_determines_stays(rng: np.random.Generator) -> None:
    # The last variable is in inactive rows alone, as the bound of an absolute value that is not met with equality.
    n, m, batch = 5, 4, 9
    mask = np.ones((m, n), dtype=bool)
    upper = np.triu(np.ones((n, n), dtype=bool))
    upper[:, -1] = False
    A = rng.standard_normal((m, n))
    A[:2, -1] = 0.0
    L = rng.standard_normal((n, n))
    P = L @ L.T + np.eye(n)
    structure = Structure(pattern(upper), pattern(mask), Cones(zero=1, nonneg=3))
    v = rng.uniform(0.5, 1.5, (m, batch)) * np.array([1, 1, -1, -1.0])[:, None]
    repeated = [
        np.repeat(matrix[part.rows, part.columns][:, None], batch, axis=1)
        for matrix, part in ((P, structure.P), (A, structure.A))
    ]
    problem = at(structure, *repeated, rng.standard_normal((n, batch)), v)
    found = kernels(structure).linearize(problem.values, problem.solution)
    tangent = noise(rng, problem, "b")
    dx, dy, _ = found.jvp(tangent)
    assert not found.report.fallback.any()
    assert found.kept == 0
    np.testing.assert_array_equal(dx[-1], 0.0)
    expected = derivative(structure, "condensed").linearize(problem.values, problem.solution).jvp(tangent)
    assert relative(dx, expected[0]) < 1e-9
    assert relative(dy, expected[1]) < 1e-9
    # A cotangent of that variable has no answer: it is reported, and the rest is that of the other way.
    gx = np.zeros((n, batch))
    gx[-1] = 1.0
    lost = kernels(structure).linearize(problem.values, problem.solution)
    lost.vjp(gx, np.zeros((m, batch)))
    assert lost.report.fallback.all()


def test_singular_elements_are_solved_beside_others(rng: np.random.Generator) -> None:
    n, batch = 4, 10
    mask = np.ones((3, n), dtype=bool)
    upper = np.triu(np.ones((n, n), dtype=bool))
    A = np.repeat(rng.standard_normal((3 * n, 1)), batch, axis=1)
    structure = Structure(pattern(upper), pattern(mask), Cones(zero=3))
    third = structure.A.rows == 2
    A[third, ::2] = A[structure.A.rows == 0, ::2] + A[structure.A.rows == 1, ::2]  # redundant in every other element
    L = rng.standard_normal((n, n))
    P = np.repeat((L @ L.T + np.eye(n))[structure.P.rows, structure.P.columns][:, None], batch, axis=1)
    problem = at(structure, P, A, rng.standard_normal((n, batch)), rng.standard_normal((3, batch)))
    found = kernels(structure).linearize(problem.values, problem.solution)
    tangent = noise(rng, problem, "q")
    expected = derivative(structure, "condensed").linearize(problem.values, problem.solution).jvp(tangent)
    for left, right in zip(found.jvp(tangent), expected, strict=True):
        assert relative(left, right) < 1e-8
    assert found.kept == 0  # nothing was left to the others
    assert found.report.fallback.tolist() == [True, False] * 5
    assert found.report.unserved.max() < 1e-12


def test_at_a_kink_of_a_second_order_cone(rng: np.random.Generator) -> None:
    problem = made("second_order")
    v = problem.solution.y - problem.solution.s
    v[4:8, 1] = [np.sqrt(3.0), 1.0, 1.0, 1.0]  # on the boundary of the cone, up to rounding
    v[8:11, 1] = [5.0, 3.0, 4.0]  # exactly
    kink = at(problem.structure, problem.values.P, problem.values.A, problem.solution.x, v)
    tangent = noise(rng, kink)
    found = kernels(kink.structure).linearize(kink.values, kink.solution)
    expected = derivative(kink.structure, "condensed").linearize(kink.values, kink.solution)
    for left, right in zip(found.jvp(tangent), expected.jvp(tangent), strict=True):
        assert relative(left, right) < 1e-8
    assert found.report.margin[1] == 0


@pytest.mark.parametrize("name", ["exponential", "power", "semidefinite"])
@pytest.mark.parametrize("where", [0.0, 1e-13, 1e-9, 1e-5])
def test_near_and_at_kinks_of_curved_cones(name: str, where: float, rng: np.random.Generator) -> None:
    # Eigenvalues of D between 1e-13 and one half: near the boundary of -K it is nearly flat in a direction.
    problem = made(name, batch=9)
    cones, v = problem.structure.cones, problem.solution.y - problem.solution.s
    for block in cones.blocks:
        if block.kind in ("exponential", "power", "psd"):
            rows, inner = block.rows, Cones(**_single(block.kind, block.data))
            v[rows, ::2] = project_dual(inner, v[rows, ::2]) * where - project(inner, -v[rows, ::2])
    near = at(problem.structure, problem.values.P, problem.values.A, problem.solution.x, v)
    tangent = noise(rng, near)
    found = kernels(near.structure).linearize(near.values, near.solution)
    expected = derivative(near.structure, "condensed").linearize(near.values, near.solution)
    for left, right in zip(found.jvp(tangent), expected.jvp(tangent), strict=True):
        assert relative(left, right) < 1e-6
    assert found.report.residual.max() < 1e-10


def _single(kind: str, data: float) -> dict[str, Any]:
    return {"exponential": {"exponential": 1}, "power": {"power": (data,)}, "psd": {"psd": (int(data),)}}[kind]


def test_an_eigenvalue_that_is_not_finite_is_not_taken_for_zero() -> None:
    problem = made("every_cone", batch=9)
    exact = kernels(problem.structure)
    assert exact.kernels is not None
    y = problem.solution.y.copy()
    y[-1, 4] = np.nan
    n, m = problem.structure.n, problem.structure.m
    point = SystemPoint(problem.solution.x, y, problem.solution.s)
    scales = exact.kernels.scales(problem.values)
    units = Units.of(problem.structure, problem.values, scales, *vars(point).values())
    place = point.x, y, exact.kernels.state(point, units), scales.stacked()
    _, unsure = exact.kernels.solve(problem.values, place, np.ones((n, 9)), np.ones((m, 9)), 1)
    assert 4 in unsure


@pytest.mark.parametrize("name", ["inequalities", "exponential", "power", "semidefinite"])
@pytest.mark.parametrize("mu", [1.0, 1e-4])
def test_smoothed_rows(mu: float, name: str, rng: np.random.Generator) -> None:
    problem = made(name, batch=9)
    cotangent = cotangents(problem, rng)
    found = kernels(problem.structure, mu).linearize(problem.values, problem.solution).vjp(*cotangent)
    plain = ExactDerivative(problem.structure, smoothing=mu, prefer="arrays")
    expected = plain.linearize(problem.values, problem.solution).vjp(*cotangent)
    for part in PARTS:
        assert relative(getattr(found, part), getattr(expected, part)) < 1e-9


def test_where_the_kernels_do_not_serve() -> None:
    def layout(cones: Cones) -> SystemLayout:
        return SystemLayout.of(random_problem(np.random.default_rng(0), 4, cones, 1).structure)

    assert KernelPath.of(layout(Cones(second_order=(3,))), None) is not None
    assert KernelPath.of(layout(Cones(second_order=(3,))), 1e-3) is None
    assert KernelPath.of(layout(Cones(nonneg=2)), 1e-3) is not None
    assert KernelPath.of(layout(Cones(psd=(2,), exponential=1, power=(0.2,))), 1e-3) is not None
    assert KernelPath.of(layout(Cones(second_order=(3,), psd=(2,))), 1e-3) is None


@pytest.mark.parametrize("batch", [9, 1])
@pytest.mark.parametrize("name", ["second_order", "every_cone"])
def test_what_is_left_in_the_work_space_does_not_matter(name: str, batch: int, rng: np.random.Generator) -> None:
    problem = made(name, batch=batch)
    exact, cotangent = kernels(problem.structure), cotangents(problem, rng)
    assert exact.kernels is not None
    places = exact.kernels._places
    answers = []
    for filler in (0.0, np.nan, 1e200):
        places.idle[batch == 1].clear()
        _, V = space = places.take(batch == 1)
        at, size = places.record[0], len(places.exponents)
        fixed = {"probe": places.n + places.m, **({"alpha": size} if size else {})}
        kept = {name: V[at[name] : at[name] + rows].copy() for name, rows in fixed.items()}
        V[:] = filler
        for name, rows in fixed.items():
            V[at[name] : at[name] + rows] = kept[name]
        places.give(space)
        answers.append(exact.linearize(problem.values, problem.solution).vjp(*cotangent))
    for other in answers[1:]:
        for part in PARTS:
            np.testing.assert_array_equal(getattr(other, part), getattr(answers[0], part))


def test_copies_and_pickles(rng: np.random.Generator) -> None:
    problem = made("second_order", batch=9)
    cotangent = cotangents(problem, rng)
    linearization = ExactDerivative(problem.structure, threads=2).linearize(problem.values, problem.solution)
    expected = linearization.vjp(*cotangent)
    for twin in (copy.deepcopy(linearization), pickle.loads(pickle.dumps(linearization))):
        found = twin.vjp(*cotangent)
        for part in PARTS:
            assert relative(getattr(found, part), getattr(expected, part)) < 1e-13


def test_an_empty_batch() -> None:
    problem = made("inequalities", batch=3)
    none = np.zeros(0, dtype=int)
    values, solution = problem.values.select(none), problem.solution.select(none)
    linearization = kernels(problem.structure).linearize(values, solution)
    assert linearization.vjp(np.zeros((9, 0)), np.zeros((10, 0))).b.shape == (10, 0)
