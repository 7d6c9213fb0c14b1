"""The analytic centre of a polyhedron, differentiated through its optimality conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.nodes.signal.barrier import find_centre
from cvxlayers.program.solution import Status

__all__ = ["AnalyticCentre", "analytic_centre"]


def analytic_centre(
    A: Tensor,
    b: Tensor,
    *,
    tolerance: float | None = None,
    max_iterations: int = 100,
    on_failure: str = "raise",
) -> Tensor:
    """The y that maximizes sum_i log(b_i - a_i'y), the point of {y: A y <= b} deepest inside.

    Parameters
    ----------
    A : (..., m, n) tensor
        The set must be bounded and have an interior.
    b : (..., m) tensor
    tolerance : float, optional
        Of the Newton decrement, which bounds the distance from the centre in the norm of the Hessian. Default 1e-9, in
        single precision 1e-6.
    max_iterations : int
        Newton steps of each phase. Default 100.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements without a centre: SolveError; NaN in the point and its gradient; or the best point
        found (zeros if there is none) with zero gradient.

    Returns
    -------
    (..., n) tensor
        In the dtype of A; the work is done in double precision. Batch dimensions broadcast. The gradient, in A and b,
        is that of the centre, of every order.

    Raises
    ------
    ParameterError
        Wrong shapes or dtypes, NaN or infinite entries.
    SolveError
        With ``on_failure="raise"``: "infeasible" elements have an empty interior, "unbounded" ones an unbounded set,
        which has no centre (or none that is unique).

    Notes
    -----
    Scaling a row, of A and b alike, changes nothing. A redundant row moves the centre, as every row repels it. Source:
    Boyd, Vandenberghe 2004, section 8.5.3.

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> b = torch.tensor([2.0, 0.0, 1.0, 1.0], requires_grad=True)  # 0 <= y_1 <= 2, -1 <= y_2 <= 1
    >>> y = analytic_centre(A, b)
    >>> bool(torch.allclose(y, torch.tensor([1.0, 0.0]), atol=1e-6))
    True
    >>> y[0].backward()
    >>> b.grad
    tensor([ 0.5000, -0.5000,  0.0000,  0.0000])
    """
    check_policy(on_failure)
    return _centre(NodeCall(on_failure, {"tolerance": tolerance, "most": max_iterations}), A, b)


class AnalyticCentre(Reporting):
    """``analytic_centre`` as a module with fixed options; ``module.info`` is the report of this thread's last call.

    Parameters
    ----------
    tolerance, max_iterations, on_failure
        See ``analytic_centre``.

    Examples
    --------
    >>> node = AnalyticCentre(on_failure="nan")
    >>> A, b = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0], [1.0, -2.0]])  # the second set is empty
    >>> y = node(A, b)
    >>> y.isnan().flatten().tolist(), node.info.statuses.tolist()
    ([False, True], ['optimal', 'infeasible'])
    """

    def __init__(self, *, tolerance: float | None = None, max_iterations: int = 100, on_failure: str = "raise") -> None:
        super().__init__()
        check_policy(on_failure)
        self.on_failure, self.settings = on_failure, {"tolerance": tolerance, "most": max_iterations}

    def forward(self, A: Tensor, b: Tensor) -> Tensor:
        """The centres (..., n) for A (..., m, n) and b (..., m); see ``analytic_centre``."""
        return _centre(NodeCall(self.on_failure, self.settings, self._local), A, b)


def _centre(call: NodeCall, A: Any, b: Any) -> Tensor:
    check_dimensions("A", A, "m, n", 2)
    check_dimensions("b", b, "m", 1)
    if b.shape[-1] != A.shape[-2]:
        raise ParameterError(
            f"b: got shape {tuple(b.shape)}, expected (..., {A.shape[-2]}): one entry for each row of A."
        )
    (A, b), batch = flatten_batch(("A", "b"), (A, b), (2, 1))
    tolerance = call.settings["tolerance"] or (1e-9 if A.dtype == torch.float64 else 1e-6)
    call = NodeCall(call.on_failure, {**call.settings, "tolerance": tolerance}, call.keeper)
    (y,) = _RULE(call, A.double(), b.double())
    return y.to(A.dtype).reshape(*batch, y.shape[1])


class _CentreRule(ClosedRule):
    """(A, b) to y, with s = b - A y > 0 and lam = 1 / s: the gradient A'lam is zero, the Hessian is A' diag(lam^2) A.

    Linearized:  H dy = -dA'lam - A' (lam^2 o (dA y - db)).
    """

    names = ("A", "b")
    advice = {
        Status.INFEASIBLE: "infeasible elements have no y with A y < b in every row: raise b",
        Status.UNBOUNDED: "unbounded elements have a direction without an end: add bounds on y",
        Status.INACCURATE: "inaccurate elements stopped short of the tolerance: raise max_iterations or tolerance",
        Status.FAILED: "failed elements are too badly scaled to tell: bring the rows' distances nearer to one another",
    }

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        A, b = inputs
        return find_centre(A, b, call.settings["tolerance"], call.settings["most"])

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Tensor], needed: Sequence[bool]
    ) -> Sequence[Tensor]:
        (A, b), y = inputs, outputs[0]
        lam = _inverse_slacks(A, b, y)
        w = _solve(A, lam, cotangents[0])
        along = lam**2 * _times(A, w)
        return -lam[:, :, None] * w[:, None] - along[:, :, None] * y[:, None], along

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (A, b), (dA, db), y = inputs, tangents, outputs[0]
        lam = _inverse_slacks(A, b, y)
        return (-_solve(A, lam, _times(dA.mT, lam) + _times(A.mT, lam**2 * (_times(dA, y) - db))),)


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (A @ x[:, :, None])[:, :, 0]


def _inverse_slacks(A: Tensor, b: Tensor, y: Tensor) -> Tensor:
    return 1 / (b - _times(A, y))


def _solve(A: Tensor, lam: Tensor, right: Tensor) -> Tensor:
    """(A' diag(lam^2) A)^-1 times a vector."""
    scaled = lam[:, :, None] * A
    return torch.linalg.solve_ex(scaled.mT @ scaled, right[:, :, None])[0][:, :, 0]


_RULE = _CentreRule()
