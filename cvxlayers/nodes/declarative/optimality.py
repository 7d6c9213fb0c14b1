"""How far a point is from optimality, in the units of its own problem, and which multipliers belong to it.

All tests are relative. A constraint c_i with gradient A_i counts as |c_i| / |A_i|, which is how far y is from meeting
it, and that is compared with 1 + |y|. The gradient of the Lagrangian is compared with the sizes of its terms and with
the change that a step of 1 + |y| makes in it. So nothing depends on the units of f, h and g.
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

__all__ = ["Point", "measure", "multipliers"]


@dataclass(frozen=True)
class Point:
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

    def put(self, places: Tensor, part: Point) -> Point:
        """This batch with the elements at some places replaced."""
        changed = {name: value.index_copy(0, places, getattr(part, name)) for name, value in vars(self).items()}
        return Point(**changed)

    def take(self, places: Tensor) -> Point:
        """Some elements."""
        return Point(**{name: value[places] for name, value in vars(self).items()})


def measure(form: Formulation, z: Tensor, active: Tensor, local: Local) -> Point:
    """Measure the points z with the active sets ``active``."""
    y, _, lam = form.split(z)
    p, size = form.p, 1 + largest(y.abs())
    scale = largest(local.gradient.abs()) + largest((local.lagrangian - local.gradient).abs()) + local.curvature * size
    dual = _ratio(largest(local.lagrangian.abs()), scale)
    apart = _ratio(local.c.abs(), local.lengths * size[:, None])
    inequalities = local.c[:, p:]
    over = torch.where(inequalities > 0, apart[:, p:], 0.0)
    forces = _ratio(active * lam * local.lengths[:, p:], scale[:, None])
    inside = torch.where(inequalities < 0, apart[:, p:], 0.0)
    margin = torch.where(active > 0, forces, inside)
    primal, gap = largest(torch.cat([apart[:, :p], over], -1)), largest(torch.where(active > 0, apart[:, p:], 0.0))
    cone = largest((-forces).clamp(min=0))
    return Point(z, active, primal, dual, gap, cone, margin.amin(-1) if form.q else torch.full_like(dual, torch.inf))


def multipliers(form: Formulation, xs: Sequence[Tensor], y: Tensor, closeness: float) -> tuple[Tensor, Tensor]:
    """Multipliers and active sets of points without them: z (B, N) and active (B, q).

    Inequalities within ``closeness`` (1 + |y|) of equality are candidates. The multipliers are the least-squares
    solution of f_y + A'w = 0 over equalities and candidates; the candidate with the most negative multiplier is let go
    until none is left. Those whose multiplier is zero (weakly active) are let go as well, since the solution does not
    rest on them.
    """
    p, q = form.p, form.q
    none = y.new_zeros((len(y), p + q))
    every = torch.ones_like(none[:, p:])
    if not p + q:
        return y, every
    local = look(form, xs, torch.cat([y, none], -1), every)
    scale = torch.where(local.lengths > 0, 1 / torch.where(local.lengths > 0, local.lengths, 1.0), 0.0)
    near = local.c[:, p:] >= -closeness * local.lengths[:, p:] * (1 + largest(y.abs()))[:, None]
    kept = torch.cat([torch.ones_like(none[:, :p], dtype=torch.bool), near], -1)
    negligible = closeness * largest(local.gradient.abs())
    for _ in range(q + 1):
        w = _over(form, xs, y, local, scale, kept)
        if not q:
            break
        lowest, place = torch.where(kept, w, torch.inf)[:, p:].min(-1)
        loose = (lowest <= negligible).nonzero()[:, 0]
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


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and zero where both are zero."""
    return torch.where(part == 0, 0.0, part / torch.where(part == 0, 1.0, whole))


def largest(values: Tensor) -> Tensor:
    """The largest of each row, zero for none."""
    return values.amax(-1) if values.shape[-1] else values.new_zeros(values.shape[0])
