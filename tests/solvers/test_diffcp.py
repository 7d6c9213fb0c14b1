"""The engine DIFFCP: diffcp's known faults do not reach our results, and its derivative is right.

The tests named "upstream" hold the faults of diffcp 1.1.9 themselves: when one of them fails, a newer diffcp has
mended it, and what works round it here may go.
"""

from __future__ import annotations

from typing import Any

import cvxpy as cp
import diffcp
import numpy as np
import pytest
import scipy
import scipy.sparse as sp
from diffcp import _diffcp, cone_program
from packaging.version import Version

import cvxlayers
from benchmarks import families
from cvxlayers.cones import Cones, project_dual, unpack
from cvxlayers.derivative.diffcp.embedding import EmbeddingSystem
from cvxlayers.derivative.diffcp.linearization import MODES as DERIVATIVE_MODES
from cvxlayers.derivative.diffcp.linearization import DiffcpDerivative, Effort
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.errors import EngineError, OptionError
from cvxlayers.layer import packing
from cvxlayers.layer.layer import Layer
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Pattern, Structure, Values
from cvxlayers.solvers import options
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.diffcp import Diffcp
from cvxlayers.solvers.scsform import ScsForm
from cvxlayers.verify.measure import measure
from tests.solvers.problems import Family, Problem, family, make, pattern, sealed
from tests.support.tolerance import assert_close, relative_error

MODES = ("dense", "sparse", "lsqr", "lsmr")
TIGHT = {"tol_gap_abs": 1e-10, "tol_gap_rel": 1e-10, "tol_feas": 1e-10}


def linear(cones: Cones, n: int, batch: int = 1, seed: int = 0, v: Array | None = None) -> Problem:
    """Random problems without P with a random v = y - s, or the given one."""
    rng = np.random.default_rng(seed)
    none = np.zeros(0, dtype=int)
    v = rng.standard_normal((cones.m, batch)) if v is None else v
    A = pattern(np.ones((cones.m, n), dtype=bool))
    return sealed(Pattern.of(none, none, (n, n)), A, cones, rng.standard_normal((n, v.shape[1])), v, rng)


def upstream(problem: Problem, i: int = 0) -> tuple[sp.csc_matrix, Array, Array, dict[str, Any]]:
    """The i-th problem as diffcp reads it."""
    form, values = ScsForm.of(problem.structure), problem.values
    A = sp.csc_matrix(form.A.matrix(values.A[form.nonzeros, i]))
    return A, values.b[form.rows, i], values.q[:, i].copy(), form.cones


# --- The solver ---


def test_upstream_returns_psd_rows_of_order_four_in_a_wrong_order() -> None:
    for order, wrong in ((2, False), (3, False), (4, True), (5, True)):
        problem = linear(Cones(psd=(order,)), 3)
        A, b, c, cones = upstream(problem)
        answer = cone_program.solve_internal(A, b, c, cones, solve_method="CLARABEL", **TIGHT)
        primal = np.abs(A @ answer["x"] + answer["s"] - b).max()
        dual = np.abs(A.T @ answer["y"] + c).max()
        assert (primal > 0.1) == wrong
        assert (dual > 0.1) == wrong


@pytest.mark.parametrize("orders", [(3,), (4,), (5, 3), (2, 6, 4)])
@pytest.mark.parametrize("mended", [False, True])
def test_psd_rows_come_in_our_order(orders: tuple[int, ...], mended: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if mended:
        monkeypatch.setattr(cone_program, "inverse_permute_psd_solution", mended_inverse)
    problem = linear(Cones(zero=1, nonneg=2, second_order=(3,), psd=orders, exponential=1), 9, batch=3)
    solution = Diffcp(problem.structure, Settings()).solve(problem.values)
    found = measure(problem.structure, problem.values, solution.x, solution.y, solution.s)
    assert_close(np.maximum(found.primal, found.dual), np.zeros(3), 1e-7, "residuals")
    assert_close(found.gap, np.zeros(3), 1e-5, "complementarity, which is the root of the duality gap")


def mended_inverse(y: Array, s: Array, n: int, offset: int) -> tuple[Array, Array]:
    """diffcp's function as it should be: entry k of the lower triangle, column by column, from Clarabel's order."""
    rows, columns = np.triu_indices(n)  # of the upper triangle row by row, which is SCS's order
    places = offset + columns * (columns + 1) // 2 + rows
    turned_y, turned_s = y.copy(), s.copy()
    stop = offset + places.size
    turned_y[offset:stop], turned_s[offset:stop] = y[places], s[places]
    return turned_y, turned_s


def infeasible() -> Problem:
    """x <= -1 and x >= 1."""
    none = np.zeros(0, dtype=int)
    A = pattern(np.ones((2, 1), dtype=bool))
    structure = Structure(Pattern.of(none, none, (1, 1)), A, Cones(nonneg=2))
    values = Values(np.zeros((0, 1)), np.ones((1, 1)), np.array([[1.0], [-1.0]]), np.array([[-1.0], [-1.0]]))
    return Problem(structure, values, np.zeros((1, 1)), np.zeros((2, 1)), np.zeros((2, 1)))


def test_upstream_does_not_look_at_clarabels_status() -> None:
    A, b, c, cones = upstream(infeasible())
    x, *_ = diffcp.solve_and_derivative(A, b, c, cones, solve_method="Clarabel")
    assert x.shape == (1,)


@pytest.mark.parametrize("method", ["CLARABEL", "SCS", "ECOS"])
def test_status_is_read(method: str) -> None:
    problem = infeasible()
    solver = Diffcp(problem.structure, Settings(options={"solve_method": method}))
    assert solver.solve(problem.values).status.tolist() == [Status.INFEASIBLE]
    feasible = Values(problem.values.P, problem.values.q, problem.values.A, np.array([[3.0], [-1.0]]))
    assert solver.solve(feasible).status.tolist() == [Status.OPTIMAL]
    half_line = Values(problem.values.P, -problem.values.q, -np.ones((2, 1)), np.array([[3.0], [-1.0]]))
    assert solver.solve(half_line).status.tolist() == [Status.UNBOUNDED]


# --- The derivative ---


def tangents(problem: Problem, seed: int = 1) -> tuple[Values, tuple[Array, Array, Array]]:
    rng = np.random.default_rng(seed)
    values = problem.values
    moves = Values(*(rng.standard_normal(part.shape) for part in (values.P, values.q, values.A, values.b)))
    return moves, tuple(rng.standard_normal(part.shape) for part in (problem.x, problem.y, problem.s))  # type: ignore[return-value]


def regular(seed: int = 0, batch: int = 5) -> Problem:
    return make(family("SOCP-linear"), batch, seed)


def of_a_vertex(problem: Problem, i: int, gx: Array, gy: Array) -> tuple[Array, Array, Array]:
    """dq, dA and db of a linear program: x = A_a^-1 b_a and y_a = -A_a^-T q with the active rows a."""
    dense = problem.structure.A.matrix(problem.values.A[:, i].copy()).toarray()
    active = problem.s[:, i] == 0
    assert active.sum() == problem.structure.n
    inverse = np.linalg.inv(dense[active])
    db, dq = np.zeros(problem.structure.m), -inverse @ gy[active, i]
    db[active] = inverse.T @ gx[:, i]
    return dq, problem.y[:, i, None] * dq - db[:, None] * problem.x[:, i], db


def test_upstream_lsqr_stops_early() -> None:
    problem = make(Family("LP", Cones(zero=5, nonneg=60), 30, False), 4)
    _, (gx, gy, _) = tangents(problem)
    ours = DiffcpDerivative(problem.structure).linearize(problem.values, problem.solution).vjp(gx, gy)
    for i in range(4):
        _, _, expected = of_a_vertex(problem, i, gx, gy)
        assert_close(ours.b[:, i], expected, 1e-8, "ours")
    errors = []
    for i in range(4):
        answer = cone_program.solve_and_derivative_internal(
            *upstream(problem, i), solve_method="CLARABEL", mode="lsqr", **TIGHT
        )
        _, db, _ = answer["DT"](gx[:, i], gy[:, i], np.zeros_like(gy[:, i]))
        errors.append(relative_error(db, ours.b[:, i]))
    print(f"relative errors of diffcp's lsqr: {np.array(errors).round(4)}")  # noqa: T201
    assert max(errors) > 0.1


@pytest.mark.parametrize("mode", MODES)
def test_linear_program_in_closed_form(mode: str) -> None:
    problem = make(family("LP"), 6)
    structure, A = problem.structure, problem.structure.A
    _, (gx, gy, _) = tangents(problem)
    linearization = DiffcpDerivative(structure, threads=2, mode=mode).linearize(problem.values, problem.solution)
    found = linearization.vjp(gx, gy)
    for i in range(6):
        dq, dA, db = of_a_vertex(problem, i, gx, gy)
        assert_close(found.b[:, i], db, 1e-8, "db")
        assert_close(found.q[:, i], dq, 1e-8, "dq")
        assert_close(found.A[:, i], dA[A.rows, A.columns], 1e-8, "dA")
    assert linearization.report.residual.max() <= 1e-9
    assert not linearization.report.fallback.any()
    moves, _ = tangents(problem)
    dx, dy, ds = linearization.jvp(moves)
    assert_close(ds, moves.b - A.times(moves.A, problem.x) - A.times(problem.values.A, dx), 1e-8, "ds")
    assert_close(np.abs(ds[problem.s == 0]).max(), 0.0, 1e-8, "active rows stay so")
    assert_close(np.abs(dy[problem.s != 0]).max(), 0.0, 1e-8, "inactive rows stay so")


def test_unit_ball_in_closed_form() -> None:
    """minimize q'x subject to norm(x) <= r: x = -r q / norm(q)."""
    none = np.zeros(0, dtype=int)
    A = pattern(np.vstack([np.zeros(3), -np.eye(3)]) != 0)
    structure = Structure(Pattern.of(none, none, (3, 3)), A, Cones(second_order=(4,)), frozenset("qb"))
    q, r = np.random.default_rng(0).standard_normal((3, 1)), 2.0
    size = np.linalg.norm(q)
    x, y = -r * q / size, np.concatenate([[[size]], q])
    s = np.concatenate([[[r]], x])
    problem = Problem(structure, Values(np.zeros((0, 1)), q, -np.ones((3, 1)), np.array([[r], [0], [0], [0]])), x, y, s)
    assert_close(measure(structure, problem.values, x, y, s).worst, np.zeros(1), 1e-15, "the solution")
    linearization = DiffcpDerivative(structure).linearize(problem.values, problem.solution)
    gx = np.array([[1.0], [-2.0], [0.5]])
    found = linearization.vjp(gx, np.zeros((4, 1)))
    assert_close(found.q, -r / size * (gx - q * (q.T @ gx) / size**2), 1e-12, "dq")
    assert_close(found.b[0], -(q.T @ gx)[0] / size, 1e-12, "dr")
    assert not found.A.any()  # A does not vary


@pytest.mark.parametrize("order", [3, 4, 5])
def test_lowest_eigenvector_in_closed_form(order: int) -> None:
    """minimize <C, X>, tr X = 1, X psd: X = u u' and dX = sum over k of (u_k'dC u) / (l - l_k) (u_k u' + u u_k')."""
    rng = np.random.default_rng(order)
    length = order * (order + 1) // 2
    rows, columns = np.triu_indices(order)
    at = np.argsort(columns * order + rows)
    factors = np.where(rows == columns, 1.0, np.sqrt(2.0))[at]
    C, dC = (part + part.T for part in rng.standard_normal((2, order, order)))
    values, U = np.linalg.eigh(C)
    u = U[:, 0]

    def packed(X: Array) -> Array:
        return (X[rows, columns][at] * factors)[:, None]

    A = pattern(np.vstack([(rows == columns)[at], -np.eye(length)]) != 0)
    none = np.zeros(0, dtype=int)
    structure = Structure(Pattern.of(none, none, (length, length)), A, Cones(zero=1, psd=(order,)))
    entries = np.where(A.rows == 0, 1.0, -1.0)[:, None]
    b = np.zeros((length + 1, 1))
    b[0] = 1.0
    y = np.concatenate([[[-values[0]]], packed(C - values[0] * np.eye(order))])
    x = packed(np.outer(u, u))
    s = np.concatenate([[[0.0]], x])
    program = Values(np.zeros((0, 1)), packed(C), entries, b)
    problem = Problem(structure, program, x, y, s)
    assert_close(measure(structure, program, x, y, s).worst, np.zeros(1), 1e-12, "the solution")
    moves = Values(program.P, packed(dC), 0 * entries, 0 * b)
    dx, _, _ = DiffcpDerivative(structure).linearize(program, problem.solution).jvp(moves)
    expected = np.zeros((order, order))
    for k in range(1, order):
        coefficient = U[:, k] @ dC @ u / (values[0] - values[k])
        expected += coefficient * (np.outer(U[:, k], u) + np.outer(u, U[:, k]))
    assert_close(unpack(dx[:, 0]), expected, 1e-10, "dX")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["SOCP-linear", "SDP35-linear", "exponential-linear", "all-linear"])
def test_agrees_with_the_exact_derivative_and_with_its_adjoint(name: str, mode: str) -> None:
    problem = make(family(name), 8)
    moves, (gx, gy, gs) = tangents(problem)
    ours = DiffcpDerivative(problem.structure, threads=2, mode=mode).linearize(problem.values, problem.solution)
    exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
    back, forth = ours.vjp(gx, gy, gs), ours.jvp(moves)
    expected_back, expected_forth = exact.vjp(gx, gy, gs), exact.jvp(moves)
    np.testing.assert_array_equal(ours.report.fallback, exact.report.fallback)
    good = ~exact.report.fallback
    assert good.sum() >= 2
    assert_close(ours.report.margin, exact.report.margin, 1e-12, "margin")
    assert ours.report.residual[good].max() <= 1e-9
    for part in ("q", "A", "b"):
        assert_close(getattr(back, part)[:, good], getattr(expected_back, part)[:, good], 1e-8, f"d{part}")
    for found, expected in zip(forth, expected_forth, strict=True):
        assert_close(found[:, good], expected[:, good], 1e-8, "tangent")
    left = sum((a * b).sum(axis=0) for a, b in zip(forth, (gx, gy, gs), strict=True))
    right = sum((getattr(back, part) * getattr(moves, part)).sum(axis=0) for part in ("q", "A", "b"))
    assert_close(left, right, 1e-7, "<Jv, w> = <v, J'w>, singular elements included")


def test_upstream_derivative_of_the_exponential_projection_is_wrong() -> None:
    v = np.array([-0.01547564, 0.60111053, -0.52528346])
    found = _diffcp.dprojection_dense(v, diffcp.cones.parse_cone_dict_cpp([("ep", 1)]), True)
    h = 1e-6
    steps = [(v + sign * h * e)[:, None] for e in np.eye(3) for sign in (1, -1)]
    up, down = (np.hstack([project_dual(Cones(exponential=1), step) for step in steps[k::2]]) for k in (0, 1))
    assert np.abs(found - (up - down).T / (2 * h)).max() > 0.5


def test_derivative_where_upstream_is_wrong() -> None:
    v = np.concatenate([np.array([0.4, -0.3]), np.array([-0.01547564, 0.60111053, -0.52528346])])[:, None]
    cones = Cones(nonneg=2, exponential=1)
    for seed in range(20):
        problem = linear(cones, 3, seed=seed, v=v)
        exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
        _, (gx, gy, gs) = tangents(problem)
        expected = exact.vjp(gx, gy, gs)
        found = DiffcpDerivative(problem.structure).linearize(problem.values, problem.solution).vjp(gx, gy, gs)
        assert_close(found.A, expected.A, 1e-8, "dA")
        assert_close(found.b, expected.b, 1e-8, "db")


def test_no_factors_are_kept_for_large_batches() -> None:
    problem = regular()
    _, (gx, gy, gs) = tangents(problem)
    kept = DiffcpDerivative(problem.structure).linearize(problem.values, problem.solution)
    dropped = DiffcpDerivative(problem.structure, effort=Effort(kept=0)).linearize(problem.values, problem.solution)
    for _ in range(2):
        np.testing.assert_array_equal(kept.vjp(gx, gy, gs).A, dropped.vjp(gx, gy, gs).A)
    assert kept.kept == 5
    assert dropped.kept == 0


def test_iteration_that_fails_is_followed_by_a_factorization() -> None:
    problem = regular()
    _, (gx, gy, gs) = tangents(problem)
    none = DiffcpDerivative(problem.structure, mode="lsmr", effort=Effort(iterations=0))
    iterated = none.linearize(problem.values, problem.solution)
    dense = DiffcpDerivative(problem.structure, mode="dense").linearize(problem.values, problem.solution)
    assert_close(iterated.vjp(gx, gy, gs).A, dense.vjp(gx, gy, gs).A, 1e-12, "dA")
    # Where that is too large, the derivative of all engines takes its place.
    neither = DiffcpDerivative(problem.structure, mode="lsmr", effort=Effort(dense=0, iterations=0))
    lost = neither.linearize(problem.values, problem.solution)
    assert_close(lost.vjp(gx, gy, gs).A, dense.vjp(gx, gy, gs).A, 1e-9, "dA of all engines")
    np.testing.assert_array_equal(lost.report.fallback, dense.report.fallback)


def no_dense(system: EmbeddingSystem, *_: Any) -> None:
    raise AssertionError("the sparse factors were not enough")


@pytest.mark.parametrize("cones", [
    Cones(zero=2, nonneg=6, second_order=(3, 9, 1, 14), psd=(3, 2), exponential=2),
    Cones(zero=2, nonneg=8, second_order=(9, 14)),
    Cones(second_order=(25,)),
])  # fmt: skip
def test_sparse_factors_with_more_unknowns_for_wide_cones(cones: Cones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cvxlayers.derivative.diffcp.linearization._dense", no_dense)
    problem = linear(cones, 20, batch=4, seed=3)
    moves, (gx, gy, gs) = tangents(problem)
    exact = ExactDerivative(problem.structure).linearize(problem.values, problem.solution)
    sparse = DiffcpDerivative(problem.structure, threads=2, mode="sparse").linearize(problem.values, problem.solution)
    ours, theirs = sparse.vjp(gx, gy, gs), exact.vjp(gx, gy, gs)
    assert not (sparse.report.fallback | exact.report.fallback).any()
    for part in ("q", "A", "b"):
        assert_close(getattr(ours, part), getattr(theirs, part), 1e-8, f"d{part}")
    for name, one, other in zip("xys", sparse.jvp(moves), exact.jvp(moves), strict=True):
        assert_close(one, other, 1e-8, f"tangent of {name}")


@pytest.mark.parametrize("mode", MODES)
def test_empty_batches_and_batches_without_a_solution(mode: str) -> None:
    x, a = cp.Variable(8), cp.Parameter(8)
    problem = cp.Problem(cp.Minimize(cp.norm(x - a) + 0.1 * cp.norm1(x)))
    layer = Layer.from_problem(
        problem, [a], [x], "DIFFCP", solver_args={"mode": mode}, on_failure="nan", check_parameters=False
    )
    (nothing,) = layer.solve([np.zeros((0, 8))]).vjp([np.zeros((0, 8))])
    assert nothing.shape == (0, 8)
    (lost,) = layer.solve([np.full((2, 8), np.nan)]).vjp([np.ones((2, 8))])
    assert np.isnan(lost).all()


def test_sparse_or_dense_is_chosen_by_order_and_nonzeros() -> None:
    none, n = np.zeros(0, dtype=int), 300
    P, places = Pattern.of(none, none, (n, n)), np.arange(n)
    box = Structure(P, Pattern.of(places, places, (n, n)), Cones(nonneg=n))
    wide = Structure(P, Pattern.of(places, places, (n, n)), Cones(second_order=(n,)))
    full = Structure(P, pattern(np.ones((n, n), dtype=bool)), Cones(nonneg=n))
    semidefinite = Structure(P, Pattern.of(places, places, (n, n)), Cones(psd=(24,)))
    assert [DiffcpDerivative(one).mode for one in (box, wide, full, semidefinite)] == [
        "sparse",
        "sparse",
        "dense",
        "dense",
    ]


@pytest.mark.parametrize(("shift", "silent"), [(None, True), (0.0, False)])
def test_superlu_meets_no_pivot_that_is_zero(
    shift: float | None, silent: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Upstream, without the shift: BLAS complains of a negative size. Once it does not, the shift may go."""
    if shift is not None:
        monkeypatch.setattr("cvxlayers.derivative.diffcp.embedding.SHIFT", shift)
    # In the problem's own scales there is no such pivot here.
    monkeypatch.setattr(
        "cvxlayers.derivative.diffcp.linearization.needs_units", lambda *given, **options: np.zeros(1, dtype=bool)
    )
    control = families.make("mpc", quick=True)
    compiled = cvxlayers.compile(control.problem, control.parameters, control.variables, quadratic=False)
    values = compiled.evaluate(packing.pack(compiled, control.data).theta)
    solution = Diffcp(compiled.structure, Settings(options={"solve_method": "CLARABEL"})).solve(values)
    linearization = DiffcpDerivative(compiled.structure, mode="sparse").linearize(values, solution)
    linearization.vjp(np.ones_like(solution.x), np.zeros_like(solution.y))
    assert linearization.report.fallback.all()  # its equations leave y open
    said = "".join(capfd.readouterr())
    assert ("DGEMV" not in said) == (silent or Version(scipy.__version__) < Version("1.17"))  # the first that does so


@pytest.mark.parametrize("mode", ["dense", "sparse"])
def test_degenerate_problem_reports_least_squares(mode: str) -> None:
    """Two equal constraints: y is not unique."""
    none = np.zeros(0, dtype=int)
    A = pattern(np.ones((2, 1), dtype=bool))
    structure = Structure(Pattern.of(none, none, (1, 1)), A, Cones(nonneg=2))
    values = Values(np.zeros((0, 1)), -np.ones((1, 1)), np.ones((2, 1)), np.ones((2, 1)))
    problem = Problem(structure, values, np.ones((1, 1)), np.full((2, 1), 0.5), np.zeros((2, 1)))
    linearization = DiffcpDerivative(structure, mode=mode).linearize(values, problem.solution)
    found = linearization.vjp(np.ones((1, 1)), np.zeros((2, 1)))
    assert_close(found.b, np.full((2, 1), 0.5), 1e-9, "db is shared")
    assert linearization.report.fallback.tolist() == [True]


def test_zero_cotangents() -> None:
    problem = regular()
    linearization = DiffcpDerivative(problem.structure).linearize(problem.values, problem.solution)
    found = linearization.vjp(0 * problem.x, 0 * problem.y)
    assert not any(part.any() for part in (found.P, found.q, found.A, found.b))
    assert not linearization.report.residual.any()


def test_the_options_know_the_modes() -> None:
    assert options.MODES == DERIVATIVE_MODES


def test_what_the_derivative_refuses() -> None:
    with pytest.raises(EngineError, match=r"cannot take a quadratic objective \(P\)"):
        DiffcpDerivative(make(family("QP"), 1).structure)
    with pytest.raises(EngineError, match="cannot take cones of the kind power"):
        DiffcpDerivative(make(family("power-linear"), 1).structure)
    with pytest.raises(OptionError, match="mode must be one of auto, dense, sparse, lsqr, lsmr, not 'lpgd'"):
        DiffcpDerivative(make(family("LP"), 1).structure, mode="lpgd")
