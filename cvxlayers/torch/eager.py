"""Calls that only autograd looks at: one function of autograd, and no detour through the dispatcher.

The operators know every transform, at the price of some tenths of a millisecond a call, which is as much as a small
problem takes to solve or to differentiate. Training calls a layer under none of them but autograd. So such a call is
recognized and served here; a gradient of its gradient, or a mapped cotangent, goes back to the operators.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._C import _functorch
from torch.autograd import forward_ad

from cvxlayers.torch import operators
from cvxlayers.torch.arrays import to_numpy, to_tensor
from cvxlayers.torch.handles import keep

__all__ = ["solve"]

_TYPES = (torch.Tensor, torch.nn.Parameter)


def solve(parameters: Sequence[torch.Tensor], layer: str, options: str) -> tuple[torch.Tensor, ...]:
    """The outputs of a layer."""
    if not _plain(parameters):
        return tuple(operators.solve(parameters, layer, options))
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in parameters):
        return _Solve.apply(layer, options, *parameters)
    return tuple(operators.solved_call(parameters, layer, options)[1])


def _plain(tensors: Sequence[torch.Tensor]) -> bool:
    """Whether no transform, mode, trace or subclass of tensors takes part."""
    return (
        not torch.compiler.is_compiling()
        and _functorch.peek_interpreter_stack() is None
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
        and not torch._C._get_tracing_state()
        and all(type(tensor) in _TYPES and not _wrapped(tensor) for tensor in tensors)
    )


def _wrapped(tensor: torch.Tensor) -> bool:
    """Whether it belongs to a transform: of the old kind, or one that is over, from which the tensor has escaped."""
    return _functorch.is_legacy_batchedtensor(tensor) or _functorch.is_functorch_wrapped_tensor(tensor)


class _Solve(operators.OneLevel):
    """The solved call hangs on the graph; its gradient needs no rule beyond the record's."""

    @staticmethod
    def forward(ctx: Any, layer: str, options: str, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.record, outputs = operators.solved_call(parameters, layer, options)
        ctx.call = layer, options, 0
        ctx.save_for_backward(*parameters)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        parameters, needs = ctx.saved_tensors, ctx.needs_input_grad[2:]
        given = [cotangent for cotangent in cotangents if cotangent is not None]
        if not given:
            return None, None, *(None for _ in parameters)
        if torch.is_grad_enabled() or not _plain(given):
            weights = operators.filled(cotangents, operators.like_outputs(ctx.record, parameters))
            found = operators.differentiate(parameters, keep(ctx.record), weights, [], "vjp", *ctx.call)
        else:
            arrays = ctx.record.vjp([None if c is None else to_numpy(c) for c in cotangents])
            found = [to_tensor(array, p.dtype, p.device) for array, p in zip(arrays, parameters, strict=True)]
        return None, None, *[g if need else None for g, need in zip(found, needs, strict=True)]
