"""A batch is so many single problems: bad elements, order, threads, copies and forks do not touch the others."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cvxlayers.cones import Cones
from cvxlayers.program.solution import Solution, Status
from cvxlayers.program.structure import Pattern, Structure, Values
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.registry import SOLVERS, names
from cvxlayers.verify.certificate import proves_infeasible, proves_unbounded
from tests.solvers.problems import Problem, family, make, pattern
from tests.support.kernels import needs_kernels
from tests.support.tolerance import assert_close

ENGINES = names(installed=True)


def polygon(b: list[float], signs: list[float]) -> tuple[Structure, Values]:
    """minimize -x0 - 2 x1 subject to sign (x0 + x1) <= b, x >= 0, one element for each b and sign."""
    A = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    none = np.zeros(0, dtype=int)
    structure = Structure(Pattern.of(none, none, (2, 2)), pattern(A != 0), Cones(nonneg=3))
    batch = len(b)
    entries = np.tile(A[structure.A.rows, structure.A.columns][:, None], (1, batch))
    entries[structure.A.rows == 0] *= signs
    q = np.tile([[-1.0], [-2.0]], (1, batch))
    return structure, Values(np.zeros((0, batch)), q, entries, np.array([b, [0.0] * batch, [0.0] * batch]))


def solver_of(problem: Problem, name: str, **settings: Any) -> Solver:
    return SOLVERS[name](problem.structure, Settings(**settings))


def alone(solver: Solver, values: Values, i: int) -> Solution:
    return solver.solve(values.select(np.array([i])))


def limit(name: str) -> str:
    """The name of the option that limits the iterations."""
    (option,) = SOLVERS[name].aliases["max_iters"] or ("max_iter",)
    return option


WITHOUT_RAYS = ("DIFFCP",)
"""Engines that say that there is no solution, and not why."""


def assert_same(found: Solution, expected: Solution, what: str, tolerance: float) -> None:
    for part in ("x", "y", "s"):
        assert_close(getattr(found, part), getattr(expected, part), tolerance, f"{what}: {part}")


@pytest.mark.parametrize("name", ENGINES)
def test_bad_elements_do_not_touch_their_neighbours(name: str) -> None:
    structure, values = polygon([1.0, -1.0, 2.0, np.nan, 3.0, 1.0, 4.0], [1, 1, 1, 1, 1, -1, 1])
    values.q[0, 4] = np.inf
    good = np.array([0, 2, 6])
    solution = SOLVERS[name](structure, Settings()).solve(values)
    assert [Status(s).name for s in solution.status] == [
        "OPTIMAL", "INFEASIBLE", "OPTIMAL", "FAILED", "FAILED", "UNBOUNDED", "OPTIMAL",
    ]  # fmt: skip
    assert_close(solution.x[:, good], np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0]]), 1e-8, "x")
    assert_close(solution.y[0, good], np.array([2.0, 2.0, 2.0]), 1e-8, "y")
    assert np.isnan(solution.x[:, [3, 4]]).all() and np.isnan(solution.y[:, [3, 4]]).all()
    for i, proves, ray in ((1, proves_infeasible, solution.y), (5, proves_unbounded, solution.x)):
        one = np.array([i])  # what is left of these is the proof, where the solver gives one
        assert proves(structure, values.select(one), ray[:, one]).all() or name in WITHOUT_RAYS
    for i in good:
        single = SOLVERS[name](structure, Settings()).solve(values.select(np.array([i])))
        assert_same(solution.select(np.array([i])), single, f"element {i}", 1e-9)


@pytest.mark.parametrize("name", [name for name in ENGINES if "psd" in SOLVERS[name].kinds])
@pytest.mark.parametrize("size", [1e100, 1e200, 1e300])
def test_values_beyond_all_bounds_fail_without_an_exception(name: str, size: float) -> None:
    """From 1e200 on, Clarabel's Rust code panics in the eigenvalues, unless it is given the scaled problem."""
    problem = make(family("SDP35-linear"), 5)
    parts = [part.copy() for part in (problem.values.P, problem.values.q, problem.values.A, problem.values.b)]
    for part in parts:
        part[:, 2] *= size
    values = Values(*parts)
    solution = solver_of(problem, name).solve(values)
    assert solution.status[2] != Status.OPTIMAL or np.abs(solution.x[:, 2] - problem.x[:, 2]).max() <= 1e-4
    others = np.array([0, 1, 3, 4])
    clean = solver_of(problem, name).solve(problem.values)
    assert np.isin(solution.status[others], (Status.OPTIMAL, Status.INACCURATE)).all()
    assert_close(solution.x[:, others], clean.x[:, others], 1e-4, "the others")


@pytest.mark.parametrize("name", ["CLARABEL", "SCS"])
def test_objective_that_is_not_convex_fails_without_an_exception(name: str) -> None:
    problem = make(family("QP"), 3)
    P = problem.values.P.copy()
    P[:, 1] *= -1
    solution = solver_of(problem, name).solve(Values(P, problem.values.q, problem.values.A, problem.values.b))
    assert solution.status[1] in (Status.FAILED, Status.UNBOUNDED, Status.INACCURATE)
    assert_close(solution.x[:, [0, 2]], problem.x[:, [0, 2]], 1e-6, "the others")


def assert_identical(found: Solution, expected: Solution) -> None:
    for part in ("x", "y", "s", "status", "iterations"):
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


def curved(name: str, batch: int) -> Problem:
    """Problems that the engine takes, as difficult as can be."""
    return make(family({"ECOS": "exponential-linear", "PIQP": "QP"}.get(name, "all-linear")), batch)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "IPM"])
def test_neither_order_nor_company_nor_threads_change_a_bit(name: str) -> None:
    problem = curved(name, 9)
    solver, threaded = solver_of(problem, name), solver_of(problem, name, threads=3)
    order = np.random.default_rng(0).permutation(9)
    expected = solver.solve(problem.values)
    assert expected.ok.mean() >= 0.5
    assert_identical(solver.solve(problem.values), expected)
    assert_identical(solver.solve(problem.values.select(order)), expected.select(order))
    assert_identical(alone(solver, problem.values, 7), expected.select(np.array([7])))
    assert_identical(threaded.solve(problem.values), expected)


@needs_kernels
@pytest.mark.parametrize("kind", ["LP", "QP"])
def test_order_and_company_change_what_lanes_give_by_rounding_only(kind: str) -> None:
    problem = make(family(kind), 64)  # the lanes of a group share their scaling
    solver = solver_of(problem, "IPM")
    order = np.random.default_rng(0).permutation(64)
    expected, shuffled = solver.solve(problem.values), solver.solve(problem.values.select(order))
    np.testing.assert_array_equal(shuffled.status, expected.status[order])
    np.testing.assert_allclose(shuffled.x, expected.x[:, order], atol=1e-9)


@pytest.mark.parametrize("name", ENGINES)
def test_another_solver_gives_the_same_up_to_its_tolerance(name: str) -> None:
    problem = make(family("LP"), 9)
    together = solver_of(problem, name).solve(problem.values)
    for i in range(9):
        assert_same(together.select(np.array([i])), alone(solver_of(problem, name), problem.values, i), f"{i}", 1e-9)


@pytest.mark.parametrize("name", ENGINES)
def test_shared_values_are_those_written_out(name: str) -> None:
    problem = make(family("LP"), 1)
    one = problem.values
    shared = Values(*(np.broadcast_to(part, (part.shape[0], 4)) for part in (one.P, one.q, one.A, one.b)))
    written = Values(*(np.tile(part, (1, 4)) for part in (one.P, one.q, one.A, one.b)))
    solver = solver_of(problem, name)
    assert_same(solver.solve(shared), solver.solve(written), "shared", 1e-12)
    for part in (shared.q, written.q):
        np.testing.assert_array_equal(part, np.tile(one.q, (1, 4)))


@pytest.mark.parametrize("name", ENGINES)
def test_constant_parts_are_kept_from_call_to_call(name: str) -> None:
    problem = make(family("SOCP-linear" if "second_order" in SOLVERS[name].kinds else "LP"), 1)
    rng = np.random.default_rng(2)
    one = problem.values.select(np.zeros(3, dtype=int))
    structure = Structure(problem.structure.P, problem.structure.A, problem.structure.cones, frozenset("q"))
    solver = SOLVERS[name](structure, Settings())
    for scale in (1.0, 1e-2, 1e2):
        values = Values(one.P, one.q * scale * rng.uniform(1, 2, (1, 3)), one.A, one.b)
        assert_close(solver.solve(values).x, np.tile(problem.x, (1, 3)), 1e-5, f"q times {scale}")


@pytest.mark.parametrize("name", ENGINES)
def test_empty_batch(name: str) -> None:
    problem = make(family("LP"), 1)
    solution = solver_of(problem, name).solve(problem.values.select(np.zeros(0, dtype=int)))
    assert solution.x.shape == (6, 0)
    assert solution.status.shape == (0,)


@pytest.mark.parametrize("name", ENGINES)
def test_one_solver_serves_eight_threads(name: str) -> None:
    problem = make(family("LP"), 8)
    solver = solver_of(problem, name, threads=2)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: [alone(solver, problem.values, i) for _ in range(5)], range(8)))
    for i, solutions in enumerate(found):
        for solution in solutions:
            assert_same(solution, problem.solution.select(np.array([i])), f"thread {i}", 1e-7)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda solver: pickle.loads(pickle.dumps(solver))])
def test_copies_solve_alike(name: str, duplicate: Any) -> None:
    problem = make(family("LP"), 3)
    solver = solver_of(problem, name, options={limit(name): 10_000})
    expected = solver.solve(problem.values)
    twin = duplicate(solver)
    assert twin.settings == solver.settings
    assert_identical(twin.solve(problem.values), expected)


def _solve_in_child(solver: Solver, values: Values, queue: Any) -> None:
    queue.put(solver.solve(values).x)


@pytest.mark.parametrize("name", ENGINES)
def test_fork_after_use(name: str) -> None:
    problem = make(family("LP"), 12)
    solver = solver_of(problem, name, threads=2)
    solver.solve(problem.values)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_solve_in_child, args=(solver, problem.values, queue))
    child.start()
    child.join(30)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child hangs"
    assert_close(queue.get(), problem.x, 1e-7, "in the child")


@pytest.mark.parametrize(("name", "options"), [("SCS", {}), ("DIFFCP", {"solve_method": "SCS"})])
def test_warm_start_saves_iterations(name: str, options: dict[str, str]) -> None:
    problem = make(family("SDP35-linear"), 6)
    solver = solver_of(problem, name, options=options)
    cold = solver.solve(problem.values)
    start = problem.solution
    start.x[:, 3] = np.nan  # an element that failed before begins afresh
    warm = solver.solve(problem.values, start)
    print(f"iterations: cold {cold.iterations.tolist()}, warm {warm.iterations.tolist()}")  # noqa: T201
    assert warm.ok.all()
    assert np.delete(warm.iterations, 3).max() <= np.delete(cold.iterations, 3).min() / 2
    assert warm.iterations[3] == cold.iterations[3]


@pytest.mark.parametrize("name", ["CLARABEL", "ECOS"])
def test_interior_point_solvers_ignore_a_start(name: str) -> None:
    problem = make(family("LP"), 2)
    solver = solver_of(problem, name)
    assert_same(solver.solve(problem.values, problem.solution), problem.solution, "with a start", 1e-7)


@pytest.mark.parametrize("name", ENGINES)
def test_iteration_limit_is_a_status_and_keeps_the_point(name: str) -> None:
    problem = make(family("LP"), 2)
    solution = solver_of(problem, name, options={limit(name): 2}).solve(problem.values)
    assert np.isin(solution.status, (Status.INACCURATE, Status.FAILED)).all()
    assert np.isfinite(solution.x).all()


def test_infeasibility_that_scs_only_guesses_is_a_failure() -> None:
    structure, values = polygon([-1e-3], [1])
    solution = SOLVERS["SCS"](structure, Settings(options={"max_iters": 3})).solve(values)
    assert solution.status.tolist() != [Status.INFEASIBLE]


def test_clarabel_is_not_poisoned_by_a_failure() -> None:
    """After values that overflow, an updated Clarabel 0.11 gives NaN for good values as well: it must be dropped."""
    problem = make(family("QP"), 2)
    parts = [part.copy() for part in (problem.values.P, problem.values.q, problem.values.A, problem.values.b)]
    for part in parts:
        part[:, 0] *= 1e300
    solver = solver_of(problem, "CLARABEL")
    for _ in range(3):
        solution = solver.solve(Values(*parts))
        assert solution.status[1] == Status.OPTIMAL
        assert_close(solution.x[:, 1], problem.x[:, 1], 1e-6, "after a failure")


def test_clarabel_serves_values_of_very_different_sizes() -> None:
    """Updates keep the scaling of the values that a solver was made for: those of other sizes get one of their own."""
    problem = make(family("QP"), 30)
    sizes, scale = 10 ** np.random.default_rng(3).uniform(0, 4, (2, 30))
    values = problem.values
    scaled = Values(values.P * sizes, values.q * sizes * scale, values.A, values.b * scale)
    solution = solver_of(problem, "CLARABEL").solve(scaled)
    assert np.isin(solution.status, (Status.OPTIMAL, Status.INACCURATE)).all()
    assert_close(solution.x / scale, problem.x, 1e-6, "x")
