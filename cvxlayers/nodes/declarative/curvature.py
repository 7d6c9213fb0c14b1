"""Whether stationary points are minima to second order: the curvature where the constraints leave room.

A local minimum needs d'Hd >= 0 for every d in its critical cone: across equalities and inequalities with a multiplier d
does not move; of an inequality that holds with equality and without a multiplier it may leave, to the one side that is
allowed (Nocedal and Wright 2006, theorem 12.5). Without such inequalities that is P H P being positive semidefinite,
P being the projection onto a null space; with them it is a matter of the cone's faces, see ``faces``.

Units of y do not matter: H is equilibrated first, D H D, so that negative curvature along one entry is seen however
small it is beside that of another. Where an entry of H should be zero and is only small, the equilibration blows it up;
therefore what the test finds is doubted until it is known how much H is uncertain: as much as it changes when y and the
multipliers move by a Newton step and by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.declarative import kkt
from cvxlayers.nodes.declarative.dense import probes, solve_symmetric
from cvxlayers.nodes.declarative.faces import lowest_direction
from cvxlayers.nodes.declarative.local import Local, look
from cvxlayers.nodes.declarative.optimality import OptimalityPoint
from cvxlayers.nodes.declarative.problem import Formulation
from cvxlayers.nodes.declarative.scales import equilibrate, largest, weigh

__all__ = ["downhill", "minima"]

# Negative curvature below this fraction of an equilibrated H counts as none.
FLAT = {torch.float64: 1e-9, torch.float32: 1e-4}
# How often what is known to be uncertain in H.
DOUBT = 10.0


def minima(form: Formulation, xs: Sequence[Tensor], point: OptimalityPoint, closeness: float) -> Tensor:
    """Which points are not saddles or maxima, (B,) bool.

    Multipliers, and distances of inequalities from equality, count as zero within ``closeness``, each beside its own
    terms. Without matrices nothing is tested, and True is returned.
    """
    return downhill(form, xs, point, closeness)[0]


def downhill(
    form: Formulation, xs: Sequence[Tensor], point: OptimalityPoint, closeness: float
) -> tuple[Tensor, Tensor]:
    """The same, and for the others a direction (B, n) in which the objective goes down; zero where none is known."""
    y = point.z[:, : form.n]
    none = torch.zeros_like(y)
    if form.matrix_free or not form.n or not len(y):
        return torch.ones(len(y), dtype=torch.bool, device=y.device), none
    local = look(form, xs, point.z, point.active)
    finite = local.H.isfinite().all((1, 2)) & local.A.isfinite().all((1, 2))
    strict, weak = _held(form, xs, point, local, closeness)
    H, A = (torch.where(finite[:, None, None], part, 0.0) for part in (local.H, local.A))
    d = equilibrate(H)
    S, A = H * d[:, :, None] * d[:, None, :], A * d[:, None, :]
    good = finite & _convex(S, torch.where(strict[:, :, None], A, 0.0))
    doubtful = (finite & ~good).nonzero()[:, 0]
    if not doubtful.numel():
        return good, none
    some = [x[doubtful] for x in xs]
    blur = _uncertainty(form, some, point.take(doubtful), Local(**{k: v[doubtful] for k, v in vars(local).items()}))
    slack = DOUBT * d[doubtful] * (blur @ d[doubtful][:, :, None])[:, :, 0] + FLAT[H.dtype]
    S = S[doubtful] + torch.diag_embed(slack)
    for i, place in enumerate(doubtful.tolist()):
        sure, direction = lowest_direction(S[i], A[place][strict[place]], A[place][weak[place]])
        good[place] = sure
        none[place] = direction * d[place]
    return good, none


def _held(
    form: Formulation, xs: Sequence[Tensor], point: OptimalityPoint, local: Local, closeness: float
) -> tuple[Tensor, Tensor]:
    """Which constraints leave no room, and which leave it to one side, both (B, p + q)."""
    strict = torch.ones_like(local.c, dtype=torch.bool)
    if not form.q:
        return strict, ~strict
    scales = weigh(form, xs, point.z, point.active, local)
    w = torch.cat([torch.ones_like(local.c[:, : form.p]), point.active], -1) * point.z[:, form.n :]
    near = (scales.apart(local) <= closeness) | (w != 0)
    strict[:, form.p :] = (w * scales.pull > closeness)[:, form.p :]
    return strict, near & ~strict


def _convex(S: Tensor, A: Tensor) -> Tensor:
    """Whether P S P is positive semidefinite, with P the projection onto the null space of A: (B,)."""
    if A.shape[1]:
        lengths = A.norm(dim=-1, keepdim=True)
        A = A / torch.where(lengths > 0, lengths, 1.0)
        idle = (A == 0).all(-1).to(A.dtype)
        across, _ = solve_symmetric(A @ A.mT + torch.diag_embed(idle), A, A.shape[1])
        P = torch.eye(A.shape[2], dtype=A.dtype, device=A.device) - A.mT @ across
        S = P @ S @ P
    _, info = torch.linalg.cholesky_ex(S + FLAT[S.dtype] * torch.eye(S.shape[1], dtype=S.dtype, device=S.device))
    return info == 0


def _uncertainty(form: Formulation, xs: Sequence[Tensor], point: OptimalityPoint, local: Local) -> Tensor:
    """How much the entries of H change when the point moves by what is not known of it, (B, n, n)."""
    z, active = point.z, point.active
    step = kkt.newton(form, xs, z, active, local).abs()
    step = torch.where(step.isfinite(), step, 0.0) + 8 * torch.finfo(z.dtype).eps * z.abs()
    changes = [form.hessian(xs, z + signs * step, active) - local.H for signs in probes(form.N, z)]
    blur = torch.stack(changes).abs().amax(0)
    return torch.where(blur.isfinite(), blur, 0.0)


def kick(y: Tensor, direction: Tensor) -> Tensor:
    """Points a little way down from where they are stuck."""
    length = largest(direction.abs())[:, None]
    return y + 0.1 * (1 + largest(y.abs()))[:, None] * direction / torch.where(length > 0, length, 1.0)
