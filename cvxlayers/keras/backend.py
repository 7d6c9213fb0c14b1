"""The layer of the framework that Keras runs on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from cvxlayers.errors import EngineError
from cvxlayers.layer.layer import Layer
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["adapter"]

Solve = Callable[..., tuple[Any, ...]]


def adapter(compiled: CompiledProblem, **options: Any) -> tuple[Layer, Solve]:
    """The NumPy layer, and the function of tensors that the backend's own layer makes of it.

    Raises
    ------
    EngineError
        There is no layer for this backend.
    """
    backend = keras.backend.backend()
    layer: Any
    if backend == "tensorflow":
        from cvxlayers.tensorflow import CvxpyLayer as TensorFlowLayer

        layer = TensorFlowLayer.from_compiled(compiled, **options)
    elif backend == "jax":
        from cvxlayers.jax import CvxpyLayer as JaxLayer

        layer = JaxLayer.from_compiled(compiled, **options)
    elif backend == "torch":
        from cvxlayers.torch import CvxpyLayer as TorchLayer

        layer = TorchLayer.from_compiled(compiled, **options)
    else:
        raise EngineError(
            f"backend: Keras runs on '{backend}', for which there is no layer; set the environment variable "
            "KERAS_BACKEND to tensorflow, jax or torch before Keras is imported."
        )
    return layer.core, layer.__call__
