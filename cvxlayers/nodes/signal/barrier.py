"""The analytic centre by damped Newton steps, after a phase that finds a point inside or proves that there is none.

Rows are scaled to length one first, which moves no centre. Phase one follows the barrier path of  min t  subject to
A y - t <= b, |y_j| <= R, -1 <= t  in (y, t), from y = 0, until A y < b; a path point with parameter theta is within
(number of rows) / theta of the optimum, so a t above that proves that no point lies inside the box (Boyd, Vandenberghe
2004, sections 11.3 and 11.4). Phase two minimizes -sum log(b - A y). A direction d with A d <= 0, relative to |d|, that
Newton's method finds there proves that the set is unbounded; a converged centre has lam = 1 / s > 0 with A'lam = 0,
which proves that it is bounded (Farkas).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cvxlayers.nodes.rules.call_result import SolvedNode
from cvxlayers.program.solution import Status

__all__ = ["find_centre"]

BOX = 1e6
"""How far from the origin phase one looks, in units of the largest distance of a row's plane from the origin."""

FASTER, SHARPEST = 10.0, 1e9
"""By how much theta grows on the path, and where the path ends."""

FLAT = 1e-9
"""A direction along which no row grows by more than this, relative to its length, has no end."""

HALVINGS = 40


def find_centre(A: Tensor, b: Tensor, tolerance: float, most: int) -> SolvedNode:
    """The centres (B, n) of {A y <= b} for A (B, m, n), b (B, m), in at most so many Newton steps for each phase."""
    batch = len(A)
    lengths = A.norm(dim=2)
    empty_row = (lengths == 0) & (b <= 0)
    lengths = torch.where(lengths > 0, lengths, torch.where(b.abs() > 0, b.abs(), 1.0))
    A, b = A / lengths[:, :, None], b / lengths
    unit = b.abs().amax(1).clamp(min=1e-300)
    b = b / unit[:, None]
    y, inside, empty, steps = _phase_one(A, b, most)
    status = torch.full((batch,), int(Status.FAILED), dtype=torch.int8, device=A.device)
    residual = torch.full((batch,), torch.inf, dtype=A.dtype, device=A.device)
    status[empty | empty_row.any(1)] = int(Status.INFEASIBLE)
    index = (inside & ~empty_row.any(1)).nonzero()[:, 0]
    flat = _rank_deficient(A[index])
    found = _newton(A[index], b[index], torch.zeros_like(A[index, 0]), y[index], tolerance, most, flat)
    y[index], steps[index], residual[index] = found.y, steps[index] + found.steps, found.decrement
    status[index] = torch.where(
        found.unbounded | flat,
        int(Status.UNBOUNDED),
        torch.where(found.decrement <= tolerance, int(Status.OPTIMAL), int(Status.INACCURATE)),
    ).to(torch.int8)
    return SolvedNode((y * unit[:, None],), status, steps, residual)


def _rank_deficient(A: Tensor) -> Tensor:
    """Whether A has directions that change nothing, (B,)."""
    if A.shape[1] < A.shape[2]:
        return torch.ones(len(A), dtype=torch.bool, device=A.device)
    eigenvalues = torch.linalg.eigvalsh(A.mT @ A)
    return eigenvalues[:, 0] <= 1e-14 * A.shape[1] * eigenvalues[:, -1]


def _phase_one(A: Tensor, b: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points y (B, n), who has one inside, who has none for certain, and the steps taken."""
    batch, _, n = A.shape
    y = A.new_zeros((batch, n))
    steps = torch.zeros(batch, dtype=torch.int64, device=A.device)
    inside, empty = (b > 0).all(1), torch.zeros(batch, dtype=torch.bool, device=A.device)
    active = (~inside).nonzero()[:, 0]
    if not active.numel():
        return y, inside, empty, steps
    G, h = _lifted(A[active], b[active])
    z = torch.cat([y[active], 1 + (-b[active]).amax(1, keepdim=True).clamp(min=0)], 1)
    theta = torch.ones_like(z[:, 0])
    cost = torch.zeros_like(z)
    while active.numel():
        cost[:, -1] = theta
        found = _newton(G, h, cost, z, 1e-2, most, None, A[active], b[active])
        z = found.y
        steps[active] += found.steps
        y[active] = z[:, :-1]
        slack = (b[active] - (A[active] @ z[:, :-1, None])[:, :, 0]).amin(1)
        good = slack > 0
        none = ~good & (z[:, -1] > 2 * G.shape[1] / theta) & (found.decrement <= 0.5)
        inside[active[good]], empty[active[none]] = True, True
        on = ~good & ~none
        end = on & (theta >= SHARPEST)
        empty[active[end & (found.decrement <= 0.5)]] = True
        on &= ~end
        active, G, h, z, cost = active[on], G[on], h[on], z[on], cost[on]
        theta = theta[on] * FASTER
    return y, inside, empty, steps


def _lifted(A: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of phase one in (y, t): A y - t <= b, the box, -t <= 1."""
    batch, m, n = A.shape
    identity = torch.eye(n, dtype=A.dtype, device=A.device).expand(batch, n, n)
    zeros, one = A.new_zeros((batch, n, 1)), -A.new_ones((batch, 1, 1))
    rows = (
        torch.cat([A, -A.new_ones((batch, m, 1))], 2),
        torch.cat([identity / BOX, zeros], 2),
        torch.cat([-identity / BOX, zeros], 2),
        torch.cat([A.new_zeros((batch, 1, n)), one], 2),
    )
    return torch.cat(rows, 1), torch.cat([b, b.new_ones((batch, 2 * n + 1))], 1)


class _Found(NamedTuple):
    """Points (B, n), their Newton decrements, steps, and who has a direction without an end."""

    y: Tensor
    decrement: Tensor
    steps: Tensor
    unbounded: Tensor


def _newton(
    A: Tensor, b: Tensor, cost: Tensor, y: Tensor, tolerance: float, most: int, idle: Tensor | None,
    rows: Tensor | None = None, limits: Tensor | None = None,
) -> _Found:  # fmt: skip
    """Minimize cost'y - sum log(b - A y) from a point inside.

    Elements rest when their decrement meets the tolerance, where ``idle`` says so, where a direction has no end, and,
    with ``rows`` and ``limits``, as soon as the first entries of y are inside of those.
    """
    batch = len(A)
    y, steps = y.clone(), torch.zeros(batch, dtype=torch.int64, device=A.device)
    decrement = torch.full((batch,), torch.inf, dtype=A.dtype, device=A.device)
    unbounded = torch.zeros(batch, dtype=torch.bool, device=A.device)
    active = torch.arange(batch, device=A.device) if idle is None else (~idle).nonzero()[:, 0]
    for _ in range(most + 1):
        if not active.numel():
            break
        At, bt, ct, yt = A[active], b[active], cost[active], y[active]
        lam = 1 / (bt - (At @ yt[:, :, None])[:, :, 0])
        gradient = ct + (lam[:, None] @ At)[:, 0]
        scaled = lam[:, :, None] * At
        factor, bad = torch.linalg.cholesky_ex(scaled.mT @ scaled)
        d = -torch.cholesky_solve(gradient[:, :, None], factor)[:, :, 0]
        size = (-(gradient * d).sum(1)).clamp(min=0).sqrt()
        decrement[active] = torch.where(bad == 0, size, torch.inf)
        growth = (At @ d[:, :, None])[:, :, 0]
        endless = (growth.amax(1) <= FLAT * d.norm(dim=1)) & (size > tolerance)
        unbounded[active] |= endless
        done = (size <= tolerance) | (bad > 0) | endless
        if rows is not None and limits is not None:
            done |= (rows[active] @ yt[:, :-1, None])[:, :, 0].sub(limits[active]).amax(1) < 0
        go = ~done
        active = active[go]
        y[active] = yt[go] + _length(lam[go], growth[go], (ct * d).sum(1)[go], size[go])[:, None] * d[go]
        steps[active] += 1
    return _Found(y, decrement, steps, unbounded)


def _length(lam: Tensor, growth: Tensor, linear: Tensor, decrement: Tensor) -> Tensor:
    """How far to go along a direction: halved from the way to the boundary until the function falls enough.

    Along it the function changes by t linear - sum log(1 - t lam growth). A full step is taken close to the minimum,
    where self-concordance says that it is right.
    """
    rate = lam * growth
    full = 1 / rate.amax(1).clamp(min=1e-300)
    t = torch.minimum(0.99 * full, torch.ones_like(full)) * torch.where(decrement < 0.25, 1.0, 4.0)
    t = torch.minimum(t, 0.99 * full)
    for _ in range(HALVINGS):
        change = t * linear - torch.log1p(-t[:, None] * rate).sum(1)
        short = (change > -0.1 * t * decrement**2) & (decrement >= 0.25)
        if not short.any():
            break
        t = torch.where(short, t / 2, t)
    return t
