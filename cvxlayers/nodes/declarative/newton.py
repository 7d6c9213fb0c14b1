"""A batch of smooth unconstrained minimizations: Newton's method with backtracking, safe on indefinite Hessians.

With matrices, eigenvalues of a Hessian that is not positive definite are replaced by their absolute values (Nocedal
and Wright 2006, section 3.4), and where the gradient vanishes there the step goes along the most negative curvature,
so that the method does not stop at saddles. Hessians are equilibrated first, and an entry of the gradient is done
beside what it was or H y is, so that a variable of which little depends is found as well as others; where rounding
hides what it changes in the objective, steps go on as long as the gradient shrinks. Without matrices, the step is that
of truncated conjugate gradients (Dembo and Steihaug 1983). Elements that are done leave the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.krylov import conjugate_gradients
from cvxlayers.nodes.declarative.scales import equilibrate, largest

__all__ = ["Descent", "minimize"]

ARMIJO = 1e-4
HALVINGS = 40
# The longest step, relative to 1 + |y|.
LONGEST = 1e3
# Points beyond this have run away.
FAR = 1e14
# Eigenvalues below this fraction of the largest are raised to it.
FLOOR = 1e-9
# A step that does not change the objective visibly has to leave no more than this of the gradient.
SHRINKING = 0.9
# And where this is left, the objective can say no more: what follows are steps on the optimality conditions.
NEARLY = 1e-6
# The forcing sequence and the steps of truncated conjugate gradients.
FORCING, PRODUCTS = 0.1, 200


@dataclass(frozen=True)
class Descent:
    """The functions of a batch of minimizations; each takes the numbers of its elements, and points (b, n) for them.

    ``value`` gives (b,); ``model`` gives value (b,), gradient (b, n), and the Hessian (b, n, n), or, with
    ``matrix_free``, the function that multiplies with it.
    """

    value: Callable[[Tensor, Tensor], Tensor]
    model: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Any]]
    matrix_free: bool = False


def minimize(f: Descent, elements: Tensor, y: Tensor, tolerance: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Minimize from y (b, n) for some elements, until the largest entry of the gradient is within its tolerance (b,).

    Returns
    -------
    The points, and the number of steps of each (b,).
    """
    y, count = y.clone(), torch.zeros(len(y), dtype=torch.long, device=y.device)
    todo = torch.arange(len(y), device=y.device)
    sizes, before, seen = torch.zeros_like(y), torch.full_like(tolerance, torch.inf), torch.ones_like(todo).bool()
    last = y.clone()
    for _ in range(steps):
        if not todo.numel():
            break
        at, who = y[todo], elements[todo]
        value, gradient, hessian = f.model(who, at)
        step, slope, convex = (_truncated if f.matrix_free else _direction)(gradient, hessian, at)
        sizes[todo] = torch.maximum(sizes[todo], _row_sizes(f, gradient, hessian, at))
        left = largest(gradient.abs() / torch.where(sizes[todo] > 0, sizes[todo], 1.0).clamp(max=1.0))
        worse = ~seen[todo] & ~(left <= SHRINKING * before[todo])
        going = ((left > tolerance[todo]) | ~convex) & ~(worse & (left <= NEARLY))
        going &= step.isfinite().all(-1) & value.isfinite() & (largest(at.abs()) < FAR)
        before[todo[~worse]] = left[~worse]
        _halfway(y, last, todo[going & worse])
        here = going & ~worse
        moved, visible, taken = _search(f, who[here], at[here], value[here], step[here], slope[here])
        last[todo[here]], y[todo[here]], seen[todo[here]] = at[here], moved, visible
        going[here.clone()] = taken
        going[worse] &= (y[todo[worse]] != last[todo[worse]]).any(-1)
        count[todo[here]] += 1
        todo = todo[going]
    return y, count


def _halfway(y: Tensor, last: Tensor, where: Tensor) -> None:
    """Take back half of a last step that made the gradient grow, unseen in the objective."""
    y[where] = 0.5 * (y[where] + last[where])


def _row_sizes(f: Descent, gradient: Tensor, hessian: Any, y: Tensor) -> Tensor:
    """What each entry of the gradient is measured by, (b, n), where it is not more than one."""
    if f.matrix_free:
        return torch.ones_like(y)
    return gradient.abs() + (hessian.abs() @ (1 + y.abs())[:, :, None])[:, :, 0]


def _direction(gradient: Tensor, hessian: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A descent direction, the change that the model promises for its full length, and where the Hessian is PSD."""
    finite = gradient.isfinite().all(-1) & hessian.isfinite().all((1, 2))
    hessian = torch.where(finite[:, None, None], hessian, 0.0)
    d = equilibrate(hessian)
    S, turned = hessian * d[:, :, None] * d[:, None, :], d * gradient
    shift = FLOOR * torch.where(largest(S.abs().amax(-1)) > 0, 1.0, torch.finfo(S.dtype).eps)
    L, info = torch.linalg.cholesky_ex(S + torch.diag_embed(shift[:, None].expand_as(y)))
    step = -d * torch.cholesky_solve(turned[:, :, None], L)[:, :, 0]
    convex = info == 0
    curved = (~convex).nonzero()[:, 0]
    extra = torch.zeros_like(step[:, 0])
    if curved.numel():
        step[curved], extra[curved] = _modified(turned[curved], S[curved], d[curved], y[curved])
    step, factor = _limited(step, y)
    return step, (gradient * step).sum(-1) + extra * factor**2, convex


def _modified(gradient: Tensor, hessian: Tensor, d: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The step with |eigenvalues|, or along negative curvature where there is no slope, and its curvature term.

    Gradient and Hessian are the equilibrated ones, those in y / d.
    """
    values, vectors = torch.linalg.eigh(hessian)
    size = largest(values.abs())
    positive = torch.maximum(values.abs(), FLOOR * size[:, None])
    step = -d * (vectors @ ((vectors.mT @ gradient[:, :, None]) / positive[:, :, None]))[:, :, 0]
    lowest = vectors[:, :, 0]
    reach = 0.1 * (1 + largest(y.abs())) / largest((d * lowest).abs())
    stuck = (largest(gradient.abs()) <= 1e-6 * size * reach) & (values[:, 0] < -FLOOR * size)
    sign = torch.where((gradient * lowest).sum(-1) > 0, -1.0, 1.0)
    step = torch.where(stuck[:, None], d * lowest * (sign * reach)[:, None], step)
    return step, torch.where(stuck, 0.5 * values[:, 0] * reach**2, 0.0)


def _truncated(gradient: Tensor, times: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same without matrices; away from negative curvature nothing is known of the Hessian's other eigenvalues."""
    forcing = min(FORCING, float(largest(gradient.abs()).amax().sqrt()))
    step, _, _ = conjugate_gradients(times, -gradient, forcing, PRODUCTS)
    step, _ = _limited(step, y)
    return step, (gradient * step).sum(-1), torch.ones_like(gradient[:, 0], dtype=torch.bool)


def _limited(step: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    length, room = largest(step.abs()), LONGEST * (1 + largest(y.abs()))
    factor = (room / torch.where(length > 0, length, 1.0)).clamp(max=1.0)
    return step * factor[:, None], factor


def _search(
    f: Descent, who: Tensor, y: Tensor, value: Tensor, step: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backtracking: the new points, which elements found a decrease that rounding does not hide, and which a point."""
    moved, found = y.clone(), torch.zeros(len(y), dtype=torch.bool, device=y.device)
    pending, length, taken = torch.arange(len(y), device=y.device), 1.0, torch.zeros_like(found)
    noise = 4 * torch.finfo(y.dtype).eps * value.abs()
    for _ in range(HALVINGS):
        if not pending.numel():
            break
        trial = y[pending] + length * step[pending]
        reached = f.value(who[pending], trial)
        wanted = value[pending] + ARMIJO * length * slope[pending]
        good = (reached <= wanted + noise[pending]) & (trial != y[pending]).any(-1)
        moved[pending[good]], taken[pending[good]] = trial[good], True
        found[pending[good]] = reached[good] < value[pending[good]]
        pending, length = pending[~good], 0.5 * length
    return moved, found, taken
