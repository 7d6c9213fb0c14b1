"""Minima of sum_i phi(y - x_i; alpha) over one number y, for a batch of samples: global, or as good as global.

* Convex penalties: the root of the monotone derivative, by Newton's method inside a bracket that bisection shrinks.
* Truncated quadratic: exact. At a minimum the inliers are the samples in a window of width 2 alpha, and the cost is
  that of their variance plus alpha^2 / 2 for each outlier. All windows that differ in their samples, at most 2 N, are
  compared through partial sums of the sorted samples.
* Welsch: the ``MODES`` highest modes of a Gaussian kernel density (Silverman 1982: linear binning on a grid, here of
  step alpha / 8, a convolution, and a parabola through each peak) are climbed by mean shift (Fukunaga, Hostetler
  1975) and Newton's method, and the best is taken. So the minimum is global unless more than that many modes have the
  height of the highest to within about 0.3 percent, which is what the grid blurs.

Samples are (B, N), alpha is (B,), both in double precision.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cvxlayers.nodes.robust.penalties import Penalty

__all__ = ["Found", "minimize", "stationarity"]

Found = tuple[Tensor, Tensor, Tensor]
"""y (B,), iterations (B,), and whether it converged (B,)."""

ITERATIONS = 200
MODES = 3
BLUR = 0.01
"""Modes lower than the highest by more than this share are not climbed."""
CLOSE = 1e-12
"""The last step, in units of alpha."""
GRID = 8
"""Grid points for each alpha."""
REACH = 5.0
"""The kernel ends after so many alpha: exp(-REACH^2 / 2) is 4e-6."""
GAP = 8.0
"""Larger gaps between samples, in units of alpha, are shortened to this: neighbours do not feel each other across."""
BUDGET = 2**22
"""Numbers held at once."""


def minimize(penalty: Penalty, x: Tensor, alpha: Tensor) -> Found:
    """The minimum for each row of samples."""
    none = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
    if penalty.name == "quadratic":
        return x.mean(1), none, torch.ones_like(none, dtype=torch.bool)
    if penalty.convex:
        return _convex(penalty, x, alpha)
    if penalty.name == "truncated-quadratic":
        return _truncated(x, alpha), none, torch.ones_like(none, dtype=torch.bool)
    return _welsch(x, alpha)


def _convex(penalty: Penalty, x: Tensor, alpha: Tensor) -> Found:
    """Newton's method; a step that leaves the bracket, or halves neither the derivative nor the step, bisects."""
    low, high = x.aminmax(dim=1)
    y, where = x.mean(1), torch.arange(x.shape[0], device=x.device)
    answer, taken, good = y.clone(), torch.full_like(where, ITERATIONS), torch.zeros_like(where, dtype=torch.bool)
    before = torch.full_like(y, torch.inf)
    for iteration in range(ITERATIONS):
        slope, curvature = _derivatives(penalty, x, y, alpha)
        low, high = torch.where(slope < 0, y, low), torch.where(slope > 0, y, high)
        newton = y - slope / curvature
        trusted = (newton > low) & (newton < high) & (slope.abs() <= 0.5 * before)
        new = torch.where(trusted, newton, torch.where(slope == 0, y, (low + high) / 2))
        arrived = torch.minimum((new - y).abs(), (newton - y).abs().nan_to_num(nan=torch.inf))
        done = arrived <= 4 * torch.finfo(x.dtype).eps * (y.abs() + alpha)
        new = torch.where(done & (curvature > 0), newton, new)
        y, before = new, slope.abs()
        answer[where] = y
        if done.any():
            taken[where[done]], good[where[done]] = iteration + 1, True
            rest = (~done).nonzero()[:, 0]
            if not rest.numel():
                break
            where, x, alpha, y = where[rest], x[rest], alpha[rest], y[rest]
            low, high, before = low[rest], high[rest], before[rest]
    return answer, taken, good


def stationarity(penalty: Penalty, x: Tensor, alpha: Tensor, y: Tensor) -> Tensor:
    """The derivative at y, less its rounding errors, relative to the sum of the absolute values of its terms, (B,)."""
    z, a = y[:, None] - x, alpha[:, None]
    huber = penalty.name == "huber"
    terms = torch.minimum(torch.maximum(z, -a), a) if huber else penalty.terms(z * z, a).psi * z
    noise = 8 * torch.finfo(x.dtype).eps * (y.abs() + alpha) * x.shape[1]
    return (terms.sum(1).abs() - noise).clamp_min(0) / terms.abs().sum(1).clamp_min(torch.finfo(x.dtype).tiny)


def _derivatives(penalty: Penalty, x: Tensor, y: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The first and second derivative of the sum at y."""
    z, a = y[:, None] - x, alpha[:, None]
    if penalty.name == "huber":  # in few operations, since this is the most used one
        cut = torch.minimum(torch.maximum(z, -a), a)
        return cut.sum(1), (cut == z).sum(1).to(x.dtype)
    s = z * z
    psi, slope, _ = penalty.terms(s, a)
    return (psi * z).sum(1), (psi + slope * s).sum(1)


def _squeezed(x: Tensor, alpha: Tensor, gap: float) -> tuple[Tensor, Tensor]:
    """The sorted samples, and the same in units of alpha, starting at zero, with gaps shortened."""
    x = x.sort(1).values
    steps = (x.diff(dim=1) / alpha[:, None]).clamp_max(gap)
    return x, torch.nn.functional.pad(steps.cumsum(1), (1, 0))


def _truncated(x: Tensor, alpha: Tensor) -> Tensor:
    # No window of width 2 reaches across a gap of 3, so shortening gaps changes no cost, and keeps the sums accurate.
    x, v = _squeezed(x, alpha, 3.0)
    first = torch.cat([torch.searchsorted(v, v, right=True), torch.searchsorted(v, v - 2)], 1)
    last = torch.cat([torch.searchsorted(v, v + 2, right=True), torch.searchsorted(v, v, right=True)], 1)
    count = last - first
    pad = torch.nn.functional.pad
    sums, squares = (pad(part.cumsum(1), (1, 0)) for part in (v, v * v))
    total = sums.gather(1, last) - sums.gather(1, first)
    variance = squares.gather(1, last) - squares.gather(1, first) - total**2 / count.clamp_min(1)
    cost = torch.where(count > 0, variance - count, torch.inf)
    best = cost.argmin(1, keepdim=True)
    index = torch.arange(x.shape[1], device=x.device)
    inlier = (index >= first.gather(1, best)) & (index < last.gather(1, best))
    return torch.where(inlier, x, 0.0).sum(1) / inlier.sum(1)


def _welsch(x: Tensor, alpha: Tensor) -> Found:
    y, iterations, good = torch.empty_like(alpha), torch.zeros_like(alpha, dtype=torch.int64), alpha > 0
    x, v = _squeezed(x, alpha, GAP)
    cells = (v[:, -1:] * GRID).ceil().amax().long().item() if x.shape[0] else 0
    size = max(1, BUDGET // max(int(cells), MODES * x.shape[1]))
    for start in range(0, x.shape[0], size):
        part = slice(start, start + size)
        y[part], iterations[part], good[part] = _highest(x[part], v[part], alpha[part])
    return y, iterations, good


def _highest(x: Tensor, v: Tensor, alpha: Tensor) -> Found:
    """Climb the modes of each row, and take the highest."""
    near, start = _modes(v)
    row = near.nonzero()[:, 0]
    right = torch.searchsorted(v, start).clamp_max(v.shape[1] - 1)
    left = (right - 1).clamp_min(0)
    beyond, before = v.gather(1, right) - start, start - v.gather(1, left)
    closer = before < beyond
    base, offset = x.gather(1, torch.where(closer, left, right)), torch.where(closer, before, -beyond)
    base, offset = base[near], offset[near]
    z = (x[row] - base[:, None]) / alpha[row, None]  # samples as seen from each base
    t, mass, arrived, steps = _climb(z, offset)
    height = torch.zeros_like(start).masked_scatter(near, mass)
    best = height.argmax(1, keepdim=True)
    place = torch.zeros_like(start).masked_scatter(near, base + alpha[row] * t)
    ended = torch.zeros_like(near).masked_scatter(near, arrived)
    y, good = (part.gather(1, best)[:, 0] for part in (place, ended))
    return y, torch.full_like(best[:, 0], steps), good


def _modes(v: Tensor) -> tuple[Tensor, Tensor]:
    """The highest modes of the kernel density of sorted samples, in units of the kernel's width.

    Returns which of them are nearly as high as the first, and where they are, both (B, MODES).
    """
    edge = int(REACH * GRID)
    place = v * GRID + edge
    cell = place.floor().long()
    share, G = place - cell, int(cell.amax()) + edge + 2
    weight = v.new_zeros(v.shape[0], G)
    weight.scatter_add_(1, cell, 1 - share).scatter_add_(1, cell + 1, share)
    away = torch.arange(G, device=v.device, dtype=v.dtype)
    taps = torch.exp(-((torch.minimum(away, G - away) / GRID) ** 2) / 2)
    taps = torch.where(torch.minimum(away, G - away) <= edge, taps, 0.0)  # the margins keep the ends apart
    density = torch.fft.irfft(torch.fft.rfft(weight) * torch.fft.rfft(taps), n=G)
    left, middle, right = density[:, :-2], density[:, 1:-1], density[:, 2:]
    peak = (middle >= left) & (middle > right)
    shift = torch.where(peak, (left - right) / (2 * (left - 2 * middle + right)), 0.0)
    height, where = torch.where(peak, middle - (left - right) * shift / 4, -1.0).topk(min(MODES, peak.shape[1]), 1)
    near = height >= (1 - BLUR) * height[:, :1]
    return near, (where + 1 - edge + shift.gather(1, where)) / GRID


def _climb(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """From t (K,) to the maximum of sum exp(-(z - t)^2 / 2) over samples z (K, N): there, height, arrived, steps."""
    place, height, arrived = t.clone(), torch.zeros_like(t), torch.zeros_like(t, dtype=torch.bool)
    where, steps = torch.arange(t.numel(), device=t.device), 0
    while where.numel() and steps < ITERATIONS:
        r = z - t[:, None]
        e = torch.exp(-r * r / 2)
        er = e * r
        mass, pull = e.sum(1), er.sum(1)
        curvature = mass - (er * r).sum(1)
        newton = (curvature > 1e-3 * mass) & (pull.abs() < 0.3 * curvature)
        step = torch.where(newton, pull / curvature, pull / mass)
        t, steps = t + step, steps + 1
        place[where], height[where] = t, mass
        moving = step.abs() > CLOSE
        if not moving.all():
            arrived[where[~moving]] = True
            where, z, t = where[moving], z[moving], t[moving]
    return place, height, arrived, steps
