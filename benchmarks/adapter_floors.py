"""Layers that do nothing: what a framework takes for itself where a call leaves it for NumPy and comes back.

Each takes the same parameters as the layer, hands them to the host, and gives outputs that lie ready there; its
gradient does likewise. It is written in its framework's documented way: ``torch.autograd.Function`` and, to be
compiled, ``torch.library.custom_op``; ``tf.custom_gradient`` and, in a graph, ``tf.numpy_function``;
``jax.custom_vjp`` and, under ``jit``, ``jax.pure_callback``; a ``keras.layers.Layer`` around its backend's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.closed import Array

__all__ = ["make"]


def make(way: str, outputs: Sequence[Array], gradients: Sequence[Array]) -> Callable[..., Any]:
    """The function of this framework's tensors that gives these outputs, and in its gradient these."""
    framework = way.split()[-1] if way.startswith("keras") else way
    makers = {
        "torch": _torch, "torch compiled": _torch_operator, "tensorflow": _tensorflow,
        "tensorflow graph": _tensorflow_graph, "jax": _jax, "jax jit": _jax_jit,
    }  # fmt: skip
    function = makers[framework](list(outputs), list(gradients))
    return _keras(function) if way.startswith("keras") else function


def _torch(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import torch

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: torch.Tensor) -> Any:
            _seen([tensor.numpy() for tensor in given])
            return tuple(map(torch.from_numpy, outputs))

        @staticmethod
        def backward(ctx: Any, *cotangents: torch.Tensor) -> Any:
            _seen([tensor.numpy() for tensor in cotangents])
            return tuple(map(torch.from_numpy, gradients))

    return lambda *given: Nothing.apply(*given)


def _torch_operator(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import torch

    @torch.library.custom_op("benchmarks::nothing", mutates_args=(), schema="(Tensor[] given) -> Tensor[]")
    def forward(given: list[torch.Tensor]) -> list[torch.Tensor]:
        _seen([tensor.numpy(force=True) for tensor in given])
        return list(map(torch.from_numpy, outputs))

    @torch.library.custom_op("benchmarks::nothing_back", mutates_args=(), schema="(Tensor[] given) -> Tensor[]")
    def backward(given: list[torch.Tensor]) -> list[torch.Tensor]:
        _seen([tensor.numpy(force=True) for tensor in given])
        return list(map(torch.from_numpy, gradients))

    forward.register_fake(lambda given: [torch.empty(part.shape, dtype=torch.float64) for part in outputs])
    backward.register_fake(lambda given: [torch.empty(part.shape, dtype=torch.float64) for part in gradients])
    forward.register_autograd(lambda ctx, cotangents: backward(cotangents))
    return lambda *given: forward(list(given))


def _tensorflow(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import tensorflow as tf

    @tf.custom_gradient
    def nothing(*given: tf.Tensor) -> Any:
        def back(*cotangents: tf.Tensor) -> Any:
            _seen([tensor.numpy() for tensor in cotangents])
            return list(map(tf.constant, gradients))

        _seen([tensor.numpy() for tensor in given])
        return list(map(tf.constant, outputs)), back

    return nothing


def _tensorflow_graph(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import tensorflow as tf

    def call(given: Sequence[tf.Tensor], ready: list[Array]) -> list[tf.Tensor]:
        found = tf.numpy_function(lambda *arrays: _seen(arrays, ready), given, [tf.float64] * len(ready))
        for tensor, part in zip(found, ready, strict=True):
            tensor.set_shape(part.shape)
        return list(found)

    @tf.custom_gradient
    def nothing(*given: tf.Tensor) -> Any:
        return call(given, outputs), lambda *cotangents: call(cotangents, gradients)

    return nothing


def _jax(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import jax

    @jax.custom_vjp
    def nothing(*given: jax.Array) -> Any:
        _seen(list(map(np.asarray, given)))
        return list(map(jax.numpy.asarray, outputs))

    def back(_: None, cotangents: list[jax.Array]) -> Any:
        _seen(list(map(np.asarray, cotangents)))
        return tuple(map(jax.numpy.asarray, gradients))

    nothing.defvjp(lambda *given: (nothing(*given), None), back)
    return nothing


def _jax_jit(outputs: list[Array], gradients: list[Array]) -> Callable[..., Any]:
    import jax

    def call(given: Sequence[jax.Array], ready: list[Array]) -> Any:
        avals = [jax.ShapeDtypeStruct(part.shape, part.dtype) for part in ready]
        return jax.pure_callback(lambda *arrays: _seen(list(map(np.asarray, arrays)), ready), avals, *given)

    @jax.custom_vjp
    def nothing(*given: jax.Array) -> Any:
        return call(given, outputs)

    nothing.defvjp(
        lambda *given: (call(given, outputs), None), lambda _, cotangents: tuple(call(cotangents, gradients))
    )
    return nothing


def _keras(function: Callable[..., Any]) -> Callable[..., Any]:
    import keras

    class Nothing(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return function(inputs)[0]

    layer = Nothing(dtype="float64")
    return lambda *given: [layer(given[0])]


def _seen(given: Sequence[Array], ready: list[Array] | None = None) -> list[Array] | None:
    """What a host's function gives that has looked at its arrays' shapes alone."""
    assert all(part.ndim for part in given)
    return ready
