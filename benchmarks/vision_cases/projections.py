"""Projections: beside formulas of which every operation is recorded by autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.vision_cases.case import Case, Forward, generator
from cvxlayers.nodes.projections.projection import SETS

__all__ = ["CASES"]


def simplex(x: Tensor, r: Tensor) -> Tensor:
    """Sorting, every step in the graph."""
    falling = x.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - r[:, None]
    counts = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    size = (falling * counts > excess).sum(-1, keepdim=True)
    return (x - excess.gather(-1, size - 1) / size).clamp_min(0)


def l1_sphere(x: Tensor, r: Tensor) -> Tensor:
    return x.sign() * simplex(x.abs(), r)


def l1_ball(x: Tensor, r: Tensor) -> Tensor:
    return torch.where(x.abs().sum(-1, keepdim=True) > r[:, None], l1_sphere(x, r), x)


def l2_sphere(x: Tensor, r: Tensor) -> Tensor:
    return r[:, None] * torch.nn.functional.normalize(x, dim=-1)


def l2_ball(x: Tensor, r: Tensor) -> Tensor:
    return torch.where(x.norm(dim=-1, keepdim=True) > r[:, None], l2_sphere(x, r), x)


def linf_ball(x: Tensor, r: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, -r[:, None]), r[:, None])


def linf_sphere(x: Tensor, r: Tensor) -> Tensor:
    size = x.abs()
    size = torch.where((size >= r[:, None]) | (size == size.amax(-1, keepdim=True)), r[:, None], size)
    return x.sign() * size


FORMULAS: dict[str, Forward] = {
    "simplex": simplex,
    "l1_sphere": l1_sphere,
    "l1_ball": l1_ball,
    "l2_sphere": l2_sphere,
    "l2_ball": l2_ball,
    "linf_sphere": linf_sphere,
    "linf_ball": linf_ball,
}


def _case(name: str, quick: bool) -> Case:
    batch, n = (8, 6) if quick else (512, 128)
    x = torch.randn(batch, n, generator=generator(), dtype=torch.float64)
    size = {"l1": x.abs().sum(-1), "l2": x.norm(dim=-1), "linf": x.abs().amax(-1)}.get(name.split("_")[0])
    r = 1 + torch.rand(batch, generator=generator(1), dtype=torch.float64)
    if size is not None:  # half of the points in the ball
        r = size * (0.6 + 0.8 * torch.rand(batch, generator=generator(1), dtype=torch.float64))
    expected = _reference(name, x, r)

    def check(outputs: Sequence[Tensor]) -> float:
        return float((outputs[0] - expected).abs().max() / expected.abs().max())

    return Case(f"projection {name}", f"{batch} x {n}", (x, r), SETS[name], check, {"autograd": FORMULAS[name]})


DDN_NAMES = {
    "simplex": "Simplex",
    "l1_sphere": "L1Sphere",
    "l1_ball": "L1Ball",
    "l2_sphere": "L2Sphere",
    "l2_ball": "L2Ball",
    "linf_sphere": "LInfSphere",
    "linf_ball": "LInfBall",
}


def _fixed(name: str, quick: bool) -> Case:
    """One radius for the batch, a constant: as ``ddn`` has it, which rounds it to single precision."""
    batch, n = (8, 6) if quick else (512, 128)
    x = torch.randn(batch, n, generator=generator(), dtype=torch.float64)
    size = {"l1": x.abs().sum(-1), "l2": x.norm(dim=-1), "linf": x.abs().amax(-1)}.get(name.split("_")[0])
    middle = slice(batch // 2 - 1, batch // 2 + 1)  # half of the points in the ball, none on its surface
    radius = 1.0 if size is None else float(size.sort().values[middle].mean().float())
    r = torch.full((batch,), radius, dtype=torch.float64)
    expected = _reference(name, x, r)

    def check(outputs: Sequence[Tensor]) -> float:
        return float((outputs[0] - expected).abs().max() / expected.abs().max())

    def ddn(module: Any) -> Forward:
        layer = module.EuclideanProjection(getattr(module, DDN_NAMES[name]), radius)
        return lambda x: layer(x)

    return Case(
        f"projection {name}, fixed radius", f"{batch} x {n}", (x,), lambda x: SETS[name](x, radius), check,
        {"autograd": lambda x: FORMULAS[name](x, r)}, ("ddn.pytorch.projections", ddn),
    )  # fmt: skip


def _reference(name: str, x: Tensor, r: Tensor) -> Tensor:
    """Simplex and L1 by bisection for the threshold; the others by their formulas."""
    norm, _, kind = name.partition("_")
    if norm not in ("simplex", "l1"):
        return FORMULAS[name](x, r)
    size = x if norm == "simplex" else x.abs()
    low, high = size.amin(-1, keepdim=True) - r[:, None], size.amax(-1, keepdim=True)
    for _ in range(100):
        middle = (low + high) / 2
        over = (size - middle).clamp_min(0).sum(-1, keepdim=True) > r[:, None]
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    y = (size - low).clamp_min(0)
    if norm == "simplex":
        return y
    inside = (size.sum(-1, keepdim=True) <= r[:, None]) & (kind == "ball")
    return torch.where(inside, x, x.sign() * y)


CASES: dict[str, Callable[[bool], Case]] = {
    **{f"projection {name}": partial(_case, name) for name in FORMULAS},
    **{f"projection {name} fixed": partial(_fixed, name) for name in FORMULAS},
}
