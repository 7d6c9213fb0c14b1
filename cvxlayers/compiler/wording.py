"""Expressions as the caller wrote them: CVXPY's own text shows what its functions expand to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.affine.binary_operators import DivExpression, MulExpression, multiply
from cvxpy.atoms.affine.hstack import Hstack
from cvxpy.atoms.affine.index import index, special_index
from cvxpy.atoms.affine.promote import Promote
from cvxpy.atoms.affine.transpose import transpose
from cvxpy.atoms.affine.unary_operators import NegExpression
from cvxpy.atoms.affine.vstack import Vstack
from cvxpy.atoms.elementwise.power import Power
from cvxpy.atoms.perspective import perspective
from cvxpy.atoms.pnorm import Pnorm
from cvxpy.atoms.quad_over_lin import quad_over_lin

__all__ = ["atom_name", "short", "written"]

_NAMES = {
    "QuadForm": "quad_form", "Sum": "sum", "Trace": "trace", "MatrixFrac": "matrix_frac", "GeoMean": "geo_mean",
    "GeoMeanApprox": "geo_mean", "Prod": "prod", "diag_vec": "diag", "diag_mat": "diag", "Concatenate": "concatenate",
    "SuppFuncAtom": "the support function", "PartialProblem": "partial_optimize",
}  # fmt: skip
_POWERS = {0.5: "sqrt", -1.0: "inv_pos"}
_SUM, _PRODUCT, _CALL = 0, 1, 2
_QUOTE = "'"
_DENOMINATOR = 1024  # of the fractions that CVXPY approximates exponents with


def short(expression: object, length: int = 120) -> str:
    """The text of an expression or a constraint, cut where it is long."""
    text = written(expression)
    return text if len(text) <= length else text[: length - 3] + "..."


def atom_name(expression: Any) -> str:
    """What the caller calls an atom: "the product", "exp"."""
    names = {MulExpression: "the product", multiply: "the elementwise product", DivExpression: "the quotient",
             AddExpression: "the sum"}  # fmt: skip
    if type(expression) in names:
        return names[type(expression)]
    if isinstance(expression, Power):
        return f"'{_POWERS.get(float(expression.p.value), 'power')}'" if expression.p.value is not None else "'power'"
    if isinstance(expression, Pnorm):
        return "'norm'"
    if _is_sum_of_squares(expression):
        return "'sum_squares'"
    return f"'{_NAMES.get(type(expression).__name__, type(expression).__name__)}'"


def written(expression: object) -> str:
    """The text of an expression or a constraint in the syntax of Python."""
    if isinstance(expression, cp.Expression):
        return _written(expression)[0]
    if not isinstance(expression, cp.constraints.constraint.Constraint) or expression.label is not None:
        return str(expression)
    sides = [written(side) for side in expression.args]
    match expression:
        case cp.constraints.Equality() | cp.constraints.Zero():
            return " == ".join([*sides, "0"][:2])
        case cp.constraints.Inequality() | cp.constraints.NonPos():
            return " <= ".join([*sides, "0"][:2])
        case cp.constraints.NonNeg():
            return f"{sides[0]} >= 0"
        case cp.constraints.PSD():
            return f"{sides[0]} >> 0"
    return f"{type(expression).__name__}({', '.join(sides)})"


def _written(expression: Any) -> tuple[str, int]:
    """The text, and how tightly its outermost operation binds."""
    for kinds, writer in _WRITERS:
        if isinstance(expression, kinds):
            return writer(expression)
    return str(expression), _CALL


def _inside(expression: Any, binding: int) -> str:
    text, own = _written(expression)
    return text if own >= binding else f"({text})"


def _constant(expression: cp.Constant) -> tuple[str, int]:
    value = expression.value
    if np.size(value) == 1 and np.isrealobj(value):
        number = float(np.asarray(value).ravel()[0])
        return f"{number:g}", _CALL if number >= 0 else _SUM
    return f"<constant of shape {expression.shape}>", _CALL


def _sum(expression: Any) -> tuple[str, int]:
    text = ""
    for term in expression.args:
        bare = _bare(term)
        sign, bare = (" - ", bare.args[0]) if isinstance(bare, NegExpression) else (" + ", bare)
        binding = _PRODUCT if sign == " - " else _SUM
        text += (sign if text else sign.strip().replace("+", "")) + _inside(bare, binding)
    return text, _SUM


def _bare(expression: Any) -> Any:
    return _bare(expression.args[0]) if isinstance(expression, Promote) else expression


def _negation(expression: Any) -> tuple[str, int]:
    return f"-{_inside(expression.args[0], _PRODUCT)}", _SUM


def _product(expression: Any) -> tuple[str, int]:
    left, right = (_bare(argument) for argument in expression.args)
    scalar = left.size == 1 or right.size == 1
    if isinstance(expression, multiply) and not scalar:
        return f"multiply({written(left)}, {written(right)})", _CALL
    sign = {MulExpression: "@", DivExpression: "/"}.get(type(expression), "*") if not scalar else "*"
    sign = "/" if isinstance(expression, DivExpression) else sign
    return f"{_inside(left, _PRODUCT)} {sign} {_inside(right, _CALL)}", _PRODUCT


def _power(expression: Any) -> tuple[str, int]:
    base, exponent = expression.args[0], expression.p
    if exponent.value is not None and float(exponent.value) in _POWERS:
        return f"{_POWERS[float(exponent.value)]}({written(base)})", _CALL
    return f"{_inside(base, _CALL)}**{_inside(exponent, _CALL)}", _CALL


def _is_sum_of_squares(expression: Any) -> bool:
    return isinstance(expression, quad_over_lin) and isinstance(expression.args[1], cp.Constant) and (
        expression.args[1].size == 1 and float(np.asarray(expression.args[1].value).ravel()[0]) == 1.0
    )  # fmt: skip


def _call(expression: Any) -> tuple[str, int]:
    """An atom of the form name(arguments, options): options that are off are left out."""
    arguments = [written(argument) for argument in expression.args]
    if _is_sum_of_squares(expression):
        arguments = arguments[:1]
    axis = getattr(expression, "axis", None)
    for option in () if type(expression).__name__.startswith("GeoMean") else expression.get_data() or ():
        if isinstance(option, str):
            arguments.append(f"order='{option}'")
        elif isinstance(option, cp.Expression | tuple | float | int):
            if option is axis or isinstance(option, bool) or (isinstance(option, int) and option == _DENOMINATOR):
                continue
            arguments.append(written(option))
    if axis is not None:
        arguments.append(f"axis={axis}")
    return f"{atom_name(expression).strip(_QUOTE)}({', '.join(arguments)})", _CALL


def _matrix(expression: Any) -> tuple[str, int]:
    name = "hstack" if isinstance(expression, Hstack) else "vstack"
    return f"{name}([{', '.join(written(argument) for argument in expression.args)}])", _CALL


def _element(expression: Any) -> tuple[str, int]:
    argument = expression.args[0]
    return _inside(argument, _CALL) + expression.name()[len(argument.name()) :], _CALL


def _perspective(expression: Any) -> tuple[str, int]:
    return f"perspective({written(expression.f)}, {written(expression.args[0])})", _CALL


_WRITERS: list[tuple[Any, Callable[[Any], tuple[str, int]]]] = [
    (cp.Constant, _constant),
    ((cp.Variable, cp.Parameter), lambda leaf: (leaf.name(), _CALL)),
    (AddExpression, _sum),
    (NegExpression, _negation),
    (Promote, lambda expression: _written(expression.args[0])),
    ((MulExpression, multiply, DivExpression), _product),
    (Power, _power),
    ((Hstack, Vstack), _matrix),
    ((index, special_index), _element),
    (transpose, lambda expression: (f"{_inside(expression.args[0], _CALL)}.T", _CALL)),
    (perspective, _perspective),
    (cp.atoms.atom.Atom, _call),
]
