"""The autograd rule of a node that brings its own solver and its own closed-form derivative.

A node declares three functions of batch-first tensors: ``solve`` finds the solution, ``pullback`` turns cotangents of
the solution into those of the inputs, ``pushforward`` tangents of the inputs into those of the solution. The two are
made of differentiable operations at the inputs and at the solution; as the solution that they see is the node's own
output, differentiating them again is right to every order. ``torch.vmap`` folds its dimension into the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from cvxlayers.errors import ParameterError
from cvxlayers.layer.report import Seconds
from cvxlayers.nodes.rules.arguments import signed
from cvxlayers.nodes.rules.call_result import NodeCall, SolvedNode
from cvxlayers.program.solution import Status

__all__ = ["ClosedRule"]

Tensor = torch.Tensor


class ClosedRule(ABC):
    """One node: its solver and its derivative. All tensors have the same batch dimension B in front.

    Attributes
    ----------
    names : tuple of str
        Of the inputs, for errors.
    advice : mapping
        From a status to what the user can do.
    sparing : bool
        Whether ``pullback`` gets None, rather than zeros, for outputs that nothing depends on.
    telling : bool
        Whether ``solve`` takes inputs that are not finite, too, and never gives such an element the status optimal.
    inner : bool
        Whether this is a system of a derivative, for which NaN that comes in goes out and nothing is reported.
    """

    names: ClassVar[tuple[str, ...]]
    advice: ClassVar[Mapping[Status, str]] = {}
    sparing: ClassVar[bool] = False
    telling: ClassVar[bool] = False
    inner: ClassVar[bool] = False

    @abstractmethod
    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        """Solve for finite inputs, without a graph."""

    @abstractmethod
    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any], needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        """The cotangents of the inputs; those of the outputs are tensors, or, for a ``sparing`` rule, some are None.

        That of an input for which it is not ``needed`` may be None.
        """

    @abstractmethod
    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The tangents of the outputs."""

    def __call__(self, call: NodeCall, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Solve, report, and attach the derivative.

        Raises
        ------
        ParameterError
            With ``on_failure="raise"``, where an input is not finite.
        SolveError
            With ``on_failure="raise"``, when some element has no verified solution.
        """
        outputs: tuple[Tensor, ...] = _Attach.apply(self, call, _Record(), *inputs)
        return outputs[:-1]

    def solve_all(self, call: NodeCall, record: _Record, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Solve the elements with finite inputs, settle failures, and return the outputs and who is all right."""
        if self.inner:
            record.complete = True
            return *self.solve(call, *inputs).outputs, inputs[0].new_ones(len(inputs[0]), dtype=torch.bool)
        seconds = Seconds()
        solved = None
        if self.telling:
            with seconds.measure("solving"):
                solved = self.solve(call, *inputs)
        if solved is None or not bool(solved.ok.all()):
            solved = self._solve_finite(call, seconds, inputs, solved)
        call.settle(solved, self.advice, seconds)
        outputs = solved.outputs
        record.complete = bool(solved.ok.all())
        if not record.complete:
            outputs = tuple(_filled(y, solved.ok, call.on_failure) for y in outputs)
        return *outputs, solved.ok

    def _solve_finite(
        self, call: NodeCall, seconds: Seconds, inputs: Sequence[Tensor], solved: SolvedNode | None
    ) -> SolvedNode:
        """Solve, unless that has been done, the elements with finite inputs; the others are failures."""
        with seconds.measure("packing"):
            finite = _finite(inputs)
            if finite is not None and call.on_failure == "raise":
                self._refuse(inputs)
        with seconds.measure("solving"):
            if finite is None:
                return solved or self.solve(call, *inputs)
            index = finite.nonzero()[:, 0]
            return _spread(self.solve(call, *(x[index] for x in inputs)), index, len(finite))

    def _refuse(self, inputs: Sequence[Tensor]) -> None:
        for name, x in zip(self.names, inputs, strict=True):
            bad = _any(~torch.isfinite(x)).nonzero()[:, 0].tolist()
            if bad:
                raise ParameterError(
                    f"{name}: got NaN or infinite entries in batch elements {bad[:10]}, expected finite numbers; "
                    'remove them, or pass on_failure="nan" or "zero_grad" to let the other elements go on.'
                )


def _spread(solved: SolvedNode, index: Tensor, batch: int) -> SolvedNode:
    def put(part: Tensor, empty: float) -> Tensor:
        return part.new_full((batch, *part.shape[1:]), empty).index_copy(0, index, part)

    outputs = tuple(put(y, torch.nan) for y in solved.outputs)
    status = put(solved.status, int(Status.FAILED))
    return SolvedNode(outputs, status, put(solved.iterations, 0), put(solved.residuals, torch.nan))


def _filled(y: Tensor, ok: Tensor, on_failure: str) -> Tensor:
    keep = _like(ok, y)
    return torch.where(keep, y, torch.nan) if on_failure == "nan" else torch.where(keep | torch.isfinite(y), y, 0.0)


def _like(ok: Tensor, x: Tensor) -> Tensor:
    """(B,) with as many dimensions as x."""
    return ok.reshape(-1, *[1] * (x.ndim - 1))


def _finite(inputs: Sequence[Tensor]) -> Tensor | None:
    """Which elements have only finite entries, (B,); None where all have."""
    sums = torch.stack([x.sum().double() for x in inputs])  # finite only if every term is
    if bool(torch.isfinite(sums).all()):
        return None
    finite = torch.stack([~_any(~torch.isfinite(x)) for x in inputs]).all(0)
    return None if bool(finite.all()) else finite


def _any(mask: Tensor) -> Tensor:
    """Whether the mask holds anywhere in each element, (B,)."""
    return mask.any(tuple(range(1, mask.ndim))) if mask.ndim > 1 else mask


def _gated(tensors: Sequence[Tensor], ok: Tensor) -> list[Tensor]:
    """The same values; elements without a solution pass no derivative on, however wild what is made of them."""
    return [torch.where(_like(ok, x), x, x.detach()) for x in tensors]


@dataclass
class _Record:
    """What is known after one call: whether every element is solved, so that nothing has to be left out."""

    complete: bool = False


class _Attach(torch.autograd.Function):
    """(rule, call, record, *inputs) to (*outputs, ok)."""

    @staticmethod
    @signed
    def forward(rule: ClosedRule, call: NodeCall, record: _Record, *inputs: Tensor) -> tuple[Tensor, ...]:
        return rule.solve_all(call, record, inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.rule, ctx.call, ctx.record, *tensors = inputs
        ctx.count = len(tensors)
        ctx.mark_non_differentiable(output[-1])
        ctx.set_materialize_grads(not ctx.rule.sparing)
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *saved, ok = ctx.saved_tensors
        given = cotangents[:-1]
        if ctx.record.complete:
            found = ctx.rule.pullback(saved[: ctx.count], saved[ctx.count :], given, ctx.needs_input_grad[3:])
            return None, None, None, *found
        saved = _gated(saved, ok)
        used = [None if part is None else torch.where(_like(ok, part), part, 0.0) for part in given]
        found = ctx.rule.pullback(saved[: ctx.count], saved[ctx.count :], used, ctx.needs_input_grad[3:])
        touched = torch.stack([torch.zeros_like(ok), *(_any(part != 0) for part in given if part is not None)]).any(0)
        fill = torch.where(touched, torch.nan, 0.0) if ctx.call.on_failure == "nan" else torch.zeros_like(ok)
        kept = (None if x is None else torch.where(_like(ok, x), x, _like(fill, x).to(x.dtype)) for x in found)
        return None, None, None, *kept

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor | None, ...]:
        # PyTorch switches forward mode off in here, which would lose the tangents of outer levels without a word.
        with _set_fwd_grad_enabled(True):
            *saved, ok = ctx.saved_tensors
            saved = [unpack_dual(x).primal for x in saved]
            given = [torch.zeros_like(x) if t is None else t for x, t in zip(saved, tangents[3:], strict=False)]
            if ctx.record.complete:
                return *ctx.rule.pushforward(saved[: ctx.count], saved[ctx.count :], given), None
            saved, given = _gated(saved, ok), [torch.where(_like(ok, t), t, 0.0) for t in given]
            found = ctx.rule.pushforward(saved[: ctx.count], saved[ctx.count :], given)
            fill = torch.nan if ctx.call.on_failure == "nan" else 0.0
            return *(torch.where(_like(ok, y), y, fill) for y in found), None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], rule: ClosedRule, call: NodeCall, record: _Record, *inputs: Tensor
    ) -> Any:
        folded = [
            (x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
            for x, dim in zip(inputs, in_dims[3:], strict=True)
        ]
        outputs = _Attach.apply(rule, call, record, *folded)
        batch = (info.batch_size, folded[0].shape[0] // max(info.batch_size, 1))
        return tuple(y.unflatten(0, batch) for y in outputs), (0,) * len(outputs)
