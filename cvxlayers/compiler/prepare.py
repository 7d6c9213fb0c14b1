"""Rewrites of a problem, each into an equal one, before CVXPY canonicalizes it.

A quadratic form of a parameter's affine function gets a variable for its argument: CVXPY's rules for quadratic
objectives take parameters in the matrix or, without them, in the argument, but not in both kinds of terms at once.

A constraint C(arguments) whose dual variables are wanted, and which canonicalization turns into other cones, becomes
C(v) with v == arguments. With the Lagrangian  f - <lambda, arguments>  of CVXPY's convention, and y the multiplier of
v - arguments, stationarity in v reads  -lambda + y = 0: the multiplier of the equality is the wanted dual variable,
whatever C becomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.constraints import PSD, SOC, Equality, ExpCone, Inequality, NonNeg, NonPos, PowCone3D, SvecPSD, Zero
from cvxpy.transforms.partial_optimize import PartialProblem

__all__ = ["Part", "Prepared", "dual_owners", "prepare"]

# Constraints that canonicalization keeps as one block of rows in an order that is known.
_READABLE = (Zero, Equality, NonNeg, NonPos, Inequality, SOC, PSD, SvecPSD, ExpCone, PowCone3D)


@dataclass(frozen=True)
class Part:
    """The real or the imaginary part of a dual variable: expand @ (the dual variable of an equality)."""

    equality: cp.Constraint
    imaginary: bool
    expand: sp.csr_array


@dataclass(frozen=True)
class Prepared:
    """The rewritten problem, and where the dual variables of rewritten constraints are: id of the dual variable."""

    problem: cp.Problem
    duals: dict[int, list[Part]]


def dual_owners(problem: cp.Problem) -> dict[int, tuple[cp.Constraint, int]]:
    """Which constraint each dual variable belongs to, and its position there: id -> (constraint, position)."""
    return {
        variable.id: (constraint, position)
        for constraint in problem.constraints
        for position, variable in enumerate(constraint.dual_variables)
    }


def prepare(problem: cp.Problem, variables: Sequence[cp.Variable], gp: bool, quadratic: bool) -> Prepared:
    """Rewrite what CVXPY would refuse or what would lose a wanted dual variable; the problem itself stays as it is."""
    added: list[cp.Constraint] = []
    objective = problem.objective
    if quadratic and not gp:
        expression = _plain_quadratics(objective.expr, added)
        if expression is not objective.expr:
            objective = type(objective)(expression)
    owners = dual_owners(problem)
    wanted = {owners[variable.id][0].id for variable in variables if variable.id in owners}
    duals: dict[int, list[Part]] = {}
    constraints: list[cp.Constraint] = []
    for constraint in {constraint.id: constraint for constraint in problem.constraints}.values():
        if constraint.id in wanted and not _is_readable(constraint):
            constraints += _lifted(constraint, duals)
        else:
            constraints.append(constraint)
    if objective is problem.objective and len(constraints) == len(problem.constraints) and not duals:
        return Prepared(problem, duals)
    return Prepared(cp.Problem(objective, constraints + added), duals)


def _plain_quadratics(expression: Any, added: list[cp.Constraint]) -> Any:
    """The expression with a variable for the argument of each quadratic form that is more than affine in variables."""
    if isinstance(expression, PartialProblem):
        return _plain_partial(expression)
    changed = [_plain_quadratics(argument, added) for argument in expression.args]
    if any(new is not old for new, old in zip(changed, expression.args, strict=True)):
        expression = expression.copy(changed)
    if not isinstance(expression, QuadForm) or expression.args[1].parameters() or not expression.args[0].variables():
        return expression
    argument, matrix = expression.args
    if argument.is_affine() and not argument.parameters():
        return expression
    stand_in = cp.Variable(
        argument.shape,
        complex=argument.is_complex(),
        nonneg=argument.is_nonneg(),
        nonpos=argument.is_nonpos() and not argument.is_nonneg(),
    )
    if argument.is_affine():
        added.append(stand_in == argument)
    elif argument.is_convex() == expression.is_convex():  # nondecreasing in it, by the rules of composition
        added.append(stand_in >= argument)
    else:
        added.append(stand_in <= argument)
    return QuadForm(stand_in, matrix)


def _plain_partial(expression: PartialProblem) -> PartialProblem:
    inner = expression.args[0]
    added: list[cp.Constraint] = []
    new = _plain_quadratics(inner.objective.expr, added)
    if new is inner.objective.expr:
        return expression
    problem = cp.Problem(type(inner.objective)(new), inner.constraints + added)
    opt_vars = expression.opt_vars + [v for constraint in added for v in constraint.args[0].variables()]
    return PartialProblem(problem, opt_vars, expression.dont_opt_vars, expression.solver, **expression._solve_kwargs)


def _is_readable(constraint: cp.Constraint) -> bool:
    """Whether the dual variables can be read off the rows that the constraint becomes."""
    if type(constraint) not in _READABLE:
        return False
    return isinstance(constraint, PSD) or not constraint.is_complex()


def _lifted(constraint: cp.Constraint, duals: dict[int, list[Part]]) -> list[cp.Constraint]:
    """Equal constraints, of which equalities have the dual variables of this one; records which in ``duals``."""
    if isinstance(constraint, Equality | Zero):
        difference = constraint.expr if isinstance(constraint, Zero) else constraint.args[0] - constraint.args[1]
        parts = _parts(difference, np.arange(difference.size), None)
        duals[constraint.dual_variables[0].id] = parts
        return [part.equality for part in parts]
    stand_ins, equalities = [], []
    for argument, dual in zip(constraint.args, constraint.dual_variables, strict=True):
        stand_in, parts = _stand_in(argument)
        stand_ins.append(stand_in)
        equalities += [part.equality for part in parts]
        duals[dual.id] = parts
    return [constraint.copy(stand_ins), *equalities]


def _stand_in(argument: cp.Expression) -> tuple[cp.Variable, list[Part]]:
    """A variable of the argument's kind, and the equalities between them; a symmetric matrix counts each pair once."""
    if not (argument.ndim == 2 and argument.size > 1 and argument.is_hermitian()):
        kind = {"imag": argument.is_imag()} if argument.is_imag() else {"complex": argument.is_complex()}
        stand_in = cp.Variable(argument.shape, **kind)
        return stand_in, _parts(stand_in - argument, np.arange(argument.size), None)
    kind = {"hermitian": True} if argument.is_complex() else {"symmetric": True}
    stand_in = cp.Variable(argument.shape, **kind)
    i, j = np.triu_indices(argument.shape[0])
    return stand_in, _parts(stand_in - argument, i + argument.shape[0] * j, argument.shape[0])


def _parts(difference: cp.Expression, entries: np.ndarray, order: int | None) -> list[Part]:
    """``difference == 0`` at some entries (flattened in Fortran order), its real and its imaginary part by themselves.

    With ``order`` the entries are the upper triangle of a Hermitian matrix. The multiplier of a pair's equality is then
    that of both its places, half each; the imaginary part has no diagonal and opposite signs.
    """
    flat = cp.vec(difference, order="F")
    parts = []
    for imaginary in (False, True):
        if (imaginary and not difference.is_complex()) or (not imaginary and difference.is_imag()):
            continue
        places = entries if order is None or not imaginary else entries[entries % order != entries // order]
        part = cp.imag(flat) if imaginary else cp.real(flat) if difference.is_complex() else flat
        parts.append(Part(part[places] == 0, imaginary, _expansion(places, difference.size, order, imaginary)))
    return [part for part in parts if part.equality.size]


def _expansion(places: np.ndarray, size: int, order: int | None, imaginary: bool) -> sp.csr_array:
    columns = np.arange(places.size)
    if order is None:
        return sp.csr_array((np.ones(places.size), (places, columns)), shape=(size, places.size))
    i, j = places % order, places // order
    rows = np.concatenate([places, j + order * i])
    weights = np.concatenate([np.full(places.size, 0.5), np.full(places.size, -0.5 if imaginary else 0.5)])
    return sp.csr_array((weights, (rows, np.tile(columns, 2))), shape=(size, places.size))
