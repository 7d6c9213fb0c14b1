"""A problem near a point, to second order: what verification, Newton steps and multipliers need, evaluated together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cvxlayers.nodes.declarative.dense import probes
from cvxlayers.nodes.declarative.problem import Formulation

__all__ = ["Local", "look"]


@dataclass(frozen=True)
class Local:
    """The problem at points z = (y, nu, lam) of a batch.

    Attributes
    ----------
    f : (B,) tensor
    c : (B, p + q) tensor
        h and below it g.
    gradient, lagrangian : (B, n) tensors
        The gradients of f and of the Lagrangian.
    lengths : (B, p + q) tensor
        The norms of the constraints' gradients (estimated where there are no matrices).
    curvature : (B,) tensor
        The size of H (likewise).
    A : (B, p + q, n) tensor, and H : (B, n, n) tensor
        Without entries (B, 0, 0) in matrix-free mode.
    """

    f: Tensor
    c: Tensor
    gradient: Tensor
    lagrangian: Tensor
    lengths: Tensor
    curvature: Tensor
    A: Tensor
    H: Tensor

    def matrix(self, active: Tensor) -> Tensor:
        """K = psi_zz, (B, N, N)."""
        batch, m, n = self.A.shape
        q = active.shape[1]
        A = torch.cat([self.A[:, : m - q], active[:, :, None] * self.A[:, m - q :]], 1)
        K = self.H.new_zeros((batch, n + m, n + m))
        K[:, :n, :n], K[:, n:, :n], K[:, :n, n:] = self.H, A, A.mT
        K.diagonal(dim1=1, dim2=2)[:, n + m - q :] = 1 - active
        return K

    def residual(self, z: Tensor, active: Tensor) -> Tensor:
        """r = psi_z, (B, N)."""
        q = active.shape[1]
        p = self.c.shape[1] - q
        g, lam = self.c[:, p:], z[:, z.shape[1] - q :]
        return torch.cat([self.lagrangian, self.c[:, :p], active * g + (1 - active) * lam], -1)


def look(form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Local:
    """Evaluate the problem at z."""
    y, nu, lam = form.split(z)
    f, c, pullback = form.first_order(xs, y)
    if form.matrix_free:
        return _without_matrices(form, xs, z, active, f, c, pullback(_first(c)))
    J = form.rows(pullback, y, 1 + form.p + form.q)
    gradient, A = J[:, 0], J[:, 1:]
    H = form.hessian(xs, z, active)
    lagrangian = gradient + torch.einsum("bm,bmn->bn", torch.cat([nu, active * lam], -1), A)
    curvature = H.abs().amax((1, 2)) if form.n else f.new_zeros(f.shape)
    return Local(f, c, gradient, lagrangian, A.norm(dim=-1), curvature, A, H)


def _first(c: Tensor) -> Tensor:
    """The cotangent that picks the objective."""
    return torch.cat([torch.ones_like(c[:, :0]).new_ones((c.shape[0], 1)), torch.zeros_like(c)], -1)


def _without_matrices(
    form: Formulation, xs: Sequence[Tensor], z: Tensor, active: Tensor, f: Tensor, c: Tensor, gradient: Tensor
) -> Local:
    """Sizes of H and of the rows of A from products with a few vectors."""
    lagrangian = form.residual(xs, z, active)[:, : form.n]
    vectors = probes(form.n, z)[:, None].expand(2, z.shape[0], form.n)
    every = torch.ones_like(active)
    products = form.times(xs, z, every, torch.nn.functional.pad(vectors, (0, form.N - form.n)))
    curvature = form.times(xs, z, active, torch.nn.functional.pad(vectors, (0, form.N - form.n)))[:, :, : form.n]
    nothing = f.new_zeros((len(f), 0, 0))
    return Local(
        f, c, gradient, lagrangian, products[:, :, form.n :].norm(dim=0) / 2**0.5, curvature.abs().amax((0, 2)),
        nothing, nothing,
    )  # fmt: skip
