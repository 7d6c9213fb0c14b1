"""A node on flat batches: y (B, n), multipliers, and the products with derivatives of its Lagrangian.

With multipliers nu of h and lam of g, and a mask a that is 1 on active inequalities and 0 elsewhere, let

    psi(x, z; a) = f + nu'h + (a lam)'g + 1/2 |(1 - a) lam|^2,    z = (y, nu, lam).

Then r = psi_z is the optimality residual: r_y is the gradient of the Lagrangian, r_nu = h, r_lam = a g + (1 - a) lam;
and K = psi_zz is the KKT matrix [[H, A'], [A, 0]] on equalities and active inequalities, with rows of the identity for
the inactive ones, whose multipliers are zero. So z(x) is defined by psi_z(x, z) = 0, and every product that derivatives
of any order need is a gradient of an inner product of gradients of one scalar function (Gould, Hartley, Campbell 2019,
Prop. 4.5 and 4.6, in KKT form). Reverse mode alone serves for all of them, forward mode included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from cvxlayers.errors import ParameterError
from cvxlayers.nodes.declarative.node import DeclarativeNode

__all__ = ["Formulation", "formulate"]

# Numbers that one vectorized batch of products may hold at once; larger work is done in pieces.
BUDGET = 2**24
# Systems of more unknowns than this are solved without a matrix where the user leaves the choice.
LARGEST = 2000


@dataclass(frozen=True)
class Formulation:
    """A node whose sizes are known: n unknowns, p equalities, q inequalities; N = n + p + q."""

    node: DeclarativeNode
    shape: tuple[int, ...]
    n: int
    p: int
    q: int
    matrix_free: bool = False

    @property
    def N(self) -> int:
        return self.n + self.p + self.q

    def objective(self, xs: Sequence[Tensor], y: Tensor) -> Tensor:
        """f, (B,)."""
        return self.node.objective(*xs, y=y.reshape((y.shape[0], *self.shape)))

    def constraints(self, xs: Sequence[Tensor], y: Tensor) -> Tensor:
        """h and below it g, (B, p + q)."""
        shaped = y.reshape((y.shape[0], *self.shape))
        h = self.node.equality_constraints(*xs, y=shaped) if self.p else None
        g = self.node.inequality_constraints(*xs, y=shaped) if self.q else None
        parts = [part for part in (h, g) if part is not None]
        return torch.cat(parts, 1) if parts else y.new_zeros((y.shape[0], 0))

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y (B, n), nu (B, p), lam (B, q)."""
        y, nu, lam = z.split([self.n, self.p, self.q], -1)
        return y, nu, lam

    def psi(self, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Tensor:
        """The function whose gradient in z is the optimality residual, summed over the batch."""
        y, nu, lam = self.split(z)
        value = self.objective(xs, y).sum()
        if self.p + self.q:
            weights = torch.cat([nu, active * lam], -1)
            value = value + (weights * self.constraints(xs, y)).sum()
            value = value + 0.5 * (((1 - active) * lam) ** 2).sum()
        return value

    def residual(self, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Tensor:
        """r = psi_z, (B, N)."""
        return torch.func.grad(lambda z: self.psi(xs, z, active))(z)

    def along(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """<v, r(x, z)>, a number."""
        return (self.residual(xs, z, active) * vectors).sum()

    def products(self, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Callable[[Tensor], Tensor]:
        """The function that takes vectors v (R, B, N) to K v."""
        pullback = torch.func.vjp(lambda z: self.residual(xs, z, active), z)[1]

        def times(vectors: Tensor) -> Tensor:
            if vectors.shape[0] == 1:
                return pullback(vectors[0])[0].unsqueeze(0)
            return torch.func.vmap(lambda v: pullback(v)[0], chunk_size=self._chunk(z))(vectors)

        return times

    def times(self, xs: Sequence[Tensor], z: Tensor, active: Tensor, vectors: Tensor) -> Tensor:
        """K v for each of vectors (R, B, N)."""
        return self.products(xs, z, active)(vectors)

    def residual_along(
        self, xs: Sequence[Tensor], z: Tensor, active: Tensor, places: Sequence[int], tangents: Sequence[Tensor]
    ) -> Tensor:
        """r_x t for tangents t of the inputs at ``places``: the gradient in z of <t, psi_x>, (B, N)."""
        if not places:
            return torch.zeros_like(z)
        return torch.func.grad(lambda z: _directional(lambda *at: self.psi(at, z, active), xs, places, tangents))(z)

    def times_along(
        self,
        xs: Sequence[Tensor],
        z: Tensor,
        active: Tensor,
        vectors: Tensor,
        places: Sequence[int],
        tangents: Sequence[Tensor],
    ) -> Tensor:
        """dK v for tangents of (z, *xs) at ``places``, for each of vectors (R, B, N)."""
        if not places:
            return torch.zeros_like(vectors)

        def one(v: Tensor) -> Tensor:
            return torch.func.grad(
                lambda shift: _directional(
                    lambda z, *xs: self.along(xs, z + shift, active, v), (z, *xs), places, tangents
                )
            )(torch.zeros_like(z))

        if vectors.shape[0] == 1:
            return one(vectors[0]).unsqueeze(0)
        return torch.func.vmap(one, chunk_size=self._chunk(z))(vectors)

    def first_order(self, xs: Sequence[Tensor], y: Tensor) -> tuple[Tensor, Tensor, Callable[..., Any]]:
        """f (B,), the constraints (B, p + q), and the pullback of their cotangents, (B, 1 + p + q) -> (B, n)."""

        def both(y: Tensor) -> Tensor:
            return torch.cat([self.objective(xs, y)[:, None], self.constraints(xs, y)], -1)

        found: Any = torch.func.vjp(both, y)
        values, pullback = found
        return values[:, 0], values[:, 1:], lambda v: pullback(v)[0]

    def hessian(self, xs: Sequence[Tensor], z: Tensor, active: Tensor) -> Tensor:
        """H = psi_yy, (B, n, n), by n vectorized products."""
        y, others = z[:, : self.n], z[:, self.n :]
        pullback = torch.func.vjp(lambda y: self.residual(xs, torch.cat([y, others], -1), active)[:, : self.n], y)[1]
        return self.rows(lambda v: pullback(v)[0], y, self.n)

    def rows(self, pullback: Callable[[Tensor], Tensor], at: Tensor, count: int, first: int = 0) -> Tensor:
        """What the pullback gives for each of ``count`` unit cotangents, from number ``first`` on: (B, count, n)."""
        size, dtype, device = first + count, at.dtype, at.device
        basis = torch.eye(size, dtype=dtype, device=device)[first:, None].expand(count, at.shape[0], size)
        if not count:
            return at.new_zeros((at.shape[0], 0, at.shape[1]))
        rows: Tensor = torch.func.vmap(pullback, chunk_size=self._chunk(at))(basis)
        return rows.transpose(0, 1)

    def _chunk(self, at: Tensor) -> int:
        return max(1, BUDGET // max(1, at.numel()))


def _directional(
    function: Callable[..., Tensor], at: Sequence[Tensor], places: Sequence[int], tangents: Sequence[Tensor]
) -> Tensor:
    """The derivative of a number along tangents of some of its arguments, by reverse mode."""

    def of_some(*some: Tensor) -> Tensor:
        changed = list(at)
        for place, tensor in zip(places, some, strict=True):
            changed[place] = tensor
        return function(*changed)

    gradients = torch.func.grad(of_some, argnums=tuple(range(len(places))))(*[at[i] for i in places])
    return sum((gradient * t).sum() for gradient, t in zip(gradients, tangents, strict=True))


def formulate(node: DeclarativeNode, xs: Sequence[Tensor], y: Tensor, matrix_free: bool | None = False) -> Formulation:
    """Look at the functions once, at detached inputs, and find the sizes.

    ``matrix_free=None`` leaves the choice to the number of unknowns.

    Raises
    ------
    ParameterError
        A function returns the wrong shape, or depends on a tensor that requires a gradient and is not an input.
    """
    batch, name = y.shape[0], type(node).__name__
    with torch.enable_grad(), _set_fwd_grad_enabled(True):
        _checked(node.objective(*xs, y=y), f"{name}.objective", batch, 1)
        h, g = node.equality_constraints(*xs, y=y), node.inequality_constraints(*xs, y=y)
        p = 0 if h is None else _checked(h, f"{name}.equality_constraints", batch, 2).shape[1]
        q = 0 if g is None else _checked(g, f"{name}.inequality_constraints", batch, 2).shape[1]
    n = y.shape[1:].numel()
    free = n + p + q > LARGEST if matrix_free is None else matrix_free
    return Formulation(node, tuple(y.shape[1:]), n, p, q, free)


def _checked(value: Any, what: str, batch: int, ndim: int) -> Tensor:
    expected = f"({batch},)" if ndim == 1 else f"({batch}, number of constraints)"
    if not isinstance(value, Tensor):
        raise ParameterError(f"{what} returned {type(value).__name__}, expected a tensor of shape {expected}.")
    if value.ndim != ndim or value.shape[0] != batch:
        raise ParameterError(
            f"{what} returned a tensor of shape {tuple(value.shape)}, expected {expected}: one row for each element of "
            "the batch; sum over all dimensions of y but the first."
        )
    if value.requires_grad or unpack_dual(value).tangent is not None:
        raise ParameterError(
            f"{what} depends on a tensor that requires a gradient and is not among the inputs, so that its gradient "
            "would be lost: hand it to the layer as an input (a parameter shared by the batch as a tensor of batch "
            "1), or detach it."
        )
    return value
