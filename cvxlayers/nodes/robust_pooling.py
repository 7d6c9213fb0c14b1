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

from cvxlayers.nodes.arguments import check_dimensions, flatten_batch, positive
from cvxlayers.nodes.closed_rule import ClosedRule
from cvxlayers.nodes.outcome import Call, Reporting, Solved, check_policy
from cvxlayers.nodes.penalties import PENALTIES, Penalty, find_penalty
from cvxlayers.nodes.robust_search import minimize
from cvxlayers.solution import Status

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
        "quadratic", "pseudo-huber", "huber", "welsch" or "truncated-quadratic" (``cvxlayers.nodes.penalties``).
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
    return _pool(x, penalty, alpha, Call(on_failure))


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
        return _pool(x, self.penalty, self.alpha, Call(self.on_failure, keeper=self._local))

    def extra_repr(self) -> str:
        return f"penalty={self.penalty!r}"


class _Rule(ClosedRule):
    """(x, alpha) to (y, below, above): (B, N), (B,) to (B,) each; the last two, NaN or the ends of a flat piece."""

    names = ("x", "alpha")
    advice = {Status.INACCURATE: "inaccurate elements did not converge: scale the samples nearer to alpha"}

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    def solve(self, call: Call, *inputs: Tensor) -> Solved:
        x, alpha = (part.double() for part in inputs)
        y, iterations, good = minimize(self.penalty, x, alpha)
        below, above = torch.full_like(y, torch.nan), torch.full_like(y, torch.nan)
        if self.penalty.name == "huber":
            y, below, above = self._middle(x, alpha, y)
        z = y[:, None] - x
        terms = self.penalty.terms(z * z, alpha[:, None]).psi * z
        noise = 8 * torch.finfo(x.dtype).eps * (y.abs() + alpha) * x.shape[1]
        worst = (terms.sum(1).abs() - noise).clamp_min(0) / terms.abs().sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        good = good & (worst <= STATIONARY)
        status = torch.where(good, int(Status.OPTIMAL), int(Status.INACCURATE))
        dtype = inputs[0].dtype
        return Solved((y.to(dtype), below.to(dtype), above.to(dtype)), status, iterations, worst)

    @staticmethod
    def _middle(x: Tensor, alpha: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where nobody is within alpha of y: the middle of the interval of minimizers, and the samples beside it."""
        z = x - y[:, None]
        flat = ~(z.abs() <= alpha[:, None]).any(1) & (z.sign().sum(1) == 0)
        below = torch.where(flat, torch.where(z < 0, x, -torch.inf).amax(1), torch.nan)
        above = torch.where(flat, torch.where(z > 0, x, torch.inf).amin(1), torch.nan)
        return torch.where(flat, below + (above - below) / 2, y), below, above

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        weights, by_alpha = self._weights(*inputs, *outputs)
        g = cotangents[0]
        return g[:, None] * weights, g * by_alpha

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        weights, by_alpha = self._weights(*inputs, *outputs)
        dx, dalpha = tangents
        return (weights * dx).sum(1) + by_alpha * dalpha, torch.zeros_like(dalpha), torch.zeros_like(dalpha)

    def _weights(self, x: Tensor, alpha: Tensor, y: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative of y: (B, N) in x, (B,) in alpha."""
        z = y[:, None] - x
        s = z * z
        psi, slope, in_alpha = self.penalty.terms(s, alpha[:, None])
        curvature = psi + slope * s
        if self.penalty.name == "huber":
            curvature = (psi == 1).to(x.dtype)  # the rest is zero but for rounding errors
            for end in (below, above):
                at = (x.detach() == end.detach()[:, None]).to(x.dtype)
                curvature = curvature + at / (2 * at.sum(1, keepdim=True).clamp_min(1))
        total = curvature.sum(1)
        return curvature / total[:, None], -(in_alpha * z).sum(1) / total


_RULES = {name: _Rule(found) for name, found in PENALTIES.items()}


def _pool(x: Any, penalty: str, alpha: Any, call: Call) -> Tensor:
    name = find_penalty(penalty).name
    check_dimensions("x", x, "H, W", 2)
    alpha = positive("alpha", alpha, x, x.shape[:-2])
    alpha = alpha if isinstance(alpha, Tensor) else x.new_full((), alpha)
    (samples, scale), batch = flatten_batch(("x", "alpha"), (x.flatten(-2), alpha), (1, 0))
    return _RULES[name](call, samples, scale)[0].reshape(batch)
