"""How far a point is from optimality, in the units of its own problem, and which multipliers belong to it.

All tests are relative. A constraint c_i with gradient A_i counts as |c_i| / |A_i|, which is how far y is from meeting
it, and that is compared with 1 + |y|. The gradient of the Lagrangian is compared with the sizes of its terms and with
the change that a step of 1 + |y| makes in it. So nothing depends on the units of f, h and g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import probes, solve_symmetric
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
    """

    z: Tensor
    active: Tensor
    primal: Tensor
    dual: Tensor
    gap: Tensor
    cone: Tensor

    @property
    def worst(self) -> Tensor:
        """The largest of the four, (B,); infinite where any is NaN."""
        stacked = torch.stack([self.primal, self.dual, self.gap, self.cone])
        return torch.where(stacked.isnan(), torch.inf, stacked).amax(0)

    def where(self, mask: Tensor, other: Point) -> Point:
        """The elements of ``other`` where the mask (B,) holds, those of this one elsewhere."""
        parts = {
            name: torch.where(mask[:, None] if mine.ndim == 2 else mask, getattr(other, name), mine)
            for name, mine in vars(self).items()
        }
        return replace(self, **parts)


def measure(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Point:
    """Measure the points z with the active sets ``active``."""
    y, nu, lam = form.split(z)
    gradient = torch.func.grad(lambda y: form.objective(xs, y).sum())(y)
    size = 1 + y.abs().amax(-1) if form.n else torch.ones_like(z[:, 0])
    curvature = _curvature(form, xs, z, active)
    if not form.p + form.q:
        zero = torch.zeros_like(size)
        dual = _ratio(gradient.abs().amax(-1), gradient.abs().amax(-1) + curvature * size)
        return Point(z, active, zero, dual, zero, zero)
    c, A = form.constraints(xs, y), form.jacobian(xs, y)
    w = torch.cat([nu, active * lam], -1)
    lagrangian = gradient + torch.einsum("bm,bmn->bn", w, A)
    terms = torch.einsum("bm,bmn->bn", w.abs(), A.abs())
    scale = gradient.abs().amax(-1) + terms.amax(-1)
    dual = _ratio(lagrangian.abs().amax(-1), scale + curvature * size)
    rows = A.norm(dim=-1)
    apart = _ratio(c.abs(), rows * size[:, None])
    h, g = apart[:, : form.p], apart[:, form.p :]
    over = torch.where(c[:, form.p :] > 0, g, 0.0)
    forces = lam * active * rows[:, form.p :]
    cone = _ratio((-forces).clamp(min=0), (scale + curvature * size)[:, None])
    return Point(z, active, _largest(torch.cat([h, over], -1)), dual, _largest(active * g), _largest(cone))


def multipliers(form: Formulation, xs: Sequence[Tensor], y: Tensor, closeness: float) -> tuple[Tensor, Tensor]:
    """Multipliers and active sets of points without them: z (B, N) and active (B, q).

    Inequalities within ``closeness`` (1 + |y|) of equality are candidates. The multipliers are the least-squares
    solution of f_y + A'w = 0 over equalities and candidates; the candidate with the most negative multiplier is let go
    until none is left. Those whose multiplier is zero (weakly active) are let go as well, since the solution does not
    rest on them.
    """
    if not form.p + form.q:
        return y, y.new_zeros((y.shape[0], 0))
    gradient = torch.func.grad(lambda y: form.objective(xs, y).sum())(y)
    c, A = form.constraints(xs, y), form.jacobian(xs, y)
    rows = A.norm(dim=-1)
    unit = A / torch.where(rows > 0, rows, 1.0)[:, :, None]
    size = 1 + y.abs().amax(-1)
    near = c[:, form.p :] >= -closeness * rows[:, form.p :] * size[:, None]
    kept = torch.cat([torch.ones_like(c[:, : form.p], dtype=torch.bool), near], -1)
    gram, right = unit @ unit.mT, -(unit @ gradient[:, :, None])
    negligible = closeness * gradient.abs().amax(-1)
    for _ in range(form.q + 1):
        w = _over(gram, right, kept)
        lowest, place = torch.where(kept, w, torch.inf)[:, form.p :].min(-1) if form.q else (w.new_zeros(1), None)
        loose = lowest <= negligible
        if place is None or not bool(loose.any()):
            break
        kept[loose.nonzero()[:, 0], form.p + place[loose]] = False
    w = torch.where(kept, w, 0.0) / torch.where(rows > 0, rows, 1.0)
    return torch.cat([y, w], -1), kept[:, form.p :].to(y.dtype)


def _over(gram: Tensor, right: Tensor, kept: Tensor) -> Tensor:
    """The least-norm least-squares multipliers of the kept rows, (B, m)."""
    mask = kept.to(gram.dtype)
    system = gram * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(1 - mask)
    w, _ = solve_symmetric(system, right * mask[:, :, None], gram.shape[1])
    return w[:, :, 0]


def _curvature(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Tensor:
    """The size of H, from its products with two sign vectors, (B,)."""
    signs = probes(form.n, z)[:, None].expand(2, z.shape[0], form.n)
    vectors = torch.nn.functional.pad(signs, (0, form.N - form.n))
    products = form.times(xs, z, active, vectors)[:, :, : form.n]
    return products.abs().amax(-1).amax(0)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and zero where both are zero."""
    return torch.where(part == 0, 0.0, part / torch.where(part == 0, 1.0, whole))


def _largest(values: Tensor) -> Tensor:
    """The largest of each row, zero for none."""
    return values.amax(-1) if values.shape[-1] else values.new_zeros(values.shape[0])
