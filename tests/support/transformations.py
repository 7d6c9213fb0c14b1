"""What every differentiable PyTorch function must pass: both modes, twice, batched, and in single precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev, vmap

from tests.support.tolerance import assert_all_close, assert_close

__all__ = ["assert_derivatives", "assert_single_precision", "assert_vmap", "flat"]

Function = Callable[..., Tensor]


def flat(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Function:
    """The function with all its outputs in one vector."""

    def joined(*inputs: Tensor) -> Tensor:
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.cat([output.reshape(-1) for output in outputs])

    return joined


def assert_derivatives(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], batched: bool = True
) -> None:
    """First and second derivatives, forward and reverse, against finite differences and against each other.

    ``batched``: also through ``torch.autograd.grad(..., is_grads_batched=True)``, PyTorch's older vmap. It knows no
    rules of ``torch.autograd.Function``, so that a derivative that solves a system again cannot run under it.
    """
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    one = flat(function)
    assert gradcheck(one, leaves, check_forward_ad=True, check_batched_grad=batched, check_batched_forward_grad=batched)
    assert gradgradcheck(one, leaves, check_fwd_over_rev=True, check_batched_grad=batched)
    which = tuple(range(len(leaves)))
    fixed = [x.detach() for x in leaves]
    reverse, forward = jacrev(one, which)(*fixed), jacfwd(one, which)(*fixed)
    assert_all_close(forward, reverse, 1e-9, "jacfwd against jacrev")
    weights = torch.linspace(0.5, 1.5, reverse[0].shape[0], dtype=fixed[0].dtype)

    def curved(*points: Tensor) -> Tensor:
        return (weights * one(*points) ** 2).sum()

    expected = jacrev(jacrev(curved, which), which)(*fixed)
    ways = {
        "forward over reverse": jacfwd(jacrev(curved, which), which),
        "reverse over forward": jacrev(jacfwd(curved, which), which),
        "forward over forward": jacfwd(jacfwd(curved, which), which),
    }
    for name, way in ways.items():
        for row, other in zip(way(*fixed), expected, strict=True):
            assert_all_close(row, other, 1e-8, name)


def assert_vmap(function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor]) -> None:
    """One element after the other gives what vmap gives, also nested, and for the Jacobian."""
    one = flat(function)
    expected = torch.stack([one(*(x[i] for x in inputs)) for i in range(len(inputs[0]))])
    assert_close(vmap(one)(*inputs), expected, 1e-9, "vmap")
    nested = vmap(vmap(one))(*(torch.stack([x, x.flip(0)]) for x in inputs))
    assert_close(nested, torch.stack([expected, expected.flip(0)]), 1e-9, "nested vmap")
    jacobian = jacrev(one)
    each = torch.stack([jacobian(*(x[i] for x in inputs)) for i in range(len(inputs[0]))])
    assert_close(vmap(jacobian)(*inputs), each, 1e-9, "vmap of jacrev")


def assert_single_precision(
    function: Callable[..., Tensor | tuple[Tensor, ...]], inputs: Sequence[Tensor], tolerance: float = 1e-3
) -> None:
    """Value and gradient in float32 are those in float64; float32 stays float32."""
    one, answers = flat(function), []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        y = one(*leaves)
        assert y.dtype == dtype
        weights = torch.linspace(-1, 1, len(y), dtype=dtype) if len(y) > 1 else torch.ones(1, dtype=dtype)
        answers.append([y.detach(), *torch.autograd.grad(y, leaves, weights, materialize_grads=True)])
    assert_all_close(answers[0], answers[1], tolerance, "float32 against float64")
