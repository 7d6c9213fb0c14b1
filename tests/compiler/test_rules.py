"""What is no layer, and why: every error names the culprit, the rule and a way to write it instead."""

from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import CompileError, MixedIntegerError, NotConvexError, NotDPPError, UnknownLeafError


def leaves() -> tuple[cp.Variable, cp.Parameter, cp.Parameter]:
    return cp.Variable(3, name="x"), cp.Parameter(3, name="p"), cp.Parameter(3, name="r")


def simple() -> tuple[cp.Problem, cp.Variable, cp.Parameter]:
    x, p, _ = leaves()
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), x, p


def refused(error: type[CompileError], problem: cp.Problem, *texts: str, **arguments: object) -> str:
    """Compiling raises exactly this error, with all these texts in its message."""
    with pytest.raises(CompileError) as caught:
        cvxlayers.compile(problem, **arguments)  # type: ignore[arg-type]
    assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
    message = str(caught.value)
    for text in texts:
        assert text in message, f"{text!r} is not in: {message}"
    return message


def test_not_a_problem() -> None:
    with pytest.raises(CompileError, match=r"problem: expected a cvxpy\.Problem, got Minimize; .*cp\.Problem"):
        cvxlayers.compile(cp.Minimize(cp.Variable()))  # type: ignore[arg-type]


def test_no_variables() -> None:
    refused(CompileError, cp.Problem(cp.Minimize(cp.Parameter())), "problem: it has no variables")


@pytest.mark.parametrize("attribute", ["integer", "boolean"])
def test_integer_variables(attribute: str) -> None:
    k = cp.Variable(2, name="k", **{attribute: True})
    refused(MixedIntegerError, cp.Problem(cp.Minimize(cp.sum(k)), [k >= 0]), "'k'", "relax", "0 <= x <= 1")


def test_finite_sets() -> None:
    x = cp.Variable(name="x")
    problem = cp.Problem(cp.Minimize(x), [cp.constraints.FiniteSet(x, [1, 2, 3])])
    refused(MixedIntegerError, problem, "finite set", "x")


def test_missing_parameters() -> None:
    x, p, r = leaves()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + r @ x))
    refused(UnknownLeafError, problem, "'r' are missing", "'p'", "list all of them", parameters=[p])


def test_unknown_parameters() -> None:
    problem, _, p = simple()
    other = cp.Parameter(3, name="other")
    refused(
        UnknownLeafError, problem, "parameters[1]", "'other' is not in the problem", "'p'", parameters=[p, other]
    )  # fmt: skip


def test_duplicate_leaves() -> None:
    problem, x, p = simple()
    refused(UnknownLeafError, problem, "parameters[1]", "'p' is listed twice", parameters=[p, p])
    refused(UnknownLeafError, problem, "variables[1]", "'x' is listed twice", variables=[x, x])


def test_unknown_variables() -> None:
    problem, _, p = simple()
    other = cp.Variable(name="other")
    message = refused(UnknownLeafError, problem, "variables[0]", "'other'", "'x'", "dual", variables=[other])
    assert "dual_variables[0]" in message
    refused(UnknownLeafError, problem, "variables", "list is empty", "'x'", parameters=[p], variables=[])


@pytest.mark.parametrize("argument", ["parameters", "variables"])
def test_lists_of_the_wrong_type(argument: str) -> None:
    problem, x, p = simple()
    leaf = p if argument == "parameters" else x
    refused(UnknownLeafError, problem, f"{argument}: expected a list or tuple", f"{argument}=[...]", **{argument: leaf})
    refused(
        UnknownLeafError, problem, f"{argument}: expected a list or tuple", "got dict", **{argument: {"leaf": leaf}}
    )
    refused(UnknownLeafError, problem, f"{argument}[0]: expected a cvxpy.", "got str", **{argument: ["x"]})
    refused(UnknownLeafError, problem, f"{argument}[0]: expected a cvxpy.", "got ndarray", **{argument: [np.ones(3)]})


def test_variables_in_place_of_parameters() -> None:
    problem, x, p = simple()
    refused(UnknownLeafError, problem, "parameters[0]: expected a cvxpy.Parameter, got Variable (x)", parameters=[x])
    refused(UnknownLeafError, problem, "variables[0]: expected a cvxpy.Variable, got Parameter (p)", variables=[p])


def test_callback_parameters() -> None:
    x, p, _ = leaves()
    computed = cp.CallbackParam(lambda: 2 * p.value, (3,), name="twice")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - computed)))
    refused(UnknownLeafError, problem, "'twice' is a cvxpy.CallbackParam", "hand in the computed value")


def test_tuples_are_lists() -> None:
    problem, x, p = simple()
    compiled = cvxlayers.compile(problem, (p,), (x,))
    assert [spec.name for spec in compiled.parameters] == ["p"]
    assert [spec.name for spec in compiled.outputs] == ["x"]


def test_not_convex_names_the_smallest_expression() -> None:
    x, p, _ = leaves()
    problem = cp.Problem(cp.Minimize(cp.sum(x) + 3 * cp.sqrt(cp.sum_squares(x) + 1)), [x >= p])
    refused(
        NotConvexError,
        problem,
        "the objective",
        "'sqrt(sum_squares(x) + 1)'",
        "convex",
        "has no known curvature",
    )


def test_not_convex_constraint_and_direction() -> None:
    x, p, _ = leaves()
    wrong = cp.Problem(cp.Minimize(cp.sum(x)), [x >= 0, cp.norm(x - p) >= 1])
    refused(NotConvexError, wrong, "the constraint '1 <= norm(x - p, 2)'", "is convex", "must be concave")
    upside = cp.Problem(cp.Maximize(cp.sum_squares(x - p)))
    refused(NotConvexError, upside, "the objective", "convex", "must be concave")
    curved = cp.Problem(cp.Minimize(cp.sum(x)), [cp.square(x) == p])
    refused(NotConvexError, curved, "the constraint", "must be affine")


def test_hints_between_the_disciplines() -> None:
    u, c = cp.Variable(2, pos=True, name="u"), cp.Parameter(2, pos=True, name="c")
    geometric = cp.Problem(cp.Minimize(u[0] * u[1]), [u[0] * c[0] >= 1 / u[1]])
    refused(NotConvexError, geometric, "log-log convex (DGP), so pass gp=True")
    problem, _, _ = simple()
    refused(NotConvexError, problem, "It is DCP, so leave gp=True out", gp=True)
    x = cp.Variable(name="x", nonneg=True)
    ratio = cp.Problem(cp.Minimize((x + 1) / (x + 2)))
    if ratio.is_dqcp():
        refused(NotConvexError, ratio, "quasiconvex (DQCP)")


def test_dgp_leaves_must_be_positive() -> None:
    u, c = cp.Variable(2, name="u"), cp.Parameter(pos=True, name="c")
    message = refused(NotConvexError, cp.Problem(cp.Minimize(c * u[0])), "'u'", "must be positive", gp=True)
    assert "pos=True" in message


OFFENDERS: list[tuple[str, Callable[[], cp.Problem], str, str, str]] = []


def offender(name: str, expression: str, rule: str, rewrite: str) -> Callable[[Callable[[], cp.Problem]], None]:
    def listed(build: Callable[[], cp.Problem]) -> None:
        OFFENDERS.append((name, build, expression, rule, rewrite))

    return listed


@offender(
    "product_of_parameters",
    "'multiply(p, r)'",
    "both factors, 'p' and 'r', depend on parameters",
    "one new cvxpy.Parameter",
)
def _() -> cp.Problem:
    x, p, r = leaves()
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.multiply(p, r) @ x))


@offender("parameter_times_mixed", "'p @ (r + x)'", "both factors", "t = cvxpy.Variable")
def _() -> cp.Problem:
    x, p, r = leaves()
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + p @ (r + x)))


@offender("division_by_parameter", "'x / p'", "divides by an expression that depends on parameters", "1 / (p)")
def _() -> cp.Problem:
    x, p, _ = leaves()
    p = cp.Parameter(3, name="p", pos=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(x / p)))


@offender("function_of_a_parameter", "'exp(p)", "is not affine in its parameters", "hand in the value of 'exp(p)'")
def _() -> cp.Problem:
    x, p, _ = leaves()
    return cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.exp(p) @ x))


@offender("square_of_a_parameter", "'p**2'", "is not affine in its parameters", "hand in the value of 'p**2'")
def _() -> cp.Problem:
    x, p, _ = leaves()
    return cp.Problem(cp.Minimize(cp.sum(x)), [cp.sum_squares(x) <= cp.sum(cp.power(p, 2))])


@offender("quad_form_in_a_constraint", "quad_form", "quad_form", "sum_squares(S @ x)")
def _() -> cp.Problem:
    x, p, _ = leaves()
    P = cp.Parameter((3, 3), name="P", PSD=True)
    return cp.Problem(cp.Minimize(p @ x), [cp.quad_form(x, P) <= 1])


@pytest.mark.parametrize(
    ("build", "expression", "rule", "rewrite"), [o[1:] for o in OFFENDERS], ids=[o[0] for o in OFFENDERS]
)
def test_dpp_offenders(build: Callable[[], cp.Problem], expression: str, rule: str, rewrite: str) -> None:
    """The problem is DCP but not DPP; the message has the subexpression, the rule and the rewrite."""
    problem = build()
    assert problem.is_dcp()
    refused(NotDPPError, problem, expression, rule, rewrite, "not disciplined in its parameters (DPP)")


def test_the_place_of_a_dpp_offence() -> None:
    x, p, r = leaves()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x >= 0, cp.multiply(p, r) <= x, x <= 10])
    refused(NotDPPError, problem, "In the constraint 'multiply(p, r) <= x', the subexpression 'multiply(p, r)'")


def test_quad_form_without_a_quadratic_engine() -> None:
    x, P = cp.Variable(3, name="x"), cp.Parameter((3, 3), name="P", PSD=True)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + cp.sum(x)))
    assert cvxlayers.compile(problem).structure.quadratic
    refused(NotDPPError, problem, "needs an engine that takes a quadratic objective", "sum_squares(S @ x)",
            quadratic=False)  # fmt: skip


def test_parametric_exponent() -> None:
    x, a = cp.Variable(name="x", pos=True), cp.Parameter(name="a", pos=True)
    with pytest.raises(CompileError) as caught:
        cvxlayers.compile(cp.Problem(cp.Minimize(x), [cp.power(x, a) >= 2]))
    message = str(caught.value)
    assert isinstance(caught.value, NotConvexError | NotDPPError)
    assert "'x'" in message
    assert "raised to a power that is a parameter" in message
    assert "gp=True" in message


def test_parametric_exponent_in_a_geometric_program() -> None:
    x, a = cp.Variable(name="x", pos=True), cp.Parameter(name="a", pos=True)
    compiled = cvxlayers.compile(cp.Problem(cp.Minimize(x), [x**a >= 2]), gp=True)
    (found,) = cvxlayers.Layer(compiled)(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(found, 2.0 ** (1 / np.array([1.0, 2.0, 3.0])), rtol=1e-6)


@pytest.mark.parametrize(("build", "expression", "rule", "rewrite"), [o[1:] for o in OFFENDERS[:1]], ids=["product"])
def test_messages_are_sentences(build: Callable[[], cp.Problem], expression: str, rule: str, rewrite: str) -> None:
    message = refused(NotDPPError, build())
    assert message.startswith("problem: ")
    assert message.endswith(".")
    assert "\n" not in message
