"""The compiled form against CVXPY's own: values, objective, duals, size, and the caller's problem left alone."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

import cvxlayers
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from tests.contracts.case import Case
from tests.contracts.table import CASES
from tests.support import layers, reference
from tests.support.tolerance import assert_all_close, assert_close, say


@pytest.mark.parametrize(
    ("row", "quadratic"),
    [
        pytest.param(row, form, id=f"{row.name}-{form}")
        for row in CASES
        for form in (True, False)[: 2 - row.only_quadratic]
    ],
)
@pytest.mark.filterwarnings("ignore:The problem has an expression with dimension")  # what CVXPY does about it is right
@pytest.mark.filterwarnings("ignore:Reading from a sparse CVXPY expression")  # CVXPY does so itself
def test_values_are_those_that_cvxpy_hands_to_clarabel(row: Case, quadratic: bool) -> None:
    """P, q, A and b for one point, to rounding: the same canonicalization without parameters."""
    built = row.build()
    compiled = cvxlayers.compile(built.problem, built.parameters, built.variables, row.gp, quadratic)
    values = compiled.evaluate(packing.pack(compiled, row.point()).theta)
    reference.assign(built.parameters, row.point())
    data, _, _ = built.problem.get_problem_data(cp.CLARABEL, gp=row.gp, solver_opts={"use_quad_obj": quadratic})
    structure = compiled.structure
    assert (structure.n, structure.m) == (data["c"].size, data["b"].size)
    assert_close(values.q[:, 0], data["c"], 1e-12, "q")
    assert_close(values.b[:, 0], data["b"], 1e-12, "b")
    A = structure.A.matrix(np.ascontiguousarray(values.A[:, 0]))
    assert_close(A.toarray(), sp.csc_array(data["A"]).toarray(), 1e-12, "A")
    upper = structure.P.matrix(np.ascontiguousarray(values.P[:, 0])).toarray()
    P = upper + np.triu(upper, 1).T
    assert_close(P, sp.csc_array(data["P"]).toarray() if "P" in data else np.zeros_like(P), 1e-12, "P")


@pytest.mark.parametrize("row", CASES, ids=str)
def test_both_forms_have_the_same_solution(row: Case) -> None:
    if row.only_quadratic or not row.quadratic:
        return
    one, other = (Layer(layers.compiled_as(row.name, quadratic)) for quadratic in (True, False))
    assert not other.compiled.structure.quadratic
    primal = [i for i, spec in enumerate(one.compiled.outputs) if spec.kind == "primal"]
    found, expected = other(*row.point()), one(*row.point())
    assert_all_close([found[i] for i in primal], [expected[i] for i in primal], 1e-4, row.name)


def test_the_objective_in_the_callers_sign_and_scale() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = Layer.from_problem(cp.Problem(cp.Maximize(3 - cp.sum_squares(x - c)), [x >= 1]))
    layer(np.array([2.0, 0.0]))
    assert layer.info is not None
    assert_close(layer.info.objective, np.array([2.0]), 1e-8, "objective")


def dual_problem() -> tuple[cp.Problem, list[cp.Parameter], list[cp.Constraint], list[np.ndarray]]:
    """One constraint of every kind that has a dual of its own, all of them with several rows or cones."""
    rng = np.random.default_rng(5)
    x, X, c = cp.Variable((3, 2)), cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 2))
    u, v, w = cp.Variable(2), cp.Variable(2), cp.Variable(2)
    D, shift = cp.Parameter((3, 3), symmetric=True), cp.Parameter(2)
    t, z = cp.Variable(2), cp.Variable((3, 2))
    constraints = [
        x <= 0.3, x >= -0.4, cp.sum(x, axis=0) == np.array([0.1, -0.2]), X >> 0.1 * np.eye(3), X[0, 0] == 1.2,
        cp.ExpCone(u, v, w), v == 1, cp.SOC(t, z, axis=0), t <= np.array([1.0, 0.8]),
        cp.PowCone3D(w, v + u, shift, np.array([0.3, 0.6])), cp.NonNeg(w - 0.1), cp.Zero(cp.sum(z, axis=0) - shift),
    ]  # fmt: skip
    cost = (
        cp.sum_squares(x - c) + cp.sum_squares(X - D) + cp.sum_squares(u - shift) + cp.sum_squares(w)
        + cp.sum_squares(z - c)
    )  # fmt: skip
    M = rng.normal(size=(3, 3))
    values = [rng.normal(size=(3, 2)), (M + M.T) / 2, np.array([1.6, 0.9])]
    return cp.Problem(cp.Minimize(cost), constraints), [c, D, shift], constraints, values


def test_every_dual_is_cvxpys() -> None:
    """In its sign, layout and shape, against ``constraint.dual_value`` after CVXPY's own solve."""
    problem, parameters, constraints, values = dual_problem()
    duals = [dual for constraint in constraints for dual in constraint.dual_variables]
    layer = Layer.from_problem(problem, parameters, duals, solver_args={"eps": 1e-12})
    found = layer(*values)
    expected = reference.solve(problem, parameters, duals, values)
    assert {spec.kind for spec in layer.compiled.outputs} == {"dual"}
    assert [o.shape for o in found] == [dual.shape for dual in duals]
    assert sum(np.abs(o).max() > 1e-2 for o in found) >= 10, "most of them are active"
    assert_all_close(found, expected.outputs, 1e-5, "duals")


def test_duals_of_a_maximization() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    constraints = [x <= 1, cp.sum(x) == 1.5]
    problem = cp.Problem(cp.Maximize(c @ x - cp.sum_squares(x)), constraints)
    duals = [constraint.dual_variables[0] for constraint in constraints]
    values = [np.array([4.0, 1.0])]
    found = Layer.from_problem(problem, [c], duals)(*values)
    assert_all_close(found, reference.solve(problem, [c], duals, values).outputs, 1e-6, "duals")


def test_a_variable_that_nothing_depends_on() -> None:
    """CVXPY drops it; it must come back with its shape and without disturbing the others."""
    x, free, c = cp.Variable(2), cp.Variable(3), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) + 0 * cp.sum(free)), [x >= 0])
    found = Layer.from_problem(problem, [c], [free, x])(np.array([1.0, -1.0]))
    assert found[0].shape == (3,)
    assert np.isfinite(found[0]).all()
    assert_close(found[1], np.array([1.0, 0.0]), 1e-8, "x")


def test_two_variables_of_one_name() -> None:
    x, y = cp.Variable(2, name="x"), cp.Variable(2, name="x")
    p, r = cp.Parameter(2, name="p"), cp.Parameter(2, name="p")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(y - r)))
    found = Layer.from_problem(problem, [r, p], [y, x])(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    assert_all_close(found, [np.array([1.0, 2.0]), np.array([3.0, 4.0])], 1e-8, "in the order asked for")


def test_a_large_parameter_matrix_compiles_sparsely() -> None:
    """200 by 200 entries: the maps hold one nonzero for each, not a dense table of pairs."""
    n = 200
    x, A, b = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b)), [x >= 0])
    compiled = cvxlayers.compile(problem, [A, b], [x])
    stored = sum(part.linear.nnz for part in (compiled.P, compiled.q, compiled.A, compiled.b))
    say(f"{stored} nonzeros stored")
    assert compiled.A.linear.nnz == n * n
    assert stored <= n * n + 2 * n
    assert compiled.structure.A.nnz <= n * n + 3 * n
    assert A.value is None
    assert b.value is None
    assert x.value is None


def test_compiling_twice_gives_the_same() -> None:
    """The order of rows and columns does not depend on the identities of the leaves."""
    row = CASES[1]
    one, other = (cvxlayers.compile(*_parts(row)) for _ in range(2))
    np.testing.assert_array_equal(one.structure.A.indices, other.structure.A.indices)
    theta = packing.pack(one, row.point()).theta
    for name in ("P", "q", "A", "b"):
        np.testing.assert_array_equal(getattr(one.evaluate(theta), name), getattr(other.evaluate(theta), name))


def _parts(row: Case) -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable]]:
    built = row.build()
    return built.problem, list(built.parameters), list(built.variables)


def test_the_default_lists_are_the_problems_own() -> None:
    x, y, p, r = cp.Variable(name="x"), cp.Variable(name="y"), cp.Parameter(name="p"), cp.Parameter(name="r")
    problem = cp.Problem(cp.Minimize(cp.square(x - p) + cp.square(y - r)))
    compiled = cvxlayers.compile(problem)
    assert [spec.name for spec in compiled.parameters] == [leaf.name() for leaf in problem.parameters()]
    assert [spec.name for spec in compiled.outputs] == [leaf.name() for leaf in problem.variables()]


@pytest.mark.parametrize("row", CASES, ids=str)
def test_evaluate_is_affine_in_theta(row: Case, rng: np.random.Generator) -> None:
    """pushforward and pullback of each map are its derivative and the transpose of that."""
    compiled = layers.compiled(row)
    theta, dtheta = rng.normal(size=(2, compiled.k, 3))
    for name in ("P", "q", "A", "b", "offset"):
        part = getattr(compiled, name)
        assert_close(part(theta + dtheta) - part(theta), part.pushforward(dtheta), 1e-10, name)
        w = rng.normal(size=(part.rows, 3))
        assert_close(np.sum(w * part.pushforward(dtheta)), np.sum(part.pullback(w) * dtheta), 1e-10, f"{name}'")
        assert part.varies or (name in "PqAb") <= (name not in compiled.structure.varying)
