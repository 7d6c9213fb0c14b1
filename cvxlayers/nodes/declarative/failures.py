"""What becomes of elements without a verified solution, when that is not an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.rules import Attach
from cvxlayers.nodes.declarative.search import SearchCall

__all__ = ["settle"]


def settle(call: SearchCall, z: Tensor, active: Tensor, ok: Tensor, xs: Sequence[Tensor]) -> Tensor:
    """y (B, n) with the derivative of the verified elements, and NaN or the best point elsewhere.

    The derivative is computed at a verified element in the place of each failed one, and then not used there, so that
    nothing that is not finite enters it.
    """
    assert call.system is not None
    n = call.system.form.n
    best = z[:, :n]
    kept = best.isfinite().all(-1, keepdim=True) & (call.on_failure != "nan")
    fill = torch.nan if call.on_failure == "nan" else 0.0
    lost = _Lost.apply(torch.where(kept, best, fill), fill, *xs)
    if call.none:
        return lost
    stand_in = torch.where(ok, torch.arange(ok.shape[0], device=ok.device), ok.to(torch.int8).argmax())
    z, active = z[stand_in], active[stand_in]
    y = Attach.apply(call.system, z, active, *(x[stand_in] for x in xs))[:, :n]
    return torch.where(ok[:, None], y, lost)


class _Lost(torch.autograd.Function):
    """Points y (B, n) as they are, part of the graph: with gradients that are zero, or, where ``fill`` is NaN, NaN for
    the elements whose cotangents are not zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, fill: float, *xs: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.fill, *xs = inputs
        ctx.n = output.shape[-1]
        ctx.save_for_backward(*xs)

    @staticmethod
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        touched = (cotangents != 0).any(-1)
        poison = torch.where(touched, ctx.fill, 0.0)
        return (
            None,
            None,
            *(
                poison.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)).expand_as(x) if x.is_floating_point() else None
                for x in ctx.saved_tensors
            ),
        )

    @staticmethod
    def jvp(ctx: Any, _y: None, _fill: None, *tangents: Tensor | None) -> Tensor:
        t = next(t for t in tangents if t is not None)
        return t.new_full((t.shape[0], ctx.n), ctx.fill)
