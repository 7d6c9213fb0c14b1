"""Solves with the KKT matrix K = psi_zz at points of a batch, by its factors or by its products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import solve_symmetric
from cvxlayers.nodes.declarative.krylov import solve_products
from cvxlayers.nodes.declarative.local import Local
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["by_factors", "by_products", "newton"]


def by_factors(K: Tensor, vectors: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """u with K u = v for vectors (R, B, N); which elements are singular (B,); relative residuals (B,)."""
    v = vectors.permute(1, 2, 0)
    u, singular = solve_symmetric(K, v, n)
    left = (K @ u - v).norm(dim=1)
    size = v.norm(dim=1)
    return u.permute(2, 0, 1), singular, (left / torch.where(size > 0, size, 1.0)).amax(-1)


def by_products(
    form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor, shift: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by conjugate gradients; ``shift`` is added to the diagonal of H."""
    n = form.n
    prepared = form.products(xs, z, active)

    def times(v: Tensor) -> Tensor:
        product = prepared(v)
        return product + shift * torch.nn.functional.pad(v[..., :n], (0, form.N - n)) if shift else product

    tolerance = torch.finfo(z.dtype).eps ** 0.75
    return solve_products(times, vectors, n, tolerance, max(200, 2 * form.N))


def newton(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, local: Local) -> Tensor:
    """The Newton step -K^-1 r at z, (B, N)."""
    r = local.residual(z, active)
    if form.matrix_free:
        u, _, _ = by_products(form, xs, z, active, -r[None])
        return u[0]
    u, _ = solve_symmetric(local.matrix(active), -r[:, :, None], form.n)
    return u[:, :, 0]
