"""How far a point is from optimality, in the units of its own problem, and which multipliers belong to it.

All tests are relative, and each row counts by itself: an entry of the gradient of the Lagrangian beside its own terms,
a constraint beside its own, a multiplier beside the terms of the rows in which it stands; see ``scales``. So nothing
depends on the units of f, h, g, y or the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import solve_symmetric
from cvxlayers.nodes.declarative.krylov import conjugate_gradients
from cvxlayers.nodes.declarative.local import Local, look
from cvxlayers.nodes.declarative.problem import Formulation
from cvxlayers.nodes.declarative.scales import largest, weigh

__all__ = ["OptimalityPoint", "measure", "multipliers"]


@dataclass(frozen=True)
class OptimalityPoint:
    """Points y (B, n) with multipliers, z = (y, nu, lam), their active sets, and how optimal they are.

    Attributes
    ----------
    z : (B, N) tensor
    active : (B, q) tensor of zeros and ones
    primal, dual, gap, cone : (B,) tensors
        Violation of the constraints; gradient of the Lagrangian; distance of the active inequalities from equality;
        negative multipliers; each relative, see this module.
    margin : (B,) tensor
        How far the nearest inequality is from being weakly active, where the solution has a kink; infinite for none.
    """

    z: Tensor
    active: Tensor
    primal: Tensor
    dual: Tensor
    gap: Tensor
    cone: Tensor
    margin: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest of the four, (B,); infinite where any is NaN."""
        stacked = torch.stack([self.primal, self.dual, self.gap, self.cone])
        return torch.where(stacked.isnan(), torch.inf, stacked).amax(0)

    def put(self, places: Tensor, part: OptimalityPoint) -> OptimalityPoint:
        """This batch with the elements at some places replaced."""
        changed = {name: value.index_copy(0, places, getattr(part, name)) for name, value in vars(self).items()}
        return OptimalityPoint(**changed)

    def take(self, places: Tensor) -> OptimalityPoint:
        """Some elements."""
        return OptimalityPoint(**{name: value[places] for name, value in vars(self).items()})


def measure(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, local: Local) -> OptimalityPoint:
    """Measure the points z with the active sets ``active``."""
    lam, p = form.split(z)[2], form.p
    scales = weigh(form, xs, z, active, local)
    apart, inequalities = scales.apart(local), local.c[:, p:]
    over = torch.where(inequalities > 0, apart[:, p:], 0.0)
    forces = active * lam * scales.pull[:, p:]
    inside = torch.where(inequalities < 0, apart[:, p:], 0.0)
    margin = torch.where(active > 0, forces, inside)
    primal, gap = largest(torch.cat([apart[:, :p], over], -1)), largest(torch.where(active > 0, apart[:, p:], 0.0))
    dual, cone = largest(scales.slope(local)), largest((-forces).clamp(min=0))
    return OptimalityPoint(
        z, active, primal, dual, gap, cone, margin.amin(-1) if form.q else torch.full_like(dual, torch.inf)
    )


def multipliers(form: Formulation, xs: Sequence[Tensor], y: Tensor, closeness: float) -> tuple[Tensor, Tensor]:
    """Multipliers and active sets of points without them: z (B, N) and active (B, q).

    Inequalities within ``closeness`` of equality, beside their own terms, are candidates. The multipliers are the
    least-squares solution of f_y + A'w = 0 over equalities and candidates; the candidate with the most negative
    multiplier is let go until none is left. Those whose multiplier is zero (weakly active) are let go as well, since
    the solution does not rest on them."""
    p, q = form.p, form.q
    none = y.new_zeros((len(y), p + q))
    every = torch.ones_like(none[:, p:])
    if not p + q:
        return y, every
    z = torch.cat([y, none], -1)
    local = look(form, xs, z, every)
    scales = weigh(form, xs, z, every, local)
    scale = torch.where(local.lengths > 0, 1 / torch.where(local.lengths > 0, local.lengths, 1.0), 0.0)
    near = (local.c[:, p:] >= 0) | (scales.apart(local)[:, p:] <= closeness)
    kept = torch.cat([torch.ones_like(none[:, :p], dtype=torch.bool), near], -1)
    negligible = closeness * _along(form, local, scale)[:, p:]
    for _ in range(q + 1):
        w = _over(form, xs, y, local, scale, kept)
        if not q:
            break
        lowest, place = torch.where(kept[:, p:], w[:, p:] - negligible, torch.inf).min(-1)
        loose = (lowest <= 0).nonzero()[:, 0]
        if not loose.numel():
            break
        kept[loose, p + place[loose]] = False
    return torch.cat([y, torch.where(kept, w * scale, 0.0)], -1), kept[:, p:].to(y.dtype)


def _over(form: Formulation, xs: Sequence[Tensor], y: Tensor, local: Local, scale: Tensor, kept: Tensor) -> Tensor:
    """The least-norm least-squares multipliers of the kept rows, each row of A scaled to length one: (B, m)."""
    mask = kept.to(y.dtype) * scale
    if not form.matrix_free:
        A = local.A * mask[:, :, None]
        system = A @ A.mT + torch.diag_embed((mask == 0).to(y.dtype))
        return solve_symmetric(system, -(A @ local.gradient[:, :, None]), mask.shape[1])[0][:, :, 0]
    pullback = torch.func.vjp(lambda y: form.constraints(xs, y), y)[1]
    push = torch.func.vjp(lambda v: pullback(v)[0], torch.zeros_like(mask))[1]
    right = -mask * push(local.gradient)[0]
    tolerance = torch.finfo(y.dtype).eps ** 0.75
    gram = lambda w: mask * push(pullback(mask * w)[0])[0]  # noqa: E731
    return conjugate_gradients(gram, right, tolerance, max(200, 2 * mask.shape[1]))[0]


def _along(form: Formulation, local: Local, scale: Tensor) -> Tensor:
    """What multipliers of rows of length one are made of: the gradient's entries that each row touches, (B, m)."""
    if form.matrix_free:
        return largest(local.gradient.abs())[:, None].expand_as(scale)
    return scale * (local.A.abs() @ local.gradient.abs()[:, :, None])[:, :, 0]
