"""DPP advice, applied: the message names what is at fault, and what it says compiles and has CVXPY's solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import NotConvexError, NotDPPError
from cvxlayers.layer.layer import Layer
from tests.support.tolerance import assert_close

p, c = cp.Parameter(3, name="p"), cp.Parameter(3, name="c")
q, s = cp.Parameter(pos=True, name="q"), cp.Parameter(nonneg=True, name="s")
K, A = cp.Parameter((2, 2), name="K"), cp.Parameter((3, 3), name="A")
P = cp.Parameter((3, 3), PSD=True, name="P")
x, y, w = cp.Variable(3, name="x"), cp.Variable(name="y"), cp.Variable(nonneg=True, name="w")
X = cp.Variable((2, 2), name="X")
HALF = np.array([[1.0, 0.4, 0.0], [0.0, 0.9, -0.3], [0.2, 0.0, 0.7]])
VALUES: dict[str, Any] = {
    "p": np.array([0.7, -0.4, 1.1]), "c": np.array([1.2, 0.3, -0.8]), "q": 1.7, "s": 0.6,
    "K": np.array([[1.0, 0.3], [-0.5, 0.8]]), "A": HALF.T, "P": HALF.T @ HALF,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A term of an objective, texts of the message, and what the advice makes of it: (term, constraints, values)."""

    name: str
    term: Callable[[], Any]
    texts: tuple[str, ...]
    rewritten: Callable[[], tuple[Any, list[Any], dict[Any, Any]]]


def with_parameter(build: Callable[[cp.Parameter], Any], value: Any, **attributes: bool) -> Any:
    new = cp.Parameter(np.shape(value), **attributes)
    return build(new), [], {new: value}


def with_variable(build: Callable[[cp.Variable], Any], equal: Any) -> Any:
    t = cp.Variable(equal.shape)
    return build(t), [t == equal], {}


ROWS = [
    Row("convolution", lambda: cp.sum_squares(cp.convolve(p, x) - 1),
        ("'convolve(p, x)'", "Write the matrix", "sum(p[i] * numpy.eye(5, 3, -i) for i in range(3)) @ x"),
        lambda: (cp.sum_squares(sum(p[i] * np.eye(5, 3, -i) for i in range(3)) @ x - 1), [], {})),
    Row("kronecker_left", lambda: cp.sum_squares(cp.kron(K, X) - 1),
        ("cvxpy.bmat([[K[i, j] * X for j in range(2)] for i in range(2)])",),
        lambda: (cp.sum_squares(cp.bmat([[K[i, j] * X for j in range(2)] for i in range(2)]) - 1), [], {})),
    Row("kronecker_right", lambda: cp.sum_squares(cp.kron(X, K) - 1),
        ("cvxpy.bmat([[X[i, j] * K for j in range(2)] for i in range(2)])",),
        lambda: (cp.sum_squares(cp.bmat([[X[i, j] * K for j in range(2)] for i in range(2)]) - 1), [], {})),
    Row("square_in_a_square", lambda: cp.square(y - s**2), ("subexpression 's**2'", "cvxpy.Parameter((), nonneg=True)"),
        lambda: with_parameter(lambda new: cp.square(y - new), 0.36, nonneg=True)),
    Row("scaled_power", lambda: cp.sum(cp.exp(3 * s**3 * x + c)), ("subexpression 's**3'",),
        lambda: with_parameter(lambda new: cp.sum(cp.exp(3 * new * x + c)), 0.216, nonneg=True)),
    Row("divisor_of_squares", lambda: cp.quad_over_lin(x - c, q), ("'q' depends on parameters", "t == q"),
        lambda: with_variable(lambda t: cp.quad_over_lin(x - c, t), q)),
    Row("divisor_of_squares_alone", lambda: cp.quad_over_lin(x, q), ("'q' depends", "Or write r * sum_squares(x)"),
        lambda: with_parameter(lambda r: r * cp.sum_squares(x), 1 / 1.7, nonneg=True)),
    Row("division", lambda: cp.norm(x / q), ("divides by", "1 / (q)"),
        lambda: with_parameter(lambda r: cp.norm(r * x), 1 / 1.7, nonneg=True)),
    Row("product_of_parameters", lambda: cp.norm1(q * s * x), ("'q' and 's'", "value of 'q * s'"),
        lambda: with_parameter(lambda new: cp.norm1(new * x), 1.7 * 0.6)),
    Row("weighted_norm", lambda: s * cp.norm1(A @ x - c), ("t == A @ x", "in the place of"),
        lambda: with_variable(lambda t: s * cp.norm1(t), A @ x - c)),
    Row("parametric_weights", lambda: s * cp.huber(x[0], q), ("t >= huber(x[0], q)",),
        lambda: (lambda t: (s * t, [t >= cp.huber(x[0], q)], {}))(cp.Variable(nonneg=True))),
    Row("weighted_form", lambda: s * cp.quad_form(x, P), ("quad_form(x, R)", "value of s * P"),
        lambda: with_parameter(lambda R: cp.quad_form(x, R), 0.6 * HALF.T @ HALF, PSD=True)),
    Row("form_and_argument", lambda: cp.quad_form(x - c, P), ("'x - c'", "t == x - c", "as the argument"),
        lambda: with_variable(lambda t: cp.quad_form(t, P), x - c)),
    Row("form_in_an_atom", lambda: cp.exp(cp.quad_form(x, P) / 4), ("not inside 'exp'", "sum_squares(S @ x)"),
        lambda: with_parameter(lambda S: cp.exp(cp.sum_squares(S @ x) / 4), HALF)),
    Row("perspective", lambda: cp.perspective(cp.sum_squares(x - c), w), ("'c'", "u == x + (-c) * w"),
        lambda: with_variable(lambda u: cp.perspective(cp.sum_squares(u), w), x - c * w)),
    Row("perspective_factor", lambda: cp.perspective(s * cp.sum_squares(x), w), ("s * perspective(sum_squares(x), w)",),
        lambda: (s * cp.perspective(cp.sum_squares(x), w), [], {})),
    Row("matrix_product", lambda: cp.norm(A @ (A @ x) - 1), ("both factors", "t == A @ x"),
        lambda: with_variable(lambda t: cp.norm(A @ t - 1), A @ x)),
]  # fmt: skip


def near(term: Any, constraints: list[Any]) -> cp.Problem:
    cost = cp.sum_squares(x - c) + cp.square(y - 1) + cp.sum_squares(X - K) + cp.square(w - 2)
    return cp.Problem(cp.Minimize(cost + term), constraints)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.filterwarnings("ignore")
def test_the_advice_applied(row: Row) -> None:
    problem = near(row.term(), [])
    with pytest.raises(NotDPPError) as caught:
        cvxlayers.compile(problem)
    for text in row.texts:
        assert text in str(caught.value), str(caught.value)
    term, constraints, new = row.rewritten()
    better = near(term, constraints)
    parameters = better.parameters()
    values = [next((v for leaf, v in new.items() if leaf is one), VALUES.get(one.name())) for one in parameters]
    found = Layer.from_problem(better, parameters, [x, y, X, w], solver="CLARABEL")(*values)
    plain = _at_values(row)
    plain.solve(solver=cp.CLARABEL, ignore_dpp=True)
    for one, variable in zip(found, (x, y, X, w), strict=True):
        assert_close(one, variable.value, 1e-4, row.name)


def _at_values(row: Row) -> cp.Problem:
    """The problem as it was written, its parameters set (those of a perspective's function put in as numbers)."""
    for leaf in (p, c, q, s, K, A, P):
        leaf.value = VALUES[leaf.name()]
    if row.name == "perspective":
        return near(cp.quad_over_lin(x - VALUES["c"] * w, w), [])
    if row.name == "perspective_factor":
        return near(VALUES["s"] * cp.quad_over_lin(x, w), [])
    return near(row.term(), [])


@pytest.mark.parametrize("attribute", ["symmetric", "hermitian"])
def test_a_matrix_that_is_not_declared_psd(attribute: str) -> None:
    Q = cp.Parameter((3, 3), name="Q", **{attribute: True})
    with pytest.raises(NotConvexError) as caught:
        cvxlayers.compile(cp.Problem(cp.Minimize(cp.quad_form(x, Q) + cp.sum(x))))
    assert f"PSD=True in place of {attribute}=True: cvxpy.Parameter((3, 3), PSD=True)" in str(caught.value)
    declared = cp.Parameter((3, 3), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, declared) + cp.sum(x)))
    (found,) = Layer.from_problem(problem)(VALUES["P"])
    assert_close(found, -np.linalg.solve(2 * VALUES["P"], np.ones(3)), 1e-6, "x")


def test_a_sign_that_is_not_declared() -> None:
    weight = cp.Parameter(name="weight")
    with pytest.raises(NotConvexError, match=r"declare 'weight' so: cvxpy.Parameter\(\(\), nonneg=True\)"):
        cvxlayers.compile(cp.Problem(cp.Minimize(weight * cp.norm1(x) + cp.sum_squares(x))))


def test_an_indefinite_constant() -> None:
    with pytest.raises(NotConvexError, match="eigenvalues -1 and 2"):
        cvxlayers.compile(cp.Problem(cp.Minimize(cp.quad_form(x, np.diag([-1.0, 1.0, 2.0])))))
