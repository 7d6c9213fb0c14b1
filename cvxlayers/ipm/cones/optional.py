"""PSD, exponential and power cones: what the iteration asks of the cones beyond the second-order ones.

A structure without them has a record without their fields (see ``layout``). For it, each kernel here becomes one that
does nothing, so that linear, quadratic and second-order cone programs neither compile nor run any of this.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.ipm.cones import nonsymmetric, psd
from cvxlayers.kernels.decorators import kernel_where
from cvxlayers.kernels.simd import splat

__all__ = [
    "H_times",
    "add_unit",
    "combined_shift",
    "inside",
    "lopsided",
    "unit_initialization",
    "inverse_max_step",
    "backtrack_step",
    "rescale",
    "unit_scaling",
    "write_scaling",
]

FIELD = "matrices"
"""Of the record: how many PSD cones there are."""


@kernel_where(FIELD, lambda plan, at, V: None)
def unit_scaling(plan: Any, at: Any, V: Any) -> None:
    """H = I."""
    psd.unit_scaling(plan, at, V)


@kernel_where(FIELD, lambda plan, at, V: None)
def rescale(plan: Any, at: Any, V: Any) -> None:
    """The scaling at s and y."""
    psd.rescale(plan, at, V)
    nonsymmetric.rescale(plan, at, V)


@kernel_where(FIELD, lambda plan, at, V, eps: None)
def write_scaling(plan: Any, at: Any, V: Any, eps: Any) -> None:
    """Write -(H + eps I) into K's entries and diagonal."""
    psd.write_scaling(plan, at, V, eps)
    nonsymmetric.write_scaling(plan, at, V, eps)


@kernel_where(FIELD, lambda plan, at, V, v, Hv: None)
def H_times(plan: Any, at: Any, V: Any, v: Any, Hv: Any) -> None:
    """Hv."""
    psd.H_times(plan, at, V, v, Hv)
    nonsymmetric.H_times(plan, at, V, v, Hv)


@kernel_where(FIELD, lambda plan, at, V, sigma_mu: None)
def combined_shift(plan: Any, at: Any, V: Any, sigma_mu: Any) -> None:
    """c for the combined step."""
    psd.combined_shift(plan, at, V, sigma_mu)
    nonsymmetric.combined_shift(plan, at, V, sigma_mu)


@kernel_where(FIELD, lambda plan, at, V, v, dv: splat(V, 0.0))
def inverse_max_step(plan: Any, at: Any, V: Any, v: Any, dv: Any) -> Any:
    """The inverse of the longest step for which v + step dv stays in the PSD cones."""
    return psd.inverse_max_step(plan, at, V, v, dv)


@kernel_where(FIELD, lambda plan, at, V, v: (splat(V, 1e300), splat(V, 0.0)))
def inside(plan: Any, at: Any, V: Any, v: Any) -> Any:
    """The least eigenvalue, and the sum of those that are positive."""
    return psd.inside(plan, at, V, v)


@kernel_where(FIELD, lambda plan, at, V, v, length: None)
def add_unit(plan: Any, at: Any, V: Any, v: Any, length: Any) -> None:
    """Add this multiple of the identity to each matrix."""
    psd.add_unit(plan, at, V, v, length)


@kernel_where(FIELD, lambda at: False)
def lopsided(at: Any) -> bool:
    """Whether there are cones without a symmetric scaling."""
    return at.exponentials + at.powers > 0


@kernel_where(FIELD, lambda plan, at, V, v: None)
def unit_initialization(plan: Any, at: Any, V: Any, v: Any) -> None:
    """The point of the exponential and power cones from which to start."""
    nonsymmetric.unit_initialization(plan, at, V, v)


@kernel_where(FIELD, lambda plan, at, V, alpha, dtau, dkappa, near, active: alpha)
def backtrack_step(plan: Any, at: Any, V: Any, alpha: Any, dtau: Any, dkappa: Any, near: Any, active: Any) -> Any:
    """How much of the step alpha the exponential and power cones allow."""
    return nonsymmetric.backtrack_step(plan, at, V, alpha, dtau, dkappa, near, active)
