"""Batches in and out: any batch dimensions become one, shared inputs are expanded so that autograd sums over them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError

__all__ = ["gather", "unbatch"]


def gather(
    xs: Sequence[Tensor], dims: Sequence[int] | None, dtype: torch.dtype
) -> tuple[tuple[int, ...], list[Tensor]]:
    """The batch dimensions, and the inputs as (B, ...) with B their product, floating ones in ``dtype``.

    Raises
    ------
    ParameterError
        The inputs' number or dimensions are not those that ``dims`` declares, or their batches do not broadcast.
    """
    counts = [min(x.ndim, 1) for x in xs] if dims is None else _leading(xs, dims)
    batches = [tuple(x.shape[:count]) for x, count in zip(xs, counts, strict=True)]
    try:
        batch = tuple(torch.broadcast_shapes(*batches))
    except RuntimeError as exc:
        raise ParameterError(
            f"the inputs' batch dimensions {', '.join(map(str, batches))} do not fit together: each has to be the "
            "same, 1, or absent."
        ) from exc
    if dims is None and not batch:
        batch = (1,)
    size = math.prod(batch)
    wide = [x.to(dtype) if x.is_floating_point() else x for x in xs]  # before they are expanded, which takes no memory
    return batch, [
        x.expand((*batch, *x.shape[count:])).reshape((size, *x.shape[count:]))
        for x, count in zip(wide, counts, strict=True)
    ]


def _leading(xs: Sequence[Tensor], dims: Sequence[int]) -> list[int]:
    """How many batch dimensions each input has."""
    if len(xs) != len(dims):
        raise ParameterError(f"got {len(xs)} inputs, expected {len(dims)}, one for each entry of the node's dims.")
    for i, (x, count) in enumerate(zip(xs, dims, strict=True)):
        if x.ndim < count:
            raise ParameterError(
                f"input {i}: got a tensor of shape {tuple(x.shape)}, expected {count} dimensions (the node's dims), or "
                "more for a batch."
            )
    return [x.ndim - count for x, count in zip(xs, dims, strict=True)]


def unbatch(y: Tensor, batch: tuple[int, ...]) -> Tensor:
    """(B, ...) as (*batch, ...)."""
    return y.reshape(*batch, *y.shape[1:])
