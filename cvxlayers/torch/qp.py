"""Batched quadratic programs given by their matrices, as PyTorch layers. All else is ``cvxlayers.layer.qp``.

minimize  1/2 z'Qz + p'z    subject to  G z <= h,  A z = b
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.layer.qp import ARGUMENTS, CACHED, Form, Matrix, compile_qp, qp_rows, read_form, read_patterns
from cvxlayers.layer.report import Info
from cvxlayers.program.summary import Rows, Summarized, as_text
from cvxlayers.torch.layer import CvxpyLayer

__all__ = ["QPFunction", "QPLayer", "QPSolution", "solve_qp"]

Arguments = tuple[Any, Any, Any, Any, Any, Any]


class QPSolution(NamedTuple):
    """The solution with its dual variables: those of the Lagrangian, Qx + p + G'lambda + A'nu = 0 and lambda >= 0.

    Attributes
    ----------
    x : (..., n)
    inequality_duals : (..., rows of G) or None
        lambda; None where there is no G.
    equality_duals : (..., rows of A) or None
        nu; None where there is no A.
    """

    x: torch.Tensor
    inequality_duals: torch.Tensor | None
    equality_duals: torch.Tensor | None


class QPLayer(Summarized, torch.nn.Module):
    """Batches of quadratic programs, differentiable in all six arguments.

        minimize  1/2 z'Qz + p'z    subject to  G z <= h,  A z = b          (z: n)

    Parameters
    ----------
    patterns : mapping of str to (rows, columns) tensor or array, optional
        For "Q", "G" or "A" where it may be nonzero: anything that is not zero counts. Values elsewhere are an error.
        What is sparse is solved faster so. Sparse tensors bring their pattern along and need none here.
    duals : bool
        Whether a ``QPSolution`` comes back, with the dual variables, instead of x alone.
    solver : str, optional
        Default: IPM where Numba is installed and the problem fits it, otherwise the default of ``CvxpyLayer``.
    options
        ``solver_args``, ``verbose``, ``on_failure``, ``check_parameters``, ``polish``, ``smoothing`` and
        ``broadcast``, as for ``CvxpyLayer``. What ``check_parameters`` means here: (Q + Q')/2 has to be positive
        semidefinite.

    Raises
    ------
    OptionError, ParameterError
        An unknown option or pattern; a pattern of the wrong shape.

    Notes
    -----
    Nothing is compiled in a call but the first one with new sizes, arguments or patterns. The derivative is exact; see
    ``cvxlayers.derivative.exact``. With dx the solution of the adjoint system (Amos and Kolter 2017, equation 8), the
    gradient of Q is 1/2 (dx z' + z dx'): only (Q + Q')/2 matters, and the gradient is symmetric as well.

    Examples
    --------
    >>> layer = QPLayer()
    >>> Q, p = torch.eye(2), torch.tensor([[-1.0, 0.5], [2.0, -3.0]], requires_grad=True)
    >>> x = layer(Q, p, G=-torch.eye(2), h=torch.zeros(2))  # x >= 0
    >>> x.detach().round(decimals=4).abs()
    tensor([[1., 0.],
            [0., 3.]])
    >>> x.sum().backward()
    >>> p.grad.round(decimals=4) + 0.0
    tensor([[-1.,  0.],
            [ 0., -1.]])
    """

    def __init__(
        self, patterns: Mapping[str, Any] | None = None, *, duals: bool = False, solver: str | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patterns = read_patterns({name: _mask(pattern) for name, pattern in (patterns or {}).items()})
        self.duals = duals
        self.solver = solver
        self.options = options
        self._begin()

    def _begin(self) -> None:
        self._local = threading.local()
        self._layer = lru_cache(CACHED)(self._make)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_local", "_layer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._begin()

    def _make(self, form: Form) -> CvxpyLayer:
        compiled = compile_qp(form)
        return CvxpyLayer.from_compiled(compiled, solver=self.solver, **self.options)

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call; None before the first."""
        layer = getattr(self._local, "layer", None)
        return layer and layer.info

    def forward(
        self, Q: Any = None, p: Any = None, G: Any = None, h: Any = None, A: Any = None, b: Any = None,
        solver_args: Mapping[str, Any] | None = None,
    ) -> Any:  # fmt: skip
        """Solve.

        Parameters
        ----------
        Q : (..., n, n)
            None or zeros: a linear program. Its symmetric part counts, and has to be positive semidefinite.
        p : (..., n)
        G, h : (..., rows, n), (..., rows)
        A, b : (..., rows, n), (..., rows)
            Tensors, any floating dtype on any device; their batch dimensions broadcast together. What has none is
            shared, and its gradient is the sum over the batch. None: absent. Q, G and A may be sparse tensors.
        solver_args : mapping, optional
            Options for this call.

        Returns
        -------
        (..., n) tensor, or QPSolution with ``duals``

        Raises
        ------
        ParameterError
            Shapes that do not fit together, values that are not finite, a Q that is not positive semidefinite.
        SolveError
            With ``on_failure="raise"``, when some element is infeasible, unbounded or without a verified solution.
        """
        given = {name: value for name, value in zip(ARGUMENTS, (Q, p, G, h, A, b), strict=True) if value is not None}
        tensors, known = {}, dict(self.patterns)
        for name, value in given.items():
            tensors[name] = _as_tensor(value, name)
            if tensors[name].layout != torch.strided:
                tensors[name], known[name] = _read_sparse(name, tensors[name])
        form = read_form({name: tuple(tensor.shape) for name, tensor in tensors.items()}, known, self.duals)
        layer = self._layer(form)
        self._local.layer = layer
        outputs = layer(*(tensors[name] for name in form.present), solver_args=solver_args)
        if not self.duals:
            return outputs[0]
        multipliers = iter(outputs[1:])
        return QPSolution(outputs[0], next(multipliers) if form.G else None, next(multipliers) if form.A else None)

    def extra_repr(self) -> str:
        """Shown by ``print(layer)``."""
        return as_text(self.summary_rows())

    def summary_rows(self) -> Rows:
        return qp_rows(self.patterns, self.duals, self.solver, self.info)

    __repr__ = torch.nn.Module.__repr__


def solve_qp(
    Q: Any = None, p: Any = None, G: Any = None, h: Any = None, A: Any = None, b: Any = None, *,
    duals: bool = False, solver: str | None = None, solver_args: Mapping[str, Any] | None = None,
    on_failure: str = "raise", check_parameters: bool = True, smoothing: float | None = None, broadcast: bool = False,
) -> Any:  # fmt: skip
    """Solve batches of quadratic programs; ``QPLayer`` as a function.

        minimize  1/2 z'Qz + p'z    subject to  G z <= h,  A z = b

    The arguments are those of ``QPLayer`` and of its ``forward``. The layers are kept, as many as there are sizes and
    options in use (within bounds), so that a loop pays for the compilation once; ``QPLayer`` also gives the report.

    Examples
    --------
    >>> x, inequality, equality = solve_qp(torch.eye(2), A=torch.ones(1, 2), b=torch.tensor([[2.0], [4.0]]), duals=True)
    >>> x.round(decimals=4), inequality, equality.round(decimals=4)
    (tensor([[1., 1.],
            [2., 2.]]), None, tensor([[-1.],
            [-2.]]))
    """
    layer = _kept_layer(duals, solver, on_failure, check_parameters, smoothing, broadcast)
    return layer(Q, p, G, h, A, b, solver_args=solver_args)


@lru_cache(CACHED)
def _kept_layer(
    duals: bool, solver: str | None, on_failure: str, check_parameters: bool, smoothing: float | None, broadcast: bool
) -> QPLayer:
    return QPLayer(
        duals=duals, solver=solver, on_failure=on_failure, check_parameters=check_parameters, smoothing=smoothing,
        broadcast=broadcast,
    )  # fmt: skip


def QPFunction(
    eps: float = 1e-12, verbose: int = 0, notImprovedLim: int = 3, maxIter: int = 20, solver: Any = None,
    check_Q_spd: bool = True,
) -> Callable[..., torch.Tensor]:  # fmt: skip
    """The function of that name in qpth (Amos and Kolter 2017), for code that was written for it.

    Parameters
    ----------
    eps, notImprovedLim, maxIter
        Accepted, and without effect: the solver runs until the answer is verified, and raises where it cannot be.
    verbose : int
        Whether the solver prints its log: above zero.
    solver
        The name of one of ours ("IPM", "CLARABEL", ...); one of qpth's stands for the default.
    check_Q_spd : bool
        Whether Q is checked: here it has to be positive semidefinite only.

    Returns
    -------
    callable
        (Q, p, G, h, A, b) -> (B, n), each with or without one batch dimension. None, and as in qpth any tensor
        without elements (``torch.empty(0)``, ``torch.empty(0, n)``), stand for absent constraints. Without any batch
        dimension, B is 1.

    Notes
    -----
    What differs from qpth: the gradient of a shared argument is the sum over the batch, not the mean; infeasible and
    unbounded problems raise ``SolveError`` instead of giving a point; Q may be singular or zero; equalities may be
    redundant, and inequalities may be absent.

    Examples
    --------
    >>> none = torch.empty(0)
    >>> x = QPFunction(verbose=-1)(torch.eye(2), torch.tensor([-1.0, 2.0]), -torch.eye(2), torch.zeros(2), none, none)
    >>> x.round(decimals=4).abs()
    tensor([[1., 0.]])
    """
    for name, value in (("eps", eps), ("notImprovedLim", notImprovedLim), ("maxIter", maxIter)):
        if not value > 0:
            raise OptionError(f"{name}: expected a positive number, got {value!r}.")
    layer = _kept_layer(False, solver if isinstance(solver, str) else None, "raise", bool(check_Q_spd), None, False)
    solver_args = {"verbose": True} if verbose > 0 else None

    def solve(*arguments: Any) -> torch.Tensor:
        if len(arguments) != len(ARGUMENTS):
            raise ParameterError(
                f"arguments: got {len(arguments)}, expected the six of Q, p, G, h, A and b; pass an empty tensor for "
                "one that is absent."
            )
        present, batch = _present(arguments)
        x: torch.Tensor = layer(*present, solver_args=solver_args)
        x = x if x.ndim > 1 else x[None]
        return x if batch is None or x.shape[0] != 1 else x.expand(batch, -1)

    return solve


def _present(arguments: Sequence[Any]) -> tuple[list[Any], int | None]:
    """The arguments with None for what is absent, and the batch size that only absent constraints have, if any.

    Constraints without rows are absent, and so is whatever has one dimension, of size zero. Without elements are also
    arguments of an empty batch, and these are there.
    """
    Q, p, *constraints = (None if tuple(getattr(value, "shape", (1,))) == (0,) else value for value in arguments)
    found, batch = [Q, p], None
    for matrix, vector in (constraints[:2], constraints[2:]):
        shape, right = (tuple(getattr(value, "shape", (1, 1))) for value in (matrix, vector))
        if matrix is None or 0 in shape[-2:]:
            if len(shape) == 3:
                batch = shape[0]
            matrix, vector = None, None if 0 in right else vector
        found += [matrix, vector]
    return found, batch


def _as_tensor(value: Any, name: str) -> torch.Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ParameterError(
            f"argument '{name}': expected a tensor, got {type(value).__name__}; convert it first."
        ) from exc


def _mask(pattern: Any) -> Any:
    if not isinstance(pattern, torch.Tensor):
        return pattern
    return pattern.detach().to_dense().cpu().numpy() if pattern.layout != torch.strided else pattern.cpu().numpy()


def _read_sparse(name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, Matrix]:
    """What is handed in for a sparse tensor, and what that is: its pattern is one for the whole batch.

    The values at the pattern's places, (..., nnz); for Q the whole matrix, since only that can be checked.
    """
    if tensor.ndim < 2:
        raise ParameterError(
            f"argument '{name}': got a sparse tensor of shape {tuple(tensor.shape)}, expected a matrix (rows, columns) "
            "with any batch dimensions in front."
        )
    indices, values = _coordinates(name, tensor)
    (rows, columns), batch = tensor.shape[-2:], tuple(tensor.shape[:-2])
    flat = indices[-2] * columns + indices[-1]
    places, where = np.unique(flat, return_inverse=True)
    matrix = Matrix(rows, columns, places.astype(np.int64).tobytes(), packed=name != "Q")
    within = where if matrix.packed else flat
    element = np.ravel_multi_index(tuple(indices[:-2]), batch) if batch else np.zeros_like(flat)
    target = element * int(np.prod(matrix.shape)) + within
    size = int(np.prod(batch + matrix.shape))
    spread = torch.zeros(size, dtype=values.dtype, device=values.device)
    spread = spread.index_put((torch.from_numpy(target).to(values.device),), values)
    return spread.reshape(batch + matrix.shape), matrix


def _coordinates(name: str, tensor: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
    """The coordinates (dimensions, nonzeros) and the values (nonzeros,) of a sparse tensor."""
    if tensor.layout == torch.sparse_csr:
        starts, columns = tensor.crow_indices().cpu().numpy(), tensor.col_indices().cpu().numpy()
        counts = starts[..., 1:] - starts[..., :-1]
        *element, rows = (np.repeat(index.reshape(-1), counts.reshape(-1)) for index in np.indices(counts.shape))
        return np.stack([*element, rows, columns.reshape(-1)]), tensor.values().reshape(-1)
    found = (tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse_coo()).coalesce()
    if found.dense_dim():
        raise ParameterError(
            f"argument '{name}': got a hybrid sparse tensor with {found.dense_dim()} dense dimensions, expected one "
            "that is sparse in all dimensions."
        )
    return found.indices().cpu().numpy(), found.values()
