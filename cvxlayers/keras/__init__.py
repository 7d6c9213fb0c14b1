"""Convex optimization layers for Keras 3, on its TensorFlow, JAX and PyTorch backends.

>>> import cvxpy as cp, keras
>>> from cvxlayers.keras import CvxpyLayer
>>> x, c = cp.Variable(4), cp.Parameter(4, name="c")
>>> projection = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]))
>>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), projection])
>>> model.output_shape
(None, 4)
"""

from __future__ import annotations

from cvxlayers.keras.layer import CvxpyLayer

__all__ = ["CvxpyLayer"]
