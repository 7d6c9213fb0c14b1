"""Newton steps on the optimality conditions: z <- z - K^-1 r, with the active set chosen anew at each step.

An inequality is active where lam_i |A_i| / curvature + g_i / |A_i| > 0, the rule of the primal-dual active set method,
which is Newton's method on the complementarity conditions (Hintermueller, Ito, Kunisch 2002). Its two terms are lengths
in y.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import solve_symmetric
from cvxlayers.nodes.declarative.optimality import Point, measure
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["polish"]

STEPS = 8
# How far a point may be moved, relative to 1 + |y|: polishing sharpens a solution, it does not look for another one.
REACH = 0.05


def polish(form: Formulation, xs: Sequence[Tensor], point: Point, steps: int = STEPS) -> Point:
    """Sharpen points that are close to a solution; a step that makes an element worse is not taken there."""
    start, best = point.z[:, : form.n], point
    room = REACH * (1 + start.abs().amax(-1)) if form.n else start.new_zeros(start.shape[0])
    enough = 8 * torch.finfo(start.dtype).eps
    trial = point
    for _ in range(steps):
        todo = (best.worst > enough).nonzero()[:, 0]
        if not todo.numel():
            break
        some = [x[todo] for x in xs]
        z, active = _step(form, some, trial.z[todo], trial.active[todo])
        near = (z[:, : form.n] - start[todo]).abs().amax(-1) <= room[todo]
        z, active = torch.where(near[:, None], z, best.z[todo]), torch.where(near[:, None], active, best.active[todo])
        stepped = measure(form, some, z, active)
        trial = _placed(trial, todo, stepped)
        better = torch.zeros_like(best.worst, dtype=torch.bool)
        better[todo] = stepped.worst < best.worst[todo]
        best = best.where(better, trial)
    return best


def _step(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
    """One Newton step, and the active set that the new point suggests."""
    K = form.matrix(xs, z, active)
    r = form.residual(xs, z, active)
    u, _ = solve_symmetric(K, r[:, :, None], form.n)
    z = z - u[:, :, 0]
    if not form.q:
        return z, active
    y, _, lam = form.split(z)
    g = form.constraints(xs, y)[:, form.p :]
    rows = form.jacobian(xs, y)[:, form.p :].norm(dim=-1).clamp(min=torch.finfo(y.dtype).tiny)
    gradient = torch.func.grad(lambda y: form.objective(xs, y).sum())(y).abs().amax(-1)
    curvature = K[:, : form.n, : form.n].abs().amax((1, 2)) + gradient / (1 + y.abs().amax(-1))
    curvature = torch.where(curvature > 0, curvature, 1.0)[:, None]
    active = (active * lam * rows / curvature + g / rows > 0).to(z.dtype)
    return torch.cat([z[:, : form.n + form.p], active * lam], -1), active


def _placed(point: Point, places: Tensor, part: Point) -> Point:
    """A point with some of its elements replaced."""
    changed = {name: value.index_copy(0, places, getattr(part, name)) for name, value in vars(point).items()}
    return Point(**changed)
