"""Dual variables of every kind of constraint that CVXPY has: stationarity of the Lagrangian that was written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.constraints import (
    PSD,
    SOC,
    Equality,
    ExpCone,
    FiniteSet,
    Inequality,
    NonNeg,
    NonPos,
    OpRelEntrConeQuad,
    PowCone3D,
    PowCone3DApprox,
    PowConeND,
    RelEntrConeQuad,
    SvecPSD,
    Zero,
)

import cvxlayers
from cvxlayers.errors import CompileError, MixedIntegerError
from cvxlayers.layer.layer import Layer
from tests.support.tolerance import assert_close


@dataclass(frozen=True)
class Row:
    """A constraint on variables v, as the argument of which each of them stands, pulled to a point outside of it.

    The problem minimizes the sum of ||v - target||^2, so that stationarity of  f - <lambda, v>  is
    lambda = 2 (v - target), for cones; ``sign`` is -1 where CVXPY's convention is  f + <lambda, v>.
    """

    name: str
    kind: type
    targets: tuple[Any, ...]
    build: Callable[..., cp.Constraint]
    attributes: tuple[dict[str, bool], ...] = ()
    sign: float = 1.0
    cvxpy_agrees: bool = True


S = {"symmetric": True}
H = {"hermitian": True}
C = {"complex": True}
HERMITIAN = np.array([[-1.0, 0.4 + 0.7j, 0.2j], [0.4 - 0.7j, 0.5, -0.3], [-0.2j, -0.3, -0.6]])
PARTLY = np.array([[0.4, -0.8], [0.9, 0.3], [-1.1, 0.7]])
ALPHA = np.array([[0.2, 0.5], [0.5, 0.2], [0.3, 0.3]])
WEIGHTS = np.array([0.3, 0.7])
ROWS = [
    Row("equality", Equality, (PARTLY,), lambda v: v == 0.25, sign=-1),
    Row("zero", Zero, (PARTLY,), lambda v: Zero(v - 0.25), sign=-1),
    Row("inequality", Inequality, (PARTLY,), lambda v: v <= 0.25, sign=-1),
    Row("nonneg", NonNeg, (PARTLY,), lambda v: NonNeg(v - 0.25)),
    Row("nonpos", NonPos, (PARTLY,), lambda v: NonPos(v - 0.25), sign=-1),
    Row("soc", SOC, (0.3, PARTLY[:, 0]), lambda t, v: SOC(t, v)),
    Row("soc_columns", SOC, (PARTLY[0], PARTLY), lambda t, v: SOC(t, v, axis=0)),
    Row("soc_rows", SOC, (PARTLY[:, 0], PARTLY), lambda t, v: SOC(t, v, axis=1)),
    Row("soc_complex", SOC, (0.3, PARTLY[:, 0] + 1j * PARTLY[:, 1]), lambda t, v: SOC(t, v), ({}, C),
        cvxpy_agrees=False),
    Row("soc_complex_rows", SOC, (PARTLY[:, 0], PARTLY + 1j * PARTLY[::-1]), lambda t, v: SOC(t, v, axis=1), ({}, C),
        cvxpy_agrees=False),
    Row("psd", PSD, (HERMITIAN.real,), lambda v: v >> 0, (S,)),
    Row("psd_shifted", PSD, (HERMITIAN.real,), lambda v: v >> 0.1 * np.eye(3), (S,)),
    Row("psd_hermitian", PSD, (HERMITIAN,), lambda v: v >> 0, (H,)),
    Row("svec_psd", SvecPSD, (np.array([-1.0, 0.4, 0.5]),), lambda v: SvecPSD(v, 2)),
    Row("exponential", ExpCone, (PARTLY[:, 0], 1 + PARTLY[:, 1] / 2, PARTLY[:, 0] + 1), ExpCone),
    Row("exponential_matrix", ExpCone, (PARTLY, 1 + PARTLY / 2, PARTLY[::-1] + 1), ExpCone),
    Row("power", PowCone3D, (PARTLY[:, 0], PARTLY[:, 1], PARTLY[:, 0] + 2),
        lambda x, y, z: PowCone3D(x, y, z, np.array([0.3, 0.5, 0.6]))),
    Row("power_scalar", PowCone3D, (0.4, 0.9, 1.5), lambda x, y, z: PowCone3D(x, y, z, 0.35), cvxpy_agrees=False),
    Row("power_approximate", PowCone3DApprox, (PARTLY[:2, 0], PARTLY[:2, 1], PARTLY[:2, 0] + 2),
        lambda x, y, z: PowCone3DApprox(x, y, z, 0.25), cvxpy_agrees=False),
    Row("power_pair", PowConeND, (np.array([0.5, 0.8]), 1.7), lambda w, z: PowConeND(w, z, WEIGHTS)),
    Row("power_columns", PowConeND, (PARTLY, np.array([1.5, -1.2])), lambda w, z: PowConeND(w, z, ALPHA)),
    Row("power_rows", PowConeND, (PARTLY.T, np.array([1.5, -1.2])), lambda w, z: PowConeND(w, z, ALPHA.T, axis=1)),
    Row("relative_entropy", RelEntrConeQuad, (np.array([1.2, 0.7]), np.array([0.6, 1.1]), np.array([0.1, -0.8])),
        lambda x, y, z: RelEntrConeQuad(x, y, z, 3, 3), cvxpy_agrees=False),
    Row("operator_entropy", OpRelEntrConeQuad,
        (np.array([[1.2, 0.3], [0.3, 0.8]]), np.array([[0.7, -0.2], [-0.2, 0.9]]), np.array([[0.4, 0.1], [0.1, 0.3]])),
        lambda x, y, z: OpRelEntrConeQuad(x, y, z, 2, 2), (S, S, S), cvxpy_agrees=False),
    Row("equality_complex", Equality, (PARTLY[:, 0] + 1j * PARTLY[:, 1],), lambda v: v == 0.25 + 0.5j, (C,), sign=-1),
    Row("equality_imaginary", Equality, (PARTLY[:, 0] + 1j * PARTLY[:, 1],), lambda v: 1j * cp.imag(v) == 0.5j, (C,),
        sign=-1),
    Row("zero_complex", Zero, (PARTLY[:, 0] + 1j * PARTLY[:, 1],), lambda v: Zero(v - 0.5j), (C,), sign=-1),
]  # fmt: skip


def problem_of(row: Row) -> tuple[cp.Problem, list[cp.Parameter], list[cp.Variable], list[Any]]:
    attributes = row.attributes or ({},) * len(row.targets)
    variables = [cp.Variable(np.shape(t), **kind) for t, kind in zip(row.targets, attributes, strict=True)]
    parameters = [cp.Parameter(np.shape(t), **kind) for t, kind in zip(row.targets, attributes, strict=True)]
    cost = sum(cp.sum_squares(v - p) for v, p in zip(variables, parameters, strict=True))
    constraint = row.build(*variables)
    problem = cp.Problem(cp.Minimize(cost), [constraint])
    return problem, parameters, [*variables, *constraint.dual_variables], list(row.targets)


def test_every_kind_is_in_the_table() -> None:
    """But the finite set, which no layer takes, and the common base classes."""
    kinds = {
        kind
        for kind in vars(cp.constraints).values()
        if isinstance(kind, type) and issubclass(kind, cp.constraints.constraint.Constraint)
    }
    assert kinds - {row.kind for row in ROWS} == {FiniteSet, cp.constraints.Cone, cp.constraints.constraint.Constraint}
    x = cp.Variable()
    with pytest.raises(MixedIntegerError, match="finite set"):
        cvxlayers.compile(cp.Problem(cp.Minimize(x), [FiniteSet(x, [1, 2])]))


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # to 1e-11, which is more than is compared
@pytest.mark.filterwarnings("ignore:\\s*Explicitly invoking")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_written_lagrangian_is_stationary(row: Row) -> None:
    problem, parameters, outputs, values = problem_of(row)
    layer = Layer.from_problem(problem, parameters, outputs, solver="CLARABEL", solver_args={"eps": 1e-11})
    found = layer(*values)
    count = len(values)
    for value, target, dual in zip(found[:count], values, found[count:], strict=True):
        expected = row.sign * 2 * (value - np.reshape(target, value.shape))
        assert_close(dual.reshape(value.shape), expected, 1e-5, row.name)
    assert max(np.abs(dual).max() for dual in found[count:]) > 0.1, "the constraint is active"


@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # to 1e-11, which is more than is compared
@pytest.mark.filterwarnings("ignore:\\s*Explicitly invoking")
@pytest.mark.parametrize("row", [row for row in ROWS if row.cvxpy_agrees], ids=lambda row: row.name)
def test_cvxpys_own_dual(row: Row) -> None:
    problem, parameters, outputs, values = problem_of(row)
    found = Layer.from_problem(problem, parameters, outputs, solver="CLARABEL")(*values)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    eps = 1e-11
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=eps, tol_gap_rel=eps, tol_feas=eps)
    for dual, other in zip(found[len(values) :], outputs[len(values) :], strict=True):
        assert_close(dual, np.reshape(other.value, dual.shape), 1e-5, row.name)


@pytest.mark.parametrize("name", ["power_columns", "psd_hermitian", "relative_entropy", "soc_complex"])
def test_the_derivative_of_a_rewritten_dual(name: str) -> None:
    """<w, dual(target + h v)> against the vjp, by central differences."""
    (row,) = [row for row in ROWS if row.name == name]
    problem, parameters, outputs, values = problem_of(row)
    layer = Layer.from_problem(
        problem, parameters, outputs[len(values) :], solver="CLARABEL", solver_args={"eps": 1e-12}
    )
    random = np.random.default_rng(3)
    record = layer.solve(values)
    found = record.outputs
    weights = [random.normal(size=one.shape) for one in found]
    step = 1e-4
    direction = random.normal(size=np.shape(values[-1]))
    if np.ndim(direction) == 2 and row.attributes and "hermitian" in row.attributes[-1]:
        direction = direction + direction.T
    ends = [layer(*values[:-1], values[-1] + sign * step * direction) for sign in (1, -1)]
    slopes = [np.real(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
    difference = sum(np.sum(w * slope) for w, slope in zip(weights, slopes, strict=True))
    gradient = record.vjp([w.astype(one.dtype) for w, one in zip(weights, found, strict=True)])[-1]
    assert_close(np.sum(np.real(gradient) * direction), difference, 1e-4, name)


def test_a_complex_operator_entropy_is_refused_by_name() -> None:
    X, Y, Z = (cp.Variable((2, 2), hermitian=True) for _ in range(3))
    cone = OpRelEntrConeQuad(X, Y, Z, 2, 2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X)), [cone])
    with pytest.raises(CompileError, match=r"cannot bring it to.* OpRelEntrConeQuad"):
        cvxlayers.compile(problem, None, [cone.dual_variables[0]])


def test_a_constraint_listed_twice() -> None:
    """Its multiplier is not split between the copies."""
    x, c = cp.Variable(2), cp.Parameter(2)
    constraint = x >= 0
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [constraint, constraint])
    x_value, dual = Layer.from_problem(problem, [c], [x, constraint.dual_variables[0]])(np.array([-1.0, 2.0]))
    assert_close(dual, 2 * (x_value - [-1.0, 2.0]), 1e-6, "dual")


def test_duals_of_a_geometric_program_belong_to_its_logarithmic_form() -> None:
    """As CVXPY's: d log(optimal value) / d log(right side)."""
    u, c = cp.Variable(pos=True), cp.Parameter(pos=True)
    constraint = c <= u
    problem = cp.Problem(cp.Minimize(u**3), [constraint])
    (dual,) = Layer.from_problem(problem, [c], [constraint.dual_variables[0]], gp=True)(np.array(2.0))
    assert_close(dual, np.array(3.0), 1e-6, "dual")


def test_the_dual_of_a_maximization() -> None:
    """The sign of the minimization of its negative, as CVXPY's."""
    (w, z), c = (cp.Variable(3), cp.Variable()), cp.Parameter(3)
    cone = PowConeND(w, z, np.array([0.2, 0.3, 0.5]))
    problem = cp.Problem(cp.Maximize(-cp.sum_squares(w - c) - cp.square(z - 2)), [cone])
    target = np.array([0.5, 0.9, 0.7])
    found = Layer.from_problem(problem, [c], [w, z, *cone.dual_variables])(target)
    assert_close(found[2], 2 * (found[0] - target), 1e-5, "w")
    assert_close(found[3], np.reshape(2 * (found[1] - 2), (1,)), 1e-5, "z")
