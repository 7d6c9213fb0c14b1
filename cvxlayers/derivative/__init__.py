"""Derivatives of the solution map, and which one belongs to which solver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cvxlayers.derivative.base import Derivative, DerivativeReport, Linearization
from cvxlayers.errors import OptionError
from cvxlayers.program.structure import Structure

if TYPE_CHECKING:
    from cvxlayers.derivative.exact import ExactDerivative

__all__ = ["Derivative", "DerivativeReport", "Linearization", "derivative_for", "exact_derivative"]


def derivative_for(
    solver: str, structure: Structure, options: Mapping[str, Any], smoothing: float | None = None
) -> Derivative:
    """The derivative for a solver: diffcp's own for the engine DIFFCP, the exact one for all others."""
    if solver == "DIFFCP":
        if smoothing is not None:
            raise OptionError(
                f"smoothing={smoothing!r}: the engine DIFFCP has no smoothed derivative; leave smoothing out, or "
                "choose another engine."
            )
        from cvxlayers.derivative.diffcp.linearization import DiffcpDerivative

        return DiffcpDerivative(structure, **options)
    return exact_derivative(structure, options["threads"], smoothing)


def exact_derivative(structure: Structure, threads: int, smoothing: float | None = None) -> ExactDerivative:
    """This package's own derivative, exact or smoothed."""
    from cvxlayers.derivative.exact import ExactDerivative

    return ExactDerivative(structure, threads=threads, smoothing=smoothing)
