"""The solution and its derivative as TensorFlow functions with gradients of their own.

Eagerly the record of a call is kept for its gradient. In a graph, where only tensors last, the forward pass also gives
the solution's point, on whose memory the record hangs (``handles``), and from which ``Layer.restore`` makes it again,
without solving, where the memory is another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import record

from cvxlayers.errors import DerivativeError, ParameterError
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.packing import refuse_enlarged
from cvxlayers.layer.record import Record
from cvxlayers.tensorflow.handles import keep, record_of

__all__ = ["solve"]

_BARRED = "The TensorFlow layer has no forward mode inside a tf.function."

Find = Callable[[Sequence[np.ndarray]], Record]


def solve(core: Layer, parameters: Sequence[tf.Tensor], solver_args: Mapping[str, Any] | None) -> tuple[tf.Tensor, ...]:
    """The outputs in float64 or complex128 for parameters in these dtypes."""
    if tf.executing_eagerly():
        return _now(core, parameters, solver_args)
    outputs: tuple[tf.Tensor, ...] = tf.custom_gradient(lambda *given: _later(core, given, solver_args))(*parameters)
    return outputs


def _unrecorded() -> bool:
    """Whether this is eager execution with no tape and no accumulator at work, which is what most gradients see.

    ``tf.custom_gradient`` takes a fifth of a millisecond, for nobody here. (TensorFlow has no public question for it.)
    """
    return tf.executing_eagerly() and not record.could_possibly_record()


def _now(core: Layer, parameters: Sequence[tf.Tensor], solver_args: Mapping[str, Any] | None) -> tuple[tf.Tensor, ...]:
    """The eager call, told to tapes and accumulators directly: that is how ``tf.custom_gradient`` ends, after a detour
    through tapes and variables of its own that takes as long as a small problem.
    """
    solved = core.solve([parameter.numpy() for parameter in parameters], solver_args)
    outputs = tuple(map(tf.constant, solved.outputs))
    if not _unrecorded():

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            return _apply("vjp", lambda _: solved, parameters, cotangents, parameters, outputs)

        record.record_operation("CvxpyLayer", outputs, parameters, gradient)
    return outputs


def _later(core: Layer, parameters: Sequence[tf.Tensor], solver_args: Mapping[str, Any] | None) -> Any:
    def host(*arrays: np.ndarray) -> list[np.ndarray]:
        solved = core.solve(arrays, solver_args)
        return [*solved.outputs, keep(solved)]

    def find(arrays: Sequence[np.ndarray]) -> Record:
        *given, point = arrays
        return record_of(point, [array.shape for array in given]) or core.restore(given, point, solver_args)

    specs, structure = core.compiled.outputs, core.compiled.structure
    dtypes = [tf.complex128 if spec.complex else tf.float64 for spec in specs]
    batch = _batch(core, parameters)
    *outputs, point = _host_call(host, parameters, [*dtypes, tf.float64])
    for output, spec in zip(outputs, specs, strict=True):
        output.set_shape(batch.concatenate(spec.shape))
    point.set_shape(tf.TensorShape([structure.n + 2 * structure.m + 1]).concatenate(batch))

    def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
        return _apply("vjp", find, [*parameters, point], cotangents, parameters, outputs)

    return tuple(outputs), gradient


def _apply(
    kind: str,
    find: Find,
    fixed: Sequence[tf.Tensor],
    moving: Sequence[Any],
    there: Sequence[tf.Tensor],
    here: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """The derivative, ``kind`` "vjp" or "jvp", at the record that is found from the tensors ``fixed``.

    It is linear in ``moving``, which look like ``here``; the results look like ``there``. So its gradient in ``moving``
    is the other kind, under the pairing Re conj(w) z, which is TensorFlow's for complex numbers; one in ``fixed`` would
    be a second derivative.
    """
    other = {"vjp": "jvp", "jvp": "vjp"}[kind]

    def host(*arrays: np.ndarray) -> list[np.ndarray]:
        results = getattr(find(arrays[: len(fixed)]), kind)(arrays[len(fixed) :])
        return [np.asarray(result) for result in results]

    if _unrecorded():
        return _on_host(host, [*fixed, *map(tf.convert_to_tensor, moving)], there)

    def run(*tensors: tf.Tensor) -> Any:
        results = _on_host(host, tensors, there)

        def gradient(*cotangents: tf.Tensor) -> list[tf.Tensor]:
            back = _apply(other, find, fixed, cotangents, here, there)
            return [*(tf.zeros_like(tensor) for tensor in fixed), *back]

        return tuple(results), gradient

    return list(tf.custom_gradient(run)(*map(_guarded, fixed), *map(tf.convert_to_tensor, moving)))


def _on_host(host: Callable[..., Any], tensors: Sequence[tf.Tensor], like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Run a NumPy function of these tensors; results have the dtypes and the static shapes of ``like``."""
    if tf.executing_eagerly():
        return [tf.constant(result) for result in host(*(tensor.numpy() for tensor in tensors))]
    results = _host_call(host, tensors, [tensor.dtype for tensor in like])
    for result, tensor in zip(results, like, strict=True):
        result.set_shape(tensor.shape)
    return results


def _host_call(host: Callable[..., Any], tensors: Sequence[tf.Tensor], dtypes: Sequence[tf.DType]) -> list[tf.Tensor]:
    """A node of the graph that calls a NumPy function.

    While a graph is built, TensorFlow's forward mode goes through the operations one by one, past custom gradients,
    and takes a call of the host for a constant: its tangents would be zero. ``PreventGradient`` makes that an error and
    costs nothing in the graph; the reverse mode never reaches it.
    """
    try:
        barred = [tf.raw_ops.PreventGradient(input=tensor, message=_BARRED) for tensor in tensors]
    except LookupError as exc:
        raise DerivativeError(
            "The TensorFlow layer has a forward mode (tf.autodiff.ForwardAccumulator) in eager execution only, and "
            "one was asked for inside a tf.function; leave the tf.function out, or use a tape."
        ) from exc
    return list(tf.numpy_function(host, barred, dtypes, stateful=False))


@tf.custom_gradient
def _guarded(tensor: tf.Tensor) -> Any:
    """The same tensor, whose gradient, if it is ever asked for, is a second derivative of the layer."""

    def gradient(_: tf.Tensor) -> tf.Tensor:
        raise DerivativeError(
            "The TensorFlow layer has first derivatives only, and a second one was asked for (a tape around a tape's "
            "gradient, or forward mode through a tf.function); use a first-order method, or finite differences of the "
            "gradient."
        )

    return tf.identity(tensor), gradient


def _batch(core: Layer, parameters: Sequence[tf.Tensor]) -> tf.TensorShape:
    """What is known of the batch's shape while a graph is built."""
    batch = tf.TensorShape([])
    for spec, parameter in zip(core.compiled.parameters, parameters, strict=True):
        shape, rank = parameter.shape, len(spec.shape)
        if shape.rank is None:
            return tf.TensorShape(None)
        cut = shape.rank - rank
        if cut < 0 or not shape[cut:].is_compatible_with(spec.shape):
            raise ParameterError(
                f"parameter '{spec.name}': got a tensor of shape {shape}, expected {spec.shape} with any batch "
                "dimensions in front; reshape it, or check the order in which the parameters are handed in."
            )
        try:
            batch = tf.broadcast_static_shape(batch, shape[:cut])
        except ValueError as exc:
            raise ParameterError(
                f"parameters: their batch dimensions do not broadcast together: '{spec.name}' has {shape[:cut]}, those "
                f"before it {batch}; give each parameter the same batch dimensions, size 1, or none."
            ) from exc
    if not core.broadcast and all(parameter.shape.is_fully_defined() for parameter in parameters):
        refuse_enlarged(core.compiled.parameters, [tuple(parameter.shape) for parameter in parameters])
    return batch
