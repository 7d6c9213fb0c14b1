"""The two operators of the layer, with what PyTorch asks of an operator: work, shapes, derivatives, mapped axes.

    solve          parameters                              -> outputs, point
    differentiate  parameters, point, first[, second]      -> tensors like the outputs (O) or like the parameters (P)

``point`` is the solution of the standard form (``Record.point``), where the derivative starts. ``kind`` says which
derivative, always linear in its operands:

    vjp    w in O         -> P    J'w
    jvp    t in P         -> O    J t
    vjp2   w in O, t in P -> P    the change of J'w along t
    jvp2   t, u in P      -> O    the change of J t along u

``depth`` counts leading axes that the operands alone have, as under jacrev and jacfwd: one factorization serves all.
So torch.compile, torch.export, vmap and all the transforms of torch.func meet operators whose rules they know.

The rules stand under the dispatch key Autograd, not in ``torch.library.register_autograd``, because that has no forward
mode and does not work inside torch.func. A function under that key serves one level of transforms, as PyTorch's own
kernels do; the levels below see what it calls, for which the modes that PyTorch turns off inside a function of autograd
are turned on again.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from cvxlayers.adapters.base import batch_shape
from cvxlayers.adapters.vmap import Operand, map_derivative, map_parameters
from cvxlayers.errors import DerivativeError
from cvxlayers.layer.record import Record
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.torch.arrays import result_dtype, to_numpy, to_tensor
from cvxlayers.torch.handles import keep, layer_of, record_of
from cvxlayers.torch.old_vmap import under_old_vmap

__all__ = ["OneLevel", "differentiate", "encode", "filled", "like_outputs", "solve", "solved_call"]

Tensors = Sequence[torch.Tensor]

_LIBRARY = torch.library.Library("cvxlayers", "FRAGMENT")
_LIBRARY.define(
    "solve(Tensor[] parameters, str layer, str options, bool kept) -> Tensor[]", tags=(torch.Tag.pt2_compliant_tag,)
)
_LIBRARY.define(
    "differentiate(Tensor[] parameters, Tensor point, Tensor[] first, Tensor[] second, str kind, str layer, "
    "str options, int depth) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_solve = torch.ops.cvxlayers.solve.default
differentiate = torch.ops.cvxlayers.differentiate.default

TO_PARAMETERS = ("vjp", "vjp2")


def encode(solver_args: Mapping[str, Any]) -> str:
    """The options of a call as text, which a graph can hold, by means that torch.compile can trace.

    Options are numbers, strings or booleans; the text of anything else is for the engine to refuse.
    """
    return "{" + ", ".join([f"{name!r}: {_literal(value)}" for name, value in solver_args.items()]) + "}"


def _literal(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value in (math.inf, -math.inf):
        return "1e999" if value > 0 else "-1e999"
    known = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and value == value)
    return repr(value) if known else repr(repr(value))


@lru_cache(maxsize=256)
def _decoded(options: str) -> Mapping[str, Any]:
    return MappingProxyType(ast.literal_eval(options)) if options else MappingProxyType({})


def solve(parameters: Tensors, layer: str, options: str) -> list[torch.Tensor]:
    """The outputs of a layer."""
    outputs: list[torch.Tensor] = _solve(list(parameters), layer, options, False)[:-1]
    return outputs


# Work


def solved_call(parameters: Tensors, layer: str, options: str) -> tuple[Record, list[torch.Tensor]]:
    """A layer's call, and its outputs as tensors."""
    record = layer_of(layer).solve([to_numpy(p) for p in parameters], _decoded(options), broadcast=True)
    if parameters and all(p.dtype is torch.float64 and p.is_cpu for p in parameters) and not record.compiled.complex:
        return record, [torch.from_numpy(output) for output in record.outputs]
    device = parameters[0].device if parameters else torch.device("cpu")
    dtypes = _output_dtypes(record.compiled, parameters)
    return record, [to_tensor(o, dtype, device) for o, dtype in zip(record.outputs, dtypes, strict=True)]


def _solve_now(parameters: Tensors, layer: str, options: str, kept: bool) -> list[torch.Tensor]:
    record, outputs = solved_call(parameters, layer, options)
    return [*outputs, keep(record) if kept else torch.empty((0, *record.packed.batch), dtype=torch.float64)]


def _differentiate_now(
    parameters: Tensors, point: torch.Tensor, first: Tensors, second: Tensors, kind: str, layer: str, options: str,
    depth: int,
) -> list[torch.Tensor]:  # fmt: skip
    record = record_of(point, [tuple(p.shape) for p in parameters])
    if record is None:
        given, solved = [to_numpy(p) for p in parameters], to_numpy(point)
        record = layer_of(layer).restore(given, solved, _decoded(options))
    stack = (first or second)[0].shape[:depth] if depth else ()
    arrays = [[to_numpy(operand) for operand in operands] for operands in (first, second)]
    found = [_derivative(record, kind, *([a[index] for a in part] for part in arrays)) for index in np.ndindex(*stack)]
    device = parameters[0].device
    return [
        to_tensor(_stacked([each[i] for each in found], stack, shape), dtype, device)
        for i, (shape, dtype) in enumerate(_like(record.compiled, parameters, point, kind))
    ]


def _stacked(parts: Sequence[np.ndarray], stack: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    if not stack:
        return parts[0]
    return np.stack(parts).reshape((*stack, *shape)) if parts else np.zeros((*stack, *shape))


def _derivative(record: Record, kind: str, first: list[np.ndarray], second: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    if kind in ("vjp", "jvp"):
        return record.vjp(first) if kind == "vjp" else record.jvp(first)
    return record.second_vjp(first, second) if kind == "vjp2" else record.second_jvp(first, second)


# Shapes


def _batch(compiled: CompiledProblem, parameters: Tensors) -> torch.Size:
    return batch_shape(compiled.parameters, [p.shape for p in parameters], torch.broadcast_shapes)


def _output_dtypes(compiled: CompiledProblem, parameters: Tensors) -> list[torch.dtype]:
    real = result_dtype(parameters)
    return [real.to_complex() if spec.complex else real for spec in compiled.outputs]


def like_outputs(record: Record, parameters: Tensors) -> list[Like]:
    """What the outputs of a solved call are like."""
    dtypes, device = _output_dtypes(record.compiled, parameters), parameters[0].device
    return [Like(o.shape, dtype, device) for o, dtype in zip(record.outputs, dtypes, strict=True)]


def _like(
    compiled: CompiledProblem, parameters: Tensors, point: torch.Tensor, kind: str
) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of each result of a derivative, without the leading axes of its operands."""
    if kind in TO_PARAMETERS:
        return [(tuple(p.shape), p.dtype) for p in parameters]
    dtypes = _output_dtypes(compiled, parameters)
    return [((*point.shape[1:], *spec.shape), dtype) for spec, dtype in zip(compiled.outputs, dtypes, strict=True)]


def _solve_shapes(parameters: Tensors, layer: str, options: str, kept: bool) -> list[torch.Tensor]:
    compiled = layer_of(layer).compiled
    batch, structure = _batch(compiled, parameters), compiled.structure
    device = parameters[0].device if parameters else torch.device("cpu")
    dtypes = _output_dtypes(compiled, parameters)
    width = structure.n + 2 * structure.m + 1 if kept else 0
    return [
        *(torch.empty((*batch, *spec.shape), dtype=dtype, device=device)
          for spec, dtype in zip(compiled.outputs, dtypes, strict=True)),
        torch.empty((width, *batch), dtype=torch.float64, device="cpu"),
    ]  # fmt: skip


def _differentiate_shapes(
    parameters: Tensors, point: torch.Tensor, first: Tensors, second: Tensors, kind: str, layer: str, options: str,
    depth: int,
) -> list[torch.Tensor]:  # fmt: skip
    stack, device = (first or second)[0].shape[:depth] if depth else (), parameters[0].device
    like = _like(layer_of(layer).compiled, parameters, point, kind)
    return [torch.empty((*stack, *shape), dtype=dtype, device=device) for shape, dtype in like]


# Derivatives


def _differentiable(tensors: Tensors) -> bool:
    """Whether this level of transforms differentiates one of these, backward or forward."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    return any(forward_ad.unpack_dual(tensor, level=0).tangent is not None for tensor in tensors)


@contextmanager
def _next_level() -> Iterator[None]:
    """Below this level's rules of differentiation, where those of the next level apply."""
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
        yield


def _solve_differentiably(parameters: Tensors, layer: str, options: str, kept: bool) -> list[torch.Tensor]:
    if _differentiable(parameters):
        with enable_single_level_autograd_function():
            return list(_Solve.apply(layer, options, *parameters))
    with torch._C._AutoDispatchBelowAutograd():
        return _solve(parameters, layer, options, kept)


def _differentiate_differentiably(
    parameters: Tensors, point: torch.Tensor, first: Tensors, second: Tensors, kind: str, layer: str, options: str,
    depth: int,
) -> list[torch.Tensor]:  # fmt: skip
    if _differentiable([*parameters, *first, *second]):
        call, sizes = (kind, layer, options, depth), (len(parameters), len(first))
        with enable_single_level_autograd_function():
            return list(_Differentiate.apply(call, sizes, *parameters, point, *first, *second))
    with torch._C._AutoDispatchBelowAutograd():
        return differentiate(parameters, point, first, second, kind, layer, options, depth)


class Like(NamedTuple):
    """Shape, dtype and device of a tensor, without the tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def filled(given: Sequence[torch.Tensor | None], like: Sequence[Any]) -> list[torch.Tensor]:
    """Zeros for what is None."""
    return [
        torch.zeros((), dtype=other.dtype, device=other.device).expand(other.shape) if tensor is None else tensor
        for tensor, other in zip(given, like, strict=True)
    ]


class OneLevel(_SingleLevelFunction):
    """A function of autograd that serves one level of transforms, whatever the others are."""

    apply: ClassVar[Callable[..., tuple[torch.Tensor, ...]]]


class _Solve(OneLevel):
    """One level's rules for ``solve``."""

    @staticmethod
    def forward(ctx: Any, layer: str, options: str, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with _next_level():
            *outputs, point = _solve(list(parameters), layer, options, True)
        ctx.save_for_backward(*parameters, point)
        ctx.save_for_forward(*parameters, point)
        ctx.mark_non_differentiable(point)
        ctx.set_materialize_grads(False)
        ctx.call = layer, options, 0
        ctx.like = [Like(output.shape, output.dtype, output.device) for output in outputs]
        return *outputs, point

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        *parameters, point = ctx.saved_tensors
        if all(cotangent is None for cotangent in cotangents):
            return None, None, *(None for _ in parameters)
        found = differentiate(parameters, point, filled(cotangents[:-1], ctx.like), [], "vjp", *ctx.call)
        return None, None, *(g if need else None for g, need in zip(found, ctx.needs_input_grad[2:], strict=True))

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        *parameters, point = _without_tangents(ctx.saved_tensors)
        with forward_ad._set_fwd_grad_enabled(True):
            return *differentiate(parameters, point, filled(tangents[2:], parameters), [], "jvp", *ctx.call), None


def _without_tangents(saved: Tensors) -> list[torch.Tensor]:
    return [forward_ad.unpack_dual(tensor, level=0).primal for tensor in saved]


class _Differentiate(OneLevel):
    """One level's rules for ``differentiate``.

    <w, J2[t, u]>, with J2 the second derivative, is symmetric in t and u. So the gradients of <u, J'w> are J u in w and
    J2[u, .]'w in the parameters, which is vjp2; and likewise for the other kinds.
    """

    @staticmethod
    def forward(ctx: Any, call: tuple[Any, ...], sizes: tuple[int, int], *tensors: torch.Tensor) -> Any:
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        ctx.call, ctx.sizes = call, sizes
        parameters, point, first, second = _parts(tensors, sizes)
        with _next_level():
            return tuple(differentiate(parameters, point, first, second, *call))

    @staticmethod
    def backward(ctx: Any, *u: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        parameters, point, first, second = _parts(ctx.saved_tensors, ctx.sizes)
        needs = _parts(ctx.needs_input_grad[2:], ctx.sizes)
        kind, *rest = ctx.call
        depth, given = ctx.call[-1], list(u)

        def apply(kind: str, one: list[torch.Tensor], other: list[torch.Tensor]) -> list[torch.Tensor]:
            found: list[torch.Tensor] = differentiate(parameters, point, one, other, kind, *rest)
            return found

        to_first, to_second, to_parameters = {
            "vjp": (lambda: apply("jvp", given, []), None, lambda: apply("vjp2", first, given)),
            "jvp": (lambda: apply("vjp", given, []), None, lambda: apply("vjp2", given, first)),
            "vjp2": (lambda: apply("jvp2", second, given), lambda: apply("vjp2", first, given), _third),
            "jvp2": (lambda: apply("vjp2", given, second), lambda: apply("vjp2", given, first), _third),
        }[kind]
        dp = [_summed(d, depth) for d in to_parameters()] if any(needs[0]) else [None] * len(parameters)
        df = to_first() if any(needs[2]) else [None] * len(first)
        ds = to_second() if to_second and any(needs[3]) else [None] * len(second)
        return None, None, *dp, None, *df, *ds

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        parameters, point, first, second = _parts(_without_tangents(ctx.saved_tensors), ctx.sizes)
        dp, _, df, ds = _parts(tangents[2:], ctx.sizes)
        kind, *rest = ctx.call
        terms = []
        with forward_ad._set_fwd_grad_enabled(True):
            if any(d is not None for d in df):
                terms.append(differentiate(parameters, point, filled(df, first), second, kind, *rest))
            if any(d is not None for d in ds):
                terms.append(differentiate(parameters, point, first, filled(ds, second), kind, *rest))
            if any(d is not None for d in dp):
                if second:
                    _third()
                moved, stack = filled(dp, parameters), first[0].shape[: ctx.call[-1]]
                spread = [d.expand((*stack, *d.shape)) for d in moved]
                terms.append(differentiate(parameters, point, first, spread, f"{kind}2", *rest))
            return tuple(sum(parts[1:], start=parts[0]) for parts in zip(*terms, strict=True))


def _parts(tensors: Sequence[Any], sizes: tuple[int, int]) -> tuple[list[Any], Any, list[Any], list[Any]]:
    """Parameters, point, first and second operands."""
    k, stop = sizes[0], sizes[0] + 1 + sizes[1]
    return list(tensors[:k]), tensors[k], list(tensors[k + 1 : stop]), list(tensors[stop:])


def _third() -> Any:
    raise DerivativeError(
        "A third derivative of a CvxpyLayer was asked for; there are first and second ones. Use finite differences of "
        "the second."
    )


def _summed(gradient: torch.Tensor, depth: int) -> torch.Tensor:
    return gradient.sum(tuple(range(depth))) if depth else gradient


# Mapped axes

_AXES = SimpleNamespace(moveaxis=torch.movedim, broadcast_to=torch.Tensor.expand)


def _solve_mapped(
    info: Any, axes: tuple[Any, ...], parameters: Tensors, layer: str, options: str, kept: bool
) -> tuple[list[torch.Tensor], list[int]]:
    ranks = [len(spec.shape) for spec in layer_of(layer).compiled.parameters]
    results = _solve(map_parameters(_AXES, parameters, axes[0], ranks), layer, options, kept)
    return results, [*([0] * (len(results) - 1)), 1]


def _differentiate_mapped(
    info: Any, axes: tuple[Any, ...], parameters: Tensors, point: torch.Tensor, first: Tensors, second: Tensors,
    kind: str, layer: str, options: str, depth: int,
) -> tuple[list[torch.Tensor], list[int]]:  # fmt: skip
    ranks = [len(spec.shape) for spec in layer_of(layer).compiled.parameters]
    operands = [
        Operand(first, axes[2], like_parameters=kind.startswith("jvp")), Operand(second, axes[3], like_parameters=True)
    ]  # fmt: skip
    fixed = Operand(parameters, axes[0])
    call = map_derivative(_AXES, info.batch_size, fixed, (point, axes[1]), operands, ranks, depth)
    found = differentiate(call.parameters, call.point, *call.operands, kind, layer, options, call.depth)
    results, axis = call.finish(found, kind in TO_PARAMETERS)
    return results, [axis] * len(results)


def _register(
    name: str,
    now: Callable[..., Any],
    shapes: Callable[..., Any],
    rules: Callable[..., Any],
    mapped: Callable[..., Any],
) -> None:
    # Without a tensor among the arguments nothing tells the dispatcher a device: BackendSelect takes the call then.
    _LIBRARY.impl(name, now, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, now, "BackendSelect")
    _LIBRARY.impl(name, rules, "Autograd")
    _LIBRARY.impl(name, under_old_vmap(mapped), "Batched")
    torch.library.register_fake(f"cvxlayers::{name}", shapes, lib=_LIBRARY)
    torch.library.register_vmap(f"cvxlayers::{name}", mapped, lib=_LIBRARY)


_register("solve", _solve_now, _solve_shapes, _solve_differentiably, _solve_mapped)
_register(
    "differentiate", _differentiate_now, _differentiate_shapes, _differentiate_differentiably, _differentiate_mapped
)
