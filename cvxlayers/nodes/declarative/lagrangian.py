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
from typing import Any

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.curvature import downhill, kick
from cvxlayers.nodes.declarative.local import look
from cvxlayers.nodes.declarative.newton import FAR, Descent, minimize
from cvxlayers.nodes.declarative.optimality import OptimalityPoint
from cvxlayers.nodes.declarative.polish import examine, polish
from cvxlayers.nodes.declarative.problem import Formulation
from cvxlayers.nodes.declarative.scales import largest

__all__ = ["solve"]

ROUNDS = 40
FIRST_RHO, GROWTH, LAST_RHO = 10.0, 10.0, 1e9
# The gradient that ends a round, at first and at last, in scaled units.
COARSE, FINE = 1e-2, 1e-9
# What rounding makes of the gradient of rho/2 |h|^2, in units of rho.
ROUNDING = 1e-12


@dataclass
class _State:
    """Where the elements stand, in scaled units: multipliers w of h and g (B, m), penalty rho (B,)."""

    y: Tensor
    w: Tensor
    rho: Tensor
    unit: Tensor
    units: Tensor
    violation: Tensor


def solve(
    form: Formulation, xs: Sequence[Tensor], y: Tensor, tolerance: float, steps: int, enough: float
) -> tuple[OptimalityPoint, Tensor, Tensor]:
    """Minimize from y (B, n).

    Returns
    -------
    The points with multipliers; the Newton steps that each element took (B,); which elements got stuck at a point that
    violates the constraints as little as any nearby (B,).
    """
    state = _start(form, xs, y)
    total = torch.zeros(len(y), dtype=torch.long, device=y.device)
    todo = torch.arange(len(y), device=y.device)
    best = examine(form, xs, *_in_own_units(form, state, todo))
    free = not form.p + form.q
    for number in range(1 if free else ROUNDS):
        if not todo.numel():
            break
        inner = (ROUNDING * state.rho[todo]).clamp(min=FINE if free else max(FINE, COARSE * 0.1**number))
        state.y[todo], count = minimize(_descent(form, xs, state), todo, state.y[todo], inner, steps)
        total[todo] += count
        _update(form, xs, state, todo)
        point = polish(form, [x[todo] for x in xs], *_in_own_units(form, state, todo), enough)
        best = best.put(todo, point)
        lost = ~(largest(state.y[todo].abs()) < FAR) | (state.rho[todo] > LAST_RHO)
        good = point.worst <= 1e-3 * tolerance
        where = good.nonzero()[:, 0]
        good[where], down = downhill(form, [x[todo[where]] for x in xs], point.take(where), tolerance)
        state.y[todo[where]] = kick(state.y[todo[where]], down)
        todo = todo[~good & ~lost]
    return best, total, _least_violation(form, xs, state)


def _start(form: Formulation, xs: Sequence[Tensor], y: Tensor) -> _State:
    m, none = form.p + form.q, y.new_zeros((len(y), form.p + form.q))
    local = look(form, xs, torch.cat([y, none], -1), none[:, form.p :])
    size = torch.maximum(largest(local.gradient.abs()), local.curvature)
    unit = 1 / torch.where((size > 0) & size.isfinite(), size, 1.0)
    rows = local.lengths
    units = 1 / torch.where((rows > 1e-8) & rows.isfinite(), rows, 1.0)
    return _State(
        y, y.new_zeros((len(y), m)), torch.full_like(unit, FIRST_RHO), unit, units, torch.full_like(unit, torch.inf)
    )


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

    def model(who: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Any]:
        def slope(y: Tensor) -> tuple[Tensor, Tensor]:
            def total(y: Tensor) -> tuple[Tensor, Tensor]:
                values = value(who, y)
                return values.sum(), values

            return torch.func.grad(total, has_aux=True)(y)

        found: Any = torch.func.vjp(slope, y, has_aux=True)
        gradient, pullback, values = found
        if form.matrix_free:
            return values, gradient, lambda v: pullback(v)[0]
        return values, gradient, form.rows(lambda v: pullback(v)[0], y, form.n)

    return Descent(value, model, form.matrix_free)


def _update(form: Formulation, xs: Sequence[Tensor], state: _State, todo: Tensor) -> None:
    """New multipliers and penalties."""
    if not form.p + form.q:
        return
    c = state.units[todo] * form.constraints([x[todo] for x in xs], state.y[todo])
    w, rho = state.w[todo], state.rho[todo, None]
    h, g = c[:, : form.p], torch.maximum(c[:, form.p :], -w[:, form.p :] / rho)
    violation = largest(torch.cat([h, g], -1).abs())
    w = w + rho * c
    state.w[todo] = torch.cat([w[:, : form.p], w[:, form.p :].clamp(min=0)], -1)
    state.rho[todo] = torch.where(violation > 0.25 * state.violation[todo], GROWTH, 1.0) * state.rho[todo]
    state.violation[todo] = violation


def _in_own_units(form: Formulation, state: _State, todo: Tensor) -> tuple[Tensor, Tensor]:
    """The points z as they stand, in the problem's units, and the inequalities that push."""
    w = state.w[todo] * state.units[todo] / state.unit[todo, None]
    return torch.cat([state.y[todo], w], -1), (state.w[todo][:, form.p :] > 0).to(w.dtype)


def _least_violation(form: Formulation, xs: Sequence[Tensor], state: _State) -> Tensor:
    """Where rho ran away at a stationary point of the violation |h|^2 + |max(0, g)|^2, (B,) bool."""
    stuck = state.rho > LAST_RHO
    if not bool(stuck.any()):
        return stuck
    found: Any = torch.func.vjp(lambda y: form.constraints(xs, y), state.y)
    c, pullback = found
    v = state.units**2 * torch.cat([c[:, : form.p], c[:, form.p :].clamp(min=0)], -1)
    return stuck & (largest(pullback(v)[0].abs()) <= 1e-3 * largest((state.units * c).abs()))
