"""Weighted robust means of vectors: y_q minimizes sum_k A_qk phi(|y_q - v_k|), differentiated implicitly.

The penalties are functions of s = |y - v|^2 with phi' = psi(s) / 2, each close to s / 2 for small s:

    pseudo-Huber   alpha^2 ((1 + s / alpha^2)^(1/2) - 1)        convex
    Huber          s / 2 up to |y - v| = alpha, then linear     convex
    Welsch         alpha^2 (1 - exp(-s / (2 alpha^2)))          not convex

All are concave in s, so that reweighting, y <- sum A psi v / sum A psi, never goes up (Weiszfeld 1937; Holland and
Welsch 1977). Where a Newton step goes lower, it is taken. With Welsch's penalty one starts from the pseudo-Huber mean.
At the solution, with d = y - v,

    gradient  sum_k A psi d = 0,      Hessian  H = sum_k A (psi I + 2 psi' d d').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cvxlayers.nodes.rules.call_result import NodeCall, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.program.solution import Status

__all__ = ["PENALTIES", "RobustMeanRule"]


class _Weights(NamedTuple):
    """The penalty's value, psi, and the derivatives of psi in s and in alpha."""

    value: Tensor
    psi: Tensor
    in_s: Tensor
    in_alpha: Tensor


def _pseudo_huber(s: Tensor, alpha: Tensor) -> _Weights:
    root = (1 + s / alpha**2).sqrt()
    cubed = root**-3
    return _Weights(s / (1 + root), 1 / root, -cubed / (2 * alpha**2), s * cubed / alpha**3)


def _huber(s: Tensor, alpha: Tensor) -> _Weights:
    far = s > alpha**2
    length = torch.where(far, s, 1.0).sqrt()
    value = torch.where(far, alpha * (length - alpha / 2), s / 2)
    in_s = torch.where(far, -alpha / (2 * length**3), 0.0)
    return _Weights(value, torch.where(far, alpha / length, 1.0), in_s, torch.where(far, 1 / length, 0.0))


def _welsch(s: Tensor, alpha: Tensor) -> _Weights:
    psi = torch.exp(-s / (2 * alpha**2))
    value = -(alpha**2) * torch.expm1(-s / (2 * alpha**2))
    return _Weights(value, psi, -psi / (2 * alpha**2), s * psi / alpha**3)


PENALTIES: dict[str, Callable[[Tensor, Tensor], _Weights]] = {
    "pseudo-huber": _pseudo_huber,
    "huber": _huber,
    "welsch": _welsch,
}


COARSE = 1e-3
"""The tolerance of the convex problem whose solution is where the search with Welsch's penalty starts."""


class RobustMeanRule(ClosedRule):
    """(A, v, alpha) to y: (B, Q, K), (B, K, C), (B,) to (B, Q, C)."""

    names = ("weights", "values", "alpha")
    advice = {
        Status.INACCURATE: "inaccurate elements stopped short of the tolerance: raise max_iterations or tolerance",
        Status.FAILED: "failed elements have no isolated minimum: no positive weight, all values out of reach of the "
        "Welsch penalty, or values on one line with Huber's: raise alpha, or use the pseudo-Huber penalty",
    }

    def __init__(self, penalty: str) -> None:
        self.penalty = PENALTIES[penalty]

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        A, v, alpha = (part.double() for part in inputs)  # near a flat minimum, rounding in float32 stops the search
        tolerance, most = call.settings["tolerance"], call.settings["most"]
        y, iterations = (A @ v) / A.sum(2, keepdim=True), torch.zeros(len(A), dtype=torch.int64, device=A.device)
        if self.penalty is _welsch:
            y, _ = _START._descend(A, v, alpha, y, COARSE, most, iterations)
        y, state = self._descend(A, v, alpha, y, tolerance, most, iterations)
        status = torch.full(alpha.shape, int(Status.INACCURATE), dtype=torch.int8, device=A.device)
        residual = state.residual.amax(1)
        status[residual <= tolerance] = int(Status.OPTIMAL)
        flat = 100 * torch.finfo(A.dtype).eps * state.total[..., None, None]
        identity = torch.eye(v.shape[2], dtype=A.dtype, device=A.device)
        curved = torch.linalg.cholesky_ex(state.hessian() - flat * identity)[1] == 0
        status[~curved.all(1) | residual.isinf()] = int(Status.FAILED)
        return SolvedNode((y.to(inputs[1].dtype),), status, iterations, residual)

    def _descend(
        self, A: Tensor, v: Tensor, alpha: Tensor, y: Tensor, tolerance: float, most: int, iterations: Tensor
    ) -> tuple[Tensor, _State]:
        """Go down from y until each element meets the tolerance; steps are added to the ``iterations``."""
        state = self._look(A, v, alpha, y)
        for _ in range(most):
            moving = state.residual > tolerance
            if not moving.any():
                break
            iterations += moving.any(1)
            better, there = self._move(A, v, alpha, y, state)
            y, state = torch.where(moving[..., None], better, y), there.where(moving, state)
        return y, state

    def _look(self, A: Tensor, v: Tensor, alpha: Tensor, y: Tensor) -> _State:
        d = y[:, :, None] - v[:, None]
        s = d.square().sum(3)
        weights = self.penalty(s, alpha[:, None, None])
        Apsi = A * weights.psi
        total = Apsi.sum(2)
        gradient = (Apsi[:, :, None] @ d)[:, :, 0]
        size = (Apsi * s.sqrt()).sum(2) + 1e-3 * total * y.norm(dim=2)
        residual = gradient.norm(dim=2) / torch.where(size > 0, size, 1.0)
        residual = torch.where((total > 0) & residual.isfinite(), residual, torch.inf)
        return _State((A * weights.value).sum(2), gradient, total, residual, d, Apsi, A * weights.in_s)

    def _move(self, A: Tensor, v: Tensor, alpha: Tensor, y: Tensor, state: _State) -> tuple[Tensor, _State]:
        """The better of a reweighting and, where it goes lower, a Newton step, for each mean."""
        factor, bad = torch.linalg.cholesky_ex(state.hessian())
        step = torch.cholesky_solve(state.gradient[..., None], factor)[..., 0]
        step = torch.where(((bad == 0) & step.isfinite().all(2))[..., None], step, 0.0)
        newton, weighted = y - step, y - state.gradient / torch.where(state.total > 0, state.total, 1.0)[..., None]
        there = self._look(A, v, alpha, newton)
        smaller = there.gradient.norm(dim=2) < 0.5 * state.gradient.norm(dim=2)
        fine = smaller & (there.value <= state.value + 1e-14 * state.value.abs()) & (step != 0).any(2)
        if fine.all():
            return newton, there
        here = self._look(A, v, alpha, weighted)
        fine |= (there.value <= here.value) & (step != 0).any(2)
        return torch.where(fine[..., None], newton, weighted), there.where(fine, here)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        A, v, alpha = inputs
        d, weights = self._at(v, alpha, outputs[0])
        w = torch.linalg.solve_ex(_hessian(A * weights.psi, A * weights.in_s, d), cotangents[0][..., None])[0][..., 0]
        along = (d @ w[..., None])[..., 0]
        dv = (A * weights.psi).mT @ w + 2 * ((A * weights.in_s * along)[..., None] * d).sum(1)
        return -weights.psi * along, dv, -(A * weights.in_alpha * along).sum((1, 2))

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        A, v, alpha = inputs
        dA, dv, dalpha = tangents
        d, weights = self._at(v, alpha, outputs[0])
        scale = dA * weights.psi + A * weights.in_alpha * dalpha[:, None, None]
        along = (d * dv[:, None]).sum(3)
        moved = ((scale - 2 * A * weights.in_s * along)[..., None] * d).sum(2) - (A * weights.psi) @ dv
        H = _hessian(A * weights.psi, A * weights.in_s, d)
        return (-torch.linalg.solve_ex(H, moved[..., None])[0][..., 0],)

    def _at(self, v: Tensor, alpha: Tensor, y: Tensor) -> tuple[Tensor, _Weights]:
        d = y[:, :, None] - v[:, None]
        return d, self.penalty(d.square().sum(3), alpha[:, None, None])


class _State(NamedTuple):
    """At y, for each mean (B, Q): the objective, the gradient, sum A psi, the residual; d, A psi and A psi'."""

    value: Tensor
    gradient: Tensor
    total: Tensor
    residual: Tensor
    d: Tensor
    Apsi: Tensor
    Ain_s: Tensor

    def hessian(self) -> Tensor:
        """(B, Q, C, C)."""
        return _hessian(self.Apsi, self.Ain_s, self.d)

    def where(self, mask: Tensor, other: _State) -> _State:
        """These means where the mask (B, Q) holds, those of the other elsewhere."""
        pairs = zip(self, other, strict=True)
        return _State(*(torch.where(mask.reshape(*mask.shape, *[1] * (a.ndim - 2)), a, b) for a, b in pairs))


def _hessian(Apsi: Tensor, Ain_s: Tensor, d: Tensor) -> Tensor:
    """sum_k A (psi I + 2 psi' d d'), (B, Q, C, C)."""
    identity = torch.eye(d.shape[3], dtype=d.dtype, device=d.device)
    return Apsi.sum(2)[..., None, None] * identity + 2 * (d * Ain_s[..., None]).mT @ d


_START = RobustMeanRule("pseudo-huber")
