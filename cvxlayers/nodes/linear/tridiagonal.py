"""Batched tridiagonal systems A x = d, differentiable in the three diagonals and in d.

Derivatives: with the cotangent g of x solve A' lam = g; then d gets lam, the entry A_ij gets -sum_k lam_ik x_jk. The
transpose of a tridiagonal matrix is one with its off-diagonals exchanged, so the rule calls itself, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.linear.banded import ADVICE, judge, solve_tridiagonal, through_numpy
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule

__all__ = ["TridiagonalSolve", "multiply_tridiagonal", "tridiagonal_solve"]


def tridiagonal_solve(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor, on_failure: str = "raise") -> Tensor:
    """Solve A x = d for tridiagonal matrices A: LU with partial pivoting, so that a zero on the diagonal does no harm.

    Parameters
    ----------
    lower : (..., N - 1) tensor
        Below the diagonal: lower[i] stands in row i + 1.
    diag : (..., N) tensor
    upper : (..., N - 1) tensor
        Above the diagonal: upper[i] stands in row i.
    d : (..., N) or (..., N, K) tensor
        The right-hand side: (..., N) where it has as many dimensions as ``diag``, else one more.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements whose matrix is singular to working precision: an error, NaN, or zeros that pass no
        gradient on.

    Returns
    -------
    tensor of the shape of d, its batch dimensions broadcast with the others
        The work is done by LAPACK, on the CPU.

    Raises
    ------
    ParameterError
        Wrong shapes, dtypes or entries that are not finite.
    SolveError
        A singular matrix, with ``on_failure="raise"``.

    Examples
    --------
    >>> zero, one = torch.zeros(2), torch.ones(1)
    >>> tridiagonal_solve(one, zero, 2 * one, torch.tensor([4.0, 3.0]))  # [[0, 2], [1, 0]] x = (4, 3)
    tensor([3., 2.])
    """
    return _solve(lower, diag, upper, d, NodeCall(_checked(on_failure)))


class TridiagonalSolve(Reporting):
    """``tridiagonal_solve`` as a module; ``info`` reports the residuals of its last call.

    Parameters
    ----------
    on_failure : "raise", "nan" or "zero_grad"

    Raises
    ------
    OptionError
        No such policy.

    Examples
    --------
    >>> layer = TridiagonalSolve()
    >>> layer(torch.ones(3, 1), torch.full((3, 2), 2.0), torch.ones(3, 1), torch.ones(3, 2, 5)).shape
    torch.Size([3, 2, 5])
    """

    def __init__(self, on_failure: str = "raise") -> None:
        super().__init__()
        self.on_failure = _checked(on_failure)

    def forward(self, lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
        """See ``tridiagonal_solve``."""
        return _solve(lower, diag, upper, d, NodeCall(self.on_failure, keeper=self._local))


def multiply_tridiagonal(lower: Tensor, diag: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """A x for (B, N - 1), (B, N), (B, N - 1) and x (B, N, K)."""
    product = diag[..., None] * x
    below, above = lower[..., None] * x[:, :-1], upper[..., None] * x[:, 1:]
    pad = torch.nn.functional.pad
    return product + pad(below, (0, 0, 1, 0)) + pad(above, (0, 0, 0, 1))


def _residual(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A x - d and |A| |x| + |d|, without a graph."""
    at, below, above = diag[..., None] * x, lower[..., None] * x[:, :-1], upper[..., None] * x[:, 1:]
    residual, size = at - d, at.abs_().add_(d.abs())
    residual[:, 1:] += below
    residual[:, :-1] += above
    size[:, 1:] += below.abs_()
    size[:, :-1] += above.abs_()
    return residual, size


class _Rule(ClosedRule):
    """(lower, diag, upper, d) to x: (B, N - 1), (B, N), (B, N - 1), (B, N, K) to (B, N, K)."""

    names = ("lower", "diag", "upper", "d")
    advice = ADVICE

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        lower, diag, upper, d = inputs
        x, singular = through_numpy(solve_tridiagonal, lower, diag, upper, d)
        return judge(x, singular, *_residual(lower, diag, upper, d, x))

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        (lower, diag, upper, _), (x,), (g,) = inputs, outputs, cotangents
        (lam,) = self(_QUIET, upper, diag, lower, g)
        by_diag = -(lam * x).sum(-1)
        return -(lam[:, 1:] * x[:, :-1]).sum(-1), by_diag, -(lam[:, :-1] * x[:, 1:]).sum(-1), lam

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (lower, diag, upper, _), (x,), (dl, dm, du, dd) = inputs, outputs, tangents
        return self(_QUIET, lower, diag, upper, dd - multiply_tridiagonal(dl, dm, du, x))


_QUIET = NodeCall("nan")
"""For the systems of derivatives: NaN that comes in goes out, and nothing is reported."""

_RULE = _Rule()


def _checked(on_failure: str) -> str:
    check_policy(on_failure)
    return on_failure


def _solve(lower: Any, diag: Any, upper: Any, d: Any, call: NodeCall) -> Tensor:
    check_dimensions("diag", diag, "N", 1)
    N = diag.shape[-1]
    for name, band in (("lower", lower), ("upper", upper)):
        check_dimensions(name, band, "N - 1", 1, least=0)
        if band.shape[-1] != N - 1:
            raise ParameterError(
                f"{name}: got shape {tuple(band.shape)}, expected (..., {N - 1}): one entry less "
                f"than diag, which has {N}."
            )
    check_dimensions("d", d, "N", 1)
    single = d.ndim <= diag.ndim
    if d.shape[-1 if single else -2] != N:
        raise ParameterError(
            f"d: got shape {tuple(d.shape)}, expected (..., {N}) with as many dimensions as diag {tuple(diag.shape)}, "
            f"or (..., {N}, K) with one more."
        )
    d = d[..., None] if single else d
    flat, batch = flatten_batch(("lower", "diag", "upper", "d"), (lower, diag, upper, d), (1, 1, 1, 2))
    (x,) = _RULE(call, *flat)
    x = x.reshape((*batch, *x.shape[1:]))
    return x[..., 0] if single else x
