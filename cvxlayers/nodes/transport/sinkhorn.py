"""The potentials of entropic optimal transport: Sinkhorn's iteration in log-space, finished by Newton steps.

With the density E_ij = exp(f_i + g_j - M_ij) the plan is P = diag(r) E diag(c), and P 1 = r, P' 1 = c says E c = 1 and
E' r = 1, also where masses are zero. Sinkhorn solves the two in turn (Sinkhorn, Knopp 1967; Cuturi 2013, in log-space
Peyre, Cuturi 2019, section 4.4). With f eliminated, g maximizes the concave

    phi(g) = c' g - sum_i r_i log sum_j c_j exp(g_j - M_ij),    gradient c - P' 1,    Hessian -(diag(P' 1) - P' R^-1 P)

whose Newton steps converge where Sinkhorn's linear rate is close to one; large costs are reached by scaling them up.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

__all__ = ["LARGEST", "Potentials", "find_potentials"]

Tensor = torch.Tensor

SPAN, GROWTH = 24.0, 2.0
"""Costs that span more than SPAN are reached by problems that grow by at most GROWTH."""

COARSE = 1e-4
"""The residual at which a problem on the way to the full costs is left."""

FIRST, BLOCK = 2, 8
"""Sinkhorn's iterations in log-space, and the size of a block of those by products."""

PATIENCE, EXPECTED = 4, -4.0
"""So many blocks are done rather than a Newton step (more with larger problems, whose Newton steps cost more); and how
the logarithm of the residual is expected to fall in a block until that is known."""

HALVINGS = 30


LARGEST = 300.0
"""Exponents are cut here: only between two zero masses can they be as large."""


class Potentials(NamedTuple):
    """f (B, H), g (B, W), and for each element its iterations and its residual |P' 1 - c| + |P 1 - r| (sums).

    The density E (B, H, W) comes along where products have found it on the way.
    """

    f: Tensor
    g: Tensor
    iterations: Tensor
    residual: Tensor
    density: Tensor | None = None


def find_potentials(M: Tensor, r: Tensor, c: Tensor, tolerance: float, most: int) -> Potentials:
    """Solve for costs M (B, H, W) and masses r (B, H), c (B, W) of total one, in at most so many iterations each."""
    low = M.amin(2, keepdim=True)
    S = low - M
    span = -S.amin((1, 2), keepdim=True)
    scale = torch.where(span > SPAN, SPAN / span, 1.0)
    if bool((scale >= 1).all()):
        found = _solve(S, r, c, torch.zeros_like(r), torch.zeros_like(c), r.new_full((len(M),), tolerance), most, True)
        return found._replace(f=found.f + low[:, :, 0])
    f, g, iterations, residual = _by_growing(S, r, c, scale, tolerance, most)
    return Potentials(f + low[:, :, 0], g, iterations, residual)


def _by_growing(
    S: Tensor, r: Tensor, c: Tensor, scale: Tensor, tolerance: float, most: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f, g, iterations and residuals by problems of exponents S times a scale (B, 1, 1) that grows to one."""
    f, g, active = torch.zeros_like(r), torch.zeros_like(c), torch.arange(len(S), device=S.device)
    iterations, residual = torch.zeros_like(active), S.new_full((len(S),), torch.inf)
    fresh = True
    while active.numel():
        whole = scale[active, 0, 0] >= 1
        goal = torch.where(whole, tolerance, COARSE)
        part = _solve(S[active] * scale[active], r[active], c[active], f[active], g[active], goal, most, fresh)
        fresh = False
        f[active], g[active], residual[active] = part.f, part.g, part.residual
        iterations[active] += part.iterations
        active = active[~whole]
        growth = torch.minimum(1 / scale[active], torch.full_like(scale[active], GROWTH))
        scale[active] *= growth
        f[active] *= growth[:, :, 0]
        g[active] *= growth[:, :, 0]
    return f, g, iterations, residual


def _solve(S: Tensor, r: Tensor, c: Tensor, f: Tensor, g: Tensor, goal: Tensor, most: int, fresh: bool) -> Potentials:
    """One problem, from potentials near its solution (or, where it is ``fresh``, of zero), until the goals are met.

    Its costs are -S, S at most zero.
    """
    log_r, log_c = r.log(), c.log()
    for _ in range(0 if fresh else FIRST):
        f = -torch.logsumexp((log_c + g)[:, None] + S, 2)
        g = -torch.logsumexp((log_r + f)[:, :, None] + S, 1)
    found = _by_products(S if fresh else f[:, :, None] + g[:, None] + S, r, c, f, g, goal, fresh)
    if bool((found.residual <= goal).all()):
        return found
    steps = _newton(_Data(S, r, c, log_c), found.g, goal, most)
    return steps._replace(iterations=steps.iterations + found.iterations)


def _by_products(
    exponents: Tensor, r: Tensor, c: Tensor, f: Tensor, g: Tensor, goal: Tensor, fresh: bool
) -> Potentials:
    """More of Sinkhorn's iterations, on E itself: u = 1 / (E C v), v = 1 / (E' R u), as f + log u and g + log v.

    Each element goes on in blocks of iterations while its rate promises that it gets there; where products overflow or
    vanish, its potentials stay as they are. The density comes along where all elements of a fresh problem got there.
    """
    E = torch.exp(exponents)
    rows, columns = r[:, None], c[:, None]
    u, v = torch.ones_like(f), torch.ones_like(g)
    residual, before = torch.full_like(goal, torch.inf), torch.full_like(goal, torch.inf)
    iterations, going = torch.zeros_like(goal, dtype=torch.int64), torch.ones_like(goal, dtype=torch.bool)
    patience = PATIENCE + g.shape[1] // 16
    while bool(going.any()):
        mass = columns * v[:, None]  # C v
        for _ in range(BLOCK):
            last = mass
            across = torch.bmm(last, E.mT)
            down = torch.bmm(rows / across, E)
            mass = columns / down
        left, better = (1 / part[:, 0] for part in (across, down))
        change = (last * down - columns).abs().sum((1, 2))
        going &= better.isfinite().all(1) & left.isfinite().all(1) & (better > 0).all(1)
        u, v = torch.where(going[:, None], left, u), torch.where(going[:, None], better, v)
        residual = torch.where(going, change, residual)
        iterations += BLOCK * going
        fall = torch.log(residual / before).clamp(max=-1e-3)
        blocks = torch.log(goal / residual) / torch.where(before.isinf(), EXPECTED, fall)
        going &= (residual > goal) & (blocks <= patience)
        before = residual
    density = _density(E, u, v) if fresh and bool((residual <= goal).all()) else None
    return Potentials(f + u.log(), g + v.log(), iterations, residual, density)


def _density(E: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """diag(u) E diag(v) of an E that is at most one."""
    bound, scaled = math.exp(LARGEST), (u[:, :, None] * E).mul_(v[:, None])
    return scaled.clamp_(max=bound) if bool((u.amax(1) * v.amax(1) > bound).any()) else scaled


class _Data(NamedTuple):
    """Minus the costs (B, H, W), masses (B, H) and (B, W), and the logarithm of the latter."""

    S: Tensor
    r: Tensor
    c: Tensor
    log_c: Tensor

    def select(self, which: Tensor) -> _Data:
        """Some elements."""
        return _Data(*(part[which] for part in self))


class _Point(NamedTuple):
    """The semi-dual function at g: its value (B,), f, the conditional plan Q = R^-1 P, the gradient, the residual."""

    value: Tensor
    f: Tensor
    Q: Tensor
    gradient: Tensor
    residual: Tensor

    def select(self, which: Tensor) -> _Point:
        """Some elements."""
        return _Point(*(part[which] for part in self))


def _at(data: _Data, g: Tensor) -> _Point:
    S, r, c, log_c = data
    exponents = (log_c + g)[:, None] + S
    top = exponents.amax(2, keepdim=True)
    Q = torch.exp(exponents - top)
    total = Q.sum(2, keepdim=True)
    f = -(total.log() + top)[:, :, 0]
    Q /= total
    gradient = c - (r[:, None] @ Q)[:, 0]
    value = torch.linalg.vecdot(c, g) + torch.linalg.vecdot(r, f)
    return _Point(value, f, Q, gradient, gradient.abs().sum(1))


def _newton(data: _Data, g: Tensor, goal: Tensor, most: int) -> Potentials:
    """Regularized Newton steps with backtracking; elements that are there, or go no further, rest."""
    g, steps = g.clone(), torch.zeros(len(g), dtype=torch.int64, device=g.device)
    active = torch.arange(len(g), device=g.device)
    here = _at(data, g)
    f, residual = here.f.clone(), here.residual.clone()
    for _ in range(most):
        moving = here.residual > goal[active]
        if not moving.all():
            active, here, data = active[moving], here.select(moving), data.select(moving)
        if not active.numel():
            break
        here, new, moved = _step(data, g[active], here)
        steps[active] += 1
        g[active], f[active], residual[active] = new, here.f, here.residual
        if not moved.all():
            active, here, data = active[moved], here.select(moved), data.select(moved)
    return Potentials(f, g, steps, residual)


def _step(data: _Data, g: Tensor, here: _Point) -> tuple[_Point, Tensor, Tensor]:
    """One step: the new point, its g, and who moved at all."""
    direction = _direction(data.r, data.c, here)
    slope = torch.linalg.vecdot(here.gradient, direction)
    size = torch.ones_like(slope)
    moved = torch.zeros_like(slope, dtype=torch.bool)
    best, new = here, g
    for _ in range(HALVINGS):
        trial = g + size[:, None] * direction
        there = _at(data, trial)
        good = (there.value >= here.value + 1e-4 * size * slope) | (there.residual <= (1 - 0.1 * size) * here.residual)
        take = good & ~moved & torch.isfinite(there.residual)
        if take.all():
            return there, trial, take
        best = _Point(*(torch.where(_wide(take, a), a, b) for a, b in zip(there, best, strict=True)))
        new, moved = torch.where(take[:, None], trial, new), moved | take
        if moved.all():
            break
        size = size / 2
    return best, new, moved


def _wide(mask: Tensor, x: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (x.ndim - 1))


def _direction(r: Tensor, c: Tensor, here: _Point) -> Tensor:
    """The Newton step, regularized by the residual, in the scaling in which the Hessian's diagonal is about one."""
    scale = torch.where(c > 0, c, 1.0).rsqrt()
    root = r.sqrt()[:, :, None] * here.Q * scale[:, None]
    columns = (r[:, None] @ here.Q)[:, 0] * scale**2
    S = -(root.mT @ root)
    S += (c * scale)[:, :, None] * (c * scale)[:, None]  # the null vector of the gauge, lifted
    S.diagonal(dim1=1, dim2=2).add_(columns + (1e-14 + 1e-3 * here.residual.clamp(max=1.0))[:, None] + (c <= 0))
    factor, failed = torch.linalg.cholesky_ex(S)
    step = scale * torch.cholesky_solve((scale * here.gradient)[:, :, None], factor)[:, :, 0]
    ascent = torch.isfinite(step).all(1) & (failed == 0)
    return torch.where(ascent[:, None], step, here.gradient / c.clamp(min=1e-300).where(c > 0, torch.ones_like(c)))
