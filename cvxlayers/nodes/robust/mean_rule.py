"""Robust pooling with the quadratic penalty: the mean over the last dimension, with nothing to search for.

sum_i |y - x_i|^2 / 2 has the one stationary point y = sum_i x_i / N, so dy = sum_i dx_i / N; alpha has no part in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.rules.call_result import NodeCall, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["MeanRule"]


class MeanRule(ClosedRule):
    """(x, alpha) to (y,): (B, ..., N), (B,) to (B, ...)."""

    names = ("x", "alpha")
    advice = {Status.INACCURATE: "the sum of an inaccurate element is beyond the largest number: scale its samples"}

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        x, alpha = inputs
        y = x.mean(-1)
        exact = torch.zeros(alpha.shape, dtype=torch.float64, device=x.device)
        status = torch.full(alpha.shape, int(Status.OPTIMAL), device=x.device)
        if not bool(torch.isfinite(y.sum())):
            status[~torch.isfinite(y.reshape(len(y), -1)).all(1)] = int(Status.INACCURATE)
        return SolvedNode((y,), status, torch.zeros_like(status), exact)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        x, alpha = inputs
        return (cotangents[0] / x.shape[-1])[..., None].expand_as(x), torch.zeros_like(alpha)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        return (tangents[0].mean(-1),)
