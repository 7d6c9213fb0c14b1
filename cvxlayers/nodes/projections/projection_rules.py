"""The projections that need more than clipping, each with a closed-form derivative of its own.

What the derivative needs is the output y itself and one more number or flag for each row, the mark; both are outputs of
the node, so that differentiating the derivative again is right to every order. All work is along the last dimension.

The threshold of the simplex is found by Newton's method on the piecewise linear sum_i (x_i - tau)_+ = r, which ends
with the exact one after a few steps; where there are few entries or many steps, and on a GPU, by sorting. Sources:
Michelot 1986 (the steps), Held, Wolfe, Crowder 1974 (sorting), Duchi, Shalev-Shwartz, Singer, Chandra 2008 (L1 ball).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from cvxlayers.nodes.rules.arguments import signed

__all__ = ["L1Rule", "L2Rule", "ProjectionRule"]

STEPS = 12
"""Newton steps before sorting."""

SMALL = 8192
"""Below so many entries sorting takes less time than the calls of a few steps."""


@dataclass(frozen=True)
class ProjectionRule(ABC):
    """(x, r) to y, (..., n) and a number or (..., 1) to (..., n), for positive r.

    Attributes
    ----------
    ball : bool
        Points of the ball stay; otherwise they go to its surface.
    smooth : bool
        Whether the mark has a derivative.
    """

    ball: bool = False
    smooth: ClassVar[bool]

    def __call__(self, x: Tensor, r: Any) -> Tensor:
        """The nearest point, differentiable in x and in r where that is a tensor; one that broadcasts is fine."""
        if torch.compiler.is_compiling():
            return self.recorded(x, r)
        r = r.expand(*x.shape[:-1], 1) if isinstance(r, Tensor) else r
        y: Tensor = _Attach.apply(self, x, r)[0]
        return y

    @abstractmethod
    def recorded(self, x: Tensor, r: Any) -> Tensor:
        """The same by operations that autograd and compilers see through."""

    @abstractmethod
    def solve(self, x: Tensor, r: Any) -> tuple[Tensor, Tensor]:
        """The nearest point, and the mark (..., 1)."""

    @abstractmethod
    def pullback(self, y: Tensor, mark: Tensor, r: Any, dy: Tensor, dmark: Tensor | None) -> tuple[Tensor, Tensor]:
        """The cotangents of x and r."""

    @abstractmethod
    def pushforward(self, y: Tensor, mark: Tensor, r: Any, dx: Tensor, dr: Any) -> tuple[Tensor, Tensor | None]:
        """The tangents of y and of the mark."""


class L2Rule(ProjectionRule):
    """y = s x; the mark is s = r / |x|, or one inside the ball, or zero on the sphere's choice for x = 0.

    Where s changes, ds = s (dr - s y'dx / r) / r.
    """

    smooth = True

    def recorded(self, x: Tensor, r: Any) -> Tensor:
        y, norm, largest = _polar(x, r)
        return torch.where(norm.detach() * largest <= r, x, y) if self.ball else y

    def solve(self, x: Tensor, r: Any) -> tuple[Tensor, Tensor]:
        if x.is_cpu and x.numel():
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            low, high = torch.aminmax(length)
            kind = torch.finfo(x.dtype)
            if low > (x.shape[-1] * kind.tiny / kind.eps) ** 0.5 and high < torch.inf:  # no square that counts is lost
                s = r / length
                s = s.clamp_(max=1) if self.ball else s
                return x * s, s
        y, norm, largest = _polar(x, r)
        s = r / norm / largest
        if not self.ball:
            return y, torch.where(largest == 0, 0.0, s)
        inside = norm * largest <= r
        return torch.where(inside, x, y), torch.where(inside, 1.0, s)

    def pullback(self, y: Tensor, mark: Tensor, r: Any, dy: Tensor, dmark: Tensor | None) -> tuple[Tensor, Tensor]:
        moved = (y * dy).sum(-1, keepdim=True)
        moved = self._outside(mark, moved if dmark is None else moved + mark * dmark) / r
        return (dy - y * (moved / r)) * mark, moved

    def pushforward(self, y: Tensor, mark: Tensor, r: Any, dx: Tensor, dr: Any) -> tuple[Tensor, Tensor | None]:
        change = self._outside(mark, dr - mark * ((y * dx).sum(-1, keepdim=True) / r)) / r
        return mark * dx + y * change, mark * change

    def _outside(self, mark: Tensor, part: Tensor) -> Tensor:
        return torch.where(mark.detach() == 1, 0.0, part) if self.ball else part


@dataclass(frozen=True)
class L1Rule(ProjectionRule):
    """y = sign(x) (|x| - tau)_+, with tau such that the sum is r; the mark says whether the row is outside the ball.

    With h = sign(y), dy = h o (h o dx - (h'dx - dr) / |h|_1). Without ``signs`` x stands for |x|: the simplex.
    """

    signs: bool = True
    smooth = False

    def recorded(self, x: Tensor, r: Any) -> Tensor:
        if not self.signs:
            return _simplex(x, r)
        one = x.new_ones(())
        sign = torch.where(x.detach() < 0, -one, one)
        size = sign * x
        y = sign * _simplex(size, r)
        return torch.where(size.detach().sum(-1, keepdim=True) <= r, x, y) if self.ball else y

    def solve(self, x: Tensor, r: Any) -> tuple[Tensor, Tensor]:
        size = x.abs() if self.signs else x
        outside = ~(size.sum(-1, keepdim=True) <= r)
        shifted = size - size.amax(-1, keepdim=True)  # changes nothing but the rounding errors
        y = (shifted - _threshold(shifted, r).to(x.dtype)).relu_()
        y = torch.copysign(y, x + 0.0) if self.signs else y  # - 0.0 + 0.0 = 0.0: a zero goes to the positive side
        return (torch.where(outside, y, x) if self.ball else y), outside

    def pullback(self, y: Tensor, mark: Tensor, r: Any, dy: Tensor, dmark: Tensor | None) -> tuple[Tensor, Tensor]:
        h = y.detach().sign()
        turned = (h * dy).masked_fill(h == 0, 0.0)  # what comes for a zero has no part in it, infinite or not
        mean = turned.sum(-1, keepdim=True) / (h * h).sum(-1, keepdim=True)
        dx = (turned - mean) * h
        if not self.ball:
            return dx, mean
        return torch.where(mark, dx, dy), torch.where(mark, mean, 0.0)

    def pushforward(self, y: Tensor, mark: Tensor, r: Any, dx: Tensor, dr: Any) -> tuple[Tensor, Tensor | None]:
        h = y.detach().sign()
        turned = h * dx
        dy = (turned - (turned.sum(-1, keepdim=True) - dr) / (h * h).sum(-1, keepdim=True)) * h
        return (torch.where(mark, dy, dx) if self.ball else dy), None


def _polar(x: Tensor, r: Any) -> tuple[Tensor, Tensor, Tensor]:
    """r x / |x|, or r times the first unit vector for zero; and two factors of the length, the second a constant.

    All are made from x divided by its largest entry, so that squares neither overflow nor vanish.
    """
    plain = x.detach()
    largest = torch.maximum(plain.amax(-1, keepdim=True), -plain.amin(-1, keepdim=True))
    zero = largest == 0
    first = (torch.arange(x.shape[-1], device=x.device) == 0).to(x.dtype)
    scaled = torch.where(zero, first, x) / torch.where(zero, 1.0, largest)
    norm = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    return scaled * (r / norm), norm, largest


def _simplex(x: Tensor, r: Any) -> Tensor:
    """max(x - tau, 0), with the active set found without a graph."""
    x = x - x.detach().amax(-1, keepdim=True)
    plain = x.detach()
    support = plain > _by_sorting(plain, r.detach() if isinstance(r, Tensor) else r)
    tau = (torch.where(support, x, 0.0).sum(-1, keepdim=True) - r) / support.sum(-1, keepdim=True)
    return torch.relu(x - tau)


def _threshold(x: Tensor, r: Any) -> Tensor:
    """tau, (..., 1) in double precision, for rows whose largest entry is zero; so tau is at least -r.

    From there Newton's steps go up to the root and leave entries behind, until none is left behind any more.
    """
    if not x.is_cpu or x.numel() < SMALL:
        return _by_sorting(x, r)
    r = r.double() if isinstance(r, Tensor) else r
    tau = x.new_zeros((*x.shape[:-1], 1), dtype=torch.float64) - r
    x = torch.maximum(x.double(), tau)
    before: Tensor | None = None
    for _ in range(STEPS):
        above = (x - tau).relu_()
        count = (above > 0).sum(-1, keepdim=True, dtype=torch.int32)
        if before is not None and torch.equal(count, before):
            if count.all():
                return tau
            break  # NaN, or a sum that overflowed
        tau = tau + (above.sum(-1, keepdim=True) - r) / count
        before = count
    return _by_sorting(x, r)


def _by_sorting(x: Tensor, r: Any) -> Tensor:
    """tau by sorting, with partial sums in double precision: single ones would sort out a long vector wrongly."""
    falling = x.sort(-1, descending=True).values
    excess = falling.cumsum(-1, dtype=torch.float64) - r
    counts = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=torch.float64)
    size = (falling * counts > excess).sum(-1, keepdim=True).clamp_min(1)
    return excess.gather(-1, size - 1) / size


class _Attach(torch.autograd.Function):
    """(rule, x, r) to (y, mark)."""

    @staticmethod
    @signed
    def forward(rule: ProjectionRule, x: Tensor, r: Any) -> tuple[Tensor, Tensor]:
        return rule.solve(x, r)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.rule, _, r = inputs
        ctx.number = None if isinstance(r, Tensor) else r
        ctx.set_materialize_grads(False)
        if not ctx.rule.smooth:
            ctx.mark_non_differentiable(output[1])
        saved = output if ctx.number is not None else (*output, r)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dmark: Tensor | None) -> tuple[Tensor | None, ...]:
        y, mark, *rest = ctx.saved_tensors
        dy = torch.zeros_like(y) if dy is None else dy
        dx, dr = ctx.rule.pullback(y, mark, rest[0] if rest else ctx.number, dy, dmark)
        return None, dx, dr if rest else None

    @staticmethod
    def jvp(ctx: Any, _: None, dx: Tensor | None, dr: Tensor | None) -> tuple[Tensor, Tensor | None]:
        # PyTorch switches forward mode off in here, which would lose the tangents of outer levels without a word.
        with _set_fwd_grad_enabled(True):
            y, mark, *rest = (unpack_dual(part).primal for part in ctx.saved_tensors)
            dx = torch.zeros_like(y) if dx is None else dx
            pushed: tuple[Tensor, Tensor | None] = ctx.rule.pushforward(
                y, mark, rest[0] if rest else ctx.number, dx, 0.0 if dr is None else dr
            )
            return pushed

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], rule: ProjectionRule, *inputs: Any) -> Any:
        folded = [
            x if not isinstance(x, Tensor)
            else x.expand(info.batch_size, *x.shape) if dim is None
            else x.movedim(dim, 0)
            for x, dim in zip(inputs, in_dims[1:], strict=True)
        ]  # fmt: skip
        return _Attach.apply(rule, *folded), (0, 0)
