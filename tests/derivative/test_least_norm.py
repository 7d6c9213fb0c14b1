"""The derivative where J is singular, by the kernels and by the paths: one definition, in anyone's units."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import Layer
from cvxlayers.cones.group import groups
from cvxlayers.cones.product import Cones
from cvxlayers.derivative.base import DerivativeReport
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.factor.choice import WAYS
from cvxlayers.ipm.cones import KINDS as KERNELS
from cvxlayers.program.structure import Structure, Values
from tests.derivative.problems import (
    PARTS,
    Problem,
    at,
    cotangents,
    inner,
    noise,
    pattern,
    pseudoinverse,
    relative,
)
from tests.derivative.test_exact import derivative
from tests.derivative.test_kernel_path import kernels

CONES = {
    "polyhedral": Cones(zero=3, nonneg=5),
    "second_order": Cones(zero=2, nonneg=2, second_order=(4, 3, 4)),
    "semidefinite": Cones(zero=2, nonneg=1, psd=(3, 3)),
    "exponential": Cones(zero=1, nonneg=2, exponential=3),
    "power": Cones(nonneg=2, power=(0.3, 0.3, 0.7)),
    "power_nd": Cones(nonneg=2, power_nd=((0.2, 0.3, 0.5), (0.2, 0.3, 0.5), (0.4, 0.6))),
}
ALL_WAYS = [*WAYS, "kernels"]
PAIRS = [
    (name, how) for name, cones in CONES.items() for how in ALL_WAYS if how != "kernels" or cones.kinds() <= KERNELS
]


def singular(name: str, batch: int = 9, seed: int = 3) -> Problem:
    """A problem with equal rows or cones at equal points (multipliers that are shared), and with directions that
    neither P nor an active row fixes."""
    rng, cones = np.random.default_rng(seed), CONES[name]
    n, m = cones.m + 3, cones.m
    A = np.where(rng.random((batch, m, n)) < 0.7, rng.standard_normal((batch, m, n)), 0.0)
    root = rng.standard_normal((batch, n, 2))
    P, v = root @ root.swapaxes(1, 2), rng.standard_normal((m, batch))
    A[:, :, -1] = A[:, :, -2]  # x moves along (.., 1, -1) ..
    P[:, -1], P[:, :, -1] = P[:, -2], P[:, :, -2]  # .. at no cost
    if cones.zero > 1:
        A[:, 1] = A[:, 0]
    v[cones.zero : cones.zero + 2] = 1.0
    A[:, cones.zero + cones.nonneg - 1] = A[:, cones.zero]
    for group in groups(cones):
        if group.count > 1:
            first, second = group.rows[0], group.rows[1]
            A[:, second], v[second] = A[:, first], v[first]
    full, upper = np.ones((m, n), dtype=bool), np.triu(np.ones((n, n), dtype=bool))
    structure = Structure(pattern(upper), pattern(full), cones)
    values = [M[:, pat.rows, pat.columns].T for M, pat in ((P, structure.P), (A, structure.A))]
    return at(structure, *values, rng.standard_normal((n, batch)), v)


def way(structure: Structure, name: str) -> ExactDerivative:
    return kernels(structure) if name == "kernels" else derivative(structure, name)


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_it_is_the_pseudoinverse(name: str, how: str, rng: np.random.Generator) -> None:
    problem = singular(name)
    gx, gy, _ = cotangents(problem, rng)
    linearization = way(problem.structure, how).linearize(problem.values, problem.solution)
    found = linearization.vjp(gx, gy)
    dx, dy, unserved = pseudoinverse(problem.system(own_scales=True), gx, gy)
    assert relative(-found.q, dx) < 1e-7
    assert relative(found.b, dy) < 1e-7
    report = linearization.report
    assert report.fallback.all() and (unserved > 1e-3).all()
    np.testing.assert_allclose(report.unserved, unserved, rtol=1e-6)
    assert report.residual.max() < 1e-10


@pytest.mark.parametrize(("name", "how"), PAIRS)
def test_forward_and_backward_are_adjoints(name: str, how: str, rng: np.random.Generator) -> None:
    problem = singular(name)
    linearization = way(problem.structure, how).linearize(problem.values, problem.solution)
    cotangent, tangent = cotangents(problem, rng), noise(rng, problem)
    left = sum((g * d).sum(axis=0) for g, d in zip(cotangent, linearization.jvp(tangent), strict=True))
    assert relative(inner(linearization.vjp(*cotangent), tangent), left) < 1e-7


@pytest.mark.parametrize(("name", "how"), [pair for pair in PAIRS if pair[1] in ("sparse", "kernels")])
def test_units_do_not_matter(name: str, how: str, rng: np.random.Generator) -> None:
    problem = singular(name)
    structure, (x, y, s) = problem.structure, problem.point
    batch = x.shape[1]
    d = 10.0 ** rng.integers(-6, 7, (structure.n, batch))
    e = 10.0 ** rng.integers(-6, 7, (structure.m, batch))
    for group in groups(structure.cones):
        e[group.rows] = e[group.rows[:, :1]]
    cost = 10.0 ** rng.integers(-6, 7, batch)
    P, A, values = structure.P, structure.A, problem.values
    scaled = Values(
        values.P * (cost * d[P.rows] * d[P.columns]), values.q * (cost * d),
        values.A * (e[A.rows] * d[A.columns]), values.b * e,
    )  # fmt: skip
    solution = type(problem.solution)(x / d, y * (cost / e), s * e, *list(vars(problem.solution).values())[3:6])
    gx, gy, _ = cotangents(problem, rng)
    exact = way(structure, how)
    plain = exact.linearize(values, problem.solution)
    other = exact.linearize(scaled, solution)
    expected, found = plain.vjp(gx, gy), other.vjp(gx * d, gy * (e / cost))
    assert relative(found.q * (cost * d), expected.q) < 1e-6
    assert relative(found.b * e, expected.b) < 1e-6
    np.testing.assert_allclose(other.report.unserved, plain.report.unserved, rtol=1e-5)
    np.testing.assert_allclose(other.report.margin, plain.report.margin, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(other.report.fallback, plain.report.fallback)


def gradients(problem: cp.Problem, parameters: list[cp.Parameter], x: cp.Variable, data: list[np.ndarray], **options):  # type: ignore[no-untyped-def]
    record = Layer.from_problem(problem, parameters, [x], **options).solve(data)
    weights = np.random.default_rng(0).standard_normal(record.outputs[0].shape)
    return record.vjp([weights]), record.info.derivative


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS"])
@pytest.mark.parametrize("kind", ["least eigenvalue", "nuclear norm", "entropy", "twice", "no row"])
def test_redundant_constraints_change_nothing(kind: str, solver: str | None, rng: np.random.Generator) -> None:
    options = {"solver": solver} if solver else {}
    if kind in ("least eigenvalue", "nuclear norm"):
        X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
        root = rng.standard_normal((3, 3))
        data, rules, cost = [(root + root.T) - 1.2 * np.eye(3)], [X >> 0], cp.sum_squares(X - C)
        more = [cp.lambda_min(X) >= 0] if kind == "least eigenvalue" else []
        size = cp.normNuc(X) if kind == "nuclear norm" else cp.trace(X)
        one = cp.Problem(cp.Minimize(cost + 0.3 * cp.trace(X)), rules)
        other = cp.Problem(cp.Minimize(cost + 0.3 * size), rules + more)
        x, parameters = X, [C]
    else:
        x, c, b = cp.Variable(4), cp.Parameter(4), cp.Parameter(nonneg=True)
        data, parameters = [rng.standard_normal(4), np.array(1.5)], [c, b]
        entropy = c @ x - cp.sum(cp.entr(x))
        cost = entropy if kind == "entropy" else cp.sum_squares(x - c)
        rules = [cp.sum(x) == b] + ([x >= 0] if kind != "entropy" else [])
        more = {"entropy": [x >= 0], "twice": [x >= 0, 2 * cp.sum(x) == 2 * b], "no row": [0 * x[0] <= b]}[kind]
        one, other = cp.Problem(cp.Minimize(cost), rules), cp.Problem(cp.Minimize(cost), rules + more)
    expected, plain = gradients(one, parameters, x, data, **options)
    found, report = gradients(other, parameters, x, data, **options)
    assert not plain.fallback.any()
    for left, right in zip(found, expected, strict=True):
        assert relative(left, right) < 1e-6
    assert report.unserved.max() < 1e-9


def test_a_tie_is_flagged_whichever_way_it_is_solved() -> None:
    # Three bounds meet in a vertex of the plane: the multipliers are shared, x has one-sided derivatives.
    x, b = cp.Variable(2), cp.Parameter(3)
    rules = [cp.hstack([x[0] + x[1], x[0], x[1]]) <= b, x >= -1]
    layer = Layer.from_problem(cp.Problem(cp.Maximize(3 * x[0] + 2 * x[1]), rules), [b], [x])
    record = layer.solve([np.array([2.0, 1.5, 0.5])])
    record.vjp([np.array([1.0, 0.0])])
    assert record.info.derivative.fallback.all() and record.info.derivative.unserved.max() < 1e-12
    record = layer.solve([np.array([2.0, 1.5, 0.5])])
    record.jvp([np.array([0.0, 0.0, 1.0])])
    assert record.info.derivative.fallback.all() and record.info.derivative.unserved.max() > 0.1


def test_diffcp_flags_what_is_singular_and_nothing_else(rng: np.random.Generator) -> None:
    x, c, w = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3))
    cost = cp.norm(x - c) + 0.5 * cp.norm1(w @ x)
    regular = cp.Problem(cp.Minimize(cost), [cp.norm(x) <= 0.8])
    twice = cp.Problem(cp.Minimize(cost), [cp.norm(x) <= 0.8, cp.sum(x) == 0.1, 3 * cp.sum(x) == 0.3])
    data = [rng.standard_normal((12, 3)), rng.standard_normal((12, 2, 3))]
    for problem, flagged in ((regular, False), (twice, True)):
        expected, exact = gradients(problem, [c, w], x, data, solver="CLARABEL")
        found, report = gradients(problem, [c, w], x, data, solver="DIFFCP")
        assert exact.fallback.all() == flagged == exact.fallback.any()
        np.testing.assert_array_equal(report.fallback, exact.fallback)
        for left, right in zip(found, expected, strict=True):
            assert relative(left, right) < 1e-6


def test_the_report_is_a_summary() -> None:
    size = 1000
    report = DerivativeReport(
        np.full(size, 1e-15),
        np.where(np.arange(size) == 7, 0.25, 0.0),
        np.linspace(1e-9, 1, size),
        np.arange(size) == 7,
    )
    assert len(str(report)) < 200
    said = ("elements  1000", "fallback  in 1 element", "unserved  at most 2.5e-01", "1.0e-09")
    assert all(part in repr(report) for part in said)


@pytest.mark.parametrize("part", PARTS)
def test_other_elements_do_not_matter(part: str, rng: np.random.Generator) -> None:
    problem = singular("polyhedral", batch=17)
    cotangent, exact = cotangents(problem, rng), kernels(problem.structure)
    together = exact.linearize(problem.values, problem.solution).vjp(*cotangent)
    for i in (0, 8, 16):
        index = np.array([i])
        alone = exact.linearize(problem.values.select(index), problem.solution.select(index))
        found = alone.vjp(*(g[:, index] for g in cotangent))
        assert relative(getattr(found, part), getattr(together, part)[:, index]) < 1e-7


@pytest.mark.parametrize("how", ALL_WAYS)
def test_a_right_side_that_is_not_finite_spoils_no_other(how: str, rng: np.random.Generator) -> None:
    problem = singular("polyhedral")
    gx, gy, gs = cotangents(problem, rng)
    linearize = way(problem.structure, how).linearize
    expected = linearize(problem.values, problem.solution).vjp(gx, gy, gs)
    gx, bad = gx.copy(), [2, 5]
    gx[1, 2], gx[0, 5] = np.nan, -np.inf
    linearization = linearize(problem.values, problem.solution)
    found = linearization.vjp(gx, gy, gs)
    assert np.isnan(found.q[:, bad]).all()
    good = np.delete(np.arange(problem.solution.batch), bad)
    for part in PARTS:
        np.testing.assert_allclose(getattr(found, part)[:, good], getattr(expected, part)[:, good], rtol=1e-9)
    assert np.isinf(linearization.report.residual[bad]).all() and linearization.report.residual[good].max() < 1e-10
