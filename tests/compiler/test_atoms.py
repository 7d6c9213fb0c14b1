"""Atoms of CVXPY with parameters: what CVXPY takes as DPP and solves compiles, before and after a solve, alike."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.transforms.partial_optimize import partial_optimize

import cvxlayers
from cvxlayers.compiler.leaves import parameters_of
from cvxlayers.errors import NotDPPError
from cvxlayers.layer.layer import Layer
from tests.support.tolerance import assert_all_close, assert_close

M = np.array([[2.0, 0.3, 0.1], [0.3, 1.0, 0.2], [0.1, 0.2, 1.5]])
POINT = {
    "c": np.array([0.6, -0.5, 1.2]),
    "C": np.array([[1.1, 0.2, -0.3], [0.4, 0.8, 0.1], [0.0, 0.2, 1.3]]),
    "p": 0.9,
}


class Leaves:
    """Fresh leaves of the kinds that the atoms take."""

    def __init__(self) -> None:
        self.x, self.X = cp.Variable(3, name="x"), cp.Variable((3, 3), name="X")
        self.S, self.s = cp.Variable((3, 3), symmetric=True, name="S"), cp.Variable(nonneg=True, name="s")
        self.t, self.z = cp.Variable(name="t"), cp.Variable(3, complex=True, name="z")
        self.H = cp.Variable((2, 2), hermitian=True, name="H")
        self.c, self.C = cp.Parameter(3, name="c"), cp.Parameter((3, 3), name="C")
        self.p = cp.Parameter(pos=True, name="p")

    def targets(self) -> dict[str, Any]:
        return {
            "x": self.c + 1.2, "X": self.C, "S": (self.C + self.C.T) / 2 + np.eye(3), "s": self.p, "t": self.p,
            "z": self.c + 1j, "H": np.array([[1.0, 0.2j], [-0.2j, 1.6]]),
        }  # fmt: skip


CONVEX: dict[str, Callable[[Leaves], Any]] = {
    "matmul": lambda v: v.C @ v.x,
    "multiply": lambda v: cp.multiply(v.c, v.x),
    "outer": lambda v: cp.outer(v.c, v.x),
    "vdot": lambda v: cp.vdot(v.c, v.x),
    "trace": lambda v: cp.trace(v.C @ v.X),
    "convolve": lambda v: cp.convolve(np.ones(2), v.x),
    "kron": lambda v: cp.kron(np.eye(2), v.X),
    "einsum": lambda v: cp.einsum("ij,j->i", v.C, v.x),
    "cumsum": lambda v: cp.cumsum(v.x),
    "bmat": lambda v: cp.bmat([[v.X, v.C], [v.C.T, v.X]]),
    "concatenate": lambda v: cp.concatenate([v.x, v.c]),
    "diag": lambda v: cp.diag(v.x),
    "real": lambda v: cp.real(v.z),
    "imag": lambda v: cp.imag(v.z),
    "conj": lambda v: cp.abs(cp.conj(v.z)),
    "upper_tri": lambda v: cp.upper_tri(v.X),
    "partial_trace": lambda v: cp.partial_trace(cp.kron(np.eye(2), v.X), (2, 3), 0),
    "special_index": lambda v: v.X[[0, 2], [1, 1]],
    "abs": lambda v: cp.abs(v.x - v.c),
    "cummax": lambda v: cp.cummax(v.x),
    "cvar": lambda v: cp.cvar(v.x, 0.6),
    "dotsort": lambda v: cp.dotsort(v.x, np.array([0.2, 0.5, 1.0])),
    "dotsort_weights": lambda v: cp.dotsort(v.x, v.c),
    "entr": lambda v: -cp.entr(v.x),
    "exp": lambda v: cp.exp(v.x / 2),
    "huber": lambda v: cp.huber(v.x, v.p),
    "inv_pos": lambda v: cp.inv_pos(v.x),
    "kl_div": lambda v: cp.kl_div(v.x, v.p * np.ones(3)),
    "rel_entr": lambda v: cp.rel_entr(v.x + 1, v.x + 2),
    "log": lambda v: -cp.log(v.x),
    "log1p": lambda v: -cp.log1p(v.x),
    "log_normcdf": lambda v: -cp.log_normcdf(v.x),
    "loggamma": lambda v: cp.loggamma(v.x),
    "logistic": lambda v: cp.logistic(v.x),
    "maximum": lambda v: cp.maximum(v.x, 0.1),
    "minimum": lambda v: -cp.minimum(v.x, v.c),
    "pos": lambda v: cp.pos(v.x),
    "neg": lambda v: cp.neg(v.x),
    "power_2": lambda v: cp.power(v.p * v.x, 2),
    "power_3": lambda v: cp.power(v.x, 3),
    "power_fraction": lambda v: -cp.power(v.x, 0.3),
    "power_exact": lambda v: cp.power(v.x, 1.7, approx=False),
    "scalene": lambda v: cp.scalene(v.x, 2, 3),
    "sqrt": lambda v: -cp.sqrt(v.x),
    "xexp": lambda v: cp.xexp(cp.pos(v.x)) / 9,
    "geo_mean": lambda v: -cp.geo_mean(v.x),
    "geo_mean_exact": lambda v: -cp.geo_mean(v.x, approx=False),
    "harmonic_mean": lambda v: -cp.harmonic_mean(v.x),
    "inv_prod": lambda v: cp.inv_prod(v.x),
    "lambda_max": lambda v: cp.lambda_max(v.S),
    "lambda_min": lambda v: -cp.lambda_min(v.S),
    "lambda_sum_largest": lambda v: cp.lambda_sum_largest(v.S, 1.5),
    "lambda_sum_smallest": lambda v: -cp.lambda_sum_smallest(v.S, 2),
    "lambda_max_hermitian": lambda v: cp.lambda_max(v.H),
    "log_det": lambda v: -cp.log_det(v.S),
    "log_sum_exp": lambda v: cp.log_sum_exp(v.x + v.c),
    "matrix_frac": lambda v: cp.matrix_frac(v.c, v.S),
    "max": lambda v: cp.max(v.x - v.c),
    "min": lambda v: -cp.min(v.x - v.c),
    "mixed_norm": lambda v: cp.mixed_norm(v.X, 2, 1),
    "norm": lambda v: cp.norm(v.C @ v.x - 1),
    "norm_1": lambda v: cp.norm1(v.x - v.c),
    "norm_inf": lambda v: cp.norm_inf(v.x - v.c),
    "norm_columns": lambda v: cp.norm(v.X - v.C / 2, 2, axis=0),
    "nuclear": lambda v: cp.normNuc(v.X),
    "pnorm": lambda v: cp.pnorm(v.x, 3),
    "pnorm_exact": lambda v: cp.pnorm(v.x, 1.7, approx=False),
    "perspective": lambda v: cp.perspective(cp.square(v.x[0]) + v.x[1], v.s),
    "perspective_exp": lambda v: cp.perspective(cp.sum(cp.exp(v.x)), v.s),
    "perspective_log": lambda v: -cp.perspective(cp.sum(cp.log(v.x)), v.s),
    "perspective_log_det": lambda v: -cp.perspective(cp.log_det(v.S), v.s),
    "quad_form": lambda v: cp.quad_form(v.C @ v.x - v.c, M),
    "quad_form_concave": lambda v: -cp.quad_form(v.C @ v.x - v.c, -M),
    "quad_form_complex": lambda v: cp.quad_form(v.C @ v.z - 1, M.astype(complex)),
    "quad_over_lin": lambda v: cp.quad_over_lin(v.x - v.c, v.s + 1),
    "sigma_max": lambda v: cp.sigma_max(v.X - v.C / 2),
    "sum_largest": lambda v: cp.sum_largest(v.x, 2),
    "sum_largest_fraction": lambda v: cp.sum_largest(v.x - v.c, 1.5),
    "sum_smallest": lambda v: -cp.sum_smallest(v.x, 1.5),
    "sum_squares": lambda v: cp.sum_squares(v.C @ v.x - v.c),
    "tv": lambda v: cp.tv(v.x - v.c),
    "tr_inv": lambda v: cp.tr_inv(v.S),
    "von_neumann_entr": lambda v: -cp.von_neumann_entr(v.S),
    "std": lambda v: cp.std(v.x - v.c),
    "var": lambda v: cp.var(v.x - v.c),
    "ptp": lambda v: cp.ptp(v.x - v.c),
    "quantum_rel_entr": lambda v: cp.quantum_rel_entr(v.S, np.eye(3), quad_approx=(1, 1)),
    "support": lambda v: _support()(v.x - v.c),
    "partial": lambda v: partial_optimize(_inner(v), [v.t]),
}


@functools.cache
def _support() -> Any:
    y = cp.Variable(3)
    return cp.transforms.suppfunc(y, [cp.norm(y, 2) <= 1.5, y[0] >= -0.2])


def _inner(v: Leaves) -> cp.Problem:
    return cp.Problem(cp.Minimize(cp.quad_form(v.C @ v.x, M) + cp.square(v.t - v.x[0])), [v.t >= v.p])


def problem_of(name: str, place: str) -> cp.Problem:
    leaves = Leaves()
    expression = CONVEX[name](leaves)
    expression = expression if expression.ndim == 0 else cp.sum(expression)
    targets = leaves.targets()
    near = sum(cp.sum_squares(leaf - targets[leaf.name()]) for leaf in expression.variables() if leaf.name() in targets)
    if place == "objective":
        return cp.Problem(cp.Minimize(near + 0.3 * expression))
    return cp.Problem(cp.Minimize(near), [expression <= 6 * leaves.p])


@pytest.mark.parametrize("place", ["objective", "constraint"])
@pytest.mark.parametrize("name", CONVEX)
@pytest.mark.filterwarnings("ignore")
def test_compiles_before_and_after_a_solve(name: str, place: str) -> None:
    problem = problem_of(name, place)
    assert problem.is_dpp()
    parameters = parameters_of(problem)
    variables = problem.variables()
    values = [POINT[parameter.name()] for parameter in parameters]

    def solved() -> tuple[np.ndarray, ...]:
        return Layer.from_problem(problem, parameters, variables, solver="CLARABEL")(*values)

    before = solved()
    for parameter, value in zip(parameters, values, strict=True):
        parameter.value = value
    try:
        problem.solve(solver=cp.CLARABEL, ignore_dpp=True)
    except AttributeError:
        assert name == "partial"  # CVXPY fails on a sum with a partial minimization
        return
    kept = [variable.value.copy() for variable in variables]
    assert_all_close(solved(), before, 1e-9, name)
    assert_all_close(before, kept, 2e-4, name)
    assert all(np.array_equal(v.value, k) for v, k in zip(variables, kept, strict=True)), "the values are left alone"


def test_perspectives_of_several_second_order_cones() -> None:
    """CVXPY takes them for one cone; s f(x / s) for f = sum of norms and of x**1.5 by hand."""
    X, x, s, c = cp.Variable((2, 3)), cp.Variable(2), cp.Variable(nonneg=True), cp.Parameter(2)
    near = cp.sum_squares(X - 1) + cp.sum_squares(x - c) + cp.square(s - 1)
    columns = cp.sum(cp.norm(X, 2, axis=0))
    one = cp.Problem(cp.Minimize(near + cp.perspective(columns + cp.sum_squares(x), s)))
    other = cp.Problem(cp.Minimize(near + columns + cp.quad_over_lin(x, s)))
    value = np.array([0.7, -1.1])
    found, expected = (Layer.from_problem(problem, [c], [X, x, s])(value) for problem in (one, other))
    assert_all_close(found, expected, 1e-5, "perspective")
    power = cp.Problem(cp.Minimize(near + cp.perspective(cp.sum(cp.power(x, 1.5, approx=False)), s)))
    u, w = Layer.from_problem(power, [c], [x, s])(np.array([1.7, 2.1]))
    slopes = 2 * (u - [1.7, 2.1]) + 1.5 * np.sqrt(u / w)
    assert_close(slopes, np.zeros(2), 1e-5, "stationary in x")
    assert_close(2 * (w - 1) - 0.5 * np.sum((u / w) ** 1.5), 0.0, 1e-5, "stationary in s")


def test_quadratic_forms_with_parameters_in_the_matrix_or_the_argument() -> None:
    x, c = cp.Variable(3), cp.Parameter(3)
    P, A = cp.Parameter((3, 3), PSD=True), cp.Parameter((3, 3))
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + cp.quad_form(A @ x - 1, M) - 2 * c @ x))
    values = [M @ M, POINT["C"], POINT["c"]]
    (found,) = Layer.from_problem(problem, [P, A, c], [x])(*values)
    expected = np.linalg.solve(values[0] + values[1].T @ M @ values[1], values[2] + values[1].T @ M @ np.ones(3))
    assert_close(found, expected, 1e-6, "x")


@pytest.mark.parametrize("atom", [lambda q: cp.maximum(q, 1), cp.exp, cp.square])
def test_a_parametric_quadratic_form_inside_an_atom_is_refused(atom: Callable[[Any], Any]) -> None:
    x, P = cp.Variable(3, name="x"), cp.Parameter((3, 3), PSD=True, name="P")
    with pytest.raises(NotDPPError, match=r"not inside .*sum_squares\(S @ x\)"):
        cvxlayers.compile(cp.Problem(cp.Minimize(atom(cp.quad_form(x, P)))))


def test_the_exponents_of_a_power_cone_are_no_parameters() -> None:
    x, a = cp.Variable(3), cp.Parameter(name="a", value=0.3)
    with pytest.raises(cvxlayers.CompileError, match=r"exponents of the constraint .*'a'"):
        cvxlayers.compile(cp.Problem(cp.Minimize(cp.norm(x)), [cp.PowCone3D(x[0], x[1], x[2], a)]))
