"""Total-variation denoising of signals, with exact solutions and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.projections.level_sets import jump_signs
from cvxlayers.nodes.rules.arguments import check_dimensions, check_entries, flatten_batch
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["TotalVariation", "total_variation"]

TOLERANCE = 1e-9
"""Of the optimality conditions in double precision, relative to the sizes of the signal and of lam."""


def total_variation(
    x: Tensor, lam: float | Tensor = 1.0, weights: Tensor | None = None, *, on_failure: str = "raise"
) -> Tensor:
    """The y that minimizes 1/2 |y - x|^2 + lam sum_i weights_i |y_{i+1} - y_i|.

    Parameters
    ----------
    x : (..., N) tensor
        Signals.
    lam : float or (...) tensor
        At least zero; one for all signals or one for each. Default 1.
    weights : (..., N - 1) tensor, optional
        At least zero; default: 1 each.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of signals with NaN or infinite entries, and of those whose solution fails the optimality
        conditions (which no finite signal has been seen to do).

    Returns
    -------
    (..., N) tensor
        Differentiable in x, lam and weights: the entries of a constant piece average their cotangents. The solver is
        exact and finite; it works in double precision on the CPU, and dtype and device come back.

    Raises
    ------
    ParameterError
        Wrong shapes or dtypes, negative lam or weights, NaN or infinite entries.

    Notes
    -----
    The solution is piecewise linear in x and lam; where pieces are about to join or part, which is where a dual
    variable meets its bound at a constant piece, the derivative is one of the two. Source: Chambolle, Darbon 2009.

    Examples
    --------
    >>> x = torch.tensor([0.0, 1.0, 5.0, 6.0], requires_grad=True)
    >>> y = total_variation(x, lam=1.0)
    >>> y.detach()
    tensor([1., 1., 5., 5.])
    >>> y[0].backward()
    >>> x.grad
    tensor([0.5000, 0.5000, 0.0000, 0.0000])
    """
    check_policy(on_failure)
    return _denoise(NodeCall(on_failure), x, lam, weights)


class TotalVariation(Reporting):
    """``total_variation`` as a module; ``module.info`` is the report of this thread's last call.

    Parameters
    ----------
    lam, on_failure
        See ``total_variation``. A lam that is a ``torch.nn.Parameter`` is learned.

    Examples
    --------
    >>> node = TotalVariation(lam=0.5)
    >>> node(torch.tensor([[0.0, 0.5, 4.0], [1.0, 1.0, 1.0]]))
    tensor([[0.5000, 0.5000, 3.5000],
            [1.0000, 1.0000, 1.0000]])
    """

    def __init__(self, lam: float | Tensor = 1.0, *, on_failure: str = "raise") -> None:
        super().__init__()
        check_policy(on_failure)
        self.lam, self.on_failure = lam, on_failure

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Denoise signals (..., N), with weights (..., N - 1) of the differences; see ``total_variation``."""
        return _denoise(NodeCall(self.on_failure, keeper=self._local), x, self.lam, weights)


def _denoise(call: NodeCall, x: Any, lam: Any, weights: Any) -> Tensor:
    check_dimensions("x", x, "N", 1)
    N = x.shape[-1]
    if weights is None:
        weights = x.new_ones(N - 1)
    check_dimensions("weights", weights, "N - 1", 1, least=0)
    if weights.shape[-1] != N - 1:
        raise ParameterError(
            f"weights: got shape {tuple(weights.shape)}, expected (..., {N - 1}): one for each difference of x."
        )
    if not isinstance(lam, Tensor):
        if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 <= lam < float("inf"):
            raise ParameterError(f"lam: got {lam!r}, expected a finite number of at least zero, or a tensor of them.")
        lam = x.new_full((), lam)
    (x, lam, weights), batch = flatten_batch(("x", "lam", "weights"), (x, lam, weights), (1, 0, 1))
    for name, part in (("lam", lam), ("weights", weights)):
        check_entries(part, lambda plain: ~(plain < 0), f"{name}: got negative entries, expected zero or more")
    y, _ = _RULE(call, x, lam[:, None] * weights)
    return y.reshape(*batch, N)


class _TotalVariationRule(ClosedRule):
    """(x, e) to y and the signs of its jumps, (B, N), (B, N - 1) to (B, N), (B, N - 1).

    On each constant piece y is the mean of x + e_i sign_i - e_{i-1} sign_{i-1}, so the derivative is a mean, too.
    """

    names = ("x", "lam or weights")
    advice = {Status.FAILED: "failed elements are too large for the arithmetic: rescale them"}

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        x, e = (part.detach().cpu().double() for part in inputs)
        found, rounds = jump_signs(x.numpy(), e.numpy())
        sign = torch.from_numpy(np.ascontiguousarray(found)).double()
        y = _mean_of_pieces(x + _difference(e * sign), sign)
        residual = _residual(x, e, y, sign)
        status = torch.where(residual <= TOLERANCE, int(Status.OPTIMAL), int(Status.FAILED)).to(torch.int8)
        place = inputs[0].device
        outputs = tuple(part.to(device=place, dtype=inputs[0].dtype) for part in (y, sign))
        return SolvedNode(outputs, status.to(place), torch.from_numpy(rounds).to(place), residual.to(place))

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        sign = outputs[1].detach()
        mean = _mean_of_pieces(cotangents[0], sign)
        return mean, sign * (mean[:, :-1] - mean[:, 1:])

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        sign = outputs[1].detach()
        return _mean_of_pieces(tangents[0] + _difference(tangents[1] * sign), sign), torch.zeros_like(sign)


def _difference(z: Tensor) -> Tensor:
    """z_i - z_{i-1} for i = 1, ..., N with z_0 = z_N = 0: (B, N - 1) to (B, N)."""
    zero = torch.zeros_like(z.sum(1, keepdim=True))
    return torch.cat([z, zero], 1) - torch.cat([zero, z], 1)


def _mean_of_pieces(x: Tensor, sign: Tensor) -> Tensor:
    """The mean over each run of entries without a jump between them, at every entry."""
    jumps = (sign != 0).to(torch.int64)
    piece = torch.cat([torch.zeros_like(x[:, :1], dtype=torch.int64), jumps], 1).cumsum(1)
    sums = torch.zeros_like(x).scatter_add(1, piece, x)
    counts = torch.zeros_like(x).scatter_add(1, piece, torch.ones_like(x))
    return (sums / counts.clamp(min=1)).gather(1, piece)


def _residual(x: Tensor, e: Tensor, y: Tensor, sign: Tensor) -> Tensor:
    """How far the dual variable z = cumsum(y - x) is beyond e, or from e times the sign of a jump; and wrong jumps."""
    z = (y - x).cumsum(1)
    wrong = torch.where(sign == 0, (z[:, :-1].abs() - e).clamp(min=0), (z[:, :-1] - e * sign).abs())
    wrong = torch.cat([wrong, z[:, -1:].abs(), (-sign * (y[:, 1:] - y[:, :-1])).clamp(min=0)], 1)
    size = x.abs().sum(1) + e.amax(1) if e.shape[1] else x.abs().sum(1)
    return wrong.amax(1) / torch.where(size > 0, size, 1.0)


_RULE = _TotalVariationRule()
