"""Row-wise maps onto the simplex: softmax, sparsemax, and between and beyond them entmax.

entmax maximizes p'z + H(p) over the simplex, with Tsallis' entropy H(p) = sum_i (p_i - p_i^alpha) / (alpha (alpha - 1))
(Peters, Niculae, Martins 2019). Its solution is p_i = ((alpha - 1) z_i - tau)_+^(1 / (alpha - 1)), where tau makes the
sum one. For alpha = 2 that is the projection onto the simplex. For 1.5 tau is known in closed form once the support is,
and autograd differentiates that; for other orders it is the root of one equation, and the derivative is the implicit
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.nodes.projections.projection_rules import L1Rule
from cvxlayers.nodes.rules.arguments import check_entries, check_tensor
from cvxlayers.nodes.rules.call_result import NodeCall, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["entmax", "softmax", "sparsemax"]

STEPS = 100
"""Safeguarded Newton steps towards tau, at the most."""


def softmax(z: Tensor, dim: int = -1) -> Tensor:
    """The p on the simplex that maximizes p'z - sum_i p_i log p_i, along ``dim``.

    Parameters
    ----------
    z : tensor
        Scores; minus infinity leaves an entry out.
    dim : int
        Default: the last.

    Returns
    -------
    tensor of the shape of z
        exp(z) divided by its sum. A row without a finite score is NaN.

    Examples
    --------
    >>> softmax(torch.tensor([0.0, 0.0, -torch.inf]))
    tensor([0.5000, 0.5000, 0.0000])
    """
    return torch.softmax(_scores(z, dim), dim)


def sparsemax(z: Tensor, dim: int = -1) -> Tensor:
    """The Euclidean projection of z onto the simplex, along ``dim``: entmax with alpha = 2.

    Parameters
    ----------
    z : tensor
        Scores; minus infinity leaves an entry out.
    dim : int
        Default: the last.

    Returns
    -------
    tensor of the shape of z
        Nonnegative, with sum one, and with zeros. A row without a finite score is NaN. Source: Martins, Astudillo 2016.

    Examples
    --------
    >>> sparsemax(torch.tensor([1.0, 0.8, -1.0]))
    tensor([0.6000, 0.4000, 0.0000])
    """
    return entmax(z, 2.0, dim)


def entmax(z: Tensor, alpha: float | Tensor = 1.5, dim: int = -1) -> Tensor:
    """The p on the simplex that maximizes p'z plus its Tsallis entropy of order ``alpha``, along ``dim``.

    Parameters
    ----------
    z : tensor
        Scores; minus infinity leaves an entry out.
    alpha : float or tensor
        At least 1: softmax at 1, sparsemax at 2, the sparser the larger. A tensor broadcasts to the shape of z
        with size 1 along ``dim``; its entries are above 1, and it gets its gradient. Default 1.5.
    dim : int
        Default: the last.

    Returns
    -------
    tensor of the shape of z
        Nonnegative, with sum one. A row without a finite score is NaN. Source:
        Peters, Niculae, Martins 2019; for the gradient in alpha Correia, Niculae, Martins 2019.

    Raises
    ------
    ParameterError
        Scores that are no floating tensor, a row of length zero, an alpha that is too small or does not broadcast.

    Examples
    --------
    >>> z = torch.tensor([1.0, 0.0, -2.0], requires_grad=True)
    >>> p = entmax(z)
    >>> p.detach()
    tensor([0.8307, 0.1693, 0.0000])
    >>> p[0].backward()
    >>> z.grad  # p^(1/2) on the support, centred
    tensor([ 0.2835, -0.2835,  0.0000])
    """
    z = _scores(z, dim).movedim(dim, -1)
    if isinstance(alpha, Tensor):
        alpha = _orders(alpha, z, dim)
        return _by_root(z, alpha).movedim(-1, dim)
    if not isinstance(alpha, int | float) or not 1 <= alpha < float("inf"):
        raise ParameterError(f"alpha: got {alpha!r}, expected a finite number that is at least 1, or a tensor of them.")
    if alpha == 1:
        return torch.softmax(z, -1).movedim(-1, dim)
    known = {1.5: _order_one_and_a_half, 2.0: _order_two}.get(float(alpha))
    p = known(z) if known else _by_root(z, z.new_full((1,) * z.ndim, alpha))
    return p.movedim(-1, dim)


def _scores(z: Any, dim: int) -> Tensor:
    check_tensor("z", z)
    if not -z.ndim <= dim < z.ndim or z.shape[dim] == 0:
        raise ParameterError(f"z: got shape {tuple(z.shape)}, expected at least one entry along dim={dim}.")
    return z


def _orders(alpha: Tensor, z: Tensor, dim: int) -> Tensor:
    """alpha with the dimensions of z, 1 along the last; z has its ``dim`` moved there."""
    check_tensor("alpha", alpha)
    check_entries(alpha, lambda plain: (plain > 1) & plain.isfinite(), "alpha: got entries that are not above 1")
    if alpha.ndim <= z.ndim:
        alpha = alpha.reshape((1,) * (z.ndim - alpha.ndim) + alpha.shape).movedim(dim, -1)
    fits = alpha.ndim == z.ndim and alpha.shape[-1] == 1
    if not fits or any(a not in (1, b) for a, b in zip(alpha.shape, z.shape, strict=True)):
        raise ParameterError(
            f"alpha: got shape {tuple(alpha.shape)} (dim={dim} moved to the end), expected one that broadcasts to "
            f"{(*z.shape[:-1], 1)}: one order for each row of z."
        )
    return alpha.to(z.dtype)


def _masked(mask: Tensor, x: Tensor, other: float = 0.0) -> Tensor:
    return torch.where(mask, x, other)


def _order_two(z: Tensor) -> Tensor:
    """The projection onto the simplex; it leaves minus infinity out, and makes NaN of a row without a finite score."""
    return L1Rule(signs=False)(z, 1.0)


def _order_one_and_a_half(z: Tensor) -> Tensor:
    """p = (z/2 - tau)_+^2, tau = m - ((1 - s) / k)^(1/2) on k entries with mean m and sum of squared deviations s."""
    x = (z - z.detach().amax(-1, keepdim=True)) / 2
    with torch.no_grad():
        ordered = x.detach().clamp(min=-2).sort(-1, descending=True).values
        k = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
        mean = ordered.cumsum(-1) / k
        spread = (ordered**2).cumsum(-1) - k * mean**2
        taus = mean - ((1 - spread).clamp(min=0) / k).sqrt()
        count = (taus <= ordered).sum(-1, keepdim=True).clamp(min=1)
        support = x.detach() >= ordered.gather(-1, count - 1)
    size = support.sum(-1, keepdim=True)
    mean = _masked(support, x).sum(-1, keepdim=True) / size
    spread = _masked(support, x - mean).square().sum(-1, keepdim=True)
    tau = mean - ((1 - spread) / size).clamp(min=torch.finfo(z.dtype).tiny).sqrt()
    p = _masked(support, x - tau).clamp(min=0).square()
    return torch.where(support.any(-1, keepdim=True), p, torch.nan)


def _by_root(z: Tensor, alpha: Tensor) -> Tensor:
    """Any order above one; entries too low for the support are lifted to where they still are."""
    z = z - z.detach().amax(-1, keepdim=True)
    z = torch.maximum(z, -2 / (alpha.detach() - 1))
    rows, orders = z.reshape(-1, z.shape[-1]), alpha.expand((*z.shape[:-1], 1)).reshape(-1)
    (p,) = _RULE(NodeCall("nan"), rows, orders)
    return p.reshape(z.shape)


class _EntmaxRule(ClosedRule):
    """(z, alpha) to p, (B, n) and (B,) to (B, n), for rows whose largest entry is zero.

    With p^(alpha - 1) = (alpha - 1) z - tau on the support, and s = p^(2 - alpha) there and zero elsewhere,

        dp = s / (alpha - 1) o (v - s'v / s'1),    v = (alpha - 1) dz + (z - p^(alpha - 1) log p) dalpha.
    """

    names = ("z", "alpha")

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        z, alpha = (part.double() for part in inputs)
        x, power = (alpha[:, None] - 1) * z, 1 / (alpha[:, None] - 1)
        tau, steps = _root(x, power)
        p = (x - tau).clamp(min=0) ** power
        total = p.sum(1, keepdim=True)
        status = torch.full(alpha.shape, int(Status.OPTIMAL), dtype=torch.int8, device=z.device)
        p = (p / total).to(inputs[0].dtype)
        return SolvedNode((p,), status, torch.full_like(status, steps), (total[:, 0] - 1).abs())

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        s, slope = _terms(*inputs, *outputs)
        centred = s * (cotangents[0] - (s * cotangents[0]).sum(1, keepdim=True) / s.sum(1, keepdim=True))
        return centred, (centred * slope).sum(1) / (inputs[1] - 1)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        s, slope = _terms(*inputs, *outputs)
        v = tangents[0] + slope * (tangents[1] / (inputs[1] - 1))[:, None]
        return (s * (v - (s * v).sum(1, keepdim=True) / s.sum(1, keepdim=True)),)


def _terms(z: Tensor, alpha: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """s, and z - p^(alpha - 1) log p."""
    support, order = p > 0, alpha[:, None]
    safe = torch.where(support, p, 1.0)
    return _masked(support, safe ** (2 - order)), z - safe ** (order - 1) * safe.log()


def _root(x: Tensor, power: Tensor) -> tuple[Tensor, int]:
    """tau with sum (x - tau)_+^power = 1, by Newton's method on the logarithm of the sum, inside a shrinking interval.

    tau lies between -1 and -n^(1 - alpha), as the largest entry is zero. The steps taken come along.
    """
    low = -torch.ones_like(power)
    high = -(float(x.shape[1]) ** (-1 / power))
    tau = low
    for step in range(STEPS):
        u = x - tau
        inside = u > 0
        u = _masked(inside, u, 1.0)
        total = _masked(inside, u**power).sum(1, keepdim=True)
        slope = power * _masked(inside, u ** (power - 1)).sum(1, keepdim=True)
        low, high = torch.where(total >= 1, tau, low), torch.where(total >= 1, high, tau)
        better = tau + total.log() * total / slope
        better = torch.where((better >= low) & (better <= high), better, (low + high) / 2)
        done = ((better - tau).abs() <= 2e-16 * tau.abs()).all()
        tau = better
        if done:
            return tau, step + 1
    return tau, STEPS


_RULE = _EntmaxRule()
