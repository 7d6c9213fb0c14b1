"""The default solver: an augmented Lagrangian method over a batched Newton method, finished by Newton's method on KKT.

    Phi(y) = f + nu'h + rho/2 |h|^2 + (|max(0, lam + rho g)|^2 - |lam|^2) / (2 rho)

is minimized for fixed multipliers, then nu <- nu + rho h and lam <- max(0, lam + rho g), and rho grows where the
constraints do not shrink (Hestenes 1969, Powell 1969, Rockafellar 1974). The objective and each constraint are scaled
to gradients of about unit size first. After each round ``polish`` is tried: near the solution it converges at once. The
method asks for no interior, no feasible start and no independent constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.newton import Descent, minimize
from cvxlayers.nodes.declarative.optimality import Point, measure
from cvxlayers.nodes.declarative.polish import polish
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["solve"]

ROUNDS = 40
FIRST_RHO, GROWTH, LAST_RHO = 10.0, 10.0, 1e10


@dataclass
class _State:
    """Where the elements stand, in scaled units: multipliers w of h and g (B, m), penalty rho (B,)."""

    y: Tensor
    w: Tensor
    rho: Tensor
    unit: Tensor
    units: Tensor


def solve(form: Formulation, xs: Sequence[Tensor], y: Tensor, tolerance: float, steps: int) -> tuple[Point, Tensor]:
    """Minimize from y (B, n); the points with multipliers, and the Newton steps that each element took (B,)."""
    state = _State(y, *_scales(form, xs, y))
    total = torch.zeros(len(y), dtype=torch.long, device=y.device)
    best = _measured(form, xs, state, torch.arange(len(y), device=y.device))
    violation = torch.full_like(state.rho, torch.inf)
    todo = torch.arange(len(y), device=y.device)
    for number in range(ROUNDS if form.p + form.q else 1):
        if not todo.numel():
            break
        inner = torch.full_like(state.rho[todo], max(tolerance**2, 10.0 ** -(number + 2)) if form.p + form.q else 1e-12)
        state.y[todo], count = minimize(_descent(form, xs, state), todo, state.y[todo], inner, steps)
        total[todo] += count
        violation = _update(form, xs, state, todo, violation)
        some = [x[todo] for x in xs]
        point = polish(form, some, _measured(form, xs, state, todo))
        best = best.where(_mask(todo, best), _spread(best, todo, point))
        lost = ~state.y[todo].isfinite().all(-1) | (state.rho[todo] > LAST_RHO)
        todo = todo[(point.worst > 1e-3 * tolerance) & ~lost]
    return best, total


def _scales(form: Formulation, xs: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    m = form.p + form.q
    gradient = torch.func.grad(lambda y: form.objective(xs, y).sum())(y).abs().amax(-1)
    z = torch.cat([y, y.new_zeros((len(y), m))], -1)
    H = form.times(xs, z, y.new_zeros((len(y), form.q)), torch.nn.functional.pad(torch.ones_like(y), (0, m))[None])
    size = torch.maximum(gradient, H[0, :, : form.n].abs().amax(-1))
    unit = 1 / torch.where((size > 0) & size.isfinite(), size, 1.0)
    rows = form.jacobian(xs, y).norm(dim=-1)
    units = 1 / torch.where((rows > 1e-8) & rows.isfinite(), rows, 1.0)
    return y.new_zeros((len(y), m)), torch.full_like(unit, FIRST_RHO), unit, units


def _descent(form: Formulation, xs: Sequence[Tensor], state: _State) -> Descent:
    """The augmented Lagrangian of any of the elements, with its derivatives."""

    def value(who: Tensor, y: Tensor) -> Tensor:
        some = [x[who] for x in xs]
        total = state.unit[who] * form.objective(some, y)
        if form.p + form.q:
            c, w, rho = state.units[who] * form.constraints(some, y), state.w[who], state.rho[who, None]
            pushed = w + rho * c
            pushed = torch.cat([pushed[:, : form.p], pushed[:, form.p :].clamp(min=0)], -1)
            total = total + ((pushed**2 - w**2) / (2 * rho)).sum(-1)
        return total

    def gradient(who: Tensor, y: Tensor) -> Tensor:
        return torch.func.grad(lambda y: value(who, y).sum())(y)

    def hessian(who: Tensor, y: Tensor) -> Tensor:
        return form.rows(lambda y: gradient(who, y), y, form.n)

    return Descent(value, gradient, hessian)


def _update(form: Formulation, xs: Sequence[Tensor], state: _State, todo: Tensor, before: Tensor) -> Tensor:
    """New multipliers and penalties; the violations, by which the next round is judged."""
    if not form.p + form.q:
        return before
    c = state.units[todo] * form.constraints([x[todo] for x in xs], state.y[todo])
    w, rho = state.w[todo], state.rho[todo, None]
    h, g = c[:, : form.p], torch.maximum(c[:, form.p :], -w[:, form.p :] / rho)
    now = torch.cat([h, g], -1).abs().amax(-1)
    w = w + rho * c
    state.w[todo] = torch.cat([w[:, : form.p], w[:, form.p :].clamp(min=0)], -1)
    state.rho[todo] = torch.where(now > 0.25 * before[todo], GROWTH, 1.0) * state.rho[todo]
    after = before.clone()
    after[todo] = now
    return after


def _measured(form: Formulation, xs: Sequence[Tensor], state: _State, todo: Tensor) -> Point:
    """The points as they stand, in the problem's own units."""
    w = state.w[todo] * state.units[todo] / state.unit[todo, None]
    active = (state.w[todo][:, form.p :] > 0).to(w.dtype)
    return measure(form, [x[todo] for x in xs], torch.cat([state.y[todo], w], -1), active)


def _mask(todo: Tensor, like: Point) -> Tensor:
    mask = torch.zeros(len(like.z), dtype=torch.bool, device=like.z.device)
    mask[todo] = True
    return mask


def _spread(point: Point, places: Tensor, part: Point) -> Point:
    return Point(**{name: value.index_copy(0, places, getattr(part, name)) for name, value in vars(point).items()})
