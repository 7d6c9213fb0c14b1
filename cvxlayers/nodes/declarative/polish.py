"""Newton steps on the optimality conditions: z <- z - K^-1 r, with the active set chosen anew at each step.

An inequality is active where lam_i |A_i| / curvature_i + g_i / |A_i| > 0, the rule of the primal-dual active set
method, which is Newton's method on the complementarity conditions (Hintermueller, Ito, Kunisch 2002). Its two terms
are lengths in y.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.declarative import kkt
from cvxlayers.nodes.declarative.local import Local, look
from cvxlayers.nodes.declarative.optimality import OptimalityPoint, measure
from cvxlayers.nodes.declarative.problem import Formulation
from cvxlayers.nodes.declarative.scales import largest

__all__ = ["examine", "polish"]

STEPS = 25
# Steps without an improvement after which an element is left as it is.
PATIENCE = 3
# How far a point may be moved, relative to 1 + |y|: polishing sharpens a solution, it does not look for another one.
# (On the way it may be farther off: a step that forgets an inequality is followed by one that knows it.)
REACH = 0.05


def examine(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> OptimalityPoint:
    """Evaluate the problem at z and measure how optimal it is."""
    return measure(form, xs, z, active, look(form, xs, z, active))


def polish(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, enough: float) -> OptimalityPoint:
    """Sharpen points until their residuals are at most ``enough``; a step that makes an element worse is undone."""
    start = z[:, : form.n]
    room = REACH * (1 + largest(start.abs()))
    local = look(form, xs, z, active)
    best = measure(form, xs, z, active, local)
    todo = (best.worst > enough).nonzero()[:, 0]
    local, z, active = _rows(local, todo), z[todo], active[todo]
    idle = torch.zeros_like(todo)
    for _ in range(STEPS):
        if not todo.numel():
            break
        some = [x[todo] for x in xs]
        z = z + kkt.newton(form, some, z, active, local)
        if form.q:
            z, active = _reactivated(form, some, z, active, local)
        near = largest((z[:, : form.n] - start[todo]).abs()) <= room[todo]
        local = look(form, some, z, active)
        point = measure(form, some, z, active, local)
        better = near & (point.worst < best.worst[todo])
        best = best.put(todo[better], point.take(better))
        idle = torch.where(better, 0, idle + 1)
        going = (idle < PATIENCE) & ~(point.worst <= enough) & local.lagrangian.isfinite().all(-1)
        todo, idle, local, z, active = todo[going], idle[going], _rows(local, going), z[going], active[going]
    return best


def _reactivated(
    form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, local: Local
) -> tuple[Tensor, Tensor]:
    """z with the active set that it suggests; multipliers of inactive inequalities are zero."""
    y, _, lam = form.split(z)
    g = form.constraints(xs, y)[:, form.p :]
    lengths = local.lengths[:, form.p :].clamp(min=torch.finfo(y.dtype).tiny)
    curvature = _stiffness(form, y, local, lengths)
    active = (active * lam * lengths / curvature + g / lengths > 0).to(z.dtype)
    return torch.cat([z[:, : form.n + form.p], active * lam], -1), active


def _stiffness(form: Formulation, y: Tensor, local: Local, lengths: Tensor) -> Tensor:
    """The curvature across each inequality, (B, q), so that a multiplier's length over it is one in y."""
    room = 1 + largest(y.abs())[:, None]
    if form.matrix_free:
        curvature = local.curvature[:, None] + largest(local.gradient.abs())[:, None] / room
    else:
        across = local.A[:, form.p :].abs() / lengths[:, :, None]
        curvature = (across @ local.H.abs() * across).sum(-1)
        curvature = curvature + (across @ local.gradient.abs()[:, :, None])[:, :, 0] / room
    return torch.where(curvature > 0, curvature, 1.0)


def _rows(local: Local, places: Tensor) -> Local:
    return Local(**{name: value[places] for name, value in vars(local).items()})
