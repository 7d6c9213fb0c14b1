"""Quadratic objectives for solvers that take linear ones: known solutions, statuses, sparse and singular P."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cvxlayers.cones import Cones
from cvxlayers.errors import EngineError
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Pattern, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.epigraph import Epigraph, serves
from cvxlayers.solvers.registry import SOLVERS
from cvxlayers.verify.measure import measure
from tests.solvers.problems import FAMILIES, Family, Problem, family, make, pattern, sealed
from tests.support.tolerance import assert_close

pytest.importorskip("ecos")
ECOS = SOLVERS["ECOS"]
TAKEN = [chosen for chosen in FAMILIES if chosen.quadratic and chosen.cones.kinds() <= ECOS.kinds]


def assert_solved(problem: Problem, tolerance: float) -> None:
    """In the measure of the standard form; near a solution x moves like the root of what the solver looks at."""
    found = Epigraph(problem.structure, Settings(), ECOS).solve(problem.values)
    assert set(found.engine) == {"ECOS"}
    assert np.isin(found.status, (Status.OPTIMAL, Status.INACCURATE)).all()
    assert measure(problem.structure, problem.values, found.x, found.y, found.s).worst.max() < tolerance
    assert_close(problem.objective_of(found.x), problem.objective, tolerance, "objective")
    assert_close(found.x, problem.x, 100 * tolerance, "x")


@pytest.mark.parametrize("chosen", TAKEN, ids=str)
def test_the_old_rows_are_the_solution_of_the_quadratic_problem(chosen: Family) -> None:
    assert_solved(make(chosen, 3), 5e-5)


def test_multipliers() -> None:
    problem = make(family("QP"), 4)
    found = Epigraph(problem.structure, Settings(), ECOS).solve(problem.values)
    assert_close(found.y, problem.y, 1e-3, "y")
    assert_close(found.s, problem.s, 1e-3, "s")


@pytest.mark.parametrize("objective", [1e-8, 1e8])
@pytest.mark.parametrize("variables", [1e-6, 1e6])
def test_units(objective: float, variables: float) -> None:
    """x in other units: P / u^2, q / u, A / u."""
    problem = make(family("inequalities"), 3)
    P, q, A, b = problem.values
    values = Values(P * objective / variables**2, q * objective / variables, A / variables, b)
    found = Epigraph(problem.structure, Settings(), ECOS).solve(values)
    assert_close(found.x / variables, problem.x, 1e-3, "x")
    assert_close(found.y / objective, problem.y, 1e-3, "y")


def test_blocks_of_P_and_variables_that_it_leaves_out() -> None:
    """P couples variables 0, 3 and 5, and 1 and 2, has 4 alone, and nothing for 6; second-order cones beside them."""
    rng, n = np.random.default_rng(7), 7
    where = np.zeros((n, n), dtype=bool)
    for group in ([0, 3, 5], [1, 2], [4]):
        where[np.ix_(group, group)] = True
    cones = Cones(zero=2, nonneg=10)
    for K in (cones, replace(cones, second_order=(3,)), replace(cones, nonneg=3, second_order=(4, 3), exponential=1)):
        v = rng.standard_normal((K.m, 2))
        v[: K.zero + K.nonneg] = np.sign(v[: K.zero + K.nonneg]) * (0.3 + abs(v[: K.zero + K.nonneg]))
        if K.exponential:
            v[-3:] = np.array([-1.0, -1.0, 1.0])[:, None] - np.array([0.0, 1.0, 1.0])[:, None]
        A = pattern(rng.uniform(size=(K.m, n)) < 0.9)
        problem = sealed(pattern(np.triu(where)), A, K, rng.standard_normal((n, 2)), v, rng)
        assert_solved(problem, 5e-5)


def test_cones_that_the_solver_lacks() -> None:
    with pytest.raises(EngineError, match="ECOS cannot take cones of the kind psd"):
        Epigraph(make(family("SDP3"), 1).structure, Settings(), ECOS)


def line(P: list[float], q: list[float], A: list[float], b: list[float]) -> tuple[Structure, Values]:
    """minimize P x^2 / 2 + q x subject to A x <= b and -x <= 1, for each number of the lists."""
    one = np.zeros(1, dtype=int)
    structure = Structure(
        Pattern.of(one, one, (1, 1)), Pattern.of(np.arange(2), np.zeros(2, dtype=int), (2, 1)), Cones(nonneg=2)
    )
    return structure, Values(*map(np.array, ([P], [q], [A, [-1.0] * len(P)], [b, [1.0] * len(P)])))


def test_statuses() -> None:
    nan, inf = np.nan, np.inf
    structure, values = line(
        P=[2.0, 2.0, 0.0, -1.0, nan, 2.0, 2.0, 1.0], q=[-2.0, -2.0, -1.0, -1.0, 0.0, nan, inf, 0.5],
        A=[1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], b=[9.0, -2.0, 1.0, 3.0, 1.0, 1.0, 1.0, 1.0],
    )  # fmt: skip
    found = Epigraph(structure, Settings(), ECOS).solve(values)
    assert [str(Status(s)) for s in found.status] == [
        "optimal", "infeasible", "unbounded", "failed", "failed", "failed", "failed", "optimal"
    ]  # fmt: skip
    assert_close(found.x[0, [0, 7]], [1.0, -0.5], 1e-5, "x")
    empty = Epigraph(structure, Settings(), ECOS).solve(values.select(np.zeros(0, dtype=int)))
    assert (empty.x.shape, empty.y.shape, empty.s.shape) == ((1, 0), (2, 0), (2, 0))


def test_semidefinite_up_to_rounding_is_semidefinite() -> None:
    rng = np.random.default_rng(3)
    F = rng.standard_normal((2, 6)).astype(np.float32)
    Q = (F.T @ F).astype(np.float64)  # of rank two
    rows, columns = np.triu_indices(6)
    order = np.lexsort((rows, columns))
    P = Pattern.of(rows[order], columns[order], (6, 6))
    A = Pattern.of(np.arange(6), np.arange(6), (6, 6))
    structure = Structure(P, A, Cones(nonneg=6))
    values = Values(Q[rows[order], columns[order]][:, None], np.ones((6, 1)), np.full((6, 1), -1.0), np.zeros((6, 1)))
    for scale in (1e-6, 1.0, 1e6):
        scaled = values._replace(P=values.P * scale, q=values.q * scale)
        found = Epigraph(structure, Settings(), ECOS).solve(scaled)
        assert found.status[0] == Status.OPTIMAL
        assert np.abs(found.x).max() < 1e-4


def test_who_is_served() -> None:
    structures = {name: make(family(name), 1).structure for name in ("LP", "QP", "SDP3", "unconstrained", "power")}
    served = {name: [kind for kind, s in structures.items() if serves(solver, s)] for name, solver in SOLVERS.items()}
    assert served == {
        "ECOS": ["QP", "unconstrained"], "SCS": ["unconstrained"], "CLARABEL": [], "DIFFCP": [], "IPM": [],
        "PIQP": [],
    }  # fmt: skip
