"""Whether stationary points are minima to second order: the curvature where the constraints leave room.

A local minimum needs d'Hd >= 0 for every d in the null space of the constraints that hold with equality (Nocedal and
Wright 2006, theorem 12.5). With P the projection onto it, that is P H P being positive semidefinite.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import solve_symmetric
from cvxlayers.nodes.declarative.local import look
from cvxlayers.nodes.declarative.optimality import Point
from cvxlayers.nodes.declarative.problem import Formulation
from cvxlayers.nodes.declarative.scales import largest

__all__ = ["minima"]

# Negative curvature below this fraction of the size of H, or below the tolerance, counts as none.
FLAT = 1e-6


def minima(form: Formulation, xs: Sequence[Tensor], point: Point, closeness: float) -> Tensor:
    """Which points are not saddles or maxima, (B,) bool.

    Inequalities within ``closeness`` (1 + |y|) of equality count as held, whatever their multipliers. Without matrices
    nothing is tested, and True is returned.
    """
    if form.matrix_free or not form.n:
        return torch.ones(len(point.z), dtype=torch.bool, device=point.z.device)
    local = look(form, xs, point.z, point.active)
    finite = local.H.isfinite().all((1, 2)) & local.A.isfinite().all((1, 2))
    H = torch.where(finite[:, None, None], local.H, 0.0)
    H = H / torch.where(finite & (local.curvature > 0), local.curvature, 1.0)[:, None, None]
    if form.p + form.q:
        near = local.c.abs() <= closeness * local.lengths * (1 + largest(point.z[:, : form.n].abs()))[:, None]
        held = torch.cat([torch.ones_like(near[:, : form.p]), near[:, form.p :] | (point.active > 0)], -1)
        H = _inside(H, torch.where(finite[:, None, None] & held[:, :, None], local.A, 0.0), local.lengths)
    _, info = torch.linalg.cholesky_ex(H + max(FLAT, closeness) * torch.eye(form.n, dtype=H.dtype, device=H.device))
    return (info == 0) & finite


def _inside(H: Tensor, A: Tensor, lengths: Tensor) -> Tensor:
    """P H P, with P the projection onto the null space of A, (B, n, n)."""
    A = A / torch.where(lengths > 0, lengths, 1.0)[:, :, None]
    idle = (A == 0).all(-1).to(A.dtype)
    across, _ = solve_symmetric(A @ A.mT + torch.diag_embed(idle), A, A.shape[1])
    P = torch.eye(A.shape[2], dtype=A.dtype, device=A.device) - A.mT @ across
    return P @ H @ P
