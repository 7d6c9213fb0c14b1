"""Convex optimization layers for JAX.

>>> import cvxpy as cp, jax, jax.numpy as jnp
>>> from cvxlayers.jax import CvxpyLayer
>>> x, c = cp.Variable(2), cp.Parameter(2)
>>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]), parameters=[c], variables=[x])
>>> gradient = jax.jit(jax.grad(lambda values: layer(values)[0].sum()))(jnp.array([1.0, -1.0]))
>>> abs(gradient.round(5)).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from cvxlayers.jax.layer import CvxpyLayer

__all__ = ["CvxpyLayer"]
