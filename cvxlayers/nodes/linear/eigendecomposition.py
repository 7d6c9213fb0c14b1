"""Eigenvalues and eigenvectors of sym(X) = (X + X') / 2, differentiable, also where eigenvalues coincide.

With sym(X) V = V diag(lam): d lam_j = v_j' dX v_j, d v_j = sum_i F_ij v_i (v_i' dX v_j), F_ij = 1 / (lam_j - lam_i),
F_ii = 0 (Magnus 1985). Where two eigenvalues coincide to rounding errors, F_ij is set to zero: eigenvectors inside
such an eigenspace are an arbitrary choice. A function that does not depend on the choice, such as one of the
projector onto the whole eigenspace, has v_i' (d f / d v_j) = v_j' (d f / d v_i) for that pair, so that the two
infinite terms cancel in its gradient, and leaving them out is right. Its second derivatives do depend on what the
eigenspace splits into; they are NaN, rather than wrong. (In V diag(phi(lam)) V' a finite phi' is left of such a pair,
of which the cotangents know nothing: where eigenvalues coincide, such functions are better formed without V.)

What rounding errors are is asked of each eigenvalue by itself: those of the entries of S = sym(X), in the precision of
the work, move lam_j by at most |v_j|' |S| |v_j| units of it, and it is as far from the truth as |S v_j - lam_j v_j|
(Parlett 1998, theorem 4.5.1). So a large eigenvalue does not hide the gaps between small ones. Where the work is done
in a higher precision than that of X, cotangents are rounded more coarsely than gaps: a sum of the two terms of a close
pair that is no larger than this rounding is left out, since nothing but the rounding is left of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.linear.eigenpairs import eigenpairs, working_dtype
from cvxlayers.nodes.rules.arguments import check_dimensions
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["Eigendecomposition", "eigendecomposition"]

COINCIDING = 4
"""So many units of rounding, times the order, is an eigenvalue uncertain; coinciding ones are closer than both are."""

CLOSE = 1e3
"""Eigenvalues up to so many units of the coarser rounding apart make its errors grow."""

CANCELLED = 8
"""Two terms that cancel in exact arithmetic leave at most so many units of rounding of the cotangents."""

RESIDUAL = 1e2
"""sym(X) V - V diag(lam) of a verified element: at most so many units of rounding, times the order, of the largest."""


def eigendecomposition(X: Tensor, k: int | None = None, on_failure: str = "raise") -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of (X + X') / 2, in falling order, and their eigenvectors.

    Parameters
    ----------
    X : (..., M, M) tensor
    k : int, optional
        How many; default: all M.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements with entries that are not finite.

    Returns
    -------
    values : (..., k) tensor
    vectors : (..., M, k) tensor
        Columns of length one, each with its entry of largest absolute value positive (the first of several).
        Where eigenvalues coincide, the gradient of a function of the projector onto their whole eigenspace, or of their
        sum, is right, nothing is infinite, and second derivatives are NaN.

    Raises
    ------
    ParameterError, OptionError
        Wrong shapes, dtypes, entries, or a k that is not between 1 and M.

    Examples
    --------
    >>> values, vectors = eigendecomposition(torch.tensor([[1.0, 0.0], [0.0, 3.0]]), k=1)
    >>> values, vectors.mT
    (tensor([3.]), tensor([[0., 1.]]))
    """
    check_policy(on_failure)
    return _decompose(X, k, NodeCall(on_failure))


class Eigendecomposition(Reporting):
    """``eigendecomposition`` as a module: (..., M, M) to (..., k) and (..., M, k).

    Parameters
    ----------
    k : int, optional
    on_failure : "raise", "nan" or "zero_grad"

    Raises
    ------
    OptionError
        No such policy.

    Examples
    --------
    >>> values, vectors = Eigendecomposition(k=2)(torch.ones(5, 3, 3))
    >>> vectors.shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, k: int | None = None, on_failure: str = "raise") -> None:
        super().__init__()
        check_policy(on_failure)
        self.k = k
        self.on_failure = on_failure

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """See ``eigendecomposition``."""
        return _decompose(X, self.k, NodeCall(self.on_failure, keeper=self._local))

    def extra_repr(self) -> str:
        return f"k={self.k}"


class _Rule(ClosedRule):
    """X to (lam, V, noise): (B, M, M) to (B, M), (B, M, M), in falling order, and how uncertain each lam is, (B, M).

    They are in the precision of the work. Of the first k a copy follows in that of X, unless it would be the same:
    (B, k) and (B, M, k). What is made of it has a derivative of k columns.
    """

    names = ("X",)
    advice = {Status.FAILED: "the eigenvalues of a failed element did not converge: rescale it"}
    sparing = True

    def __init__(self, k: int) -> None:
        self.k = k

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        (X,) = inputs
        S = X.to(working_dtype(X))
        S = (S + S.mT).mul_(0.5)
        lam, V = eigenpairs(S)
        eps = torch.finfo(S.dtype).eps * S.shape[-1]
        size = lam.abs().amax(-1).clamp_min(torch.finfo(S.dtype).tiny)
        apart = (V.mT @ S).addcmul_(V.mT, lam[..., None], value=-1).abs_().amax(-1)
        worst = apart.amax(-1) / size
        status = torch.where(worst <= RESIDUAL * eps, int(Status.OPTIMAL), int(Status.FAILED))
        outputs: tuple[Tensor, ...] = lam, V, _uncertainty(S, lam, V, apart, _coarser(X.dtype, lam))
        if self.k < X.shape[-1] or X.dtype != S.dtype:
            first = lam[:, : self.k], V[..., : self.k]
            outputs = *outputs, *(part.to(X.dtype, copy=True) for part in first)
        return SolvedNode(outputs, status, torch.zeros_like(status), worst)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        (X,), pairs = inputs, (cotangents[:2], cotangents[3:])
        found = [_back(X.dtype, outputs, *pair) for pair in pairs if any(part is not None for part in pair)]
        return (sum(found[1:], found[0]).to(X.dtype) if found else torch.zeros_like(X),)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        lam, V, noise = outputs[:3]
        dtype, dX = inputs[0].dtype, tangents[0].to(V.dtype)
        gap = _gaps(lam, lam.shape[-1])
        near = _pairs(noise, lam.shape[-1])
        half, poison = _half_inverse(gap, gap.detach().abs() <= near), _poison(lam, V, noise, _coarser(dtype, lam))
        twice = V.mT @ (dX + dX.mT) @ V + poison
        dlam, dV = twice.diagonal(dim1=-2, dim2=-1) / 2, V @ (half * twice + poison)
        first = dlam[:, : self.k].to(dtype), dV[..., : self.k].to(dtype)
        return (dlam, dV, torch.zeros_like(noise), *first)[: len(outputs)]


def _coarser(dtype: torch.dtype, lam: Tensor) -> float:
    """How much coarser the rounding of what comes and goes is than the noise of eigenvalues; one where it is not."""
    return max(1.0, torch.finfo(dtype).eps / (torch.finfo(lam.dtype).eps * max(1, lam.shape[-1])))


def _uncertainty(S: Tensor, lam: Tensor, V: Tensor, apart: Tensor, coarser: float) -> Tensor:
    """How much rounding errors may have moved each eigenvalue, (B, M): looked into where that decides on anything."""
    unit = COINCIDING * S.shape[-1] * torch.finfo(S.dtype).eps
    noise = unit * lam.abs().amax(-1, keepdim=True).expand_as(lam)
    close = (lam[:, :-1] - lam[:, 1:] <= 2 * coarser * noise[:, 1:]).any(-1)
    if bool(close.any()):
        where = close.nonzero()[:, 0]
        sizes = V[where].abs()
        moved = unit * (sizes * (S[where].abs() @ sizes)).sum(-2)
        noise = noise.index_copy(0, where, moved + COINCIDING * S.shape[-1] ** 0.5 * apart[where])
    return noise


def _back(dtype: torch.dtype, outputs: Sequence[Tensor], g: Tensor | None, G: Tensor | None) -> Tensor:
    """The cotangent of X for those, (B, k) and (B, M, k), of the first k values and vectors, of which one is given."""
    lam, V, noise = outputs[:3]
    k = g.shape[-1] if g is not None else G.shape[-1] if G is not None else 0
    poison = _poison(lam, V, noise, _coarser(dtype, lam))
    first = V[..., :k]
    turned = first * (poison if g is None else g.to(V.dtype)[:, None] / 2 + poison)
    if G is not None:
        G = G.to(V.dtype)
        N, gap, near = V.mT @ G, _gaps(lam, k), _pairs(noise, k)
        left_out = gap.detach().abs() <= near
        if _coarser(dtype, lam) > 1:
            left_out = left_out | _cancelled(dtype, gap, CLOSE * _coarser(dtype, lam) * near, G, N)
        turned = turned + V @ (_half_inverse(gap, left_out) * N)
    A = turned @ first.mT
    return A + A.mT


def _cancelled(dtype: torch.dtype, gap: Tensor, near: Tensor, G: Tensor, N: Tensor) -> Tensor:
    """Of which close pairs the terms F_ij N_ij and F_ji N_ji, with N = V'G, cancel to rounding errors, (B, M, k)."""
    N, k = N.detach(), G.shape[-1]
    sizes = torch.linalg.vector_norm(G.detach(), dim=-2)
    both = torch.nn.functional.pad(sizes, (0, N.shape[-2] - k))[:, :, None] + sizes[:, None]
    left = torch.cat([N[:, :k] - N[:, :k].mT, N[:, k:]], 1).abs()
    return (gap.detach().abs() <= near) & (left <= CANCELLED * torch.finfo(dtype).eps * both)


def _gaps(lam: Tensor, k: int) -> Tensor:
    """2 (lam_j - lam_i), (B, M, k)."""
    twice = 2 * lam
    return twice[:, None, :k] - twice[:, :, None]


def _pairs(noise: Tensor, k: int) -> Tensor:
    """Up to which size of 2 (lam_j - lam_i) two eigenvalues coincide, (B, M, k)."""
    twice = 2 * noise
    return twice[:, None, :k] + twice[:, :, None]


def _half_inverse(gap: Tensor, left_out: Tensor) -> Tensor:
    """The first k columns of F / 2."""
    return gap.masked_fill(left_out, torch.inf).reciprocal()


def _poison(lam: Tensor, V: Tensor, noise: Tensor, coarser: float) -> Tensor:
    """A zero (B, 1, 1), its derivative not finite where eigenvalues coincide to the rounding of what comes and goes."""
    near = coarser * (noise[:, :-1] + noise[:, 1:])
    multiple = (lam.detach().diff(dim=-1).abs() <= near).any(-1)[:, None, None]
    every = V.sum((-2, -1), keepdim=True) + lam.sum(-1)[:, None, None]
    zero = torch.where(multiple, every - every.detach(), 1.0)
    return torch.where(multiple, zero.sqrt(), 0.0)


def _decompose(X: Any, k: int | None, call: NodeCall) -> tuple[Tensor, Tensor]:
    check_dimensions("X", X, "M, M", 2)
    M = X.shape[-1]
    if X.shape[-2] != M:
        raise ParameterError(f"X: got shape {tuple(X.shape)}, expected square matrices (..., M, M).")
    k = M if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= M:
        raise OptionError(f"k: got {k!r}, expected an integer between 1 and {M}, the order of X {tuple(X.shape)}.")
    found = _Rule(k)(call, X.reshape(X.shape[:-2].numel(), M, M))
    lam, V = found[3:] or found[:2]
    return lam.reshape(*X.shape[:-2], k), V.reshape(*X.shape[:-1], k)
