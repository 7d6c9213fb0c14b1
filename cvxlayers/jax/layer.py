"""The JAX layer: a callable on arrays, eagerly and under every transformation. All else is ``cvxlayers.layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from cvxlayers.compiled import CompiledProblem
from cvxlayers.errors import ParameterError
from cvxlayers.jax.primitives import solve
from cvxlayers.layer import Layer
from cvxlayers.report import Info

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["CvxpyLayer"]


class CvxpyLayer:
    """A convex optimization problem as a function of JAX arrays, differentiable in its parameters.

    It works under ``jit``, ``grad``, ``vmap`` (one batched solve), ``jvp``, ``jacfwd``, ``jacrev`` and ``scan``; the
    solver runs on the host, in float64, whatever the arrays' dtype. Second derivatives are not defined and say so.

    Parameters
    ----------
    problem, parameters, variables, solver, gp, verbose, solver_args
        As for ``cvxlayers.torch.CvxpyLayer``.
    on_failure : "raise", "nan" or "zero_grad"
        See ``cvxlayers.Layer``. Under ``jit`` an error of the host comes out as JAX's own error around it.
    check_parameters : bool
        Whether values are checked against their parameters' attributes.
    polish : bool, optional
        Whether Newton steps sharpen each solution; see ``cvxlayers.Layer``.

    Examples
    --------
    >>> import cvxpy as cp, jax, jax.numpy as jnp
    >>> x, c = cp.Variable(3), cp.Parameter(3)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    >>> layer = CvxpyLayer(problem, [c], [x])
    >>> jax.vmap(lambda row: layer(row)[0])(jnp.ones((4, 3))).shape
    (4, 3)
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
        """The report of this thread's last call; under ``jit`` the host may run it in a thread of its own."""
        return self.core.info

    def __call__(self, *parameters: Any, solver_args: Mapping[str, Any] | None = None) -> tuple[jax.Array, ...]:
        """Solve: arrays of shape (..., shape), one for each parameter, give arrays of shape (..., shape).

        The leading dimensions broadcast together, as in NumPy.

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
        arrays = [jnp.asarray(value) for value in parameters]
        return solve(self.core, arrays, solver_args or {})
