"""Which subexpression breaks the DPP rules, and how to write it instead.

A problem is DPP if it is DCP when every parameter counts as affine instead of constant, where a product counts as
affine if one factor is affine in the parameters and free of variables and the other is free of parameters (Agrawal,
Amos, Barratt, Boyd, Diamond, Kolter 2019). A quadratic objective that stays one may have parameters in the matrices of
its quadratic forms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.atoms.suppfunc import SuppFuncAtom
from cvxpy.reductions.dcp2cone.canonicalizers import CANON_METHODS
from cvxpy.utilities import scopes

from cvxlayers.compiler.advice import advice, not_affine
from cvxlayers.compiler.prepare import plain_objective
from cvxlayers.compiler.rules import Offence, smallest_offender
from cvxlayers.compiler.wording import short

__all__ = ["dpp_offence"]


def dpp_offence(problem: cp.Problem, gp: bool, quadratic: bool) -> Offence | None:
    """The first subexpression of a convex problem that keeps it from being DPP, or None if it is."""
    for where, expression, fits, wanted, scope in _refused_parts(problem, gp, quadratic and not gp):
        with scope:
            smallest = smallest_offender(expression, fits)
            broken, obeys = (expression, wanted) if smallest is None else (smallest, fits)
            culprit = not_affine(broken, gp, obeys)
            culprit = broken if culprit is None else culprit
            return Offence(short(culprit), where, *advice(culprit, obeys, gp, where == "the objective"))
    return None


_Part = tuple[str, Any, "_Test", "_Test", AbstractContextManager[None]]


def _refused_parts(problem: cp.Problem, gp: bool, quadratic: bool) -> Iterator[_Part]:
    """Where a refused part stands, the expression, what obeys in itself and in its place, and the scope to ask in."""
    fits, low, high, flat = (_Test(kind, gp) for kind in ("fits", "convex", "concave", "affine"))
    side = "convex" if isinstance(problem.objective, cp.Minimize) else "concave"
    own, whole = (_Test(kind, gp, quadratic, prepared=not gp) for kind in ("fits", side))
    constraints, objective = list(problem.constraints), problem.objective.expr
    if not gp:
        objective = plain_objective(objective, False, constraints)
    with _scope(quadratic):
        accepted = whole(objective)
    if not accepted:
        yield "the objective", objective, own, whole, _scope(quadratic)
    tests = {cp.constraints.Inequality: (low, high), cp.constraints.NonNeg: (high,), cp.constraints.NonPos: (low,)}
    for constraint in constraints:
        with _scope(False):
            if _obeys(constraint, gp):
                continue
            wanted = tests.get(type(constraint), (flat,) * len(constraint.args))
            sides = [(s, test) for s, test in zip(constraint.args, wanted, strict=True) if not (fits(s) and test(s))]
        expression, test = (sides or [(constraint.args[0], wanted[0])])[0]
        yield f"the constraint '{short(constraint)}'", expression, fits, test, _scope(False)
    for variable in problem.variables():
        for bound in variable.attributes.get("bounds") or ():
            with _scope(False):
                accepted = not isinstance(bound, cp.Expression) or flat(bound)
            if not accepted:
                yield f"the bounds of variable '{variable.name()}'", bound, fits, flat, _scope(False)


@dataclass(frozen=True)
class _Test:
    """Whether an expression follows the rules and, with another kind than "fits", has that curvature.

    With ``prepared`` after the rewrites that every objective undergoes; ``quadratic`` as there.
    """

    kind: str
    gp: bool
    quadratic: bool = False
    prepared: bool = False

    def __call__(self, expression: Any) -> bool:
        added: list[cp.Constraint] = []
        if self.prepared:
            expression = plain_objective(expression, self.quadratic, added)
        rule = f"is_{'log_log_' * self.gp}{self.kind}" if self.kind != "fits" else "is_dgp" if self.gp else "is_dcp"
        if not getattr(expression, rule)() or not _supports_follow(expression):
            return False
        with _scope(False):
            return not (self.quadratic and _is_buried(expression)) and all(_obeys(one, self.gp) for one in added)


def _obeys(constraint: cp.Constraint, gp: bool) -> bool:
    if not (constraint.is_dgp() if gp else constraint.is_dcp()):
        return False
    return all(_supports_follow(side) for side in constraint.args)


@contextmanager
def _scope(quadratic: bool) -> Iterator[None]:
    """Parameters count as affine; with ``quadratic`` they may stand in the matrix of a quadratic form."""
    before = scopes.quad_form_dpp_scope_active()
    with scopes.dpp_scope(), scopes.quad_form_dpp_scope():
        scopes._thread_local.quad_form_dpp_scope_active = quadratic
        try:
            yield
        finally:
            scopes._thread_local.quad_form_dpp_scope_active = before


def _supports_follow(expression: Any) -> bool:
    """CVXPY takes a support function for convex whatever parameters do in its argument."""
    if isinstance(expression, SuppFuncAtom) and not expression.args[0].is_affine():
        return False
    return all(_supports_follow(argument) for argument in _below(expression))


def _is_buried(expression: Any) -> bool:
    """Whether a quadratic form with a parametric matrix stands inside an atom, where CVXPY would need its value."""
    nonlinear = type(expression) in CANON_METHODS and not isinstance(expression, QuadForm)
    if nonlinear and any(_has_parametric_form(argument) for argument in _below(expression)):
        return True
    return any(_is_buried(argument) for argument in _below(expression))


def _has_parametric_form(expression: Any) -> bool:
    if isinstance(expression, QuadForm) and expression.args[1].parameters():
        return True
    return any(_has_parametric_form(argument) for argument in _below(expression))


def _below(expression: Any) -> list[Any]:
    return [argument for argument in expression.args if isinstance(argument, cp.Expression)]
