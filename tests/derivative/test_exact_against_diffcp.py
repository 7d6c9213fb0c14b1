"""The exact derivative beside diffcp's own, for programs with a linear objective."""

from __future__ import annotations

import diffcp
import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.cones import to_scs_order
from cvxlayers.cones.product import Cones
from cvxlayers.derivative.factor.choice import WAYS
from cvxlayers.program.solution import Solution
from tests.derivative.problems import Problem, random_problem, relative
from tests.derivative.test_exact import derivative

# Dimensions such that the solution is nondegenerate: n variables meet n active directions of the cones.
CASES = {
    "second_order": (5, Cones(zero=2, nonneg=3, second_order=(4, 3))),
    "semidefinite": (5, Cones(zero=2, psd=(3,))),
    "exponential": (5, Cones(zero=2, nonneg=2, exponential=2)),
    "linear": (4, Cones(zero=1, nonneg=7)),
}


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_adjoint_of_diffcp(name: str, path: str, rng: np.random.Generator) -> None:
    n, cones = CASES[name]
    problem = regular(n, cones, rng)
    A = problem.structure.A.matrix(problem.values.A[:, 0])
    order = to_scs_order(cones)
    dims = {"z": cones.zero, "l": cones.nonneg, "q": list(cones.second_order), "s": list(cones.psd)}
    x, y, s, _, adjoint = diffcp.solve_and_derivative(
        sp.csc_matrix(A[order]), problem.values.b[order, 0], problem.values.q[:, 0],
        {**dims, "ep": cones.exponential}, solve_method="SCS", mode="dense",
        eps_abs=1e-12, eps_rel=1e-12, max_iters=200_000,
    )  # fmt: skip
    back = np.argsort(order)
    assert relative(x, problem.solution.x[:, 0]) < 1e-6
    # Both at the very same point, so that only the derivatives are compared.
    point = Solution(
        x[:, None], y[back][:, None], s[back][:, None],
        problem.solution.status, problem.solution.iterations, problem.solution.engine,
    )  # fmt: skip
    gx, gy = rng.standard_normal(n), rng.standard_normal(cones.m)
    dA, db, dc = adjoint(gx, gy[order], np.zeros(cones.m))
    linearization = derivative(problem.structure, path).linearize(problem.values, point)
    found = linearization.vjp(gx[:, None], gy[:, None])
    pairs = problem.structure.A
    assert relative(found.q[:, 0], dc) < 1e-6
    assert relative(found.b[:, 0], db[back]) < 1e-6
    assert relative(found.A[:, 0], np.asarray(dA.todense())[back][pairs.rows, pairs.columns]) < 1e-6
    assert not linearization.report.fallback.any()


def regular(n: int, cones: Cones, rng: np.random.Generator) -> Problem:
    """A program whose system is well conditioned, found by trying."""
    for _ in range(300):
        problem = random_problem(rng, n, cones, batch=1, density=1.0, quadratic=False)
        linearization = derivative(problem.structure, "condensed").linearize(problem.values, problem.solution)
        found = linearization.vjp(np.ones((n, 1)), np.ones((cones.m, 1)))
        report = linearization.report
        if not report.fallback.any() and report.margin[0] > 0.05 and np.abs(found.q).max() < 20:
            return problem
    raise AssertionError("No regular problem among 300.")
