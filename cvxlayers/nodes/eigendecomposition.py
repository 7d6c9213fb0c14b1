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
from cvxlayers.nodes.eigenpairs import eigenpairs, working_dtype
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
        S = X.to(working_dtype(X))
        S = (S + S.mT).mul_(0.5)
        lam, V = eigenpairs(S)
        eps = torch.finfo(S.dtype).eps * S.shape[-1]
        size = lam.abs().amax(-1).clamp_min(torch.finfo(S.dtype).tiny)
        worst = (V.mT @ S).addcmul_(V.mT, lam[..., None], value=-1).abs_().amax((-2, -1)) / size
        status = torch.where(worst <= RESIDUAL * eps, int(Status.OPTIMAL), int(Status.FAILED))
        outputs: tuple[Tensor, ...] = lam.to(X.dtype), V.to(X.dtype)
        if self.k < X.shape[-1]:
            outputs = *outputs, outputs[0][:, : self.k].clone(), outputs[1][..., : self.k].clone()
        return Solved(outputs, status, torch.zeros_like(status), worst)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        lam, V = outputs[:2]
        pairs = (cotangents[:2], cotangents[2:])
        found = [_back(lam, V, *pair) for pair in pairs if any(part is not None for part in pair)]
        return (sum(found[1:], found[0]) if found else torch.zeros_like(inputs[0]),)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (lam, V), (dX,) = outputs[:2], tangents
        half, poison = _half_inverse_gaps(lam, V, lam.shape[-1])
        twice = V.mT @ (dX + dX.mT) @ V + poison
        dlam, dV = twice.diagonal(dim1=-2, dim2=-1) / 2, V @ (half * twice + poison)
        return (dlam, dV, dlam[:, : self.k], dV[..., : self.k])[: len(outputs)]


def _back(lam: Tensor, V: Tensor, g: Tensor | None, G: Tensor | None) -> Tensor:
    """The cotangent of X for those, (B, k) and (B, M, k), of the first k values and vectors, of which one is given."""
    k = g.shape[-1] if g is not None else G.shape[-1] if G is not None else 0
    half, poison = _half_inverse_gaps(lam, V, k)
    first = V[..., :k]
    values = poison if g is None else g[:, None] / 2 + poison
    turned = first * values if G is None else torch.addcmul(V @ (half * (V.mT @ G)), first, values)
    A = turned @ first.mT
    return A + A.mT


def _half_inverse_gaps(lam: Tensor, V: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k columns of F / 2, and a zero (B, 1, 1), its derivative not finite where eigenvalues coincide."""
    twice, plain = 2 * lam, lam.detach()
    gap = twice[:, None, :k] - twice[:, :, None]
    near = COINCIDING * lam.shape[-1] * torch.finfo(lam.dtype).eps * plain.abs().amax(-1, keepdim=True)
    half = gap.masked_fill(gap.detach().abs() <= 2 * near[..., None], torch.inf).reciprocal()
    multiple = (plain.diff(dim=-1).abs() <= near).any(-1)[:, None, None]
    every = V.sum((-2, -1), keepdim=True) + lam.sum(-1)[:, None, None]
    zero = torch.where(multiple, every - every.detach(), 1.0)
    return half, torch.where(multiple, zero.sqrt(), 0.0)


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
