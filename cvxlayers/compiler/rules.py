"""Which subexpression breaks the DCP or DGP rules, which rule it is, and how to write it instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.quad_form import QuadForm

from cvxlayers.compiler.wording import atom_name, short

__all__ = ["Offence", "curvature_offence", "smallest_offender"]


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
    fits: Callable[[cp.Expression], bool] = (lambda e: e.is_dgp()) if gp else (lambda e: e.is_dcp())
    for where, expression, wanted in _refused_parts(problem, gp):
        smallest = smallest_offender(expression, fits)
        if smallest is None:
            return _misplaced(where, expression, wanted, gp)
        if isinstance(smallest, cp.Variable | cp.Parameter):
            return _undeclared(where, smallest)
        if isinstance(smallest, Power) and smallest.p.parameters():
            return Offence(short(smallest.args[0]), where, *_PARAMETRIC_EXPONENT)
        return Offence(short(smallest), where, *_explain(smallest, gp))
    return Offence(
        short(problem.objective.expr), "the problem", "it does not follow the rules.", "See the CVXPY documentation."
    )


def _refused_parts(problem: cp.Problem, gp: bool) -> Iterator[tuple[str, cp.Expression, str]]:
    """The objective, if it is refused, and each refused constraint: (where, expression, wanted curvature)."""
    objective = problem.objective
    if not (objective.is_dgp() if gp else objective.is_dcp()):
        yield "the objective", objective.expr, "convex" if isinstance(objective, cp.Minimize) else "concave"
    for constraint in problem.constraints:
        if not (constraint.is_dgp() if gp else constraint.is_dcp()):
            yield f"the constraint '{short(constraint)}'", *_offending_side(constraint, gp)


def _offending_side(constraint: cp.Constraint, gp: bool) -> tuple[cp.Expression, str]:
    """The side of a constraint that breaks the rules by itself or, failing that, has the wrong curvature."""
    sides = constraint.args
    broken = [side for side in sides if not (side.is_dgp() if gp else side.is_dcp())]
    if not isinstance(constraint, cp.constraints.Inequality):
        curved = [side for side in sides if not (side.is_log_log_affine() if gp else side.is_affine())]
        wanted = {cp.constraints.NonNeg: "concave", cp.constraints.NonPos: "convex"}.get(type(constraint), "affine")
        return (broken or curved or sides)[0], wanted
    left, right = sides
    if broken:
        return broken[0], "convex" if broken[0] is left else "concave"
    low = left.is_log_log_convex() if gp else left.is_convex()
    return (right, "concave") if low else (left, "convex")


def smallest_offender(expression: Any, fits: Callable[[Any], bool]) -> Any:
    """The deepest subexpression that does not fit while all its arguments do; None if the expression fits."""
    if fits(expression):
        return None
    for argument in expression.args:
        if isinstance(argument, cp.Expression):
            found = smallest_offender(argument, fits)
            if found is not None:
                return found
    return expression


def _explain(smallest: Any, gp: bool) -> tuple[str, str]:
    """The rule and a rewrite; a declaration that is all that is missing is tried first."""
    if not gp and isinstance(smallest, QuadForm):
        return _explain_quad_form(smallest)
    arguments = ", ".join(f"'{short(a)}' is {_curvature(a, gp)}" for a in smallest.args)
    rule = f"{atom_name(smallest)} of these arguments ({arguments or 'none'}) has no known curvature."
    if not gp:
        for leaf in {leaf.id: leaf for leaf in [*smallest.parameters(), *smallest.variables()]}.values():
            for attribute in ("nonneg", "nonpos", "PSD", "NSD"):
                if _would_fit(smallest, leaf, attribute):
                    return rule, f"If its values allow it, declare '{leaf.name()}' so: {_declaration(leaf, attribute)}."
    return rule, (
        "Rewrite it with an atom that is convex, concave or affine in these arguments "
        "(log-log so, for gp=True), or constrain the arguments' signs."
    )


def _would_fit(expression: Any, leaf: Any, attribute: str) -> bool:
    """Whether the expression would follow the rules if one leaf had one more attribute."""
    if any(v is not None and v is not False for v in leaf.attributes.values()) or leaf.is_complex():
        return False
    square = len(leaf.shape) == 2 and leaf.shape[0] == leaf.shape[1]
    if attribute in ("PSD", "NSD") and not square:
        return False
    declared = type(leaf)(leaf.shape, **{attribute: True})
    try:
        return bool(expression.tree_copy(id_objects={id(leaf): declared}).is_dcp())
    except (ValueError, TypeError, AttributeError, AssertionError):
        return False  # an atom that cannot be built anew, or not of such a leaf


def _declaration(leaf: Any, attribute: str) -> str:
    """The line that declares a leaf with an attribute."""
    return f"cvxpy.{type(leaf).__name__}({leaf.shape}, {attribute}=True)"


def _explain_quad_form(expression: QuadForm) -> tuple[str, str]:
    """Why quad_form(x, P) is neither convex nor concave, parameters counting as constants."""
    argument, matrix = expression.args
    if matrix.is_psd() or matrix.is_nsd():
        return (
            f"the curvature of '{short(argument)}' is {_curvature(argument, False)}, where quad_form needs an affine "
            "argument, or one that it is monotone in.",
            "Give it a variable t in its place, and constrain t.",
        )
    if matrix.variables():
        return (
            f"its matrix '{short(matrix)}' depends on variables.",
            "For a convex function of both write matrix_frac(x, S), which is x'S^-1 x.",
        )
    if isinstance(matrix, cp.Constant):
        value = matrix.value
        eigenvalues = np.linalg.eigvalsh(value.toarray() if sp.issparse(value) else value)
        least, largest = eigenvalues[0], eigenvalues[-1]
        return (
            f"its matrix has the eigenvalues {least:.3g} and {largest:.3g}: it is neither positive nor negative "
            "semidefinite.",
            "Use a semidefinite matrix; if rounding made it indefinite, wrap it: cvxpy.psd_wrap(matrix).",
        )
    rule = f"'{short(matrix)}' is not known to be positive semidefinite, which makes quad_form convex."
    wrap = f"wrap it where it stands: cvxpy.psd_wrap({short(matrix)})"
    if not isinstance(matrix, cp.Parameter):
        return rule, f"If it is for all values, {wrap}; or declare its parameters with signs and PSD=True."
    instead = next((f" in place of {name}=True" for name in ("symmetric", "hermitian") if matrix.attributes[name]), "")
    if not matrix.is_complex():
        return rule, f"Declare it with PSD=True{instead}: {_declaration(matrix, 'PSD')}; NSD=True makes it concave."
    return rule, (
        f"If its values are real, declare it with PSD=True{instead}: {_declaration(matrix, 'PSD')}; if they are "
        f"complex, {wrap}."
    )


_PARAMETRIC_EXPONENT = (
    "it is raised to a power that is a parameter, whose curvature depends on the parameter's value.",
    "Make the exponent a number; in a log-log convex program (gp=True) it may be a parameter.",
)


def _undeclared(where: str, leaf: Any) -> Offence:
    """A leaf that is not positive in a log-log convex program."""
    kind = type(leaf).__name__
    return Offence(
        short(leaf), where,
        f"in a log-log convex program every {kind.lower()} that is not an exponent must be positive.",
        f"Declare it so: {_declaration(leaf, 'pos')}.",
    )  # fmt: skip


def _misplaced(where: str, expression: cp.Expression, wanted: str, gp: bool) -> Offence:
    return Offence(
        short(expression), where,
        f"its curvature is {_curvature(expression, gp)}, where it must be {'log-log ' * gp}{wanted}.",
        "Turn the inequality or the objective round, or replace the expression by one of the right curvature.",
    )  # fmt: skip


def _curvature(expression: Any, gp: bool) -> str:
    return str(expression.log_log_curvature if gp else expression.curvature).lower()
