"""Three JAX primitives and their rules: solve, and the derivative of the solution forward and backward.

    solve      parameters                       -> outputs, point
    tangent    parameters, point, tangents      -> tangents of the outputs      linear in the tangents
    cotangent  parameters, point, cotangents    -> cotangents of the parameters linear in the cotangents

``stacked`` is the shape of extra leading axes that the tangents or cotangents alone have, as under jacfwd and jacrev:
one factorization serves all of them. ``point`` is the solution of the standard form (``Record.point``), from which the
derivative starts without solving again. It travels as pairs of uint32, so that nothing is lost where JAX has no
float64. Each runs on the host, through a callback, for all elements of the batch at once; a mapped axis becomes one
more leading axis of the batch. Outside of compiled code the record itself hangs on the point's array (``handles``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cvxlayers.adapters.base import batch_shape
from cvxlayers.adapters.vmap import Operand, map_derivative, map_parameters
from cvxlayers.errors import DerivativeError
from cvxlayers.jax.handles import keep, record_of
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record

__all__ = ["solve"]

solve_p = Primitive("cvxlayers_solve")
tangent_p = Primitive("cvxlayers_tangent")
cotangent_p = Primitive("cvxlayers_cotangent")

Options = tuple[tuple[str, Any], ...]


def solve(core: Layer, parameters: Sequence[jax.Array], solver_args: Mapping[str, Any]) -> tuple[jax.Array, ...]:
    """The outputs of a layer."""
    options = tuple(sorted(solver_args.items()))
    *outputs, _ = solve_p.bind(*parameters, core=core, options=options)
    return tuple(outputs)


# Shapes


def _batch(core: Layer, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return batch_shape(core.compiled.parameters, shapes, _broadcast)


def _broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """``np.broadcast_shapes``, in less time where there is nothing to do."""
    return shapes[0] if shapes and shapes.count(shapes[0]) == len(shapes) else np.broadcast_shapes(*shapes)


def _real(parameters: Sequence[Any]) -> np.dtype:
    """The real floating dtype that the parameters promote to."""
    dtypes = [p.dtype for p in parameters]
    if dtypes and dtypes[0].kind == "f" and dtypes.count(dtypes[0]) == len(dtypes):
        return np.dtype(dtypes[0])
    promoted = jnp.result_type(*dtypes) if dtypes else jnp.result_type(float)
    if not jnp.issubdtype(promoted, jnp.inexact):
        promoted = jnp.result_type(float)
    return np.dtype(jnp.finfo(promoted).dtype)


def _output_avals(core: Layer, parameters: Sequence[Any]) -> list[ShapedArray]:
    batch, real = _batch(core, [p.shape for p in parameters]), _real(parameters)
    return [
        ShapedArray((*batch, *spec.shape), jnp.result_type(real, jnp.complex64) if spec.complex else real)
        for spec in core.compiled.outputs
    ]


def _solve_avals(*parameters: Any, core: Layer, options: Options) -> list[ShapedArray]:
    structure = core.compiled.structure
    width = structure.n + 2 * structure.m + 1
    point = ShapedArray((width, *_batch(core, [p.shape for p in parameters]), 2), np.dtype(np.uint32))
    return [*_output_avals(core, parameters), point]


def _tangent_avals(*arrays: Any, core: Layer, options: Options, stacked: tuple[int, ...]) -> list[ShapedArray]:
    outputs = _output_avals(core, arrays[: len(core.compiled.parameters)])
    return [ShapedArray((*stacked, *aval.shape), aval.dtype) for aval in outputs]


def _cotangent_avals(*arrays: Any, core: Layer, options: Options, stacked: tuple[int, ...]) -> list[ShapedArray]:
    return [ShapedArray((*stacked, *p.shape), p.dtype) for p in arrays[: len(core.compiled.parameters)]]


# Work on the host


def _cast(arrays: Sequence[np.ndarray], avals: Sequence[ShapedArray]) -> list[np.ndarray]:
    """In the dtypes that JAX expects; the arrays themselves where they have them."""
    return [
        np.asarray(array if aval.dtype.kind == "c" else np.real(array)).astype(aval.dtype, copy=False)
        for array, aval in zip(arrays, avals, strict=True)
    ]


def _solved(
    core: Layer, options: Options, avals: Sequence[ShapedArray], parameters: Sequence[Any]
) -> tuple[Record, list[np.ndarray]]:
    record = core.solve([np.asarray(p) for p in parameters], dict(options), broadcast=True)
    return record, [*_cast(record.outputs, avals[:-1]), record.point[..., None].view(np.uint32)]


def _host_solve(core: Layer, options: Options, avals: Sequence[ShapedArray]) -> Callable[..., list[np.ndarray]]:
    return lambda *parameters: _solved(core, options, avals, parameters)[1]


def _solve_now(*parameters: Any, core: Layer, options: Options) -> list[jax.Array]:
    """The eager call, whose record hangs on the point for the derivative."""
    record, results = _solved(core, options, _solve_avals(*parameters, core=core, options=options), parameters)
    arrays = _arrays(results)
    keep(arrays[-1], record)
    return arrays


@jax.jit
def _ready(*arrays: Any) -> tuple[Any, ...]:
    return arrays


def _arrays(results: Sequence[np.ndarray]) -> list[jax.Array]:
    """NumPy's arrays as JAX's: all at once, by a compiled function of nothing, in a third of ``jnp.asarray``'s time."""
    found = _ready(*results)
    return [array if isinstance(array, jax.Array) else jnp.asarray(array) for array in found]  # under disable_jit


def _restored(core: Layer, options: Options, arrays: Sequence[Any]) -> tuple[Record, list[np.ndarray]]:
    k = len(core.compiled.parameters)
    record = record_of(arrays[k], [p.shape for p in arrays[:k]])
    if record is None:
        point = np.ascontiguousarray(np.asarray(arrays[k])).view(np.float64)[..., 0]
        record = core.restore([np.asarray(p) for p in arrays[:k]], point, dict(options))
    return record, [np.asarray(array) for array in arrays[k + 1 :]]


def _host_tangent(
    core: Layer, options: Options, stacked: tuple[int, ...], avals: Sequence[ShapedArray]
) -> Callable[..., list[np.ndarray]]:
    def run(*arrays: Any) -> list[np.ndarray]:
        record, tangents = _restored(core, options, arrays)
        return _stack(lambda index: record.jvp([tangent[index] for tangent in tangents]), stacked, avals)

    return run


def _host_cotangent(
    core: Layer, options: Options, stacked: tuple[int, ...], avals: Sequence[ShapedArray]
) -> Callable[..., list[np.ndarray]]:
    def run(*arrays: Any) -> list[np.ndarray]:
        record, cotangents = _restored(core, options, arrays)

        def apply(index: tuple[int, ...]) -> list[np.ndarray]:
            # JAX pairs complex numbers without conjugation: its cotangent of z = x + iy is dL/dx - i dL/dy.
            return [gradient.conj() for gradient in record.vjp([cotangent[index].conj() for cotangent in cotangents])]

        return _stack(apply, stacked, avals)

    return run


def _stack(
    apply: Callable[[tuple[int, ...]], Sequence[np.ndarray]], stacked: tuple[int, ...], avals: Sequence[ShapedArray]
) -> list[np.ndarray]:
    if not stacked:
        return _cast(apply(()), avals)
    results = [np.zeros(aval.shape, aval.dtype) for aval in avals]
    inner = [ShapedArray(aval.shape[len(stacked) :], aval.dtype) for aval in avals]
    for index in np.ndindex(stacked):
        for result, part in zip(results, _cast(apply(index), inner), strict=True):
            result[index] = part
    return results


def _shaped(values: Sequence[Any]) -> list[Any]:
    """Arrays and tracers as they are; JAX hands numbers of Python, as in ``grad(f)(2.0)``, on as numbers."""
    return [value if hasattr(value, "shape") else jnp.asarray(value) for value in values]


def _register(
    primitive: Primitive,
    avals: Callable[..., list[ShapedArray]],
    host: Callable[..., Any],
    eager: Callable[..., list[jax.Array]] | None = None,
) -> None:
    """Evaluate a primitive on the host, eagerly (by ``eager`` if it is given) or from compiled code.

    ``jax.pure_callback`` would do the latter, but it hands JAX arrays to the callback: reading one waits for a copy,
    which is queued behind the callback itself where the computation's thread is the only one, and so never ends (JAX
    0.10.2, one core, 2 MB). The callback that it is made of gets NumPy arrays.
    """
    primitive.multiple_results = True

    def now(*arrays: Any, **static: Any) -> list[jax.Array]:
        return _arrays(host(avals(*arrays, **static), **static)(*arrays))

    def lower(context: Any, *operands: Any, **static: Any) -> Any:
        run, given, found = host(context.avals_out, **static), context.avals_in, context.avals_out
        results, _, _ = mlir.emit_python_callback(context, run, None, operands, given, found, has_side_effect=False)
        return results

    primitive.def_abstract_eval(avals)
    evaluate = eager or now
    primitive.def_impl(lambda *arrays, **static: evaluate(*_shaped(arrays), **static))
    mlir.register_lowering(primitive, lower, cacheable=False)


_register(solve_p, _solve_avals, lambda avals, core, options: _host_solve(core, options, avals), _solve_now)
_register(
    tangent_p,
    _tangent_avals,
    lambda avals, core, options, stacked: _host_tangent(core, options, stacked, avals),
)
_register(
    cotangent_p,
    _cotangent_avals,
    lambda avals, core, options, stacked: _host_cotangent(core, options, stacked, avals),
)


# Derivatives


def _solve_jvp(
    primals: Sequence[Any], tangents: Sequence[Any], *, core: Layer, options: Options
) -> tuple[list[Any], list[Any]]:
    primals = _shaped(primals)
    results = solve_p.bind(*primals, core=core, options=options)
    point = results[-1]
    given = _shaped([ad.instantiate_zeros(tangent) for tangent in tangents])
    changes = tangent_p.bind(*primals, point, *given, core=core, options=options, stacked=()) if primals else []
    return results, [*changes, ad.Zero(jax.typeof(point).to_tangent_aval())]


def _linear_transpose(adjoint: Primitive) -> Callable[..., Any]:
    """The rule of a primitive that is linear in what comes after the point; ``adjoint`` is the other one."""

    def rule(
        cotangents: Sequence[Any], *arrays: Any, core: Layer, options: Options, stacked: tuple[int, ...]
    ) -> list[Any]:
        k = len(core.compiled.parameters)
        given = [ad.instantiate_zeros(cotangent) for cotangent in cotangents]
        back = adjoint.bind(*arrays[: k + 1], *given, core=core, options=options, stacked=stacked)
        wanted = [ad.is_undefined_primal(array) for array in arrays[k + 1 :]]
        return [None] * (k + 1) + [part if want else None for part, want in zip(back, wanted, strict=True)]

    return rule


def _linear_jvp(primitive: Primitive) -> Callable[..., Any]:
    """The rule of a primitive that is linear in what comes after the point, and has no derivative in what is before."""

    def rule(
        primals: Sequence[Any], tangents: Sequence[Any], *, core: Layer, options: Options, stacked: tuple[int, ...]
    ) -> tuple[list[Any], list[Any]]:
        k = len(core.compiled.parameters)
        if not all(isinstance(tangent, ad.Zero) for tangent in tangents[: k + 1]):
            raise DerivativeError(
                "The JAX layer has first derivatives only, and a second one was asked for (grad of grad, hessian, "
                "jacfwd of jacrev); use a first-order method, or finite differences of the gradient."
            )
        apply = partial(primitive.bind, *primals[: k + 1], core=core, options=options, stacked=stacked)
        return apply(*primals[k + 1 :]), apply(*map(ad.instantiate_zeros, tangents[k + 1 :]))

    return rule


ad.primitive_jvps[solve_p] = _solve_jvp
ad.primitive_jvps[tangent_p] = _linear_jvp(tangent_p)
ad.primitive_jvps[cotangent_p] = _linear_jvp(cotangent_p)
ad.primitive_transposes[tangent_p] = _linear_transpose(cotangent_p)
ad.primitive_transposes[cotangent_p] = _linear_transpose(tangent_p)


# Mapped axes


def _solve_batch(arrays: Sequence[Any], axes: Sequence[Any], *, core: Layer, options: Options) -> Any:
    results = solve_p.bind(*map_parameters(jnp, arrays, axes, _ranks(core)), core=core, options=options)
    return results, [*([0] * (len(results) - 1)), 1]


def _ranks(core: Layer) -> list[int]:
    return [len(spec.shape) for spec in core.compiled.parameters]


def _linear_batch(primitive: Primitive) -> Callable[..., Any]:
    """The rule of a primitive that is linear in what comes after the point."""
    like_parameters = primitive is tangent_p  # its operand; its result looks like the outputs

    def rule(
        arrays: Sequence[Any], axes: Sequence[Any], *, core: Layer, options: Options, stacked: tuple[int, ...]
    ) -> Any:
        k = len(core.compiled.parameters)
        size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
        parameters, point = Operand(arrays[:k], axes[:k]), (arrays[k], axes[k])
        operand = Operand(arrays[k + 1 :], axes[k + 1 :], like_parameters)
        call = map_derivative(jnp, size, parameters, point, [operand], _ranks(core), len(stacked))
        shape = call.operands[0][0].shape[: call.depth] if call.depth else ()
        found = primitive.bind(
            *call.parameters, call.point, *call.operands[0], core=core, options=options, stacked=shape
        )
        results, axis = call.finish(found, not like_parameters)
        return results, [axis] * len(results)

    return rule


batching.primitive_batchers[solve_p] = _solve_batch
batching.primitive_batchers[tangent_p] = _linear_batch(tangent_p)
batching.primitive_batchers[cotangent_p] = _linear_batch(cotangent_p)
