"""The JAX layer: a callable on arrays, eagerly and under every transformation. All else is ``cvxlayers.layer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cvxlayers.adapters.base import Adapter
from cvxlayers.jax.primitives import solve

__all__ = ["CvxpyLayer"]


class CvxpyLayer(Adapter):
    """A convex optimization problem as a function of JAX arrays, differentiable in its parameters.

    It works under ``jit``, ``grad``, ``vmap`` (one batched solve), ``jvp``, ``jacfwd``, ``jacrev`` and ``scan``; the
    solver runs on the host, in float64, whatever the arrays' dtype; under ``jit`` an error of the host comes out as
    JAX's own error around it. Second derivatives are not defined and say so. The constructor takes the same
    arguments for every framework.

    Examples
    --------
    >>> import cvxpy as cp, jax, jax.numpy as jnp
    >>> x, c = cp.Variable(3), cp.Parameter(3)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    >>> layer = CvxpyLayer(problem, [c], [x])
    >>> jax.vmap(lambda row: layer(row)[0])(jnp.ones((4, 3))).shape
    (4, 3)
    """

    def __call__(self, *parameters: Any, solver_args: Mapping[str, Any] | None = None) -> tuple[jax.Array, ...]:
        """Solve: arrays of shape (..., shape), one for each parameter, give arrays of shape (..., shape).

        The leading dimensions broadcast together, as in NumPy.

        Raises
        ------
        ParameterError, SolveError
            See ``cvxlayers.Layer.solve``.
        """
        arrays = self._convert(parameters, _array)
        self._refuse_enlarged(arrays)
        return solve(self.core, arrays, solver_args or {})


def _array(value: Any) -> jax.Array:
    """Arrays and tracers as they are: ``jnp.asarray`` of a tracer is an operation, which every transform then meets."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value)
