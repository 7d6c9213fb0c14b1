"""Eigenvalues and eigenvectors of sym(X) = (X + X') / 2, differentiable, also where eigenvalues coincide.

With sym(X) V = V diag(lam): d lam_j = v_j' dX v_j, d v_j = sum_i F_ij v_i (v_i' dX v_j), F_ij = 1 / (lam_j - lam_i),
F_ii = 0 (Magnus 1985). Where two eigenvalues coincide to rounding errors, F_ij is set to zero: eigenvectors inside
such an eigenspace are an arbitrary choice. A function that does not depend on the choice, such as one of the
projector onto the whole eigenspace, has v_i' (d f / d v_j) = v_j' (d f / d v_i) for that pair, so that the two
infinite terms cancel in its gradient, and leaving them out is right. Its second derivatives do depend on what the
eigenspace splits into; they are NaN, rather than wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.nodes.arguments import check_dimensions
from cvxlayers.nodes.closed_rule import ClosedRule
from cvxlayers.nodes.outcome import Call, Reporting, Solved, check_policy
from cvxlayers.solution import Status

__all__ = ["Eigendecomposition", "eigendecomposition"]

COINCIDING = 8
"""Eigenvalues closer than so many units of rounding, times the order, of the largest one coincide."""

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
        Where eigenvalues coincide, the gradient of a function that does not depend on the choice of the eigenvectors is
        right, nothing is infinite, and second derivatives are NaN.

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
    return _decompose(X, k, Call(on_failure))


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
        return _decompose(X, self.k, Call(self.on_failure, keeper=self._local))

    def extra_repr(self) -> str:
        return f"k={self.k}"


class _Rule(ClosedRule):
    """X to (lam, V): (B, M, M) to (B, M), (B, M, M), in falling order.

    Of the first k < M a copy follows, (B, k) and (B, M, k): what is made of it has a derivative of k columns.
    """

    names = ("X",)
    advice = {Status.FAILED: "the eigenvalues of a failed element did not converge: rescale it"}
    sparing = True

    def __init__(self, k: int) -> None:
        self.k = k

    def solve(self, call: Call, *inputs: Tensor) -> Solved:
        (X,) = inputs
        S = (X + X.mT).mul_(0.5)
        S = S if S.dtype == torch.float64 else S.float()
        lam, rising = torch.linalg.eigh(S)
        lam, V = lam.flip(-1), torch.empty_like(rising)
        rows = V.mT  # one vector a row: what follows runs along them
        falling = rising.mT.flip(-2)
        torch.mul(falling, _signs(falling), out=rows)
        eps = torch.finfo(S.dtype).eps * S.shape[-1]
        size = lam.abs().amax(-1).clamp_min(torch.finfo(S.dtype).tiny)
        worst = (rows @ S).addcmul_(rows, lam[..., None], value=-1).abs_().amax((-2, -1)) / size
        status = torch.where(worst <= RESIDUAL * eps, int(Status.OPTIMAL), int(Status.FAILED))
        outputs: tuple[Tensor, ...] = lam.to(X.dtype), V.to(X.dtype)
        if self.k < X.shape[-1]:
            outputs = *outputs, outputs[0][:, : self.k].clone(), outputs[1][..., : self.k].clone()
        return Solved(outputs, status, torch.zeros_like(status), worst)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any]
    ) -> Sequence[Tensor]:
        lam, V = outputs[:2]
        pairs = (cotangents[:2], cotangents[2:])
        found = [_back(lam, V, *pair) for pair in pairs if any(part is not None for part in pair)]
        return (sum(found[1:], found[0]) if found else torch.zeros_like(inputs[0]),)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (lam, V), (dX,) = outputs[:2], tangents
        F, poison = _inverse_gaps(lam, V, lam.shape[-1])
        N = V.mT @ (dX + dX.mT) @ V / 2 + poison
        dlam, dV = N.diagonal(dim1=-2, dim2=-1), V @ (F * N + poison)
        return (dlam, dV, dlam[:, : self.k], dV[..., : self.k])[: len(outputs)]


def _signs(rows: Tensor) -> Tensor:
    """(B, M, 1): the sign of the entry of largest absolute value of each row, of several that of the first."""
    high, low = rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)
    if not bool((high == low).any()):
        return torch.where(high > low, 1.0, -1.0).to(rows.dtype)
    return rows.gather(-1, rows.abs().argmax(-1, keepdim=True)).sign()


def _back(lam: Tensor, V: Tensor, g: Tensor | None, G: Tensor | None) -> Tensor:
    """The cotangent of X for those, (B, k) and (B, M, k), of the first k values and vectors."""
    k = g.shape[-1] if g is not None else G.shape[-1] if G is not None else 0
    F, poison = _inverse_gaps(lam, V, k)
    first, half = V[..., :k], torch.zeros_like(V[..., :k])
    if G is not None:
        half = V @ (F * (V.mT @ (G / 2)))
    if g is not None or G is not None:
        half = half + first * ((0.0 if g is None else g[:, None] / 2) + poison)
    A = half @ first.mT
    return A + A.mT


def _inverse_gaps(lam: Tensor, V: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k columns of F, and a zero (B, 1, 1), its derivative not finite where eigenvalues coincide."""
    gap = lam[:, None, :] - lam[:, :, None]
    size = lam.detach().abs().amax(-1)[:, None, None]
    same = gap.detach().abs() <= COINCIDING * lam.shape[-1] * torch.finfo(lam.dtype).eps * size
    multiple = same.sum((-2, -1), keepdim=True) > lam.shape[-1]
    every = V.sum((-2, -1), keepdim=True) + lam.sum(-1)[:, None, None]
    zero = torch.where(multiple, every - every.detach(), 1.0)
    F = gap[..., :k].masked_fill(same[..., :k], torch.inf).reciprocal()
    return F, torch.where(multiple, zero.sqrt(), 0.0)


def _decompose(X: Any, k: int | None, call: Call) -> tuple[Tensor, Tensor]:
    check_dimensions("X", X, "M, M", 2)
    M = X.shape[-1]
    if X.shape[-2] != M:
        raise ParameterError(f"X: got shape {tuple(X.shape)}, expected square matrices (..., M, M).")
    k = M if k is None else k
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= M:
        raise OptionError(f"k: got {k!r}, expected an integer between 1 and {M}, the order of X {tuple(X.shape)}.")
    lam, V = _Rule(k)(call, X.reshape(X.shape[:-2].numel(), M, M))[-2:]
    return lam.reshape(*X.shape[:-2], k), V.reshape(*X.shape[:-1], k)
