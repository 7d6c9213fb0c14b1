"""How to write an expression that breaks the DPP rules: rule and rewrite, in the caller's syntax.

A rewrite is offered where it is known to be equal and to keep the rules: for atoms that are not treated by name,
because the rewritten atom was asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cvxpy as cp
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.binary_operators import DivExpression, MulExpression, multiply
from cvxpy.atoms.affine.conv import conv, convolve
from cvxpy.atoms.affine.kron import kron
from cvxpy.atoms.perspective import perspective
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.atoms.quad_over_lin import quad_over_lin
from cvxpy.reductions.dcp2cone.canonicalizers import CANON_METHODS

from cvxlayers.compiler.wording import atom_name, short

__all__ = ["advice", "not_affine"]

_Fits = Callable[[Any], bool]
_Advice = tuple[str, str]


def not_affine(expression: Any, gp: bool, fits: _Fits) -> Any:
    """A subexpression of parameters alone that is not affine in them and is to blame, or None.

    Of several, the one whose replacement by a parameter mends the expression, if there is one.
    """
    found = list(_not_affine(expression, gp))
    return next((one for one in found if _mends(expression, one, gp, fits)), found[0] if found else None)


def _not_affine(expression: Any, gp: bool) -> Iterator[Any]:
    if not isinstance(expression, cp.Expression) or not expression.parameters():
        return
    if expression.variables():
        for argument in expression.args:
            yield from _not_affine(argument, gp)
    elif not _is_affine(expression, gp):
        yield _core(expression, gp)


def _core(expression: Any, gp: bool) -> Any:
    """What is left of it without affine operations around the part that is not affine."""
    arguments = [argument for argument in expression.args if isinstance(argument, cp.Expression)]
    broken = [argument for argument in arguments if not _is_affine(argument, gp)]
    rest = [argument for argument in arguments if _is_affine(argument, gp) and argument.parameters()]
    if gp or len(broken) != 1 or type(expression) in CANON_METHODS:
        return expression
    if rest and not isinstance(expression, AddExpression):
        return expression
    return _core(broken[0], gp)


def _is_affine(expression: Any, gp: bool) -> bool:
    return bool(expression.is_log_log_affine() if gp else expression.is_affine())


def _mends(expression: Any, part: Any, gp: bool, fits: _Fits) -> bool:
    try:
        replaced = expression.tree_copy(id_objects={id(part): cp.Parameter(part.shape, **_attributes(part, gp))})
    except (ValueError, TypeError, AttributeError, AssertionError):
        return False  # an atom that cannot be built anew
    return fits(replaced)


def _attributes(expression: Any, gp: bool) -> dict[str, bool]:
    """What is known of an expression's values, as attributes of a leaf in its place."""
    if gp:
        return {"pos": True}
    found = {name: True for name in ("nonneg", "nonpos") if getattr(expression, f"is_{name}")()}
    if len(found) == 2:
        found = {"nonneg": True}
    if expression.ndim == 2 and expression.shape[0] == expression.shape[1] > 1:
        if expression.is_complex():
            return {"hermitian" if expression.is_hermitian() else "complex": True}
        kinds = {"PSD": expression.is_psd(), "NSD": expression.is_nsd(), "symmetric": expression.is_symmetric()}
        found |= {name: True for name in [next((name for name, holds in kinds.items() if holds), None)] if name}
    return found | ({"complex": True} if expression.is_complex() else {})


def _leaf(kind: str, expression: Any, gp: bool = False) -> str:
    attributes = "".join(f", {name}=True" for name in _attributes(expression, gp))
    return f"cvxpy.{kind}({expression.shape}{attributes})"


def advice(expression: Any, fits: _Fits, gp: bool, objective: bool) -> _Advice:
    """The rule that the expression breaks, and a rewrite; ``objective`` says whether it stands there."""
    if not expression.variables() and not isinstance(expression, perspective):
        return _alone(expression, gp)
    if isinstance(expression, perspective):
        return _perspective(expression)
    forms = [form for form in _forms(expression) if form.args[1].parameters()]
    product = isinstance(expression, MulExpression | multiply)
    if forms and not product:
        return _quad_form(forms[0], objective, None if forms[0] is expression else atom_name(expression))
    if isinstance(expression, DivExpression):
        divisor = expression.args[1]
        return (
            f"it divides by an expression that depends on parameters, '{short(divisor)}'.",
            f"Multiply by a parameter instead that holds the value of 1 / ({short(divisor)}): "
            f"{_leaf('Parameter', divisor, gp)}.",
        )
    if isinstance(expression, kron | conv | convolve):
        return _written_out(expression)
    if product and len(expression.args) == 2:
        return _product(expression)
    return _by_stand_ins(expression, fits, gp)


def _alone(expression: Any, gp: bool) -> _Advice:
    """An expression of parameters alone."""
    new = _leaf("Parameter", expression, gp)
    if isinstance(expression, MulExpression | multiply) and all(side.parameters() for side in expression.args):
        left, right = expression.args
        return (
            f"both factors, '{short(left)}' and '{short(right)}', depend on parameters.",
            f"Replace the product by one new {new} and hand in the value of '{short(expression)}'.",
        )
    kind = "log-log affine" if gp else "affine"
    return (
        f"{atom_name(expression)} is not {kind} in its parameters, which count as {kind} where no variable is.",
        f"Replace it by a new {new} and hand in the value of '{short(expression)}'.",
    )


def _forms(expression: Any) -> Iterator[QuadForm]:
    if isinstance(expression, QuadForm):
        yield expression
    for argument in expression.args:
        if isinstance(argument, cp.Expression):
            yield from _forms(argument)


def _quad_form(form: QuadForm, objective: bool, inside: str | None) -> _Advice:
    argument, matrix = form.args
    if argument.parameters():
        return (
            f"the argument '{short(argument)}' and the matrix '{short(matrix)}' of quad_form depend on parameters.",
            f"{_stand_in(argument, 'as the argument')}, so that only the matrix does.",
        )
    root = f"cvxpy.Parameter({matrix.shape}) that holds a square root of the matrix, {short(matrix)} = S'S."
    write = f"rite sum_squares(S @ {_operand(argument)}) with S = {root}"
    if inside is not None:
        rule = f"quad_form with a parameter as its matrix is DPP only as a term of the objective, not inside {inside}."
        return rule, f"W{write}"
    if not objective:
        return (
            "quad_form with a parameter as its matrix is DPP only in the objective, as a term of its own.",
            f"W{write}",
        )
    return (
        "quad_form with a parameter as its matrix needs an engine that takes a quadratic objective.",
        f"Choose such an engine (the default is one), or w{write}",
    )


def _operand(expression: Any) -> str:
    text = short(expression)
    return text if not expression.args or (text.endswith(")") and "(" not in text[:1]) else f"({text})"


def _stand_in(expression: Any, place: str, sign: str = "==") -> str:
    """The advice to put a variable in the place of an expression."""
    variable = f"t = {_leaf('Variable', expression)}" if sign != "==" else f"t = {_plain_variable(expression)}"
    return f"Add a variable, {variable}, with the constraint t {sign} {short(expression)}, and write t {place}"


def _plain_variable(expression: Any) -> str:
    return f"cvxpy.Variable({expression.shape}{', complex=True' * expression.is_complex()})"


def _written_out(expression: Any) -> _Advice:
    """Kronecker products and convolutions, as sums of products."""
    left, right = expression.args
    culprit = left if left.parameters() else right
    rule = f"{atom_name(expression)} takes no parameters where '{short(culprit)}' depends on them, but products do."
    mixed = [side for side in (left, right) if side.parameters() and side.variables()]
    if mixed and left.parameters() and right.parameters():
        return rule, f"First, to separate them: {_stand_in(mixed[0], 'in its place')}."
    a, b = _operand(left), _operand(right)
    if left.size == 1 or right.size == 1:
        return rule, f"Write the product {a} * {b}."
    if not isinstance(expression, kron):
        rows, columns = left.size + right.size - 1, right.size
        shifted = f"sum({a}[i] * numpy.eye({rows}, {columns}, -i) for i in range({left.size})) @ {b}"
        if left.ndim == right.ndim == 1:
            return rule, f"Write the matrix of the convolution: {shifted}."
        return rule, f"Write the matrix of the convolution, with vectors {a} and {b}: {shifted}."
    if left.ndim == 2:
        m, n = left.shape
        return rule, f"Write its blocks: cvxpy.bmat([[{a}[i, j] * {b} for j in range({n})] for i in range({m})])."
    return rule, f"Write its parts: cvxpy.hstack([{a}[i] * {b} for i in range({left.size})])."


def _product(expression: Any) -> _Advice:
    left, right = expression.args
    if not (left.parameters() and right.parameters()):
        factor = left if left.parameters() else right
        return (
            f"the factor '{short(factor)}' holds parameters and variables, and the other factor is not a constant.",
            "Multiply out, so that each product has one factor of parameters alone and one of variables alone.",
        )
    rule = f"both factors, '{short(left)}' and '{short(right)}', depend on parameters."
    mixed, other = (left, right) if left.variables() else (right, left)
    if isinstance(mixed, QuadForm) and mixed.args[1].parameters() and not mixed.args[0].parameters():
        argument, matrix = mixed.args
        return rule, (
            f"Put the factor into the matrix: quad_form({short(argument)}, R) with R = {_leaf('Parameter', matrix)} "
            f"that holds the value of {_operand(other)} * {_operand(matrix)}."
        )
    inner = _affine_part(mixed)
    if inner is not None:
        text = _stand_in(inner, f"in the place of '{short(inner)}'")
        return rule, f"{text}: then the product has one factor without parameters."
    sign = ">=" if mixed.is_convex() else "<="
    return rule, f"{_stand_in(mixed, 'in its place', sign)}: then the product has one factor without parameters."


def _affine_part(expression: Any) -> Any:
    """The outermost affine subexpression that holds parameters and variables, or None."""
    if expression.is_affine():
        return expression if expression.parameters() and expression.variables() else None
    found = (_affine_part(argument) for argument in expression.args)
    return next((part for part in found if part is not None), None)


def _perspective(expression: perspective) -> _Advice:
    function, scale = expression.f, short(expression.args[0])
    names = ", ".join(f"'{parameter.name()}'" for parameter in function.parameters())
    rule = f"the function of a perspective takes no parameters, and '{short(function)}' depends on {names}."
    if isinstance(function, MulExpression | multiply) and any(not side.variables() for side in function.args):
        factor, rest = sorted(function.args, key=lambda side: bool(side.variables()))
        if factor.parameters() and not rest.parameters():
            return rule, f"Take the factor out of it: {_operand(factor)} * perspective({short(rest)}, {scale})."
    part = _parametric_part(function)
    terms = part.args if isinstance(part, AddExpression) else [part]
    scaled = [_operand(term) if term.variables() else f"{_operand(term)} * {scale}" for term in terms]
    return rule, (
        f"Add a variable, u = cvxpy.Variable({part.shape}), with the constraint u == {' + '.join(scaled)}, in which "
        f"terms without variables are multiplied by {scale}, and write u in the place of '{short(part)}'."
    )


def _parametric_part(expression: Any) -> Any:
    """The outermost affine subexpression that holds parameters; in a sum with curved terms, the term."""
    if expression.is_affine() or not any(argument.parameters() for argument in expression.args):
        return expression
    return next(_parametric_part(argument) for argument in expression.args if argument.parameters())


def _by_stand_ins(expression: Any, fits: _Fits, gp: bool) -> _Advice:
    """Which arguments must be free of parameters, found out by putting variables in their places."""
    suspects = [i for i, argument in enumerate(expression.args) if argument.parameters()]
    for places in [[i] for i in suspects] + ([suspects] if len(suspects) > 1 else []):
        if not _fits_with(expression, places, fits, gp):
            continue
        arguments = [expression.args[i] for i in places]
        names = " and ".join(f"'{short(argument)}'" for argument in arguments)
        rule = f"{atom_name(expression)} takes no parameters there, and {names} depends on parameters."
        texts = []
        for argument in arguments:
            sign = "==" if _is_affine(argument, gp) else ">=" if _is_low(argument, gp) else "<="
            kind = _leaf("Variable", argument, gp) if gp or sign != "==" else _plain_variable(argument)
            name = short(argument)
            texts.append(f"t = {kind} with the constraint t {sign} {name}, and write t in the place of '{name}'")
        rewrite = f"Add a variable, {'; and another, '.join(texts)}."
        return rule, rewrite + _alternative(expression, places)
    names = ", ".join(f"'{short(expression.args[i])}'" for i in suspects) or f"'{short(expression)}'"
    return (
        f"{atom_name(expression)} does not keep its curvature when {names} counts as affine in its parameters.",
        "Give each argument that mixes parameters and variables a variable of its own, equal to it.",
    )


def _is_low(expression: Any, gp: bool) -> bool:
    return bool(expression.is_log_log_convex() if gp else expression.is_convex())


def _fits_with(expression: Any, places: list[int], fits: _Fits, gp: bool) -> bool:
    """Whether the expression obeys with variables in some places of its arguments."""
    arguments = list(expression.args)
    for i in places:
        known = {name: True for name in _attributes(arguments[i], gp) if name in ("nonneg", "nonpos", "pos", "complex")}
        arguments[i] = cp.Variable(arguments[i].shape, **({} if _is_affine(arguments[i], gp) and not gp else known))
    try:
        return fits(expression.copy(arguments))
    except (ValueError, TypeError, AttributeError, AssertionError):
        return False  # an atom that wants a constant there, or cannot be built anew


def _alternative(expression: Any, places: list[int]) -> str:
    if not isinstance(expression, quad_over_lin) or places != [1]:
        return ""
    numerator, divisor = expression.args
    if numerator.parameters() or divisor.variables():
        return ""
    inverse = f"cvxpy.Parameter({divisor.shape}, nonneg=True)"
    text = short(numerator)
    return f" Or write r * sum_squares({text}) with r = {inverse} that holds the value of 1 / ({short(divisor)})."
