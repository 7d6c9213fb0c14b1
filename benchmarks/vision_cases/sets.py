"""Analytic centres, total variation and poses: beside recorded iterations, and the direct methods in plain loops."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.vision_cases.case import Case, Forward, generator
from cvxlayers.nodes import analytic_centre, perspective_n_point, total_variation

__all__ = ["CASES"]


def newton(A: Tensor, b: Tensor, rounds: int = 40) -> Tensor:
    """Damped Newton steps for the analytic centre from zero, which lies inside, every step in the graph."""
    y = torch.zeros_like(A[:, 0])
    for _ in range(rounds):
        lam = 1 / (b - (A @ y[:, :, None])[:, :, 0])
        gradient = (lam[:, None] @ A)[:, 0]
        scaled = lam[:, :, None] * A
        step = torch.linalg.solve(scaled.mT @ scaled, gradient)
        decrement = (gradient * step).sum(1, keepdim=True).clamp_min(0).sqrt()
        y = y - step / torch.where(decrement.detach() > 0.25, 1 + decrement, 1.0)
        if float(decrement.detach().max()) < 1e-10:
            break
    return y


def _centre(quick: bool) -> Case:
    batch, m, n = (2, 6, 2) if quick else (64, 60, 20)
    A = torch.randn(batch, m, n, generator=generator(), dtype=torch.float64)
    A[:, 0] = -A[:, 1:].sum(1)
    b = 0.1 + torch.rand(batch, m, generator=generator(1), dtype=torch.float64)

    def check(outputs: Sequence[Tensor]) -> float:
        s = b - (A @ outputs[0][:, :, None])[:, :, 0]
        pull = A / s[:, :, None]
        return float((pull.sum(1).norm(dim=1) / pull.norm(dim=2).sum(1)).max()) if (s > 0).all() else float("inf")

    return Case("analytic centre", f"{batch} x {m} x {n}", (A, b), analytic_centre, check, {"Newton, recorded": newton})


def projected(x: Tensor, lam: Tensor, rounds: int = 300) -> Tensor:
    """Total variation by accelerated projected gradient steps on the dual (Beck, Teboulle 2009), recorded."""
    z = x.new_zeros(x.shape[0], x.shape[1] - 1)
    ahead, t = z, 1.0
    bound = lam[:, None]
    for _ in range(rounds):
        y = x + torch.nn.functional.pad(ahead, (0, 1)) - torch.nn.functional.pad(ahead, (1, 0))
        moved = torch.minimum(torch.maximum(ahead + (y[:, 1:] - y[:, :-1]) / 4, -bound), bound)
        following = (1 + (1 + 4 * t * t) ** 0.5) / 2
        z, ahead, t = moved, moved + (t - 1) / following * (moved - z), following
    return x + torch.nn.functional.pad(z, (0, 1)) - torch.nn.functional.pad(z, (1, 0))


def condat(x: np.ndarray, lam: float) -> np.ndarray:
    """One signal by Condat's direct algorithm (2013), in a plain loop."""
    N, y = len(x), np.empty(len(x))
    k = k0 = low_end = high_end = 0
    low, high, umin, umax = x[0] - lam, x[0] + lam, lam, -lam
    while True:
        while k == N - 1:
            if umin < 0:
                y[k0 : low_end + 1] = low
                k = k0 = low_end = low_end + 1
                low, umin, umax = x[k], lam, x[k] + lam - high
            elif umax > 0:
                y[k0 : high_end + 1] = high
                k = k0 = high_end = high_end + 1
                high, umax, umin = x[k], -lam, x[k] - lam - low
            else:
                y[k0:] = low + umin / (k - k0 + 1)
                return y
        umin, umax = umin + x[k + 1] - low, umax + x[k + 1] - high
        if umin < -lam:
            y[k0 : low_end + 1] = low
            k = k0 = low_end = high_end = low_end + 1
            low, high, umin, umax = x[k], x[k] + 2 * lam, lam, -lam
        elif umax > lam:
            y[k0 : high_end + 1] = high
            k = k0 = low_end = high_end = high_end + 1
            low, high, umin, umax = x[k] - 2 * lam, x[k], lam, -lam
        else:
            k += 1
            if umin >= lam:
                low, low_end, umin = low + (umin - lam) / (k - k0 + 1), k, lam
            if umax <= -lam:
                high, high_end, umax = high + (umax + lam) / (k - k0 + 1), k, -lam


class _Condat(torch.autograd.Function):
    """Condat's algorithm for each signal, and the mean over its pieces."""

    @staticmethod
    def forward(x: Tensor, lam: Tensor) -> Tensor:
        return torch.from_numpy(np.stack([condat(row, float(one)) for row, one in zip(x.numpy(), lam, strict=True)]))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        (y,) = ctx.saved_tensors
        jump = torch.where((y[:, 1:] - y[:, :-1]).abs() > 1e-9, (y[:, 1:] - y[:, :-1]).sign(), 0)
        piece = torch.nn.functional.pad(jump.abs().cumsum(1), (1, 0)).long()
        sums, counts = (torch.zeros_like(y).scatter_add(1, piece, part) for part in (cotangent, torch.ones_like(y)))
        mean = (sums / counts.clamp_min(1)).gather(1, piece)
        return mean, (jump * (mean[:, :-1] - mean[:, 1:])).sum(1)


def _variation(quick: bool) -> Case:
    batch, N = (3, 12) if quick else (32, 500)
    x = torch.randn(batch, N, generator=generator(), dtype=torch.float64).cumsum(1)
    lam = 0.5 + torch.rand(batch, generator=generator(1), dtype=torch.float64)

    def check(outputs: Sequence[Tensor]) -> float:
        """z = cumsum(y - x) lies within lam, and at lam where y jumps."""
        (y,) = outputs
        z, jump = (y - x).cumsum(1), y[:, 1:] - y[:, :-1]
        slack = z[:, :-1] * jump - lam[:, None] * jump.abs()
        beyond = (z[:, :-1].abs() - lam[:, None]).clamp_min(0)
        return float(torch.cat([slack.abs(), beyond, z[:, -1:].abs()], 1).max() / (1 + x.abs().max()))

    return Case(
        "total variation", f"{batch} x {N}", (x, lam), total_variation, check,
        {"Condat's loop, averages": _Condat.apply, "dual gradient, recorded": projected}, step=1e-8,
    )  # fmt: skip


def recorded_pose(p2d: Tensor, p3d: Tensor, w: Tensor, rounds: int = 12) -> Tensor:
    """A direct linear start, then Gauss-Newton steps on the reprojection error, every step in the graph."""
    theta, t = _linear_start(p2d.detach(), p3d.detach())
    pose = torch.cat([theta, t], 1)

    def residual(pose: Tensor, p2d: Tensor, p3d: Tensor, w: Tensor) -> Tensor:
        R = torch.linalg.matrix_exp(_skew(pose[:3]))
        q = p3d @ R.T + pose[3:]
        return (w.sqrt()[:, None] * (q[:, :2] / q[:, 2:] - p2d)).reshape(-1)

    slope = torch.func.vmap(torch.func.jacfwd(residual))
    for _ in range(rounds):
        J, r = slope(pose, p2d, p3d, w), torch.func.vmap(residual)(pose, p2d, p3d, w)
        pose = pose - torch.linalg.solve(J.mT @ J, (J.mT @ r[:, :, None])[:, :, 0])
    return pose


def _skew(theta: Tensor) -> Tensor:
    x, y, z = theta.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*theta.shape[:-1], 3, 3)


def _linear_start(p2d: Tensor, p3d: Tensor) -> tuple[Tensor, Tensor]:
    ones, zeros = torch.ones_like(p3d[..., :1]), torch.zeros_like(p3d)
    h = torch.cat([p3d, ones], 2)
    blank = torch.cat([zeros, zeros[..., :1]], 2)
    rows = [torch.cat([h, blank, -p2d[..., :1] * h], 2), torch.cat([blank, h, -p2d[..., 1:] * h], 2)]
    P = torch.linalg.svd(torch.cat(rows, 1)).Vh[:, -1].reshape(-1, 3, 4)
    P = P * torch.linalg.det(P[:, :, :3]).sign()[:, None, None]
    U, S, Vh = torch.linalg.svd(P[:, :, :3])
    R = U @ Vh
    angle = torch.arccos(((R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1))
    axis = torch.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], 1)
    return axis * (angle / (2 * angle.sin()))[:, None], P[:, :, 3] / S.mean(1, keepdim=True)


def _pose(quick: bool) -> Case:
    batch, n = (2, 7) if quick else (64, 30)
    p3d = torch.randn(batch, n, 3, generator=generator(), dtype=torch.float64)
    theta = torch.randn(batch, 3, generator=generator(1), dtype=torch.float64)
    q = p3d @ torch.linalg.matrix_exp(_skew(theta)).mT + torch.tensor([0.2, -0.3, 7.0], dtype=torch.float64)
    p2d = q[..., :2] / q[..., 2:] + 0.002 * torch.randn(batch, n, 2, generator=generator(2), dtype=torch.float64)
    w = 0.5 + torch.rand(batch, n, generator=generator(3), dtype=torch.float64)

    def check(outputs: Sequence[Tensor]) -> float:
        """The gradient of the objective, relative to the sum of the sizes of its terms."""
        pose = outputs[0].clone().requires_grad_()
        with torch.enable_grad():
            q = p3d @ torch.linalg.matrix_exp(_skew(pose[:, :3])).mT + pose[:, None, 3:]
            residual = q[..., :2] / q[..., 2:] - p2d
            (gradient,) = torch.autograd.grad((w * residual.square().sum(2)).sum(), pose)
        size = (w * residual.detach().norm(dim=2)).sum(1)
        return float((gradient.norm(dim=1) / size).max())

    def ddn(module: Any) -> Forward:
        layer = importlib.import_module("ddn.pytorch.node").DeclarativeLayer(module.PnP())
        return lambda p2d, p3d, w: layer(p2d, p3d, w, None)

    return Case(
        "perspective-n-point", f"{batch} x {n}", (p2d, p3d, w), perspective_n_point, check,
        {"Gauss-Newton, recorded": recorded_pose}, ("ddn.pytorch.pnp_node", ddn),
    )  # fmt: skip


CASES: dict[str, Callable[[bool], Case]] = {
    "analytic centre": _centre,
    "total variation": _variation,
    "perspective-n-point": _pose,
}
