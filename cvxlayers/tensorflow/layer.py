"""The TensorFlow layer: conversion of tensors. The gradient is in ``rules``; all else is ``cvxlayers.layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from cvxlayers.adapters.base import Adapter
from cvxlayers.errors import ParameterError
from cvxlayers.tensorflow.rules import solve

__all__ = ["CvxpyLayer"]


class CvxpyLayer(Adapter):
    """A convex optimization problem as a function of tensors, differentiable in its parameters.

    It works eagerly and inside ``tf.function``, where the solver runs on the host (so not with ``jit_compile=True``,
    and not in a SavedModel); an error of the host comes out as TensorFlow's own error there, with its text. Second
    derivatives are not defined and say so. The constructor takes the same arguments for every framework.

    Examples
    --------
    >>> import cvxpy as cp, tensorflow as tf
    >>> x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [x >= 0]), parameters=[A, b], variables=[x])
    >>> (solution,) = layer(tf.ones((8, 3, 2)), tf.ones(3))
    >>> solution.shape
    TensorShape([8, 2])
    """

    @tf.autograph.experimental.do_not_convert
    def __call__(self, *parameters: Any, solver_args: Mapping[str, Any] | None = None) -> tuple[tf.Tensor, ...]:
        """Solve: tensors or variables (..., shape), one for each parameter, give tensors (..., shape).

        The leading dimensions broadcast together, as in NumPy; the work is done in float64, and the dtype that the
        parameters promote to comes back.

        Raises
        ------
        ParameterError, SolveError
            See ``cvxlayers.Layer.solve``.
        """
        tensors, specs = self._convert(parameters, tf.convert_to_tensor), self.compiled.parameters
        for tensor, spec in zip(tensors, specs, strict=True):
            _check_numbers(tensor, spec.name)
        real = _result_dtype([tensor.dtype for tensor in tensors])
        wide = [_widened(tensor, spec.complex) for tensor, spec in zip(tensors, specs, strict=True)]
        narrow = {tf.float64: real, tf.complex128: tf.complex128 if real == tf.float64 else tf.complex64}
        return tuple(tf.cast(output, narrow[output.dtype]) for output in solve(self.core, wide, solver_args))


def _check_numbers(tensor: tf.Tensor, name: str) -> None:
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ParameterError(f"parameter '{name}': expected a tensor of numbers, got one of {tensor.dtype.name}.")


def _widened(tensor: tf.Tensor, imaginary: bool) -> tf.Tensor:
    """In double precision, as the parameter wants it; a complex tensor stays one, and the core says what it thinks."""
    if tensor.dtype.is_complex:
        return tf.cast(tensor, tf.complex128)
    double = tf.cast(tensor, tf.float64)
    return tf.complex(double, tf.zeros_like(double)) if imaginary else double


def _result_dtype(dtypes: Sequence[tf.DType]) -> tf.DType:
    """The real floating dtype that the inputs promote to; integers count as float32, TensorFlow's default."""
    found = {dtype.real_dtype for dtype in dtypes if dtype.is_floating or dtype.is_complex}
    if not found or found == {tf.float16, tf.bfloat16}:
        return tf.float32
    return max(found, key=lambda dtype: dtype.size)
