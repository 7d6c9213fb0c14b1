"""The derivative of z(x), defined by psi_z(x, z; a) = 0, as rules for every transformation and of every order.

With r = psi_z, K = psi_zz (symmetric) and a cotangent v of z:  w = K^-1 v,  x gets -grad_x <w, r(x, z)>. With a
tangent t of x:  z gets -K^-1 grad_z <t, psi_x(x, z)>. Both are written in differentiable operations at the z that is
returned, so that differentiating them again is right. The solve u = K^-1 v is an operation of its own, with the rules

    du = K^-1 (dv - dK u);      cotangent w' of u:  v gets w = K^-1 w',  (x, z) get -grad <w, K(x, z) u>,

and, where K is singular and K^-1 stands for the pseudo-inverse S of constant rank (Golub and Pereyra 1973, eq. 4.12),

    du = S (dv - dK u) + S S dK (v - K u) + (I - S K) dK S u.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.forward_ad import _set_fwd_grad_enabled, unpack_dual

from cvxlayers.nodes.declarative.system import OptimalitySystem

__all__ = ["Attach", "fold", "unfold"]


class Attach(torch.autograd.Function):
    """z as it is found, with the derivative of z(x): ``Attach.apply(system, z, active, *xs)``."""

    generate_vmap_rule = False

    @staticmethod
    def forward(system: OptimalitySystem, z: Tensor, active: Tensor, *xs: Tensor) -> Tensor:
        return z.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        system, _, active, *xs = inputs
        ctx.system = system
        ctx.save_for_backward(output, active, *xs)
        ctx.save_for_forward(output, active, *xs)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        z, active, *xs = ctx.saved_tensors
        (w,) = _Solve.apply(ctx.system, cotangent[None], active, z, *xs)
        places = [i for i, x in enumerate(xs) if x.is_floating_point() and ctx.needs_input_grad[3 + i]]
        form = ctx.system.form

        def product(*some: Tensor) -> Tensor:
            return -form.along(_put(xs, places, some), z, active, w)

        return (None, None, None, *_gradients(product, xs, places))

    @staticmethod
    def jvp(ctx: Any, _system: None, _z: Tensor | None, _active: Tensor | None, *tangents: Tensor | None) -> Tensor:
        with _outer_levels():
            z, active, *xs = _primals(ctx)
            places = [i for i, t in enumerate(tangents) if t is not None and xs[i].is_floating_point()]
            moved = ctx.system.form.residual_along(xs, z, active, places, [tangents[i] for i in places])
            (dz,) = _Solve.apply(ctx.system, -moved[None], active, z, *xs)
            return dz

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], system: OptimalitySystem, *tensors: Tensor) -> tuple[Tensor, int]:
        folded = [fold(t, dim, info.batch_size) for t, dim in zip(tensors, in_dims[1:], strict=True)]
        return unfold(Attach.apply(system, *folded), info.batch_size), 0


class _Solve(torch.autograd.Function):
    """u = K(x, z; a)^-1 v for vectors v (R, B, N): ``_Solve.apply(system, v, active, z, *xs)``."""

    generate_vmap_rule = False

    @staticmethod
    def forward(system: OptimalitySystem, vectors: Tensor, active: Tensor, z: Tensor, *xs: Tensor) -> Tensor:
        return system.solve(xs, z, active, vectors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        system, vectors, active, z, *xs = inputs
        ctx.system = system
        ctx.save_for_backward(output, vectors, active, z, *xs)
        ctx.save_for_forward(output, vectors, active, z, *xs)

    @staticmethod
    def backward(ctx: Any, cotangents: Tensor) -> tuple[Tensor | None, ...]:
        u, vectors, active, z, *xs = ctx.saved_tensors
        system = ctx.system
        w = _Solve.apply(system, cotangents, active, z, *xs)
        at = [z, *xs]
        places = [i for i, t in enumerate(at) if t.is_floating_point() and ctx.needs_input_grad[3 + i]]
        pairs = [(w, u, -1.0)]
        if system.pseudo:
            lost, rest = vectors - system.times(xs, z, active, u), cotangents - system.times(xs, z, active, w)
            Sw, Su = (_Solve.apply(system, t, active, z, *xs) for t in (w, u))
            pairs += [(Sw, lost, 1.0), (rest, Su, 1.0)]

        def product(*some: Tensor) -> Tensor:
            z, *xs = _put(at, places, some)
            return sum(sign * (left * system.times(xs, z, active, right)).sum() for left, right, sign in pairs)

        return (None, w, None, *_gradients(product, at, places))

    @staticmethod
    def jvp(
        ctx: Any, _system: None, dvectors: Tensor | None, _active: Tensor | None, dz: Tensor | None, *dxs: Tensor | None
    ) -> Tensor:
        with _outer_levels():
            u, vectors, active, z, *xs = _primals(ctx)
            system, at, tangents = ctx.system, [z, *xs], [dz, *dxs]
            places = [i for i, t in enumerate(tangents) if t is not None and at[i].is_floating_point()]
            some = [tangents[i] for i in places]

            def turned(right: Tensor) -> Tensor:
                """dK times a vector."""
                return system.form.times_along(xs, z, active, right, places, some)

            def S(right: Tensor) -> Tensor:
                return _Solve.apply(system, right, active, z, *xs)

            du = S((torch.zeros_like(u) if dvectors is None else dvectors) - turned(u))
            if system.pseudo:
                lost = vectors - system.times(xs, z, active, u)
                across = turned(S(u))
                du = du + S(S(turned(lost))) + across - S(system.times(xs, z, active, across))
            return du

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], system: OptimalitySystem, *tensors: Tensor) -> tuple[Tensor, int]:
        dims, size = in_dims[1:], info.batch_size
        vectors, active, *others = tensors
        if all(dim is None for dim in dims[1:]):  # many vectors at the same points: one factorization
            v = vectors.movedim(dims[0], 0)
            u = _Solve.apply(system, v.flatten(0, 1), active, *others)
            return u.unflatten(0, (size, -1)), 0
        folded = [fold(t, dim, size) for t, dim in zip(tensors[1:], dims[1:], strict=True)]
        v = vectors.expand(size, *vectors.shape) if dims[0] is None else vectors.movedim(dims[0], 0)
        u = _Solve.apply(system, v.transpose(0, 1).flatten(1, 2), *folded)
        return u.unflatten(1, (size, -1)), 1


def _outer_levels() -> Any:
    """Forward mode, which PyTorch switches off inside jvp; the tangents of outer levels would be lost without it."""
    return _set_fwd_grad_enabled(True)


def _primals(ctx: Any) -> list[Tensor]:
    """The saved tensors without the tangents of the level that is being differentiated."""
    return [unpack_dual(t).primal for t in ctx.saved_tensors]


def fold(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """A batch of batches (or one batch, shared by all) as one batch."""
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def unfold(tensor: Tensor, size: int) -> Tensor:
    """One batch as a batch of batches, in front."""
    return tensor.unflatten(0, (size, tensor.shape[0] // size))


def _put(tensors: Sequence[Tensor], places: Sequence[int], some: Sequence[Tensor]) -> list[Tensor]:
    changed = list(tensors)
    for place, tensor in zip(places, some, strict=True):
        changed[place] = tensor
    return changed


def _gradients(function: Any, tensors: Sequence[Tensor], places: Sequence[int]) -> list[Tensor | None]:
    """The gradient of a number in some of the tensors, None for the others."""
    gradients: list[Tensor | None] = [None] * len(tensors)
    if places:
        some = torch.func.grad(function, argnums=tuple(range(len(places))))(*[tensors[i] for i in places])
        for place, gradient in zip(places, some, strict=True):
            gradients[place] = gradient
    return gradients
