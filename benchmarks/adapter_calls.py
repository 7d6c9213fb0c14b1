"""One call of the layer, forward and backward, in the manner of each framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.closed import Array
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["WAYS", "Call", "calling", "environment", "make"]

WAYS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "torch": ("torch",), "torch compiled": ("torch",), "tensorflow": ("tensorflow",),
    "tensorflow graph": ("tensorflow",), "jax": ("jax",), "jax jit": ("jax",),
    "keras torch": ("keras", "torch"), "keras tensorflow": ("keras", "tensorflow"), "keras jax": ("keras", "jax"),
})  # fmt: skip
"""The ways, and the packages that each needs."""


@dataclass(frozen=True)
class Call:
    """``timed`` gives the seconds of the forward and of the backward pass, ``answer`` the outputs and gradients."""

    timed: Callable[[], tuple[float, float]]
    answer: Callable[[], tuple[list[Array], list[Array]]]


def environment(way: str, threads: int) -> dict[str, str]:
    """What a process for this way is to find in its environment.

    The C library (glibc) is told to keep the memory that it has: at its defaults it returns freed memory to the system
    above a threshold, and whoever happens to cross that, by whatever little, pays for having the pages back.
    """
    backend = way.split()[1] if way.startswith("keras") else "torch"
    return {
        "KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": str(threads), "MALLOC_TRIM_THRESHOLD_": "1000000000",
        "MALLOC_MMAP_THRESHOLD_": "1000000000",
    }  # fmt: skip


def make(way: str, compiled: CompiledProblem, engine: str, data: Sequence[Array], weights: Sequence[Array]) -> Call:
    """The layer of one framework on one engine, at these parameters and cotangents."""
    return calling(way, _layer(way, compiled, engine), data, weights)


def calling(way: str, function: Callable[..., Any], data: Sequence[Array], weights: Sequence[Array]) -> Call:
    """A function of one framework's tensors, called in this way at these parameters and cotangents."""
    makers = {"torch": _torch, "tensorflow": _tensorflow, "jax": _jax}
    framework = way.split()[way.startswith("keras")]
    return makers[framework](function, data, weights, way.endswith(("compiled", "graph", "jit")))


def _layer(way: str, compiled: CompiledProblem, engine: str) -> Callable[..., Any]:
    framework = way.split()[0]
    if framework == "keras":
        from cvxlayers.keras import CvxpyLayer as KerasLayer

        layer = KerasLayer(compiled, solver=engine, dtype="float64")
        return lambda *given: [layer(given[0])]
    if framework == "torch":
        from cvxlayers.torch import CvxpyLayer as TorchLayer

        return TorchLayer.from_compiled(compiled, solver=engine)
    if framework == "tensorflow":
        from cvxlayers.tensorflow import CvxpyLayer as TensorFlowLayer

        return TensorFlowLayer.from_compiled(compiled, solver=engine)
    from cvxlayers.jax import CvxpyLayer as JaxLayer

    return JaxLayer.from_compiled(compiled, solver=engine)


def _torch(function: Any, data: Sequence[Array], weights: Sequence[Array], compiled: bool) -> Call:
    import torch

    leaves = [torch.tensor(part, requires_grad=True) for part in data]
    cotangents = [torch.tensor(part) for part in weights]
    function = torch.compile(function, fullgraph=True) if compiled else function

    def run() -> tuple[Any, Any, float, float]:
        start = perf_counter()
        outputs = function(*leaves)
        middle = perf_counter()
        gradients = torch.autograd.grad(outputs, leaves, cotangents)
        return outputs, gradients, middle - start, perf_counter() - middle

    return _call(run, lambda tensor: tensor.detach().numpy())


def _tensorflow(function: Any, data: Sequence[Array], weights: Sequence[Array], graph: bool) -> Call:
    import tensorflow as tf

    given, cotangents = [tf.constant(part) for part in data], [tf.constant(part) for part in weights]

    def run() -> tuple[Any, Any, float, float]:
        start = perf_counter()
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = function(*given)
        middle = perf_counter()
        gradients = tape.gradient(outputs, given, cotangents)
        return outputs, gradients, middle - start, perf_counter() - middle

    def in_graph() -> tuple[Any, Any, float, float]:
        start = perf_counter()
        outputs, gradients = whole()
        return outputs, gradients, perf_counter() - start, 0.0

    @tf.function
    def whole() -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            tape.watch(given)
            outputs = function(*given)
        return outputs, tape.gradient(outputs, given, cotangents)

    return _call(in_graph if graph else run, lambda tensor: tensor.numpy())


def _jax(function: Any, data: Sequence[Array], weights: Sequence[Array], jit: bool) -> Call:
    import jax

    given, cotangents = [jax.numpy.asarray(part) for part in data], [jax.numpy.asarray(part) for part in weights]

    def run() -> tuple[Any, Any, float, float]:
        start = perf_counter()
        outputs, pull = jax.vjp(lambda *values: list(function(*values)), *given)
        jax.block_until_ready(outputs)
        middle = perf_counter()
        gradients = jax.block_until_ready(pull(cotangents))
        return outputs, gradients, middle - start, perf_counter() - middle

    @jax.jit
    def whole(given: Any, cotangents: Any) -> tuple[Any, Any]:
        outputs, pull = jax.vjp(lambda *values: list(function(*values)), *given)
        return outputs, pull(cotangents)

    def compiled() -> tuple[Any, Any, float, float]:
        start = perf_counter()
        outputs, gradients = jax.block_until_ready(whole(given, cotangents))
        return outputs, gradients, perf_counter() - start, 0.0

    return _call(compiled if jit else run, np.asarray)


def _call(run: Callable[[], tuple[Any, Any, float, float]], convert: Callable[[Any], Array]) -> Call:
    def answer() -> tuple[list[Array], list[Array]]:
        outputs, gradients, _, _ = run()
        return [convert(output) for output in outputs], [convert(gradient) for gradient in gradients]

    return Call(lambda: run()[2:], answer)
