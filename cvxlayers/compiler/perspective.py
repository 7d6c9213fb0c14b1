"""The perspective of a function in the standard form.

If minimizing f is  minimize q'x + d  subject to  Ax + b in K,  for x the variables of f and more, then s f(x / s) <= t
holds where  q'x + d s <= t  and  Ax + b s in K  for some value of the others (Boyd and Vandenberghe 2004, 3.2.6,
applied to the epigraph's cone form). CVXPY's own canonicalization asks for a solver by name, and takes several cones of
one second-order constraint for a single one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.perspective import perspective
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ParamConeProg
from cvxpy.reductions.reduction import Reduction

from cvxlayers.compiler.leaves import free_entries

__all__ = ["perspective_canonicalizer"]

ConeForm = Callable[[cp.Problem], tuple[ParamConeProg, tuple[Reduction, ...]]]


def perspective_canonicalizer(cone_form: ConeForm) -> Callable[..., tuple[cp.Expression, list[cp.Constraint]]]:
    """A canonicalization of the perspective atom; ``cone_form`` brings a problem to cone form without P."""

    def canonicalize(
        expression: perspective, arguments: list[cp.Expression], solver_context: Any = None
    ) -> tuple[cp.Expression, list[cp.Constraint]]:
        scale, sign = arguments[0], 1 if expression.f.is_convex() else -1
        program, chain = cone_form(cp.Problem(cp.Minimize(sign * expression.f)))
        x, t = program.x, cp.Variable()
        q = sp.csr_array(program.q).toarray().ravel()
        constraints = [t >= q[:-1] @ x + q[-1] * scale]
        constraints += _cones(program, scale)
        constraints += [_identify(variable, program, chain) for variable in expression.f.variables()]
        return sign * cp.reshape(t, expression.shape, order="F"), constraints

    return canonicalize


def _cones(program: ParamConeProg, scale: cp.Expression) -> list[cp.Constraint]:
    """Ax + b s in K, constraint by constraint: each one's arguments stand one below the other in the rows."""
    n = program.x.size
    m = program.constr_size
    if not m:
        return []
    tensor = sp.coo_array(program.A)
    stacked = sp.csr_array((tensor.data, (tensor.row % m, tensor.row // m)), shape=(m, n + 1))
    rows = stacked[:, :n] @ program.x + stacked[:, [n]].toarray().ravel() * scale
    constraints, start = [], 0
    for constraint in program.constraints:
        arguments = []
        for argument in constraint.args:
            part = rows[start : start + argument.size]
            arguments.append(cp.reshape(part, argument.shape, order="F"))
            start += argument.size
        constraints.append(constraint.copy(arguments))
    return constraints


def _identify(variable: cp.Variable, program: ParamConeProg, chain: tuple[Reduction, ...]) -> cp.Constraint:
    """The variable is the one that the cone form has in its place."""
    stage, free = variable.id, cp.vec(variable, order="F")
    for reduction in chain:
        replaced = reduction.var_id_map.get(stage)
        if replaced is not None:
            (stage,) = replaced
    if variable._has_dim_reducing_attr:
        entries = free_entries(variable)
        free = entries @ free
    column = program.var_id_to_col[stage]
    return free == program.x[np.arange(column, column + free.size)]
