"""The module: batches in, verified solutions out, with the derivative of the solution map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.declarative.batching import gather, unbatch
from cvxlayers.nodes.declarative.failures import settle
from cvxlayers.nodes.declarative.node import DeclarativeNode
from cvxlayers.nodes.declarative.report import NodeInfo
from cvxlayers.nodes.declarative.rules import Attach
from cvxlayers.nodes.declarative.search import Search, SearchCall
from cvxlayers.nodes.declarative.system import SystemSettings
from cvxlayers.nodes.rules.call_result import Reporting

__all__ = ["DeclarativeLayer"]


class DeclarativeLayer(Reporting):
    """A declarative node as a PyTorch module, differentiable in its inputs to any order and under all transformations.

    Parameters
    ----------
    node : DeclarativeNode
        The problem.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements whose point is not verified to be stationary and feasible. "raise": SolveError, which
        lists them. "nan": their outputs are NaN, and so are their gradients unless the incoming ones are zero.
        "zero_grad": the best point found (zeros if there is none) with zero gradient.
    tolerance : float, optional
        The largest relative optimality residual of a verified solution. Default: 1e-6, or 1e-3 where ``dtype`` is
        float32.
    regularization : float
        Added to the diagonal of the Hessian of the Lagrangian when derivatives are computed (never when solving). It
        makes nearly singular systems harmless, and gradients smaller than they are.
    polish : bool
        Whether Newton steps sharpen what the node's own ``solve`` returns.
    max_iterations : int
        Newton steps of the default solver in each of its rounds.
    chunk : int, optional
        How many elements have their matrices built at once. Default: as many as fit into a fixed amount of memory.
    matrix_free : bool, optional
        Whether linear systems are solved by conjugate gradients on Hessian-vector products, without building matrices.
        Default: above 2000 unknowns and constraints.
    dtype : torch.dtype, optional
        The precision of the work: inputs are converted to it and results back to theirs. None: that of the inputs.

    Raises
    ------
    OptionError
        An option that has a value it cannot take.

    Notes
    -----
    With ``info``, thread by thread, the layer reports on its last call.

    Examples
    --------
    >>> import torch
    >>> from cvxlayers.nodes import DeclarativeNode
    >>> class Softmin(DeclarativeNode):  # the entropic choice among costs: y = softmax(-x)
    ...     def objective(self, x, y):
    ...         return (x * y + y * y.log()).sum(-1)
    ...     def equality_constraints(self, x, y):
    ...         return y.sum(-1, keepdim=True) - 1
    ...     def initial(self, x):
    ...         return torch.full_like(x, 1 / x.shape[1])
    >>> layer, x = DeclarativeLayer(Softmin()), torch.tensor([[1.0, 2.0, 0.5]])
    >>> bool(torch.allclose(layer(x), torch.softmax(-x, 1)))
    True
    >>> layer.info.statuses.tolist()
    ['optimal']
    """

    def __init__(
        self,
        node: DeclarativeNode,
        on_failure: str = "raise",
        tolerance: float | None = None,
        regularization: float = 0.0,
        polish: bool = True,
        max_iterations: int = 200,
        chunk: int | None = None,
        matrix_free: bool | None = None,
        dtype: torch.dtype | None = torch.float64,
    ) -> None:
        super().__init__()
        if not isinstance(node, DeclarativeNode):
            raise OptionError(f"node: expected an instance of DeclarativeNode, got {type(node).__name__}.")
        check_policy(on_failure)
        if chunk is not None and chunk < 1:
            raise OptionError(f"chunk: expected a positive number of elements, got {chunk}.")
        if regularization < 0:
            raise OptionError(f"regularization: expected a number that is not negative, got {regularization}.")
        if max_iterations < 1:
            raise OptionError(f"max_iterations: expected a positive number of steps, got {max_iterations}.")
        if tolerance is not None and not tolerance > 0:
            raise OptionError(f"tolerance: expected a positive number, got {tolerance}.")
        if dtype not in (None, torch.float32, torch.float64):
            raise OptionError(f"dtype: expected torch.float64, torch.float32 or None, got {dtype}.")
        self.node = node
        self.on_failure = on_failure
        self.dtype = dtype
        self._tolerance = tolerance
        self._options: dict[str, Any] = {
            "regularization": regularization, "polish": polish, "max_iterations": max_iterations, "chunk": chunk,
            "matrix_free": matrix_free,
        }  # fmt: skip

    @property
    def info(self) -> NodeInfo | None:
        """The report of this thread's last call; None before the first."""
        return getattr(self._local, "info", None)

    def forward(self, *xs: Any) -> Tensor:
        """Solve.

        Parameters
        ----------
        xs : tensors
            The node's inputs, each (B, ...). Shared inputs have batch 1 or no dimension (or, where the node declares
            ``dims``, no batch dimension); they get the sum of the gradients of all elements.

        Returns
        -------
        tensor
            The solutions, (B, *shape), in the floating dtype that the inputs promote to.

        Raises
        ------
        ParameterError
            Inputs whose batches do not fit together, entries that are not finite (with ``on_failure="raise"``), or
            functions of the node that return the wrong shapes.
        SolveError
            With ``on_failure="raise"``, when some element has no verified solution.
        """
        inputs = _as_tensors(xs)
        real = _result_dtype(inputs)
        work = self.dtype or (real if real == torch.float64 else torch.float32)
        batch, rows = gather(inputs, self.node.dims, work)
        default = 1e-6 if work == torch.float64 else 1e-3
        settings = SystemSettings(tolerance=self._tolerance or default, **self._options)
        call = SearchCall(self.node, settings, self.on_failure)
        try:
            z, active, ok = Search.apply(call, *(x.detach() for x in rows))
        finally:
            self._local.info = call.info
        assert call.system is not None
        form = call.system.form
        if call.complete:
            y = Attach.apply(call.system, z, active, *rows)[:, : form.n]
        else:
            y = settle(call, z, active, ok, rows)
        return unbatch(y.reshape((y.shape[0], *form.shape)).to(real), batch)

    def extra_repr(self) -> str:
        """Shown by ``print(layer)``."""
        return f"{type(self.node).__name__}(), on_failure={self.on_failure!r}"


def _as_tensors(xs: Sequence[Any]) -> list[Tensor]:
    if not xs:
        raise ParameterError(
            "a declarative layer needs at least one input, whose batch says how many problems to solve."
        )
    tensors = []
    for i, x in enumerate(xs):
        try:
            tensors.append(torch.as_tensor(x))
        except (TypeError, ValueError, RuntimeError) as exc:
            raise ParameterError(f"input {i}: expected a tensor, got {type(x).__name__}; convert it first.") from exc
        if tensors[-1].is_complex():
            raise ParameterError(f"input {i}: it is complex; hand in its real and imaginary parts.")
        if tensors[-1].device != tensors[0].device:
            raise ParameterError(
                f"input {i}: it is on {tensors[-1].device}, while input 0 is on {tensors[0].device}; move all "
                "inputs to one device."
            )
    return tensors


def _result_dtype(xs: Sequence[Tensor]) -> torch.dtype:
    """The floating dtype that the inputs promote to."""
    dtypes = [x.dtype for x in xs if x.is_floating_point()]
    result = dtypes[0] if dtypes else torch.get_default_dtype()
    for dtype in dtypes[1:]:
        result = torch.promote_types(result, dtype)
    return result
