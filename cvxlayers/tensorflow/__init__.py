"""Convex optimization layers for TensorFlow.

>>> import cvxpy as cp, tensorflow as tf
>>> from cvxlayers.tensorflow import CvxpyLayer
>>> x, c = cp.Variable(2), cp.Parameter(2)
>>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), parameters=[c], variables=[x])
>>> values = tf.Variable([1.0, -1.0])
>>> with tf.GradientTape() as tape:
...     (solution,) = layer(values)
...     total = tf.reduce_sum(solution)
>>> abs(tape.gradient(total, values).numpy().round(5)).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from cvxlayers.tensorflow.layer import CvxpyLayer

__all__ = ["CvxpyLayer"]
