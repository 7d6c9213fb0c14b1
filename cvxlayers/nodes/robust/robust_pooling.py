"""Robust pooling of numbers: y minimizes sum_i phi(y - x_i; alpha), differentiated implicitly.

With z = y - x_i and psi, slope of ``penalties``, the second derivatives are k_i = psi_i + slope_i z_i^2, and

    dy = (sum_i k_i dx_i - sum_i (d psi_i / d alpha) z_i d alpha) / sum_i k_i     (Gould, Hartley, Campbell 2019,
    Section 5).

Where Huber's sum is flat, with as many samples more than alpha below as above and none within, the minimizers are an
interval between two samples; its middle is returned, and dy is half of each of these two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.robust.mean_rule import MeanRule
from cvxlayers.nodes.robust.penalties import PENALTIES, Penalty, find_penalty
from cvxlayers.nodes.robust.robust_search import minimize, stationarity
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch, positive
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["RobustPool", "robust_pool"]

Scale = Tensor | float

STATIONARY = 1e-9
"""The derivative at a verified minimum, relative to the sum of its absolute terms; rounding errors come on top."""


def robust_pool(x: Tensor, penalty: str = "huber", alpha: Scale = 1.0, on_failure: str = "raise") -> Tensor:
    """The number y that minimizes sum_i phi(y - x_i; alpha) over the last two dimensions of x.

    Parameters
    ----------
    x : (..., H, W) tensor
    penalty : str
        "quadratic", "pseudo-huber", "huber", "welsch" or "truncated-quadratic" (``cvxlayers.nodes.robust.penalties``).
    alpha : positive float, or tensor that broadcasts to x.shape[:-2]
        From about which distance on a sample counts as an outlier.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements with entries that are not finite, or whose search did not converge.

    Returns
    -------
    (...) tensor
        The global minimum: for the convex penalties; for the truncated quadratic, exactly, by comparing all sets of
        inliers (the first of several equal minima); for Welsch, by climbing the three highest modes of a density on a
        grid. The gradient in x is that of the solution; in alpha, too, but zero for the quadratic and the truncated
        quadratic, whose solutions move with alpha only by jumps. Samples at distance alpha exactly count as inliers.

    Raises
    ------
    ParameterError, OptionError
        Wrong shapes, dtypes, entries, or no such penalty.
    SolveError
        An element whose search did not converge, with ``on_failure="raise"``.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 1.0], [2.0, 99.0]])
    >>> robust_pool(x, "quadratic"), robust_pool(x, "truncated-quadratic", alpha=1.5)
    (tensor(25.5000), tensor(1.))
    """
    check_policy(on_failure)
    return _pool(x, penalty, alpha, NodeCall(on_failure))


class RobustPool(Reporting):
    """``robust_pool`` as a module: (..., H, W) to (...); ``info`` reports the iterations of its last call.

    Parameters
    ----------
    penalty : str
    alpha : positive float or tensor
        A ``torch.nn.Parameter`` is learned.
    on_failure : "raise", "nan" or "zero_grad"

    Raises
    ------
    OptionError
        No such penalty or policy.

    Examples
    --------
    >>> RobustPool("welsch", alpha=2.0)(torch.zeros(8, 3, 7, 7)).shape
    torch.Size([8, 3])
    """

    def __init__(self, penalty: str = "huber", alpha: Scale = 1.0, on_failure: str = "raise") -> None:
        super().__init__()
        check_policy(on_failure)
        self.penalty = find_penalty(penalty).name
        self.alpha = alpha
        self.on_failure = on_failure

    def forward(self, x: Tensor) -> Tensor:
        """See ``robust_pool``."""
        return _pool(x, self.penalty, self.alpha, NodeCall(self.on_failure, keeper=self._local))

    def extra_repr(self) -> str:
        return f"penalty={self.penalty!r}"


class _Rule(ClosedRule):
    """(x, alpha) to (y, ends): (B, N), (B,) to (B,), (B, 2).

    The ends are the places of the two samples beside a flat piece, or -1.
    """

    names = ("x", "alpha")
    advice = {Status.INACCURATE: "inaccurate elements did not converge: scale the samples nearer to alpha"}

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        x, alpha = (part.double() for part in inputs)
        y, iterations, good = minimize(self.penalty, x, alpha)
        ends = x.new_full((x.shape[0], 2), -1)
        if self.penalty.name == "huber":
            y, ends = _middle(x, alpha, y, ends)
        worst = stationarity(self.penalty, x, alpha, y)
        status = torch.where(good & (worst <= STATIONARY), int(Status.OPTIMAL), int(Status.INACCURATE))
        return SolvedNode((y.to(inputs[0].dtype), ends), status, iterations, worst)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        curvature, by_alpha = self._parts(inputs, outputs)
        g = cotangents[0] / curvature.sum(1)
        return g[:, None] * curvature, -g * by_alpha

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        curvature, by_alpha = self._parts(inputs, outputs)
        dx, dalpha = tangents
        dy = ((curvature * dx).sum(1) - by_alpha * dalpha) / curvature.sum(1)
        return dy, torch.zeros_like(outputs[1])

    def _parts(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The second derivatives, (B, N), and that of the slope with respect to alpha, (B,)."""
        (x, alpha), (y, ends) = inputs, outputs
        z = y[:, None] - x
        if self.penalty.name == "huber":  # in few operations; a flat piece leans on the two samples beside it
            inside = (z.detach().abs() <= alpha.detach()[:, None]).to(x.dtype)
            curvature = inside.scatter_add(1, ends.detach().clamp_min(0).long(), 0.5 * (ends >= 0).to(x.dtype))
            return curvature, ((1 - inside) * z.detach().sign()).sum(1)
        s = z * z
        psi, slope, in_alpha = self.penalty.terms(s, alpha[:, None])
        return psi + slope * s, (in_alpha * z).sum(1)


def _middle(x: Tensor, alpha: Tensor, y: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Where nobody is within alpha of y: the middle of the interval of minimizers, and the samples beside it."""
    z = x - y[:, None]
    where = ((z.sign().sum(1) == 0) & (z.abs().amin(1) > alpha)).nonzero()[:, 0]
    if where.numel():
        x, z, y, ends = x[where], z[where], y.clone(), ends.clone()
        below = torch.where(z < 0, x, -torch.inf).max(1)
        above = torch.where(z > 0, x, torch.inf).min(1)
        y[where] = below.values + (above.values - below.values) / 2
        ends[where] = torch.stack([below.indices, above.indices], 1).to(ends.dtype)
    return y, ends


_RULES: dict[str, ClosedRule] = {name: _Rule(found) for name, found in PENALTIES.items()}
_RULES["quadratic"] = MeanRule()


def _pool(x: Any, penalty: str, alpha: Any, call: NodeCall) -> Tensor:
    name = find_penalty(penalty).name
    check_dimensions("x", x, "H, W", 2)
    alpha = positive("alpha", alpha, x, x.shape[:-2])
    alpha = alpha if isinstance(alpha, Tensor) else x.new_full((), alpha)
    (samples, scale), batch = flatten_batch(("x", "alpha"), (x.flatten(-2), alpha), (1, 0))
    return _RULES[name](call, samples, scale)[0].reshape(batch)
