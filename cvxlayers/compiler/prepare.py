"""Rewrites of a problem, each into an equal one, before CVXPY canonicalizes it.

In the objective, a quadratic form of a parameter's affine function gets a variable for its argument: CVXPY's rules for
quadratic objectives allow parameters in the matrix at the price of none in the argument, of any term. And a partial
minimization becomes its objective and its constraints, since CVXPY refuses some sums with one.

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
from cvxpy.constraints import (
    PSD,
    SOC,
    Equality,
    ExpCone,
    Inequality,
    NonNeg,
    NonPos,
    PowCone3D,
    PowConeND,
    SvecPSD,
    Zero,
)
from cvxpy.constraints.exponential import OpRelEntrConeQuad
from cvxpy.reductions.cone2cone.approx import OpRelEntrConeQuad_canon
from cvxpy.transforms.partial_optimize import PartialProblem

__all__ = ["Part", "Prepared", "dual_owners", "plain_objective", "prepare"]

# Constraints that canonicalization keeps as one block of rows in an order that is known.
_READABLE = (Zero, Equality, NonNeg, NonPos, Inequality, SOC, PSD, SvecPSD, ExpCone, PowCone3D, PowConeND)


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
    expression = objective.expr if gp else plain_objective(objective.expr, quadratic, added)
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
    constraints = [part for constraint in constraints for part in _without_operator_entropy(constraint)]
    if objective is problem.objective and list(map(id, constraints)) == list(map(id, problem.constraints)):
        return Prepared(problem, duals)
    return Prepared(cp.Problem(objective, constraints + added), duals)


def plain_objective(expression: Any, quadratic: bool, added: list[cp.Constraint]) -> Any:
    """An equal expression under constraints that are appended to ``added``.

    A partial minimization is spelled out. With ``quadratic``, a quadratic form with parameters or curvature in its
    argument gets a variable for it.
    """
    if isinstance(expression, PartialProblem):
        inner = expression.args[0]
        added += inner.constraints
        return plain_objective(inner.objective.expr, quadratic, added)
    if isinstance(expression, cp.Constraint):  # of an indicator
        return expression
    changed = [plain_objective(argument, quadratic, added) for argument in expression.args]
    if any(new is not old for new, old in zip(changed, expression.args, strict=True)):
        expression = expression.copy(changed)
    if not quadratic or not isinstance(expression, QuadForm):
        return expression
    argument, matrix = expression.args
    if matrix.parameters() or not argument.variables() or (argument.is_affine() and not argument.parameters()):
        return expression
    sign = {"nonneg": True} if argument.is_nonneg() else {"nonpos": True} if argument.is_nonpos() else {}
    stand_in = cp.Variable(argument.shape, **({"complex": True} if argument.is_complex() else sign))
    if argument.is_affine():
        added.append(stand_in == argument)
    elif argument.is_convex() == expression.is_convex():  # it has one of these curvatures: the form is monotone in it
        added.append(stand_in >= argument)
    else:
        added.append(stand_in <= argument)
    return QuadForm(stand_in, matrix)


def _without_operator_entropy(constraint: cp.Constraint) -> list[cp.Constraint]:
    """The real operator relative entropy cone in the cones of CVXPY's approximation.

    CVXPY itself would make them after it has packed the PSD cones into triangles, which these then would miss.
    """
    if not isinstance(constraint, OpRelEntrConeQuad) or constraint.is_complex():
        return [constraint]
    lead, others = OpRelEntrConeQuad_canon(constraint, constraint.args)
    return [lead, *others]


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
