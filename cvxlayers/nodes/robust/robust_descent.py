"""Minima of sum_i phi(|y - x_i|; alpha) over a vector y, for a batch of point sets.

All penalties are concave in the squared distance, so reweighting, y <- sum psi x / sum psi, never goes up (Weiszfeld
1937; Holland, Welsch 1977). A Newton step is taken instead where it goes lower. Convex penalties start from the mean.
The others start from the mean, from the median of each coordinate, and from ``STARTS`` of at most ``CANDIDATES``
points, those of least cost that are more than alpha apart; after a few steps the best two go on, and the better end
is taken. An end where the Hessian is not positive semidefinite, such as the mean of samples that mirror each other, is
a saddle, and is left along the eigenvector of its least eigenvalue. For the truncated quadratic, sets of a few inliers
more or fewer are tried instead.

Points are (B, C, N), alpha is (B,), in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.robust.penalties import Penalty

__all__ = ["Found", "descend", "minimize_vector", "solve_hessian"]

Found = tuple[Tensor, Tensor, Tensor]
"""y (B, C), iterations (B,), and whether it converged (B,)."""

ITERATIONS = 1000
"""Few elements need more than twenty; leaving a saddle, where only reweighting goes lower, takes hundreds."""
STARTS = 5
CANDIDATES = 256
RESIZED = 4
PRUNED = 3
KEPT = 2
CLOSE = 1e-13
"""The last step, relative to |y| + alpha."""
SADDLE = 1e-9
"""A Hessian with an eigenvalue below minus so many times the sum of its weights is not that of a minimum."""
AWAY = 0.03
"""How far a saddle is left behind before the search goes on, in units of alpha."""
ESCAPES = 5
"""Saddles that are left, one after the other; who is at one then has not converged."""


def minimize_vector(penalty: Penalty, x: Tensor, alpha: Tensor) -> Found:
    """The best minimum found for each set of points."""
    if penalty.name == "quadratic":
        whole = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return x.mean(2), whole, torch.ones_like(whole, dtype=torch.bool)
    if penalty.convex:
        return descend(penalty, x, alpha, x.mean(2))
    starts = [x.mean(2), x.median(2).values, *_promising(penalty, x, alpha)]
    ends = [descend(penalty, x, alpha, start) for start in _pruned(penalty, x, alpha, starts)]
    costs = torch.stack([_cost(penalty, x, alpha, y) for y, _, _ in ends])
    best = costs.argmin(0)
    each = torch.arange(x.shape[0], device=x.device)
    y, iterations, good = (torch.stack(part)[best, each] for part in zip(*ends, strict=True))
    if penalty.name == "truncated-quadratic":
        return _resized(penalty, x, alpha, y), iterations, good
    return _off_saddles(penalty, x, alpha, (y, iterations, good))


def _pruned(penalty: Penalty, x: Tensor, alpha: Tensor, starts: Sequence[Tensor]) -> list[Tensor]:
    """Where a few reweighting steps from the starts lead, the ``KEPT`` lowest for each element."""
    reached = []
    for y in starts:
        for _ in range(PRUNED):
            psi = penalty.terms((y[..., None] - x).square().sum(1), alpha[:, None]).psi
            total = psi.sum(1, keepdim=True)
            y = torch.where(total > 0, (psi[:, None] * x).sum(2) / total, y)
        reached.append(y)
    costs = torch.stack([_cost(penalty, x, alpha, y) for y in reached])
    order, each = costs.argsort(0)[:KEPT], torch.arange(x.shape[0], device=x.device)
    return [torch.stack(reached)[row, each] for row in order]


def descend(penalty: Penalty, x: Tensor, alpha: Tensor, y: Tensor) -> Found:
    """Reweighting and Newton steps, whichever goes lower; elements that have arrived leave the batch."""
    answer, where = y.clone(), torch.arange(x.shape[0], device=x.device)
    taken, good = torch.full_like(where, ITERATIONS), torch.zeros_like(where, dtype=torch.bool)
    for iteration in range(1, ITERATIONS + 1):
        d = y[..., None] - x
        psi, slope, _ = penalty.terms((d * d).sum(1), alpha[:, None])
        total = psi.sum(1, keepdim=True)
        pull = (psi[:, None] * d).sum(2)
        reweighted = torch.where(total > 0, y - pull / total, y)  # out of reach of all: a plateau
        newton = y - solve_hessian(d, psi, slope, torch.zeros_like(alpha), pull)
        lower = _cost(penalty, x, alpha, newton) <= _cost(penalty, x, alpha, reweighted)
        new = torch.where(lower[:, None], newton, reweighted)
        step = (new - y).abs().amax(1)
        done = step <= CLOSE * (new.abs().amax(1) + alpha)
        y = new
        answer[where] = y
        if done.any():
            taken[where[done]], good[where[done]] = iteration, True
            rest = (~done).nonzero()[:, 0]
            if not rest.numel():
                break
            where, x, alpha, y = where[rest], x[rest], alpha[rest], y[rest]
    return answer, taken, good


def _off_saddles(penalty: Penalty, x: Tensor, alpha: Tensor, found: Found) -> Found:
    """From where the Hessian has a negative eigenvalue, to the lower side of its eigenvector and on from there."""
    y, iterations, good = (part.clone() for part in found)
    for escape in range(ESCAPES + 1):
        here, way = _downward(penalty, x, alpha, y)
        if not here.numel():
            break
        if escape == ESCAPES:
            good[here] = False
            break
        points, scale = x[here], alpha[here]
        sides = torch.stack([y[here] + sign * AWAY * scale[:, None] * way for sign in (1, -1)])
        costs = torch.stack([_cost(penalty, points, scale, side) for side in sides])
        lower = sides[costs.argmin(0), torch.arange(here.numel(), device=x.device)]
        y[here], taken, good[here] = descend(penalty, points, scale, lower)
        iterations[here] += taken
    return y, iterations, good


def _downward(penalty: Penalty, x: Tensor, alpha: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The elements at saddles, and for each the eigenvector of the least eigenvalue of its Hessian.

    For penalties whose slopes are not positive: H = t I - W W', t = sum psi, W = D diag(-slope)^(1/2). With fewer
    points than dimensions its other eigenvalues than t are those of t I - W'W, with eigenvectors W u.
    """
    d = y[..., None] - x
    psi, slope, _ = penalty.terms((d * d).sum(1), alpha[:, None])
    W, total = (-slope).sqrt()[:, None] * d, psi.sum(1)
    flat = x.shape[1] <= x.shape[2]
    gram = W @ W.mT if flat else W.mT @ W
    lifted = (1 + SADDLE) * total[:, None, None] * torch.eye(gram.shape[1], dtype=x.dtype, device=x.device) - gram
    here = ((torch.linalg.cholesky_ex(lifted).info > 0) & (total > 0)).nonzero()[:, 0]
    u = torch.linalg.eigh(gram[here]).eigenvectors[..., -1]
    return here, torch.nn.functional.normalize(u if flat else (W[here] @ u[..., None])[..., 0])


def _resized(penalty: Penalty, x: Tensor, alpha: Tensor, y: Tensor) -> Tensor:
    """Try the means of a few points more or fewer, by their distance from y, as long as that goes lower.

    The truncated quadratic has a small minimum for nearly every set of inliers; this leaves the poor ones.
    """
    change = torch.arange(-RESIZED, RESIZED + 1, device=x.device)
    for _ in range(ITERATIONS):
        s = (y[..., None] - x).square().sum(1)
        sums = x.gather(2, s.argsort(1)[:, None].expand_as(x)).cumsum(2)
        count = ((s <= alpha[:, None] ** 2).sum(1, keepdim=True) + change).clamp(1, x.shape[2])
        rivals = sums.gather(2, (count - 1)[:, None].expand(-1, x.shape[1], -1)) / count[:, None]
        costs = torch.stack([_cost(penalty, x, alpha, rival) for rival in rivals.unbind(2)], 1)
        cost, best = costs.min(1)
        lower = cost < _cost(penalty, x, alpha, y) * (1 - 1e-12)
        if not lower.any():
            break
        rival = rivals.gather(2, best[:, None, None].expand(-1, x.shape[1], 1))[..., 0]
        start = torch.where(lower[:, None], rival, y)
        y = torch.where(lower[:, None], descend(penalty, x, alpha, start)[0], y)
    return y


def solve_hessian(d: Tensor, psi: Tensor, slope: Tensor, damping: Tensor, g: Tensor) -> Tensor:
    """H^-1 g with H = (sum psi + damping) I + sum_i slope_i d_i d_i', for d (B, C, N), psi and slope (B, N), g (B, C).

    With fewer points than dimensions a system of the number of points is solved (Woodbury): with D the points d_i as
    columns and t = sum psi + damping, H^-1 g = (g - D (t I + diag(slope) D'D)^-1 diag(slope) D'g) / t.
    """
    C, N = d.shape[1:]
    total = (psi.sum(1) + damping)[:, None, None]
    scaled = slope[:, None] * d
    if C <= N:
        H = scaled @ d.mT + total * torch.eye(C, dtype=d.dtype, device=d.device)
        return torch.linalg.solve_ex(H, g[..., None]).result[..., 0]
    small = scaled.mT @ d + total * torch.eye(N, dtype=d.dtype, device=d.device)
    inner = torch.linalg.solve_ex(small, scaled.mT @ g[..., None]).result
    return ((g[..., None] - d @ inner) / total)[..., 0]


def _cost(penalty: Penalty, x: Tensor, alpha: Tensor, y: Tensor) -> Tensor:
    """The sum of penalties at y; infinite where y is not finite."""
    s = (y[..., None] - x).square().sum(1)
    return penalty.value(s, alpha[:, None]).sum(1).nan_to_num(nan=torch.inf)


def _promising(penalty: Penalty, x: Tensor, alpha: Tensor) -> list[Tensor]:
    """Points of low cost that are more than alpha apart."""
    N = x.shape[2]
    index = torch.linspace(0, N - 1, min(N, CANDIDATES), device=x.device).round().long()
    points = x[..., index].mT
    apart = torch.cdist(points, points)
    s = torch.cdist(points, x.mT).square()
    cost = penalty.value(s, alpha[:, None, None]).sum(2)
    found = []
    for _ in range(min(STARTS, N)):
        best = cost.argmin(1)
        each = torch.arange(x.shape[0], device=x.device)
        found.append(points[each, best])
        cost = torch.where(apart[each, best] <= alpha[:, None], torch.inf, cost)
    return found
