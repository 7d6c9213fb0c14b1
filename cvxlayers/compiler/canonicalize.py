"""Canonicalization through CVXPY into our standard form: the one place that runs its reduction chain."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
from cvxpy.atoms.perspective import perspective
from cvxpy.constraints import SOC, ExpCone, NonNeg, PowCone3D, PowConeND, SvecPSD, Zero
from cvxpy.error import DPPError
from cvxpy.reductions.chain import Chain
from cvxpy.reductions.dcp2cone.cone_matrix_stuffing import ParamConeProg
from cvxpy.reductions.dcp2cone.dcp2cone import Dcp2Cone
from cvxpy.reductions.reduction import Reduction
from cvxpy.reductions.solvers.conic_solvers.conic_solver import ConicSolver
from cvxpy.reductions.solvers.solving_chain import resolve_and_build_chain
from cvxpy.utilities.psd_utils import TriangleKind

from cvxlayers.compiler.leaves import without_values
from cvxlayers.compiler.perspective import perspective_canonicalizer
from cvxlayers.cones import KINDS, Cones
from cvxlayers.errors import CompileError

__all__ = ["Canonical", "canonicalize"]


# What CVXPY warns of while it canonicalizes that says nothing to our callers: how it reads sparse leaves, and which of
# its backends it takes for expressions with more than two dimensions.
_HARMLESS = (r"Reading from a sparse CVXPY expression", r"The problem has an expression with dimension greater than 2")


class _StandardForm(ConicSolver):
    """What CVXPY is asked to produce: all our cones, PSD rows packed in our order, and P where it is wanted.

    It is a target of canonicalization only; nothing is ever solved through it.
    """

    SUPPORTED_CONSTRAINTS = [Zero, NonNeg, SOC, SvecPSD, ExpCone, PowCone3D, PowConeND]
    PSD_TRIANGLE_KIND = TriangleKind.UPPER
    PSD_SQRT2_SCALING = True
    EXP_CONE_ORDER = [0, 1, 2]

    def __init__(self, quadratic: bool, power_nd: bool = True) -> None:
        super().__init__()
        self._quadratic = quadratic
        if not power_nd:
            self.SUPPORTED_CONSTRAINTS = [kind for kind in self.SUPPORTED_CONSTRAINTS if kind is not PowConeND]

    def name(self) -> str:
        return "CVXLAYERS"

    def import_solver(self) -> None:
        return None

    def supports_quad_obj(self) -> bool:
        return self._quadratic

    def solve_via_data(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("the standard form is a target of canonicalization, not a solver")

    def cite(self, data: Any) -> str:
        return ""


@dataclass(frozen=True)
class Canonical:
    """A parametrized cone program as CVXPY stuffs it, and the reductions that led to it, in order."""

    program: ParamConeProg
    reductions: tuple[Reduction, ...]
    cones: Cones


def canonicalize(problem: cp.Problem, gp: bool, quadratic: bool) -> Canonical:
    """Canonicalize a validated problem, once, without looking at any variable's or parameter's value."""
    with warnings.catch_warnings(), without_values(problem):
        for message in _HARMLESS:
            warnings.filterwarnings("ignore", message=message)
        try:
            stuffed, reductions = _with_power_cones(problem, quadratic, gp)
            program = _StandardForm.format_constraints(stuffed, _StandardForm.EXP_CONE_ORDER)
        except (cp.SolverError, DPPError, NotImplementedError, AssertionError) as exc:
            kinds = ", ".join(sorted({type(constraint).__name__ for constraint in problem.constraints})) or "none"
            titles = ", ".join(kind.title for kind in KINDS.values())
            raise CompileError(
                f"problem: CVXPY {cp.__version__} cannot bring it to {titles} cones "
                f"({type(exc).__name__}); its constraints are of the kinds {kinds}: write the one "
                "that it stops at, or the expression, with other atoms."
            ) from exc
    dims = program.cone_dims
    cones = Cones(
        zero=dims.zero,
        nonneg=dims.nonneg,
        second_order=tuple(dims.soc),
        psd=tuple(dims.psd),
        exponential=dims.exp,
        power=tuple(float(alpha) for alpha in dims.p3d),
        power_nd=tuple(_exponents(alpha) for alpha in dims.pnd),
    )
    return Canonical(program, reductions, cones)


def _with_power_cones(problem: cp.Problem, quadratic: bool, gp: bool) -> tuple[ParamConeProg, tuple[Reduction, ...]]:
    """The cone form with n-dimensional power cones as they are, where CVXPY can list them.

    CVXPY 1.9.3 raises a ValueError over such cones of different dimensions; they are then split into 3-d ones by it.
    """
    try:
        return _cone_form(problem, _StandardForm(quadratic), gp)
    except ValueError:
        return _cone_form(problem, _StandardForm(quadratic, power_nd=False), gp)


def _exponents(alpha: Sequence[float]) -> tuple[float, ...]:
    """Those of an n-dimensional power cone, with the sum 1 that CVXPY asks for up to 1e-6."""
    total = math.fsum(alpha)
    return tuple(float(one) / total for one in alpha)


def _cone_form(problem: cp.Problem, target: _StandardForm, gp: bool) -> tuple[ParamConeProg, tuple[Reduction, ...]]:
    """The cone program as CVXPY stuffs it, its rows not yet in any solver's order, and the reductions on the way."""
    chain = resolve_and_build_chain(problem, solver=target, gp=gp, enforce_dpp=True)
    reductions = tuple(chain.reductions[:-1])
    for reduction in reductions:
        if isinstance(reduction, Dcp2Cone):
            inner = perspective_canonicalizer(lambda part: _cone_form(part, _StandardForm(quadratic=False), gp=False))
            reduction.cone_canon_methods = reduction.cone_canon_methods | {perspective: inner}
    stuffed, _ = Chain(reductions=list(reductions)).apply(problem)
    return stuffed, reductions
