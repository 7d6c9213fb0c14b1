"""Batched block-tridiagonal systems A x = d, differentiable in the blocks and in d.

With A' lam = g for the cotangent g of x: d gets lam, and the block in block row i and block column j gets -sum_k
lam_i x_j'. The transposed matrix is again block-tridiagonal, so the rule calls itself, to any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.linear.banded import ADVICE, judge, solve_blocks, through_numpy
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule

__all__ = ["BlockTridiagonalSolve", "block_tridiagonal_solve"]


def block_tridiagonal_solve(lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor, on_failure: str = "raise") -> Tensor:
    """Solve A x = d for block-tridiagonal matrices A: banded LU with partial pivoting across the blocks.

    A block on the diagonal may be zero or singular as long as A is regular.

    Parameters
    ----------
    lower : (..., N - 1, M, M) tensor
        Below the diagonal: lower[i] stands in block row i + 1.
    diag : (..., N, M, M) tensor
    upper : (..., N - 1, M, M) tensor
        Above the diagonal: upper[i] stands in block row i.
    d : (..., N M) or (..., N M, K) tensor
        The right-hand side, block after block: (..., N M) where it has two dimensions fewer than ``diag``, or fewer
        still, else (..., N M, K).
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
    >>> eye, zero = torch.eye(2), torch.zeros(2, 2)
    >>> block_tridiagonal_solve(eye[None], torch.stack([zero, zero]), 2 * eye[None], torch.tensor([2.0, 4.0, 5.0, 6.0]))
    tensor([5., 6., 1., 2.])
    """
    return _solve(lower, diag, upper, d, NodeCall(_checked(on_failure)))


class BlockTridiagonalSolve(Reporting):
    """``block_tridiagonal_solve`` as a module; ``info`` reports the residuals of its last call.

    Parameters
    ----------
    on_failure : "raise", "nan" or "zero_grad"

    Raises
    ------
    OptionError
        No such policy.

    Examples
    --------
    >>> blocks, eye = torch.zeros(3, 1, 2, 2), torch.eye(2).expand(3, 2, 2, 2)
    >>> BlockTridiagonalSolve()(blocks, eye, blocks, torch.ones(3, 4, 5)).shape
    torch.Size([3, 4, 5])
    """

    def __init__(self, on_failure: str = "raise") -> None:
        super().__init__()
        self.on_failure = _checked(on_failure)

    def forward(self, lower: Tensor, diag: Tensor, upper: Tensor, d: Tensor) -> Tensor:
        """See ``block_tridiagonal_solve``."""
        return _solve(lower, diag, upper, d, NodeCall(self.on_failure, keeper=self._local))


def _multiply(lower: Tensor, diag: Tensor, upper: Tensor, x: Tensor) -> Tensor:
    """A x for (B, N - 1, M, M), (B, N, M, M), (B, N - 1, M, M) and x (B, N M, K)."""
    blocks = _blocks(x, diag)
    pad = torch.nn.functional.pad
    below, above = lower @ blocks[:, :-1], upper @ blocks[:, 1:]
    product = diag @ blocks + pad(below, (0, 0, 0, 0, 1, 0)) + pad(above, (0, 0, 0, 0, 0, 1))
    return product.reshape(x.shape)


def _blocks(x: Tensor, diag: Tensor) -> Tensor:
    """(B, N M, K) as (B, N, M, K)."""
    return x.reshape(*diag.shape[:3], x.shape[-1])


class _Rule(ClosedRule):
    """(lower, diag, upper, d) to x: (B, N - 1, M, M), (B, N, M, M), (B, N - 1, M, M), (B, N M, K) to (B, N M, K)."""

    names = ("lower", "diag", "upper", "d")
    advice = ADVICE

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        x, singular = through_numpy(solve_blocks, *inputs)
        lower, diag, upper, d = inputs
        size = _multiply(lower.abs(), diag.abs(), upper.abs(), x.abs()) + d.abs()
        return judge(x, singular, _multiply(lower, diag, upper, x) - d, size)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        (lower, diag, upper, _), (x,), (g,) = inputs, outputs, cotangents
        (lam,) = self(_QUIET, upper.mT, diag.mT, lower.mT, g)
        at, by = _blocks(x, diag).mT, -_blocks(lam, diag)
        return by[:, 1:] @ at[:, :-1], by @ at, by[:, :-1] @ at[:, 1:], lam

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (lower, diag, upper, _), (x,), (dl, dm, du, dd) = inputs, outputs, tangents
        return self(_QUIET, lower, diag, upper, dd - _multiply(dl, dm, du, x))


_QUIET = NodeCall("nan")
"""For the systems of derivatives: NaN that comes in goes out, and nothing is reported."""

_RULE = _Rule()


def _checked(on_failure: str) -> str:
    check_policy(on_failure)
    return on_failure


def _solve(lower: Any, diag: Any, upper: Any, d: Any, call: NodeCall) -> Tensor:
    check_dimensions("diag", diag, "N, M, M", 3)
    N, M = diag.shape[-3], diag.shape[-1]
    for name, part, count in (("diag", diag, N), ("lower", lower, N - 1), ("upper", upper, N - 1)):
        check_dimensions(name, part, "N - 1, M, M", 3, least=0)
        if part.shape[-3:] != (count, M, M):
            raise ParameterError(
                f"{name}: got shape {tuple(part.shape)}, expected (..., {count}, {M}, {M}): square blocks, and one "
                f"fewer beside the diagonal than on it, where diag is {tuple(diag.shape)}."
            )
    check_dimensions("d", d, "N M", 1)
    single = d.ndim <= diag.ndim - 2
    if d.shape[-1 if single else -2] != N * M:
        raise ParameterError(
            f"d: got shape {tuple(d.shape)}, expected (..., {N * M}) with two dimensions fewer than diag "
            f"{tuple(diag.shape)}, or (..., {N * M}, K) with one fewer."
        )
    d = d[..., None] if single else d
    flat, batch = flatten_batch(("lower", "diag", "upper", "d"), (lower, diag, upper, d), (3, 3, 3, 2))
    (x,) = _RULE(call, *flat)
    x = x.reshape((*batch, *x.shape[1:]))
    return x[..., 0] if single else x
