"""Optimal transport and attention: beside recorded iterations, and beside implicit derivatives of plain iterations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.vision_cases.case import Case, Forward, generator
from cvxlayers.nodes import entmax, optimal_transport, robust_mean

__all__ = ["CASES"]

MET, MOST = 1e-7, 2000
"""The residual at which the contenders' iterations end, and their number at most."""


def sinkhorn(M: Tensor, gamma: float, met: float = MET, most: int = MOST) -> Tensor:
    """Sinkhorn's iteration in log-space for uniform masses, every step in the graph."""
    f, g = M.new_zeros(M.shape[:2]), M.new_zeros((M.shape[0], M.shape[2]))
    H, W = M.shape[1:]
    S = -gamma * M
    for count in range(most):
        f = -torch.logsumexp(S + g[:, None], 2) - torch.log(M.new_tensor(H))
        g = -torch.logsumexp(S + f[:, :, None], 1) - torch.log(M.new_tensor(W))
        if count % 10 == 9:
            with torch.no_grad():
                rows = torch.exp(S + f[:, :, None] + g[:, None]).sum(2)
                if float((rows - 1 / H).abs().sum(1).max()) <= met:
                    break
    return torch.exp(S + f[:, :, None] + g[:, None])


class _Implicit(torch.autograd.Function):
    """The same iteration without a graph; the derivative by the KKT system without the last constraint."""

    @staticmethod
    def forward(M: Tensor, gamma: float) -> Tensor:
        return sinkhorn(M, gamma)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.gamma = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        (P,) = ctx.saved_tensors
        H = P.shape[1]
        weighted = P * cotangent
        right = torch.cat([weighted.sum(2), weighted.sum(1)[:, :-1]], 1)
        cut = P[:, :, :-1]
        upper = torch.cat([torch.diag_embed(P.sum(2)), cut], 2)
        lower = torch.cat([cut.mT, torch.diag_embed(cut.sum(1))], 2)
        multipliers = torch.linalg.solve(torch.cat([upper, lower], 1), right)
        a, b = multipliers[:, :H], torch.nn.functional.pad(multipliers[:, H:], (0, 1))
        return -ctx.gamma * (weighted - P * (a[:, :, None] + b[:, None])), None


def _transport(size: tuple[int, int, int], gamma: float, quick: bool) -> Case:
    batch, H, W = (2, 4, 5) if quick else size
    M = torch.rand(batch, H, W, generator=generator(), dtype=torch.float64)

    with torch.no_grad():
        expected = sinkhorn(M, gamma, 1e-10, 100 * MOST)

    def check(outputs: Sequence[Tensor]) -> float:
        (P,) = outputs
        marginals = (P.sum(2) - 1 / H).abs().sum(1) + (P.sum(1) - 1 / W).abs().sum(1)
        return max(float(marginals.max()), float((P - expected).abs().max() / expected.max()))

    def ddn(module: Any) -> Forward:
        layer = module.OptimalTransportLayer(gamma=gamma, eps=MET / W, maxiters=MOST)
        return lambda M: layer(M)

    return Case(
        f"optimal transport, gamma {gamma:g}", f"{batch} x {H} x {W}", (M,),
        lambda M: optimal_transport(M, gamma=gamma), check,
        {"Sinkhorn, recorded": lambda M: sinkhorn(M, gamma), "Sinkhorn, implicit": lambda M: _Implicit.apply(M, gamma)},
        ("ddn.pytorch.optimal_transport", ddn),
    )  # fmt: skip


def _masses(quick: bool) -> Case:
    """Masses that are learned: softmax keeps their totals equal, so that every rule for other changes agrees."""
    batch, H, W = (2, 4, 5) if quick else (32, 64, 64)
    M = torch.rand(batch, H, W, generator=generator(), dtype=torch.float64)
    rows = torch.randn(batch, H, generator=generator(1), dtype=torch.float64)
    columns = torch.randn(batch, W, generator=generator(2), dtype=torch.float64)
    gamma = 10.0

    def iterated(M: Tensor, rows: Tensor, columns: Tensor, most: int = 100) -> Tensor:
        log_r, log_c = torch.log_softmax(rows, 1), torch.log_softmax(columns, 1)
        g, S = torch.zeros_like(columns), -gamma * M
        for _ in range(most):
            f = log_r - torch.logsumexp(S + g[:, None], 2)
            g = log_c - torch.logsumexp(S + f[:, :, None], 1)
        return torch.exp(S + f[:, :, None] + g[:, None])

    with torch.no_grad():
        expected = iterated(M, rows, columns, 2000)

    def check(outputs: Sequence[Tensor]) -> float:
        (P,) = outputs
        marginals = (P.sum(2) - rows.softmax(1)).abs().sum(1) + (P.sum(1) - columns.softmax(1)).abs().sum(1)
        return max(float(marginals.max()), float((P - expected).abs().max() / expected.max()))

    def ddn(module: Any) -> Forward:
        layer = module.OptimalTransportLayer(gamma=gamma, eps=MET / W, maxiters=MOST)
        return lambda M, rows, columns: layer(M, rows.softmax(1), columns.softmax(1))

    def ours(M: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return optimal_transport(M, rows.softmax(1), columns.softmax(1), gamma)

    return Case(
        "optimal transport, masses", f"{batch} x {H} x {W}", (M, rows, columns), ours, check,
        {"Sinkhorn, recorded": iterated}, ("ddn.pytorch.optimal_transport", ddn),
    )  # fmt: skip


class _Bisection(torch.autograd.Function):
    """entmax of any order by fifty halvings, with the closed-form derivative."""

    @staticmethod
    def forward(z: Tensor, alpha: float) -> Tensor:
        x = (alpha - 1) * z
        low = x.amax(-1, keepdim=True) - 1
        width = torch.ones_like(low)
        for _ in range(50):
            width = width / 2
            total = (x - low - width).clamp_min(0).pow(1 / (alpha - 1)).sum(-1, keepdim=True)
            low = torch.where(total >= 1, low + width, low)
        p = (x - low).clamp_min(0).pow(1 / (alpha - 1))
        return p / p.sum(-1, keepdim=True)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.alpha = inputs[1]
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, cotangent: Tensor) -> tuple[Tensor, None]:
        (p,) = ctx.saved_tensors
        s = torch.where(p > 0, p ** (2 - ctx.alpha), 0)
        weighted = s * cotangent
        return weighted - s * weighted.sum(-1, keepdim=True) / s.sum(-1, keepdim=True), None


def _entmax(alpha: float, quick: bool) -> Case:
    batch, n = (4, 6) if quick else (512, 128)
    z = torch.randn(batch, n, generator=generator(), dtype=torch.float64)

    def check(outputs: Sequence[Tensor]) -> float:
        (p,) = outputs
        level = torch.where(p > 0, z - p ** (alpha - 1) / (alpha - 1), torch.nan)
        spread = level.nan_to_num(-torch.inf).amax(1) - level.nan_to_num(torch.inf).amin(1)
        return float(torch.maximum(spread, (p.sum(1) - 1).abs()).max())

    return Case(
        f"entmax, alpha {alpha:g}", f"{batch} x {n}", (z,), lambda z: entmax(z, alpha), check,
        {"bisection, implicit": lambda z: _Bisection.apply(z, alpha)},
    )  # fmt: skip


def reweighted(A: Tensor, v: Tensor, rounds: int = 60) -> Tensor:
    """Huber's mean (alpha = 1) by reweighting, every step in the graph."""
    y = A @ v / A.sum(2, keepdim=True)
    for _ in range(rounds):
        distance = torch.linalg.vector_norm(y[:, :, None] - v[:, None], dim=3)
        weights = A / distance.clamp_min(1)
        y = weights @ v / weights.sum(2, keepdim=True)
    return y


def _robust(quick: bool) -> Case:
    batch, Q, K, C = (2, 2, 6, 2) if quick else (16, 16, 64, 8)
    A = torch.rand(batch, Q, K, generator=generator(), dtype=torch.float64)
    v = torch.randn(batch, K, C, generator=generator(1), dtype=torch.float64)
    v[:, ::7] += 20

    def check(outputs: Sequence[Tensor]) -> float:
        d = outputs[0][:, :, None] - v[:, None]
        force = A[..., None] * d / torch.linalg.vector_norm(d, dim=3, keepdim=True).clamp_min(1)
        return float((force.sum(2).norm(dim=2) / force.norm(dim=3).sum(2)).max())

    return Case(
        "robust mean, huber", f"{batch} x {Q} x {K} x {C}", (A, v),
        lambda A, v: robust_mean(A, v, 1.0, "huber"), check, {"reweighting, recorded": reweighted},
    )  # fmt: skip


Maker = Callable[[bool], Case]
SIZES: dict[str, tuple[tuple[int, int, int], float]] = {
    "transport 64 soft": ((32, 64, 64), 10.0),
    "transport 64 sharp": ((32, 64, 64), 100.0),
    "transport 256": ((4, 256, 256), 20.0),
}
CASES: dict[str, Maker] = {
    **{name: partial(_transport, size, gamma) for name, (size, gamma) in SIZES.items()},
    "transport masses": _masses,
    "entmax 1.5": partial(_entmax, 1.5),
    "entmax 1.25": partial(_entmax, 1.25),
    "robust mean": _robust,
}
