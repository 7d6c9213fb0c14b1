"""Weighted least squares with ridge and bias, a closed form, differentiable in data, targets, weights and ridge.

The problem  min 1/2 sum_i w_i (x_i'u + u0 - t_i)^2 + beta/2 |u|^2  has the optimality conditions K (u, u0) = (X W t,
1'W t) with

    K = [[X W X' + beta I, X W 1], [1'W X', 1'W 1]].

With the weighted means xm, tm, centred data Xc = X - xm 1' and G = Xc W Xc' + beta I, block elimination gives, for
any right side, K^-1 (a, a0) = (u, a0 / s - xm'u), u = G^-1 (a - xm a0), s = 1'W 1. G is factorized once, by Cholesky,
or, where that loses too much (G has the square of the condition of the data), by QR of [W^1/2 Xc', beta^1/2 I], whose
R is a Cholesky factor of G (Bjorck 1987, corrected seminormal equations). The solution is refined with residuals of
the data.

Derivatives: with (v, v0) = K^-1 (g, g0), e = X'u + u0 - t, p = X'v + v0: t gets W p, w gets -p e, beta gets -v'u, and
X gets -(v (W e)' + u (W p)').
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.rules.arguments import check_dimensions, check_entries, flatten_batch, positive
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["LeastSquares", "least_squares"]

REFINEMENTS = 3
ENOUGH = 1e-15
"""No more refinements are made where the conditions are met so well, in the units of ``TOLERANCE``."""

SQUARED_LOSS = 1e-8
"""A squared pivot of G below this share of its diagonal: QR instead of Cholesky."""

TAME = 1e-3
"""Squared pivots of G above this share of its diagonal: no refinement where the conditions are met well without."""

ROUNDINGS = 64
"""A pivot of R below so many units of rounding of its column, times the number of columns, counts as zero."""

TOLERANCE = 1e-9
"""On the optimality conditions, relative to what they are sums of."""

Weight = Tensor | None
Ridge = Tensor | float


def least_squares(
    X: Tensor,
    t: Tensor,
    w: Weight = None,
    beta: Ridge = 0.0,
    bias: bool = True,
    least_norm: bool = False,
    on_failure: str = "raise",
) -> tuple[Tensor, Tensor]:
    """Minimize 1/2 sum_i w_i (x_i'u + u0 - t_i)^2 + beta/2 |u|^2.

    Parameters
    ----------
    X : (..., C, T) tensor
        T samples of C features.
    t : (..., 1, T) tensor
        Targets; a batch dimension of one is shared.
    w : (..., 1, T) tensor, optional
        Nonnegative weights, not all zero. Default: one.
    beta : nonnegative float, or tensor that broadcasts to the batch
        The ridge; it does not touch the bias.
    bias : bool
        Whether there is a u0; without it u0 is zero.
    least_norm : bool
        Of several solutions return the one of least |u|, through a pseudo-inverse; its derivative is right for
        changes that keep the rank, such as all small ones for fewer samples than features. A share of 1e-7 or less of
        the largest singular value counts as zero. Slower.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements with several solutions (rank-deficient data without ridge) when ``least_norm`` is off.

    Returns
    -------
    u : (..., C) tensor
    u0 : (..., 1) tensor

    Raises
    ------
    ParameterError
        Wrong shapes, dtypes or entries; negative weights.
    SolveError
        Several solutions, with ``on_failure="raise"``.

    Examples
    --------
    >>> X = torch.tensor([[[0.0, 1.0, 2.0]]])
    >>> u, u0 = least_squares(X, 2 * X + 1)
    >>> round(u.item(), 5), round(u0.item(), 5)
    (2.0, 1.0)
    """
    check_policy(on_failure)
    return _solve(X, t, w, beta, bias, least_norm, NodeCall(on_failure))


class LeastSquares(Reporting):
    """``least_squares`` as a module; ``info`` reports how well its last call meets the optimality conditions.

    Parameters
    ----------
    beta : nonnegative float or tensor
        A ``torch.nn.Parameter`` is learned.
    bias, least_norm, on_failure
        As in ``least_squares``.

    Raises
    ------
    OptionError
        No such policy.

    Examples
    --------
    >>> u, u0 = LeastSquares(beta=0.1)(torch.ones(5, 3, 8), torch.ones(1, 1, 8))
    >>> u.shape, u0.shape
    (torch.Size([5, 3]), torch.Size([5, 1]))
    """

    def __init__(
        self, beta: Ridge = 0.0, bias: bool = True, least_norm: bool = False, on_failure: str = "raise"
    ) -> None:
        super().__init__()
        check_policy(on_failure)
        self.beta = beta
        self.bias, self.least_norm, self.on_failure = bias, least_norm, on_failure

    def forward(self, X: Tensor, t: Tensor, w: Weight = None) -> tuple[Tensor, Tensor]:
        """See ``least_squares``."""
        return _solve(X, t, w, self.beta, self.bias, self.least_norm, NodeCall(self.on_failure, keeper=self._local))


class _Inverse(ClosedRule):
    """K^-1: (X, w, beta, a, a0, L) to (u, u0), with the constant factor L L' = G."""

    names = ("X", "w", "beta", "u", "u0", "factor")
    inner = True

    def __init__(self, bias: bool) -> None:
        self.bias = bias

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        X, w, _, a, a0, L = inputs
        if self.bias:
            total = w.sum(-1, keepdim=True)
            mean = _along(X, w) / total
            u = _by_factor(L, (a - mean * a0).to(L.dtype)).to(a.dtype)
            return _done((u, a0 / total - (mean * u).sum(-1, keepdim=True)))
        return _done((_by_factor(L, a.to(L.dtype)).to(a.dtype), torch.zeros_like(a0)))

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        (X, w, beta, _, _, L), (u, u0), (g, g0) = inputs, outputs, cotangents
        v, v0 = self(_QUIET, X, w, beta, g, g0, L.detach())
        q, p = _predict_both(X, (u, v), (u0, v0))
        return _outer(v, w * q, u, w * p), -p * q, -(u * v).sum(-1), v, v0, torch.zeros_like(L)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (X, w, beta, _, _, L), (u, u0), (dX, dw, dbeta, da, da0, _) = inputs, outputs, tangents
        q = _predict(X, u, u0)
        change = dw * q + w * _predict(dX, u)
        a = da - _along(dX, w * q) - _along(X, change) - dbeta[:, None] * u
        return self(_QUIET, X, w, beta, a, da0 - change.sum(-1, keepdim=True), L.detach())


class _Rule(ClosedRule):
    """(X, t, w, beta) to (u, u0, L): (B, C, T), (B, T), (B, T), (B,) to (B, C), (B, 1), (B, C, C); L is a constant."""

    names = ("X", "t", "w", "beta")
    telling = True
    advice = {
        Status.FAILED: "failed elements have several solutions, since their centred data is rank-deficient, or no "
        "weight: use beta > 0, or least_norm=True",
        Status.INACCURATE: "inaccurate elements are conditioned too badly: use beta > 0, or scale the features",
    }

    def __init__(self, bias: bool) -> None:
        self.bias, self.inverse = bias, _Inverse(bias)

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        X, t, w, beta = (x.double() for x in inputs)
        mean, target = _means(X, t, w, self.bias)
        S, t = (X - mean[..., None], t - target) if self.bias else (X, t)
        if not call.settings.get("uniform"):
            root = w.sqrt()
            S, t = S.mul_(root[:, None]) if self.bias else S * root[:, None], root * t
        L, G, lengths, singular, tame = _factor(S, beta)
        singular = singular | (w.sum(-1) <= 0) if self.bias else singular
        size = lengths * torch.linalg.vector_norm(t, dim=-1, keepdim=True)
        right = _along(S, t)
        u, gradient = torch.zeros_like(right), -right
        for rounds in range(1 + REFINEMENTS):
            u = u - _by_factor(L, gradient)
            by_data = rounds or not tame
            gradient = _along(S, _predict(S, u) - t) + beta[:, None] * u if by_data else _along(G, u) - right
            scale = (size + lengths * (lengths * u.abs()).sum(-1, keepdim=True)).clamp_min(torch.finfo(X.dtype).tiny)
            worst = (gradient.abs() / scale).amax(-1)
            if (rounds or tame) and bool((worst <= ENOUGH).all()):
                break
        u0 = target - (mean * u).sum(-1, keepdim=True) if self.bias else torch.zeros_like(target)
        status = torch.where(worst <= TOLERANCE, int(Status.OPTIMAL), int(Status.INACCURATE))
        status = torch.where(singular, int(Status.FAILED), status)
        gone = torch.where(singular, torch.nan, 0.0)
        outputs = (u + gone[:, None]).to(inputs[0].dtype), (u0 + gone[:, None]).to(inputs[0].dtype), L
        return SolvedNode(outputs, status, torch.full_like(status, rounds), worst + gone)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        (X, t, w, beta), (u, u0, L), (g, g0, _) = inputs, outputs, cotangents
        v, v0 = self.inverse(_QUIET, X, w, beta, g, g0, L.detach())
        q, p = _predict_both(X, (u, v), (u0, v0))
        e, weighted = q - t, w * p
        return _outer(v, w * e, u, weighted), weighted, -p * e if needed[2] else None, -(u * v).sum(-1)

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (X, t, w, beta), (u, u0, L), (dX, dt, dw, dbeta) = inputs, outputs, tangents
        e = _predict(X, u, u0) - t
        change = dw * e + w * (_predict(dX, u) - dt)
        a = -_along(dX, w * e) - _along(X, change) - dbeta[:, None] * u
        du, du0 = self.inverse(_QUIET, X, w, beta, a, -change.sum(-1, keepdim=True), L.detach())
        return du, du0, torch.zeros_like(L)


_QUIET = NodeCall("nan")
"""For the systems of derivatives: NaN that comes in goes out, and nothing is reported."""

_RULES = {bias: _Rule(bias) for bias in (False, True)}


def _done(outputs: tuple[Tensor, ...]) -> SolvedNode:
    status = torch.full(outputs[0].shape[:1], int(Status.OPTIMAL), device=outputs[0].device)
    return SolvedNode(outputs, status, torch.zeros_like(status), torch.zeros_like(status, dtype=torch.float64))


def _predict(X: Tensor, u: Tensor, u0: Tensor | float = 0.0) -> Tensor:
    """X'u + u0, (B, T)."""
    return (u[:, None, :] @ X)[:, 0] + u0


def _predict_both(X: Tensor, us: tuple[Tensor, Tensor], u0s: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two of ``_predict`` that read the data once."""
    first, second = (torch.stack(us, 1) @ X + torch.stack(u0s, 1)).unbind(1)
    return first, second


def _along(X: Tensor, r: Tensor) -> Tensor:
    """X r, (B, C)."""
    return (r[:, None] @ X.mT)[:, 0]  # a row times a matrix is the faster of the two forms


def _outer(v: Tensor, r: Tensor, u: Tensor, q: Tensor) -> Tensor:
    """-(v r' + u q'), (B, C, T)."""
    return torch.stack([v, u], 2) @ torch.stack([-r, -q], 1)  # a product writes the many entries once


def _by_factor(L: Tensor, a: Tensor) -> Tensor:
    return torch.cholesky_solve(a[..., None], L)[..., 0]


def _means(X: Tensor, t: Tensor, w: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """Weighted means of features (B, C) and targets (B, 1); zero without bias, or without any weight."""
    if not bias:
        return X.new_zeros(X.shape[:2]), t.new_zeros(t.shape[0], 1)
    total = w.sum(-1, keepdim=True)
    total = torch.where(total > 0, total, 1.0)
    return _along(X, w) / total, (w * t).sum(-1, keepdim=True) / total


def _factor(S: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
    """L with L L' = G = S S' + beta I, G, the square roots of its diagonal (B, C), and who is singular, (B,).

    Then whether all are conditioned so well that a refinement would change rounding errors only.
    """
    C = S.shape[1]
    G = S @ S.mT
    scale = G.diagonal(dim1=1, dim2=2)
    scale += beta[:, None]
    scale = scale.clone()
    L, failed = torch.linalg.cholesky_ex(G)
    pivots = L.diagonal(dim1=1, dim2=2) ** 2
    share = (pivots / scale).amin(-1)
    lossy = (failed > 0) | ~(share > SQUARED_LOSS)
    singular = torch.zeros_like(lossy)
    if lossy.any():
        where = lossy.nonzero()[:, 0]
        ridge = beta[where].sqrt()[:, None, None] * torch.eye(C, dtype=S.dtype, device=S.device)
        R = torch.linalg.qr(torch.cat([S[where], ridge], -1).mT, "r").R
        small = ROUNDINGS * C * torch.finfo(S.dtype).eps * scale[where].sqrt()
        poor = ~(R.diagonal(dim1=1, dim2=2).abs() > small).all(-1)
        R = torch.where(poor[:, None, None], torch.eye(C, dtype=S.dtype, device=S.device), R)
        L[where], singular[where] = R.mT, poor
    return L, G, scale.sqrt(), singular, bool((share > TAME).all())


def _least_norm(X: Tensor, t: Tensor, w: Tensor, beta: Tensor, bias: bool) -> tuple[Tensor, Tensor]:
    """u = G^+ Xc W t: ordinary differentiable operations, in double precision."""
    dtype = X.dtype
    X, t, w, beta = (x.double() for x in (X, t, w, beta))
    mean, target = _means(X, t, w, bias)
    X = X - mean[..., None]
    G = (X * w[:, None]) @ X.mT + beta[:, None, None] * torch.eye(X.shape[1], dtype=X.dtype, device=X.device)
    cutoff = ROUNDINGS * X.shape[1] * torch.finfo(X.dtype).eps
    u = _along(torch.linalg.pinv(G, rtol=cutoff, hermitian=True), _along(X, w * (t - target)))
    u0 = target - (mean * u).sum(-1, keepdim=True) if bias else torch.zeros_like(target)
    return u.to(dtype), u0.to(dtype)


def _solve(X: Any, t: Any, w: Any, beta: Any, bias: bool, least_norm: bool, call: NodeCall) -> tuple[Tensor, Tensor]:
    check_dimensions("X", X, "C, T", 2)
    call = NodeCall(call.on_failure, {"uniform": w is None}, call.keeper)
    w = X.new_ones(1, X.shape[-1]) if w is None else w
    for name, row in (("t", t), ("w", w)):
        check_dimensions(name, row, "1, T", 2)
        if row.shape[-2:] != (1, X.shape[-1]):
            raise ParameterError(
                f"{name}: got shape {tuple(row.shape)}, expected (..., 1, {X.shape[-1]}): one number for each of the "
                f"samples of X {tuple(X.shape)}."
            )
    if not call.settings["uniform"]:
        check_entries(w, lambda plain: ~(plain < 0), "w: got negative weights")
    (X, t, w), batch = flatten_batch(("X", "t", "w"), (X, t, w), (2, 2, 2))
    t, w = t[:, 0], w[:, 0]
    beta = positive("beta", beta, X, batch, zero=True)
    beta = (beta if isinstance(beta, Tensor) else X.new_full((), beta)).expand(batch).reshape(-1)
    u, u0 = _least_norm(X, t, w, beta, bias) if least_norm else _RULES[bias](call, X, t, w, beta)[:2]
    return u.reshape((*batch, u.shape[-1])), u0.reshape((*batch, 1))
