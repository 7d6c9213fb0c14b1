"""A batch of smooth unconstrained minimizations: Newton's method with eigenvalue modification and backtracking.

Where the Hessian is not positive definite its eigenvalues are replaced by their absolute values (Nocedal and Wright
2006, section 3.4), and where the gradient vanishes there the step goes along the most negative curvature, so that the
method does not stop at saddles. Elements that are done leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Descent", "minimize"]

ARMIJO = 1e-4
HALVINGS = 40
# The longest step, relative to 1 + |y|.
LONGEST = 1e3
# Eigenvalues below this fraction of the largest are raised to it.
FLOOR = 1e-9


@dataclass(frozen=True)
class Descent:
    """The functions of a batch of minimizations; each takes the numbers of its elements, and points (b, n) for them."""

    value: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    hessian: Callable[[Tensor, Tensor], Tensor]


def minimize(f: Descent, elements: Tensor, y: Tensor, tolerance: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Minimize from y (b, n) for some elements, until the largest entry of the gradient is within its tolerance (b,).

    Returns
    -------
    The points, and the number of steps of each (b,).
    """
    y, count = y.clone(), torch.zeros(len(y), dtype=torch.long, device=y.device)
    todo = torch.arange(len(y), device=y.device)
    for _ in range(steps):
        if not todo.numel():
            break
        at, who = y[todo], elements[todo]
        value, gradient, hessian = f.value(who, at), f.gradient(who, at), f.hessian(who, at)
        finite = gradient.isfinite().all(-1) & hessian.isfinite().all((1, 2)) & value.isfinite()
        todo, at, who, value = todo[finite], at[finite], who[finite], value[finite]
        gradient, hessian = gradient[finite], hessian[finite]
        step, slope, convex = _direction(gradient, hessian, at)
        going = (gradient.abs().amax(-1) > tolerance[todo]) | ~convex
        todo, at, who, value = todo[going], at[going], who[going], value[going]
        if not todo.numel():
            break
        moved, success = _search(f, who, at, value, step[going], slope[going])
        y[todo] = moved
        count[todo] += 1
        todo = todo[success]
    return y, count


def _direction(gradient: Tensor, hessian: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A descent direction, the decrease that the model promises for its full length, and where the Hessian is PSD."""
    size = hessian.abs().amax((1, 2))
    shift = torch.where(size > 0, size, 1.0) * FLOOR
    L, info = torch.linalg.cholesky_ex(hessian + torch.diag_embed(shift[:, None].expand_as(y)))
    step = -torch.cholesky_solve(gradient[:, :, None], L)[:, :, 0]
    convex = info == 0
    curved = (~convex).nonzero()[:, 0]
    extra = torch.zeros_like(size)
    if curved.numel():
        step[curved], extra[curved] = _modified(gradient[curved], hessian[curved], y[curved])
    length, room = step.abs().amax(-1), LONGEST * (1 + y.abs().amax(-1))
    factor = (room / torch.where(length > 0, length, 1.0)).clamp(max=1.0)
    step = step * factor[:, None]
    return step, (gradient * step).sum(-1) + extra * factor**2, convex


def _modified(gradient: Tensor, hessian: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The step with |eigenvalues|, or along negative curvature where there is no slope, and its curvature term."""
    values, vectors = torch.linalg.eigh(hessian)
    size = values.abs().amax(-1)
    positive = torch.maximum(values.abs(), FLOOR * size[:, None])
    step = -(vectors @ ((vectors.mT @ gradient[:, :, None]) / positive[:, :, None]))[:, :, 0]
    reach = 0.1 * (1 + y.abs().amax(-1))
    stuck = (gradient.abs().amax(-1) <= 1e-6 * size * reach) & (values[:, 0] < -FLOOR * size)
    lowest = vectors[:, :, 0]
    sign = torch.where((gradient * lowest).sum(-1) > 0, -1.0, 1.0)
    along = lowest * (sign * reach)[:, None]
    step = torch.where(stuck[:, None], along, step)
    return step, torch.where(stuck, 0.5 * values[:, 0] * reach**2, 0.0)


def _search(f: Descent, who: Tensor, y: Tensor, value: Tensor, step: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """Backtracking: the new points, and which elements found a decrease."""
    moved, found = y.clone(), torch.zeros(len(y), dtype=torch.bool, device=y.device)
    pending, length = torch.arange(len(y), device=y.device), 1.0
    noise = 4 * torch.finfo(y.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        if not pending.numel():
            break
        trial = y[pending] + length * step[pending]
        reached = f.value(who[pending], trial)
        wanted = value[pending] + ARMIJO * length * slope[pending]
        good = (reached <= wanted + noise[pending]) & (trial != y[pending]).any(-1)
        moved[pending[good]], found[pending[good]] = trial[good], True
        pending, length = pending[~good], 0.5 * length
    return moved, found
