"""What every node asks of its arguments: floating tensors, batch dimensions that broadcast, positive scalars."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError

__all__ = ["check_dimensions", "check_entries", "check_tensor", "flatten_batch", "positive", "signed"]

Function = TypeVar("Function", bound=Callable[..., Any])


def signed(function: Function) -> Function:
    """The function, with its signature kept on it: PyTorch asks for that of a rule's ``forward`` at each call."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def check_tensor(name: str, x: Any) -> Tensor:
    """The argument, which must be a floating tensor.

    Raises
    ------
    ParameterError
    """
    if not isinstance(x, Tensor):
        raise ParameterError(f"{name}: got {type(x).__name__}, expected a torch.Tensor; pass torch.as_tensor({name}).")
    if not x.is_floating_point():
        raise ParameterError(f"{name}: got dtype {x.dtype}, expected a floating dtype; pass {name}.double().")
    return x


def check_dimensions(name: str, x: Any, core: str, ndim: int, least: int = 1) -> Tensor:
    """The argument, which must be a floating tensor (..., ``core``) with ``ndim`` dimensions in the core.

    ``least`` is the smallest size that each of those may have.

    Raises
    ------
    ParameterError
    """
    check_tensor(name, x)
    if x.ndim < ndim or any(size < least for size in x.shape[x.ndim - ndim :]):
        raise ParameterError(
            f"{name}: got shape {tuple(x.shape)}, expected (..., {core}) with {core} at least {least}; "
            "batch dimensions stand in front."
        )
    return x


def flatten_batch(
    names: Sequence[str], tensors: Sequence[Tensor], core: Sequence[int]
) -> tuple[list[Tensor], torch.Size]:
    """The tensors with one batch dimension in front of their ``core`` last dimensions, and the batch's shape.

    Their leading dimensions broadcast; dtype and device must agree.

    Raises
    ------
    ParameterError
    """
    first = tensors[0]
    for name, x in zip(names, tensors, strict=True):
        if x.dtype != first.dtype or x.device != first.device:
            raise ParameterError(
                f"{name}: got {x.dtype} on {x.device}, expected {first.dtype} on {first.device} like {names[0]}; "
                f"pass {name}.to({names[0]})."
            )
    fronts = [x.shape[: x.ndim - n] for x, n in zip(tensors, core, strict=True)]
    try:
        batch = torch.broadcast_shapes(*fronts)
    except RuntimeError as exc:
        told = ", ".join(f"{name} {tuple(front)}" for name, front in zip(names, fronts, strict=True))
        raise ParameterError(
            f"The batch dimensions do not broadcast together: {told}; make each of them equal, 1 or absent."
        ) from exc
    size = batch.numel()
    flat = [
        x.expand((*batch, *x.shape[len(front) :])).reshape(size, *x.shape[len(front) :])
        for x, front in zip(tensors, fronts, strict=True)
    ]
    return flat, batch


def positive(name: str, value: Any, like: Tensor, batch: Sequence[int], zero: bool = False) -> Tensor | float:
    """A positive number, or a tensor of them that broadcasts to ``batch``, of the dtype and device of ``like``.

    With ``zero`` it may be zero, too.

    Raises
    ------
    ParameterError
    """
    kind = "nonnegative" if zero else "positive"
    if not isinstance(value, Tensor):
        right = isinstance(value, int | float) and not isinstance(value, bool) and value < math.inf
        if not right or not (value > 0 or (zero and value == 0)):
            raise ParameterError(f"{name}: got {value!r}, expected a {kind} finite number or a tensor of them.")
        return float(value)
    if not value.is_floating_point() or value.dtype != like.dtype or value.device != like.device:
        raise ParameterError(
            f"{name}: got {value.dtype} on {value.device}, expected {like.dtype} on {like.device}; "
            f"pass {name}.to(x.device, x.dtype)."
        )
    try:
        fits = torch.broadcast_shapes(value.shape, tuple(batch)) == tuple(batch)
    except RuntimeError:
        fits = False
    if not fits:
        raise ParameterError(
            f"{name}: got shape {tuple(value.shape)}, expected a shape that broadcasts to the batch {tuple(batch)}."
        )
    check_entries(
        value,
        lambda plain: ((plain >= 0) if zero else (plain > 0)) & plain.isfinite(),
        f"{name}: got entries that are not {kind} and finite",
    )
    return value


def check_entries(x: Tensor, allowed: Callable[[Tensor], Tensor], message: str) -> None:
    """Look at the entries of a tensor, also inside ``torch.func`` transformations, where they are hidden.

    Raises
    ------
    ParameterError
        With the message and the first offending positions.
    """
    _Look.apply(x.detach(), allowed, message)


class _Look(torch.autograd.Function):
    """Calls the test on the plain tensor that lies below all transformations."""

    @staticmethod
    @signed
    def forward(x: Tensor, allowed: Callable[[Tensor], Tensor], message: str) -> Tensor:
        good = allowed(x)
        if not good.all():
            where = [tuple(place) for place in (~good).nonzero()[:5].tolist()]
            raise ParameterError(f"{message}, first at {where} of shape {tuple(x.shape)}.")
        return x.new_empty(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, None]:
        return _Look.apply(*args), None
