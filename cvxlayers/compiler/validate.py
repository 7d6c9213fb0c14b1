"""Is this a problem that can become a layer? Every way in which it is not has its own error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp
from cvxpy.constraints import FiniteSet
from cvxpy.expressions.constants.callback_param import CallbackParam

from cvxlayers.compiler.dpp import dpp_offence
from cvxlayers.compiler.leaves import parameters_of
from cvxlayers.compiler.prepare import dual_owners
from cvxlayers.compiler.rules import curvature_offence
from cvxlayers.compiler.wording import short
from cvxlayers.errors import CompileError, MixedIntegerError, NotConvexError, NotDPPError, UnknownLeafError

__all__ = ["validate"]


def validate(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter] | None,
    variables: Sequence[cp.Variable] | None,
    gp: bool,
    quadratic: bool,
) -> tuple[list[cp.Parameter], list[cp.Variable]]:
    """Check the problem and the two lists, and return the lists with their defaults filled in."""
    if not isinstance(problem, cp.Problem):
        raise CompileError(
            f"problem: expected a cvxpy.Problem, got {type(problem).__name__}; wrap the objective and the "
            "constraints in cp.Problem(objective, constraints)."
        )
    listed = _check_parameters(problem, parameters)
    wanted = _check_variables(problem, variables)
    _check_continuous(problem)
    _check_convex(problem, gp)
    _check_parametrization(problem, gp, quadratic)
    return listed, wanted


def _names(leaves: Sequence[Any]) -> str:
    return ", ".join(f"'{leaf.name()}'" for leaf in leaves) or "none"


def _listed(argument: str, leaves: Any, kind: Any) -> list[Any]:
    """The list as given, once it is known to hold distinct leaves of one kind."""
    if not isinstance(leaves, list | tuple):
        raise UnknownLeafError(
            f"{argument}: expected a list or tuple of cvxpy.{kind.__name__}, got {type(leaves).__name__}; "
            f"pass {argument}=[...]."
        )
    given: list[Any] = list(leaves)
    for position, leaf in enumerate(given):
        if not isinstance(leaf, kind):
            raise UnknownLeafError(
                f"{argument}[{position}]: expected a cvxpy.{kind.__name__}, got {type(leaf).__name__} "
                f"({str(leaf)[:80]})."
            )
        if any(leaf is other for other in given[:position]):
            raise UnknownLeafError(f"{argument}[{position}]: '{leaf.name()}' is listed twice; list each one once.")
    return given


def _check_parameters(problem: cp.Problem, parameters: Sequence[cp.Parameter] | None) -> list[cp.Parameter]:
    present = parameters_of(problem)
    for parameter in present:
        if isinstance(parameter, CallbackParam):
            raise UnknownLeafError(
                f"parameters: '{parameter.name()}' is a cvxpy.CallbackParam, whose value is computed by CVXPY and "
                "cannot be differentiated here; replace it by a cvxpy.Parameter and hand in the computed value."
            )
        if parameter._has_dim_reducing_attr and len(parameter.shape) > 2:
            raise CompileError(
                f"parameters: '{parameter.name()}' of shape {parameter.shape} is a stack of symmetric, diagonal or "
                "sparse matrices, which CVXPY cannot canonicalize; use one parameter for each matrix."
            )
    for constraint in problem.constraints:
        exponents = getattr(constraint, "alpha", None)
        if isinstance(exponents, cp.Expression) and exponents.parameters():
            raise CompileError(
                f"problem: the exponents of the constraint '{short(constraint)}' depend on the parameters "
                f"{_names(exponents.parameters())}, and CVXPY would keep the value that they have now; make the "
                "exponents numbers."
            )
    if parameters is None:
        return present
    listed = _listed("parameters", parameters, cp.Parameter)
    ids = {parameter.id for parameter in present}
    for position, parameter in enumerate(listed):
        if parameter.id not in ids:
            raise UnknownLeafError(
                f"parameters[{position}]: '{parameter.name()}' is not in the problem, whose parameters are "
                f"{_names(present)}; remove it, or use it in the problem."
            )
    missing = [parameter for parameter in present if all(parameter is not other for other in listed)]
    if missing:
        raise UnknownLeafError(
            f"parameters: the problem's parameters {_names(missing)} are missing from the list "
            f"({_names(listed)}); list all of them."
        )
    return listed


def _check_variables(problem: cp.Problem, variables: Sequence[cp.Variable] | None) -> list[cp.Variable]:
    present = problem.variables()
    if not present:
        raise CompileError("problem: it has no variables, so there is nothing to solve for; add a cvxpy.Variable.")
    if variables is None:
        return present
    listed = _listed("variables", variables, cp.Variable)
    if not listed:
        raise UnknownLeafError(
            "variables: the list is empty, so the layer would return nothing; list at least one of "
            f"{_names(present)}, or leave the argument out."
        )
    known = {variable.id for variable in present} | set(dual_owners(problem))
    for position, variable in enumerate(listed):
        if variable.id not in known:
            raise UnknownLeafError(
                f"variables[{position}]: '{variable.name()}' is neither a variable of the problem "
                f"({_names(present)}) nor a dual variable of one of its constraints (constraint.dual_variables[0]); "
                "remove it, or use it in the problem."
            )
    return listed


def _check_continuous(problem: cp.Problem) -> None:
    discrete = [v for v in problem.variables() if v.attributes["boolean"] or v.attributes["integer"]]
    if discrete:
        raise MixedIntegerError(
            f"problem: its variables {_names(discrete)} are boolean or integer, and the solution of a mixed-integer "
            "problem is piecewise constant in its parameters, so it has no useful derivative; relax them: drop the "
            "attribute and add bounds such as 0 <= x <= 1, then round or sample after the layer."
        )
    for constraint in problem.constraints:
        if isinstance(constraint, FiniteSet):
            raise MixedIntegerError(
                f"problem: the constraint '{constraint}' restricts a variable to a finite set, which makes the problem "
                "mixed-integer; relax it to the interval or simplex that the set spans."
            )


def _check_convex(problem: cp.Problem, gp: bool) -> None:
    if problem.is_dgp() if gp else problem.is_dcp():
        return
    rules = "log-log convex (DGP), which gp=True asks for" if gp else "convex by the DCP rules"
    offence = curvature_offence(problem, gp)
    other = ""
    if gp and problem.is_dcp():
        other = " It is DCP, so leave gp=True out."
    elif not gp and problem.is_dgp():
        other = " It is log-log convex (DGP), so pass gp=True."
    elif not gp and problem.is_dqcp():
        other = " It is quasiconvex (DQCP), whose solution by bisection cannot be differentiated here."
    raise NotConvexError(f"problem: it is not {rules}. {offence.text()}{other}")


def _check_parametrization(problem: cp.Problem, gp: bool, quadratic: bool) -> None:
    offence = dpp_offence(problem, gp, quadratic)
    if offence is not None:
        raise NotDPPError(
            "problem: it is convex for every parameter value, but not disciplined in its parameters (DPP), so it "
            f"cannot be canonicalized once for all values. {offence.text()}"
        )
