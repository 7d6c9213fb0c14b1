"""The TensorFlow layer: conversion of tensors. The gradient is in ``rules``; all else is ``cvxlayers.layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from cvxlayers.compiled import CompiledProblem
from cvxlayers.errors import ParameterError
from cvxlayers.layer import Layer
from cvxlayers.report import Info
from cvxlayers.tensorflow.rules import solve

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["CvxpyLayer"]


class CvxpyLayer:
    """A convex optimization problem as a function of tensors, differentiable in its parameters.

    It works eagerly and inside ``tf.function``, where the solver runs on the host (so not with ``jit_compile=True``,
    and not in a SavedModel). Second derivatives are not defined and say so.

    Parameters
    ----------
    problem, parameters, variables, solver, gp, verbose, solver_args
        As for ``cvxlayers.torch.CvxpyLayer``.
    on_failure : "raise", "nan" or "zero_grad"
        See ``cvxlayers.Layer``. Inside ``tf.function`` an error of the host comes out as TensorFlow's own error, with
        its text.
    check_parameters : bool
        Whether values are checked against their parameters' attributes.
    polish : bool, optional
        Whether Newton steps sharpen each solution; see ``cvxlayers.Layer``.

    Examples
    --------
    >>> import cvxpy as cp, tensorflow as tf
    >>> x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [x >= 0]), parameters=[A, b], variables=[x])
    >>> (solution,) = layer(tf.ones((8, 3, 2)), tf.ones(3))
    >>> solution.shape
    TensorShape([8, 2])
    """

    def __init__(
        self,
        problem: Problem,
        parameters: Sequence[Parameter] | None = None,
        variables: Sequence[Variable] | None = None,
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        solver_args: Mapping[str, Any] | None = None,
        *,
        on_failure: str = "raise",
        check_parameters: bool = True,
        polish: bool | None = None,
    ) -> None:
        self.core = Layer.from_problem(
            problem, parameters, variables, solver, gp, solver_args,
            verbose=verbose, on_failure=on_failure, check_parameters=check_parameters, polish=polish,
        )  # fmt: skip

    @classmethod
    def from_compiled(cls, compiled: CompiledProblem, **options: Any) -> CvxpyLayer:
        """A layer of an already compiled problem; the options are those of ``cvxlayers.Layer``."""
        layer = cls.__new__(cls)
        layer.core = Layer(compiled, **options)
        return layer

    @property
    def compiled(self) -> CompiledProblem:
        """The problem in standard form."""
        return self.core.compiled

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call; inside ``tf.function`` the host may run it in a thread of its own."""
        return self.core.info

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
        specs = self.compiled.parameters
        if len(parameters) != len(specs):
            names = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
            raise ParameterError(
                f"parameters: got {len(parameters)} values, expected {len(specs)}, one for each of {names}, in this "
                "order."
            )
        tensors = [_as_tensor(value, spec.name) for value, spec in zip(parameters, specs, strict=True)]
        real = _result_dtype([tensor.dtype for tensor in tensors])
        wide = [_widened(tensor, spec.complex) for tensor, spec in zip(tensors, specs, strict=True)]
        narrow = {tf.float64: real, tf.complex128: tf.complex128 if real == tf.float64 else tf.complex64}
        return tuple(tf.cast(output, narrow[output.dtype]) for output in solve(self.core, wide, solver_args))


def _as_tensor(value: Any, name: str) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as exc:
        raise ParameterError(
            f"parameter '{name}': expected a tensor, got {type(value).__name__}; convert it first."
        ) from exc
    if not (tensor.dtype.is_floating or tensor.dtype.is_complex or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ParameterError(f"parameter '{name}': expected a tensor of numbers, got one of {tensor.dtype.name}.")
    return tensor


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
