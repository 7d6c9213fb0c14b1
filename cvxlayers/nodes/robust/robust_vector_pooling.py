"""Robust pooling of vectors: y minimizes sum_i phi(|y - x_i|; alpha), differentiated implicitly.

With d_i = y - x_i, s_i = |d_i|^2 and psi, slope of ``penalties``, each sample adds H_i = psi_i I + slope_i d_i d_i'
to the Hessian H, and

    dy = H^-1 (sum_i H_i dx_i - sum_i (d psi_i / d alpha) d_i d alpha)            (Gould, Hartley, Campbell 2019,
    Section 5).

Where Huber's minimizers are not isolated (all samples on one line, none within alpha of y), H is singular; it is
damped by the square root of the unit of rounding there, which leaves the derivative of least norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.robust.mean_rule import MeanRule
from cvxlayers.nodes.robust.penalties import PENALTIES, Penalty, find_penalty
from cvxlayers.nodes.robust.robust_descent import minimize_vector, solve_hessian
from cvxlayers.nodes.rules.arguments import check_tensor, positive
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["RobustVectorPool", "robust_vector_pool"]

Scale = Tensor | float

STATIONARY = 1e-8
"""The derivative at a verified minimum, relative to the sum of its absolute terms; rounding errors come on top."""


def robust_vector_pool(x: Tensor, penalty: str = "huber", alpha: Scale = 1.0, on_failure: str = "raise") -> Tensor:
    """The vector y that minimizes sum_i phi(|y - x_i|; alpha) over all dimensions of x after the second.

    Parameters
    ----------
    x : (B, C, ...) tensor
        B sets of vectors with C entries, one vector for each place in the remaining dimensions.
    penalty : str
        "quadratic", "pseudo-huber", "huber", "welsch" or "truncated-quadratic" (``cvxlayers.nodes.robust.penalties``).
    alpha : positive float, or tensor () or (B,)
        From about which distance on a sample counts as an outlier.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements with entries that are not finite, or whose search did not converge.

    Returns
    -------
    (B, C) tensor
        For convex penalties the global minimum. For Welsch and the truncated quadratic the best of the minima reached
        from the mean, the median of each coordinate, and five of the samples, those of least cost more than alpha
        apart (of at most 256 candidates): good, but no guarantee. The gradient in x and alpha is that of this minimum;
        in alpha it is zero for the quadratic and the truncated quadratic.

    Raises
    ------
    ParameterError, OptionError
        Wrong shapes, dtypes, entries, or no such penalty.
    SolveError
        An element whose search did not converge, with ``on_failure="raise"``.

    Examples
    --------
    >>> points = torch.tensor([[[0.0, 2.0, 1.0, 1.0, 99.0], [1.0, 1.0, 0.0, 2.0, 99.0]]])
    >>> robust_vector_pool(points, "truncated-quadratic", alpha=3.0)
    tensor([[1., 1.]])
    """
    check_policy(on_failure)
    return _pool(x, penalty, alpha, NodeCall(on_failure))


class RobustVectorPool(Reporting):
    """``robust_vector_pool`` as a module: (B, C, ...) to (B, C); ``info`` reports the iterations of its last call.

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
    >>> RobustVectorPool("welsch", alpha=2.0)(torch.zeros(8, 3, 7, 7)).shape
    torch.Size([8, 3])
    """

    def __init__(self, penalty: str = "huber", alpha: Scale = 1.0, on_failure: str = "raise") -> None:
        super().__init__()
        check_policy(on_failure)
        self.penalty = find_penalty(penalty).name
        self.alpha = alpha
        self.on_failure = on_failure

    def forward(self, x: Tensor) -> Tensor:
        """See ``robust_vector_pool``."""
        return _pool(x, self.penalty, self.alpha, NodeCall(self.on_failure, keeper=self._local))

    def extra_repr(self) -> str:
        return f"penalty={self.penalty!r}"


class _Rule(ClosedRule):
    """(x, alpha) to (y, damping): (B, C, N), (B,) to (B, C), (B,); the damping is a constant."""

    names = ("x", "alpha")
    advice = {Status.INACCURATE: "inaccurate elements did not converge: scale the samples nearer to alpha"}

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        x, alpha = (part.double() for part in inputs)
        y, iterations, good = minimize_vector(self.penalty, x, alpha)
        d = y[..., None] - x
        s = (d * d).sum(1)
        psi, slope, _ = self.penalty.terms(s, alpha[:, None])
        pull = (psi[:, None] * d).sum(2).abs().amax(1)
        noise = 8 * torch.finfo(x.dtype).eps * (y.abs().amax(1) + alpha) * x.shape[2]
        worst = (pull - noise).clamp_min(0) / (psi * s.sqrt()).sum(1).clamp_min(torch.finfo(x.dtype).tiny)
        status = torch.where(good & (worst <= STATIONARY), int(Status.OPTIMAL), int(Status.INACCURATE))
        damping = self._damping(d, psi, slope, torch.finfo(inputs[0].dtype).eps)
        return SolvedNode((y.to(inputs[0].dtype), damping.to(inputs[0].dtype)), status, iterations, worst)

    def _damping(self, d: Tensor, psi: Tensor, slope: Tensor, eps: float) -> Tensor:
        """Positive where H is singular. One sample within alpha makes Huber's H at least the identity."""
        damping = torch.zeros_like(psi[:, 0])
        lonely = ((psi < 1).all(1) & (self.penalty.name == "huber")).nonzero()[:, 0]
        if lonely.numel():
            part, total = d[lonely], psi[lonely].sum(1)
            H = (slope[lonely, None] * part) @ part.mT + total[:, None, None] * torch.eye(d.shape[1]).to(d)
            flat = torch.linalg.eigvalsh(H)[:, 0] <= d.shape[1] * d.shape[2] * torch.finfo(d.dtype).eps * total
            damping[lonely] = torch.where(flat, eps**0.5 * total, 0.0)
        return damping

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        d, psi, slope, in_alpha = self._parts(inputs, outputs)
        v = solve_hessian(d, psi, slope, outputs[1].detach(), cotangents[0])
        along = (v[..., None] * d).sum(1)
        return v[..., None] * psi[:, None] + (slope * along)[:, None] * d, -(in_alpha * along).sum(1)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        d, psi, slope, in_alpha = self._parts(inputs, outputs)
        dx, dalpha = tangents
        along = (d * dx).sum(1)
        weights = slope * along - in_alpha * dalpha[:, None]
        right = (psi[:, None] * dx).sum(2) + (weights[:, None] * d).sum(2)
        return solve_hessian(d, psi, slope, outputs[1].detach(), right), torch.zeros_like(dalpha)

    def _parts(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (x, alpha), y = inputs, outputs[0]
        d = y[..., None] - x
        return d, *self.penalty.terms((d * d).sum(1), alpha[:, None])


_RULES: dict[str, ClosedRule] = {name: _Rule(found) for name, found in PENALTIES.items()}
_RULES["quadratic"] = MeanRule()


def _pool(x: Any, penalty: str, alpha: Any, call: NodeCall) -> Tensor:
    name = find_penalty(penalty).name
    check_tensor("x", x)
    if x.ndim < 3 or not x.shape[1:].numel():
        raise ParameterError(
            f"x: got shape {tuple(x.shape)}, expected (B, C, ...): vectors with C entries, one for each place in the "
            "dimensions behind, of which there is at least one."
        )
    alpha = positive("alpha", alpha, x, x.shape[:1])
    alpha = alpha if isinstance(alpha, Tensor) else x.new_full((), alpha)
    return _RULES[name](call, x.flatten(2), alpha.expand(x.shape[0]))[0]
