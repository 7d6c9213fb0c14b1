"""Which subexpression breaks the DCP, DGP or DPP rules, which rule it is, and how to write it instead.

The DPP rules (Agrawal, Amos, Barratt, Boyd, Diamond, Kolter 2019): a problem is DPP if it is DCP when every parameter
counts
as affine instead of constant, where a product counts as affine if one factor is affine in the parameters and free of
variables
and the other is free of parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import cvxpy as cp
from cvxpy.atoms.affine.binary_operators import DivExpression, MulExpression, multiply
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.expressions.expression import Expression
from cvxpy.utilities import scopes

__all__ = ["Offence", "curvature_offence", "dpp_offence"]


@dataclass(frozen=True)
class Offence:
    """The smallest offending subexpression, where it stands, the rule that it breaks, and a rewrite."""

    expression: str
    where: str
    rule: str
    rewrite: str

    def text(self) -> str:
        """The offence as sentences."""
        place = f"In {self.where}, the subexpression '{self.expression}' is the first to break the rules"
        return f"{place}: {self.rule} {self.rewrite}"


def curvature_offence(problem: cp.Problem, gp: bool) -> Offence:
    """Why the problem is not DCP (or, with gp, not DGP), parameters counting as constants."""
    fits: Callable[[Expression], bool] = (lambda e: e.is_dgp()) if gp else (lambda e: e.is_dcp())
    for where, expression, accepted, wanted in _parts(problem, gp, dpp=False):
        if accepted:
            continue
        smallest = _smallest(expression, fits)
        if smallest is None:
            return _misplaced(where, expression, wanted, gp)
        if isinstance(smallest, cp.Variable | cp.Parameter):
            return _undeclared(where, smallest)
        if isinstance(smallest, Power) and smallest.p.parameters():
            return Offence(_short(smallest.args[0]), where, *_PARAMETRIC_EXPONENT)
        arguments = ", ".join(f"'{_short(a)}' is {_curvature(a, gp)}" for a in smallest.args)
        return Offence(
            _short(smallest), where,
            f"{_atom(smallest)} of these arguments ({arguments or 'none'}) has no known curvature.",
            "Rewrite it with an atom that is convex, concave or affine in these arguments "
            "(log-log so, for gp=True), or constrain the arguments' signs.",
        )  # fmt: skip
    return Offence(
        _short(problem.objective.expr), "the problem", "it does not follow the rules.", "See the CVXPY documentation."
    )


def dpp_offence(problem: cp.Problem, gp: bool, quadratic: bool) -> Offence:
    """Why a convex problem is not DPP."""
    with ExitStack() as stack:
        stack.enter_context(scopes.dpp_scope())
        fits: Callable[[Expression], bool] = (lambda e: e.is_dgp()) if gp else (lambda e: e.is_dcp())
        for where, expression, accepted, wanted in _parts(problem, gp, dpp=True, quadratic=quadratic):
            if accepted:
                continue
            smallest = _smallest(expression, fits)
            if smallest is None:
                return _misplaced_parameter(where, expression, wanted)
            rule, rewrite = _explain(smallest, quadratic, where)
            return Offence(_short(smallest), where, rule, rewrite)
    return Offence(
        _short(problem.objective.expr),
        "the problem",
        "it is not DPP.",
        "Move nonlinear functions of parameters out of it.",
    )


def _parts(
    problem: cp.Problem, gp: bool, dpp: bool, quadratic: bool = False
) -> Iterator[tuple[str, Expression, bool, str]]:
    """The objective and each offending constraint: (where, expression, whether it obeys, wanted curvature)."""
    objective = problem.objective
    if gp:
        accepted = objective.is_dgp(dpp)
    elif dpp and quadratic:
        with scopes.quad_form_dpp_scope():
            accepted = objective.is_dcp(dpp)
    else:
        accepted = objective.is_dcp(dpp)
    wanted = "convex" if isinstance(objective, cp.Minimize) else "concave"
    yield "the objective", objective.expr, accepted, wanted
    for constraint in problem.constraints:
        accepted = constraint.is_dgp(dpp) if gp else constraint.is_dcp(dpp)
        where = f"the constraint '{_short(constraint)}'"
        if accepted:
            continue
        yield where, *_offending_side(constraint, gp)


def _offending_side(constraint: cp.Constraint, gp: bool) -> tuple[Expression, bool, str]:
    """The side of a constraint that breaks the rules by itself or, failing that, has the wrong curvature."""
    sides = constraint.args
    broken = [side for side in sides if not (side.is_dgp() if gp else side.is_dcp())]
    if isinstance(constraint, cp.constraints.Equality | cp.constraints.Zero):
        curved = [side for side in sides if not (side.is_log_log_affine() if gp else side.is_affine())]
        return (broken or curved or sides)[0], False, "affine"
    if broken or len(sides) == 1:
        return (broken or sides)[0], False, "convex"
    left, right = sides[:2]
    low = left.is_log_log_convex() if gp else left.is_convex()
    return (right, False, "concave") if low else (left, False, "convex")


def _smallest(expression: Expression, fits: Callable[[Expression], bool]) -> Expression | None:
    """The deepest subexpression that does not fit while all its arguments do."""
    if fits(expression):
        return None
    for argument in expression.args:
        found = _smallest(argument, fits)
        if found is not None:
            return found
    return expression


def _explain(expression: Expression, quadratic: bool, where: str) -> tuple[str, str]:
    """The DPP rule that a smallest offending expression breaks, and a rewrite."""
    parametrized = [a for a in expression.args if a.parameters()]
    if isinstance(expression, QuadForm):
        if where == "the objective" and not quadratic:
            return (
                "quad_form with a parameter as its matrix needs an engine that takes a quadratic objective.",
                "Choose such an engine (the default is one), or write sum_squares(S @ x) with a parameter S, P = S'S.",
            )
        return (
            "quad_form with a parameter as its matrix is DPP only in the objective, as a term of its own.",
            "Write sum_squares(S @ x) with a parameter S that holds a square root of the matrix, P = S'S.",
        )
    if isinstance(expression, DivExpression):
        divisor = expression.args[1]
        return (
            "it divides by an expression that depends on parameters.",
            f"Multiply by a parameter instead that holds the value of 1 / ({_short(divisor)}).",
        )
    if isinstance(expression, MulExpression | multiply) and len(expression.args) == 2:
        return _explain_product(expression)
    factor = _short(parametrized[0]) if parametrized else _short(expression)
    if not expression.variables():
        return (
            f"{_atom(expression)} is not affine in its parameters.",
            f"Replace it by a new cvxpy.Parameter({expression.shape}) and hand in the value of '{_short(expression)}'.",
        )
    return (
        f"{_atom(expression)} needs an argument that is constant, and '{factor}' depends on parameters.",
        f"Replace '{factor}' by a new cvxpy.Parameter and hand in its value, if it holds parameters alone; "
        "if not, separate parameters and variables.",
    )


def _explain_product(expression: Expression) -> tuple[str, str]:
    left, right = expression.args
    if left.parameters() and right.parameters():
        rule = f"both factors, '{_short(left)}' and '{_short(right)}', depend on parameters."
        mixed = [side for side in (left, right) if side.variables()]
        if not mixed:
            name = _short(expression)
            return rule, f"Replace the product by one new cvxpy.Parameter and hand in the value of '{name}'."
        inner = _affine_part(mixed[0])
        return rule, (
            f"Add a variable, t = cvxpy.Variable({inner.shape}), with the constraint t == {_short(inner)}, "
            "and write t in its place: then the product has one factor without parameters."
        )
    factor = left if left.parameters() else right
    if factor.variables():
        return (
            f"the factor '{_short(factor)}' holds parameters and variables, and the other factor is not a constant.",
            "Multiply out, so that each product has one factor of parameters alone and one of variables alone.",
        )
    return (
        f"the factor '{_short(factor)}' is not affine in its parameters.",
        f"Replace it by a new cvxpy.Parameter({factor.shape}) and hand in the value of '{_short(factor)}'.",
    )


def _affine_part(expression: Expression) -> Expression:
    """The outermost affine subexpression that holds parameters and variables (if none does, the expression)."""
    if expression.is_affine():
        return expression
    for argument in expression.args:
        if argument.parameters() and argument.variables():
            return _affine_part(argument)
    return expression


_PARAMETRIC_EXPONENT = (
    "it is raised to a power that is a parameter, whose curvature depends on the parameter's value.",
    "Make the exponent a number; in a log-log convex program (gp=True) it may be a parameter.",
)


def _undeclared(where: str, leaf: Expression) -> Offence:
    """A leaf that is not positive in a log-log convex program."""
    kind = type(leaf).__name__
    return Offence(
        _short(leaf), where,
        f"in a log-log convex program every {kind.lower()} that is not an exponent must be positive.",
        f"Declare it so: cvxpy.{kind}({leaf.shape}, pos=True).",
    )  # fmt: skip


def _misplaced(where: str, expression: Expression, wanted: str, gp: bool) -> Offence:
    return Offence(
        _short(expression), where,
        f"its curvature is {_curvature(expression, gp)}, where it must be {'log-log ' * gp}{wanted}.",
        "Turn the inequality or the objective round, or replace the expression by one of the right curvature.",
    )  # fmt: skip


def _misplaced_parameter(where: str, expression: Expression, wanted: str) -> Offence:
    return Offence(
        _short(expression), where,
        f"with its parameters counted as affine its curvature is {_curvature(expression, False)}, where it must be "
        f"{wanted}: a nonlinear function of parameters alone stands on the wrong side.",
        "Replace that function by a new cvxpy.Parameter and hand in its value.",
    )  # fmt: skip


def _curvature(expression: Expression, gp: bool) -> str:
    return str(expression.log_log_curvature if gp else expression.curvature).lower()


def _atom(expression: Expression) -> str:
    names = {"MulExpression": "the product", "multiply": "the elementwise product", "DivExpression": "the quotient",
             "Power": "the power", "AddExpression": "the sum"}  # fmt: skip
    name = type(expression).__name__
    return names.get(name, f"the atom '{name}'")


def _short(expression: object, length: int = 120) -> str:
    text = re.sub(r"Promote\(([^()]*), \([^()]*\)\)", r"\1", str(expression))
    return text if len(text) <= length else text[: length - 3] + "..."
