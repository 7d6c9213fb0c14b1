"""Robust pooling: beside L-BFGS with an implicit gradient, and Newton's method with every step in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.vision_cases.case import Case, Forward, generator
from cvxlayers.nodes.robust.penalties import PENALTIES
from cvxlayers.nodes.robust.robust_pooling import robust_pool
from cvxlayers.nodes.robust.robust_vector_pooling import robust_vector_pool

__all__ = ["CASES"]

DDN_NAMES = {
    "quadratic": "Quadratic",
    "pseudo-huber": "PseudoHuber",
    "huber": "Huber",
    "welsch": "Welsch",
    "truncated-quadratic": "TruncQuad",
}
ALPHA = 1.0


def _phi(name: str, z2: Tensor) -> Tensor:
    return PENALTIES[name].value(z2, torch.full((), ALPHA, dtype=z2.dtype))


def _lbfgs(total: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """One L-BFGS search for the whole batch, as it is done where no solver is written."""
    y = start.detach().clone().requires_grad_()
    search = torch.optim.LBFGS([y], max_iter=100, tolerance_grad=1e-9, tolerance_change=1e-12)

    def closure() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            value = total(y)
        value.backward()
        return value

    search.step(closure)
    return y.detach()


class _ImplicitPool(torch.autograd.Function):
    """L-BFGS from mean and, where not convex, median; dy = phi'' dx / sum phi''."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        rows = x.flatten(-2)
        starts = [rows.mean(-1)] if PENALTIES[name].convex else [rows.mean(-1), rows.median(-1).values]
        ends = [_lbfgs(lambda y: _phi(name, (y[..., None] - rows) ** 2).sum(), start) for start in starts]
        costs = torch.stack([_phi(name, (y[..., None] - rows) ** 2).sum(-1) for y in ends])
        y = torch.stack(ends).gather(0, costs.argmin(0, keepdim=True))[0]
        ctx.save_for_backward(x, y)
        ctx.name = name
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        z2 = (y[..., None, None] - x) ** 2
        psi, slope, _ = PENALTIES[ctx.name].terms(z2, torch.full((), ALPHA, dtype=x.dtype))
        curvature = psi + slope * z2
        return g[..., None, None] * curvature / curvature.sum((-2, -1), keepdim=True), None


def _unrolled(x: Tensor, name: str, steps: int = 12) -> Tensor:
    """Reweighting from the median, every step recorded."""
    rows = x.flatten(-2)
    y = rows.detach().median(-1).values
    for _ in range(steps):
        z = y[..., None] - rows
        psi, slope, _ = PENALTIES[name].terms(z * z, torch.full((), ALPHA, dtype=x.dtype))
        y = y - (psi * z).sum(-1) / (psi + slope * z * z).sum(-1)
    return y


def _samples(batch: tuple[int, ...], count: int) -> Tensor:
    x = torch.randn(*batch, count, generator=generator(), dtype=torch.float64)
    x[..., ::5] += 20 * torch.rand(x[..., ::5].shape, generator=generator(1), dtype=torch.float64)
    return x


def _scalar(name: str, quick: bool) -> Case:
    B, C, side = (2, 3, 4) if quick else (16, 32, 14)
    x = _samples((B, C), side * side).reshape(B, C, side, side)

    def check(outputs: Sequence[Tensor]) -> float:
        """The slope at y, relative; and how much lower any point of a grid is, relative."""
        z = outputs[0][..., None] - x.flatten(-2)
        pull = PENALTIES[name].terms(z * z, torch.full((), ALPHA, dtype=x.dtype)).psi * z
        grid = torch.linspace(-3, 3, 61, dtype=x.dtype)
        lowest = torch.stack([_phi(name, (y - x.flatten(-2)) ** 2).sum(-1) for y in grid]).amin(0)
        over = (_phi(name, z * z).sum(-1) / lowest - 1).amax()
        return max(float((pull.sum(-1).abs() / pull.abs().sum(-1)).amax()), float(over))

    def ddn(module: Any) -> Forward:
        penalty = "TruncatedQuadratic" if name == "truncated-quadratic" else DDN_NAMES[name]
        layer = module.RobustGlobalPool2d(getattr(module, penalty), ALPHA)
        return lambda x: layer(x)

    baselines: dict[str, Forward] = {"L-BFGS, implicit gradient": lambda x: _ImplicitPool.apply(x, name)}
    if PENALTIES[name].convex:
        baselines["Newton, unrolled"] = lambda x: _unrolled(x, name)
    size = f"{B} x {C} x {side} x {side}"
    ours = partial(robust_pool, penalty=name, alpha=ALPHA)
    return Case(f"robust pool {name}", size, (x,), ours, check, baselines, ("ddn.pytorch.robustpool", ddn))


def _vector_lbfgs(x: Tensor, name: str) -> Tensor:
    return _ImplicitVectorPool.apply(x, name)


class _ImplicitVectorPool(torch.autograd.Function):
    """L-BFGS from the mean, and from the median where not convex; a Hessian solve in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str) -> Tensor:
        def cost(y: Tensor) -> Tensor:
            return _phi(name, ((y[..., None] - x) ** 2).sum(1)).sum(1)

        starts = [x.mean(2)] if PENALTIES[name].convex else [x.mean(2), x.median(2).values]
        ends = [_lbfgs(lambda y: cost(y).sum(), start) for start in starts]
        best = torch.stack([cost(y) for y in ends]).argmin(0)
        y = torch.stack(ends)[best, torch.arange(x.shape[0])]
        ctx.save_for_backward(x, y)
        ctx.name = name
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        d = y[..., None] - x
        psi, slope, _ = PENALTIES[ctx.name].terms((d * d).sum(1), torch.full((), ALPHA, dtype=x.dtype))
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        H = torch.einsum("bin,bn,bjn->bij", d, slope, d) + psi.sum(1)[:, None, None] * eye
        v = torch.linalg.solve(H, g)
        along = slope * torch.einsum("bc,bcn->bn", v, d)
        return v[..., None] * psi[:, None] + along[:, None] * d, None


def _vector(name: str, quick: bool) -> Case:
    B, C, N = (2, 3, 16) if quick else (64, 16, 196)
    x = 0.3 * _samples((B, C), N)

    def check(outputs: Sequence[Tensor]) -> float:
        """The pull at y, relative; and how much lower any of the samples is, relative."""
        (y,) = outputs
        d = y[..., None] - x
        s = (d * d).sum(1)
        psi = PENALTIES[name].terms(s, torch.full((), ALPHA, dtype=x.dtype)).psi
        pull = (psi[:, None] * d).sum(2).norm(dim=1) / (psi * s.sqrt()).sum(1)
        others = torch.cdist(x.mT, x.mT) ** 2
        over = (_phi(name, s).sum(1) / _phi(name, others).sum(2).amin(1) - 1).amax()
        return max(float(pull.amax()), float(over))

    def ddn(module: Any) -> Forward:
        layer = module.RobustVectorPool2d(getattr(module, DDN_NAMES[name]), ALPHA)
        return lambda x: layer(x[..., None])

    baselines = {"L-BFGS, implicit gradient": partial(_vector_lbfgs, name=name)}
    ours = partial(robust_vector_pool, penalty=name, alpha=ALPHA)
    case = f"robust vector pool {name}"
    return Case(case, f"{B} x {C} x {N}", (x,), ours, check, baselines, ("ddn.pytorch.robust_vec_pool", ddn))


CASES: dict[str, Callable[[bool], Case]] = {
    **{f"robust pool {name}": partial(_scalar, name) for name in DDN_NAMES},
    **{f"robust vector pool {name}": partial(_vector, name) for name in DDN_NAMES},
}
