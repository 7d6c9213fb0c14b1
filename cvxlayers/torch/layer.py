"""The PyTorch layer: conversion of tensors, and the rule that autograd calls. All else is ``cvxlayers.layer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from cvxlayers.compiled import CompiledProblem
from cvxlayers.errors import ParameterError
from cvxlayers.layer import Layer
from cvxlayers.report import Info

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["CvxpyLayer"]


class CvxpyLayer(torch.nn.Module):
    """A convex optimization problem as a PyTorch layer, differentiable in its parameters.

    Parameters
    ----------
    problem : cvxpy.Problem
        A DPP problem (``cvxlayers check FILE`` tells); with ``gp=True`` a log-log convex one.
    parameters : sequence of cvxpy.Parameter, optional
        All parameters of the problem, in the order in which tensors are handed in. Default: the problem's order.
    variables : sequence of cvxpy.Variable, optional
        What is returned, in this order: variables, or dual variables of constraints (``constraint.dual_variables[0]``).
        Default: all variables, in the problem's order.
    solver : str, optional
        "CLARABEL", "SCS", "ECOS" or "DIFFCP"; default: the most accurate installed one that takes the problem.
    gp : bool
        Whether the problem is a log-log convex program.
    verbose : bool
        Whether the solver prints its log.
    solver_args : mapping, optional
        Options for every call; those of cvxpylayers are understood, and the solver's own.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of batch elements without a verified solution; see ``cvxlayers.Layer``.
    check_parameters : bool
        Whether values are checked against their parameters' attributes (PSD, nonneg, ...).
    polish : bool, optional
        Whether Newton steps sharpen each solution; see ``cvxlayers.Layer``.
    smoothing : float, optional
        Gradients smoothed along the central path, useful at vertices and kinks; see ``cvxlayers.Layer``.

    Raises
    ------
    CompileError, EngineError, OptionError
        See ``cvxlayers.errors``.

    Examples
    --------
    >>> import cvxpy as cp, torch
    >>> x, A, b = cp.Variable(2), cp.Parameter((3, 2)), cp.Parameter(3)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm1(A @ x - b)), [x >= 0]), parameters=[A, b], variables=[x])
    >>> (solution,) = layer(torch.ones(8, 3, 2), torch.ones(3))
    >>> solution.shape
    torch.Size([8, 2])
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
        smoothing: float | None = None,
    ) -> None:
        super().__init__()
        self.core = Layer.from_problem(
            problem, parameters, variables, solver, gp, solver_args,
            verbose=verbose, on_failure=on_failure, check_parameters=check_parameters,
            polish=polish, smoothing=smoothing,
        )  # fmt: skip

    @classmethod
    def from_compiled(cls, compiled: CompiledProblem, **options: Any) -> CvxpyLayer:
        """A layer of an already compiled problem; the options are those of ``cvxlayers.Layer``."""
        layer = cls.__new__(cls)
        torch.nn.Module.__init__(layer)
        layer.core = Layer(compiled, **options)
        return layer

    @property
    def compiled(self) -> CompiledProblem:
        """The problem in standard form."""
        return self.core.compiled

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call: statuses, residuals, engines, seconds."""
        return self.core.info

    def forward(
        self, *parameters: torch.Tensor, solver_args: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Solve.

        Parameters
        ----------
        parameters : tensors
            One for each parameter, of its shape with any leading batch dimensions, which broadcast together. Any
            floating dtype
            on any device; the work is done in float64 on the CPU, and dtype and device come back.
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
        tensors = tuple(
            _as_tensor(value, name) for value, name in zip(parameters, self._names(len(parameters)), strict=True)
        )
        _one_device(tensors, self._names(len(tensors)))
        outputs: tuple[torch.Tensor, ...] = _Solve.apply(self.core, solver_args, *tensors)
        return outputs

    def extra_repr(self) -> str:
        """Shown by ``print(layer)``."""
        compiled = self.compiled
        given = ", ".join(f"{p.name}{list(p.shape)}" for p in compiled.parameters)
        returned = ", ".join(f"{v.name}{list(v.shape)}" for v in compiled.outputs)
        return f"{given or 'no parameters'} -> {returned}; solver={self.core.solver or 'default'}"

    def _names(self, count: int) -> list[str]:
        names = [spec.name for spec in self.compiled.parameters]
        return (names + [f"#{i}" for i in range(len(names), count)])[:count]


class _Solve(torch.autograd.Function):
    """Tensors in, tensors out; the derivative is the record's vector-Jacobian product."""

    @staticmethod
    def forward(
        ctx: Any, core: Layer, solver_args: Mapping[str, Any] | None, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        record = core.solve([_to_numpy(tensor) for tensor in tensors], solver_args)
        real, device = _result_dtype(tensors), tensors[0].device if tensors else torch.device("cpu")
        if any(ctx.needs_input_grad):
            ctx.record = record
        ctx.like = [(tensor.dtype, tensor.device) for tensor in tensors]
        ctx.set_materialize_grads(False)
        return tuple(
            torch.from_numpy(output).to(dtype=real.to_complex() if np.iscomplexobj(output) else real, device=device)
            for output in record.outputs
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        needed = ctx.needs_input_grad[2:]
        if not any(needed):
            return (None, None, *(None for _ in needed))
        gradients = ctx.record.vjp([None if cotangent is None else _to_numpy(cotangent) for cotangent in cotangents])
        tensors = (
            torch.from_numpy(gradient).to(dtype=dtype, device=device) if need else None
            for gradient, (dtype, device), need in zip(gradients, ctx.like, needed, strict=True)
        )
        return (None, None, *tensors)


def _as_tensor(value: Any, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ParameterError(
            f"parameter '{name}': expected a tensor, got {type(value).__name__}; convert it first."
        ) from exc


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A NumPy array in double precision (a view where nothing needs converting)."""
    wide = torch.complex128 if tensor.is_complex() else torch.float64
    return tensor.detach().resolve_conj().resolve_neg().to(dtype=wide, device="cpu").numpy()


def _result_dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    """The real floating dtype that the inputs promote to."""
    dtype = torch.get_default_dtype() if not tensors else tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.get_default_dtype()
    return dtype.to_real()


def _one_device(tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.device != tensors[0].device:
            raise ParameterError(
                f"parameter '{name}': it is on {tensor.device}, while '{names[0]}' is on {tensors[0].device}; move "
                "all parameters to "
                "one device."
            )
