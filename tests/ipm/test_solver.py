"""The IPM solver: right answers on hard random problems, honest statuses, every size of batch, threads, pickling."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.errors import EngineError
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.ipm import IPM
from cvxlayers.verify.measure import measure
from tests.ipm.problems import answered, feasible, infeasible, random_cones, structure_of, unbounded


def simplex(n: int, batch: int, shared: bool = True) -> tuple[Structure, Values, Array]:
    """Projections onto the simplex, and their answers (Held, Wolfe, Crowder 1974)."""
    A = np.vstack([np.ones((1, n)), -np.eye(n)])
    structure = structure_of(np.eye(n), A, Cones(zero=1, nonneg=n))
    c = np.random.default_rng(n).standard_normal((n, batch))
    falling = -np.sort(-c, axis=0)
    excess = np.cumsum(falling, axis=0) - 1
    size = (falling * np.arange(1, n + 1)[:, None] > excess).sum(axis=0)
    x = np.maximum(c - excess[size - 1, np.arange(batch)] / size, 0)
    data = (np.ones(n), A[structure.A.rows, structure.A.columns], np.append(1.0, np.zeros(n)))
    P, rows, b = (np.broadcast_to(part[:, None], (part.size, batch)) for part in data)
    if not shared:
        P, rows, b = P.copy(), rows.copy(), b.copy()
    return structure, Values(P, -c, rows, b), x


@pytest.mark.parametrize("batch", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("shared", [True, False])
def test_simplex_projection(batch: int, shared: bool) -> None:
    structure, values, x = simplex(30, batch, shared)
    found = IPM(structure, Settings(threads=2)).solve(values)
    assert found.x.shape == x.shape and (found.status == Status.OPTIMAL).all()
    assert np.abs(found.x - x).max(initial=0.0) <= 1e-6
    assert measure(structure, values, found.x, found.y, found.s).worst.max(initial=0.0) <= 1e-10


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("decades", [0.0, 1.0, 3.0])
def test_random_problems_are_solved(curved: bool, decades: float) -> None:
    rng = np.random.default_rng([int(curved), int(decades)])
    worst = []
    for trial in range(20):
        n = int(rng.integers(1, 14))
        cones = random_cones(rng, n, *["second_order"] * curved)
        structure, values = feasible(rng, n, cones, 24, bool(trial % 2), decades)
        found = answered(structure, values)
        error = measure(structure, values, found.x, found.y, found.s).worst
        assert not np.isin(found.status, (Status.INFEASIBLE, Status.UNBOUNDED)).any()
        assert (error[found.status == Status.OPTIMAL] <= 1e-6).all()
        worst.append(error)
    errors = np.concatenate(worst)
    assert (errors <= 1e-6).mean() >= 0.995, f"worst of {errors.size} problems: {errors.max():.1e}"
    assert (errors <= 1e-8).mean() >= 0.97  # the others are not strictly complementary


def test_agrees_with_clarabel() -> None:
    rng = np.random.default_rng(3)
    structure, values = feasible(rng, 8, Cones(zero=2, nonneg=6, second_order=(4, 6)), 32, True)
    strict = IPM(structure, Settings()).solve(values)
    tight = dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), 1e-12)
    other = Clarabel(structure, Settings(options=tight)).solve(values)
    objective = [
        0.5 * np.einsum("ib,ib->b", x, structure.P_times(values.P, x)) + (values.q * x).sum(axis=0)
        for x in (strict.x, other.x)
    ]
    assert (np.abs(objective[0] - objective[1]) <= 1e-6 * (1 + np.abs(objective[1]))).all()


@pytest.mark.parametrize(("make", "proved", "never"), [(infeasible, Status.INFEASIBLE, Status.OPTIMAL),
                                                      (unbounded, Status.UNBOUNDED, Status.INFEASIBLE)])  # fmt: skip
def test_no_solution(make: object, proved: Status, never: Status) -> None:
    rng = np.random.default_rng(int(proved))
    statuses = []
    for trial in range(24):
        n = int(rng.integers(3, 12))
        cones = Cones(zero=int(trial % 2), nonneg=n, second_order=(3,) if trial % 3 == 0 else ())
        structure, values = make(rng, n, cones, 16, bool(trial % 2))  # type: ignore[operator]
        statuses.append(IPM(structure, Settings()).solve(values).status)
    counts = np.bincount(np.concatenate(statuses), minlength=5)
    assert counts[Status.OPTIMAL] == 0 and counts[never] == 0
    assert counts[proved] >= 0.7 * counts.sum(), counts.tolist()


@pytest.mark.parametrize("size", [1e6, 1e9, 1e12])
def test_large_numbers_are_not_taken_for_a_certificate(size: float) -> None:
    # x1 + x2 = size, x >= 0: y = -1 has A'y beside b'y of 1 / size, and proves nothing. Likewise max size x, x <= 1.
    A = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    structure = structure_of(np.zeros((2, 2)), A, Cones(zero=1, nonneg=2))
    rows = A[structure.A.rows, structure.A.columns][:, None]
    values = Values(np.zeros((0, 1)), np.array([[1.0], [2.0]]), rows, np.array([[size], [0.0], [0.0]]))
    found = IPM(structure, Settings()).solve(values)
    assert found.status[0] not in (Status.INFEASIBLE, Status.UNBOUNDED)
    assert found.status[0] != Status.OPTIMAL or abs(found.x[0, 0] / size - 1) <= 1e-6
    one = structure_of(np.zeros((1, 1)), np.ones((1, 1)), Cones(nonneg=1))
    ones = np.ones((1, 1))
    found = IPM(one, Settings()).solve(Values(np.zeros((0, 1)), -size * ones, ones, ones))
    assert found.status.tolist() == [Status.OPTIMAL] and abs(found.x[0, 0] - 1) <= 1e-6


def test_no_rows_and_only_equalities() -> None:
    P = np.array([[2.0, 1.0], [1.0, 2.0]])
    upper = np.array([2.0, 1.0, 2.0])[:, None]
    free = structure_of(P, np.zeros((0, 2)), Cones())
    q = np.array([[1.0], [-1.0]])
    found = IPM(free, Settings()).solve(Values(upper, q, np.zeros((0, 1)), np.zeros((0, 1))))
    np.testing.assert_allclose(found.x[:, 0], np.linalg.solve(P, -q[:, 0]), atol=1e-8)
    tied = structure_of(P, np.ones((1, 2)), Cones(zero=1))
    found = IPM(tied, Settings()).solve(Values(upper, q, np.ones((2, 1)), np.ones((1, 1))))
    np.testing.assert_allclose(found.x[:, 0], [-0.5, 1.5], atol=1e-8)
    assert found.status.tolist() == [Status.OPTIMAL]


def test_elements_that_are_not_finite_harm_no_other() -> None:
    structure, values, x = simplex(10, 12, shared=False)
    values.q[3, 5], values.A[0, 7] = np.nan, np.inf
    found = IPM(structure, Settings()).solve(values)
    lost = np.isin(np.arange(12), (5, 7))
    assert (found.status[lost] == Status.FAILED).all() and np.isnan(found.x[:, lost]).all()
    assert (found.status[~lost] == Status.OPTIMAL).all()
    assert np.abs(found.x - x)[:, ~lost].max() <= 1e-6


def test_too_few_iterations_are_not_called_optimal() -> None:
    structure, values, _ = simplex(20, 16)
    found = IPM(structure, Settings(options={"max_iters": 2})).solve(values)
    assert (found.status == Status.FAILED).all() and (found.iterations == 2).all() and np.isfinite(found.x).all()


def test_copies_and_pickles_solve_the_same() -> None:
    structure, values, x = simplex(10, 3)
    solver = IPM(structure, Settings())
    for other in (copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        np.testing.assert_array_equal(other.solve(values).x, solver.solve(values).x)
    assert np.abs(solver.solve(values).x - x).max() <= 1e-6


def test_threads_share_a_solver() -> None:
    structure, values, x = simplex(20, 64)
    solver = IPM(structure, Settings(threads=2))
    errors: list[float] = []
    calls = [threading.Thread(target=lambda: errors.append(np.abs(solver.solve(values).x - x).max())) for _ in range(6)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert len(errors) == 6 and max(errors) <= 1e-6


def _child(solver: IPM, values: Values, found: object) -> None:
    found.put(solver.solve(values).x)  # type: ignore[attr-defined]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_a_forked_process_solves_too() -> None:
    structure, values, x = simplex(20, 64)
    solver = IPM(structure, Settings(threads=2))
    solver.solve(values)
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    child = context.Process(target=_child, args=(solver, values, found))
    child.start()
    assert np.abs(found.get(timeout=60) - x).max() <= 1e-6
    child.join(timeout=60)


def test_huge_problems_are_refused() -> None:
    from cvxlayers.ipm.kkt import symbolic

    many = symbolic.LARGEST_SIZE + 1
    huge = structure_of(np.zeros((1, 1)), np.ones((many, 1)), Cones(nonneg=many))
    assert not IPM.takes(huge)
    with pytest.raises(EngineError, match="as large as this one"):
        IPM(huge, Settings())


@pytest.mark.parametrize("cones", [Cones(zero=2, nonneg=5, second_order=(4, 1)), Cones(nonneg=2, psd=(3,))])
@pytest.mark.parametrize("off", [0.0, 1e-3, 10.0])
def test_the_residuals_in_passing_are_those_of_the_definition(cones: Cones, off: float) -> None:
    rng = np.random.default_rng(3)
    structure, values = feasible(rng, 6, cones, 11, quadratic=True)
    solver = IPM(structure, Settings(threads=2))
    found = solver.solve(values)
    points = [part + off * rng.standard_normal(part.shape) for part in (found.x, found.y, found.s)]
    expected, again = measure(structure, values, *points), solver.measure(values, *points)
    passing = found.residuals if off == 0 and found.residuals else again
    assert bool(found.residuals) == (not cones.psd)
    for part, other, right in zip(again.parts, passing.parts, expected.parts, strict=True):
        np.testing.assert_allclose(part, right, rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(other, right, rtol=1e-9, atol=1e-13)
