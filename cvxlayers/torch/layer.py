"""The PyTorch layer. What autograd, vmap and torch.compile know of it is in ``operators``; the work is in the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from cvxlayers.adapters.base import Adapter
from cvxlayers.errors import ParameterError
from cvxlayers.layer.layer import Layer
from cvxlayers.program.summary import as_text
from cvxlayers.torch import handles
from cvxlayers.torch.eager import solve
from cvxlayers.torch.operators import encode

__all__ = ["CvxpyLayer"]


class CvxpyLayer(Adapter, torch.nn.Module):
    """A convex optimization problem as a PyTorch layer, differentiable in its parameters.

    It works with autograd, backward and forward; with ``torch.func`` (``vmap`` is one batched solve, ``jvp``,
    ``jacrev``, ``jacfwd``, ``hessian``); and in ``torch.compile(fullgraph=True)``. It is differentiable twice where the
    standard form has zero, nonnegative and second-order cones only, and says so elsewhere. It can be copied, pickled,
    forked and used by several threads at once. The constructor takes the same arguments for every framework.

    Examples
    --------
    >>> import cvxpy as cp, torch
    >>> x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [x >= 0]), parameters=[A, b], variables=[x])
    >>> (solution,) = layer(torch.ones(8, 3, 2), torch.ones(3))
    >>> solution.shape
    torch.Size([8, 2])
    >>> torch.vmap(lambda A: layer(A, torch.ones(3))[0])(torch.ones(8, 3, 2)).shape
    torch.Size([8, 2])
    """

    def _adopt(self, core: Layer) -> None:
        super()._adopt(core)
        self._handle = handles.enter(core)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._handle = handles.enter(self.core)

    def forward(
        self, *parameters: torch.Tensor, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Solve.

        Parameters
        ----------
        parameters : tensors
            One for each parameter, of its shape with any leading batch dimensions, which broadcast together. Any
            floating dtype on any device; the work is done in float64 on the CPU, and dtype and device come back.
        solver_args : mapping, optional
            Options for this call.

        Returns
        -------
        tuple of tensors
            One for each variable, of its shape with the batch dimensions in front.

        Raises
        ------
        ParameterError, SolveError
            See ``cvxlayers.Layer.solve``.
        """
        tensors = self._convert(parameters, _tensor)
        for number, tensor in enumerate(tensors[1:], start=1):
            if tensor.device != tensors[0].device:
                first, other = self.compiled.parameters[0], self.compiled.parameters[number]
                raise ParameterError(
                    f"parameter '{other.name}': it is on {tensor.device}, while '{first.name}' is on "
                    f"{tensors[0].device}; move all parameters to one device."
                )
        self._refuse_enlarged(tensors)
        return solve(tensors, self._handle, encode(solver_args) if solver_args else "")

    def extra_repr(self) -> str:
        """Shown by ``print(layer)``."""
        return as_text(self.summary_rows())

    __repr__ = torch.nn.Module.__repr__  # which indents what stands inside of other modules


def _tensor(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)
