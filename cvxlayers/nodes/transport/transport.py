"""Entropic optimal transport between two histograms, differentiated through its optimality conditions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch, positive
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting, SolvedNode
from cvxlayers.nodes.rules.closed_rule import ClosedRule
from cvxlayers.nodes.transport.sinkhorn import LARGEST, find_potentials
from cvxlayers.program.solution import Status

__all__ = ["OptimalTransport", "optimal_transport"]

INACCURATE = 1e3
"""Up to so many tolerances a residual is called inaccurate, beyond it failed."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-6}
FINE = 1e-6
"""However loose the tolerance is, the potentials are as fine as that: derivatives are made of them."""


def optimal_transport(
    M: Tensor,
    r: Tensor | None = None,
    c: Tensor | None = None,
    gamma: float | Tensor = 1.0,
    *,
    balance: bool = False,
    tolerance: float | None = None,
    max_iterations: int = 200,
    on_failure: str = "raise",
) -> Tensor:
    """The plan P that minimizes <P, M> + KL(P, r c') / gamma subject to P 1 = r and P' 1 = c.

    Parameters
    ----------
    M : (..., H, W) tensor
        Costs, finite.
    r : (..., H) tensor, optional
        Masses of the rows, nonnegative (zeros are fine); default: 1 / H each.
    c : (..., W) tensor, optional
        Masses of the columns, of the same total as r; default: 1 / W each.
    gamma : float or (...) tensor
        How sharp the plan is, positive; for gamma to infinity it becomes the plan without entropy. Default 1.
    balance : bool
        Scale r and c to the mean of their totals first. Default: unequal totals are a failure, as no plan exists.
    tolerance : float, optional
        Of |P 1 - r| + |P' 1 - c| (sums of absolute values) relative to the total mass. Default 1e-9, in single
        precision 1e-6, in half precision four of its roundings.
    max_iterations : int
        Of Newton's method, for each of the problems that lead to large costs. Default 200.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements without a plan that meets the tolerance: SolveError; NaN in the plan and its gradient;
        or the best plan found with zero gradient.

    Returns
    -------
    (..., H, W) tensor
        In the dtype of M; the work is done in double precision. Batch dimensions broadcast.

    Raises
    ------
    ParameterError
        Wrong shapes or dtypes, gamma that is not positive, NaN or infinite entries.
    SolveError
        With ``on_failure="raise"``: negative masses, no mass at all, unequal totals, or no convergence.

    Notes
    -----
    The gradient, in M, r, c and gamma, is that of the solution, of every order. In r and c it is right along changes
    that keep the totals equal; other changes count as if the totals were averaged, as with ``balance=True``. Source:
    Cuturi 2013; Eisenberger et al. 2022 and Campbell, Liu, Gould 2020 for the implicit derivative.

    Examples
    --------
    >>> M = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    >>> P = optimal_transport(M, gamma=10.0)
    >>> P.sum(0).detach(), P.sum(1).detach()
    (tensor([0.5000, 0.5000]), tensor([0.5000, 0.5000]))
    >>> P[0, 0].backward()
    >>> bool(M.grad[0, 0] < 0)
    True
    """
    check_policy(on_failure)
    call = NodeCall(on_failure, {"tolerance": tolerance, "most": max_iterations, "balance": balance})
    return transport_plan(call, M, r, c, gamma)


class OptimalTransport(Reporting):
    """``optimal_transport`` as a module with fixed options; ``module.info`` is the report of this thread's last call.

    Parameters
    ----------
    gamma, balance, tolerance, max_iterations, on_failure
        See ``optimal_transport``. A gamma that is a ``torch.nn.Parameter`` is learned.

    Examples
    --------
    >>> node = OptimalTransport(gamma=20.0)
    >>> P = node(torch.rand(8, 5, 7, dtype=torch.float64))
    >>> P.shape, set(node.info.statuses.tolist())
    (torch.Size([8, 5, 7]), {'optimal'})
    """

    def __init__(
        self,
        gamma: float | Tensor = 1.0,
        *,
        balance: bool = False,
        tolerance: float | None = None,
        max_iterations: int = 200,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        check_policy(on_failure)
        self.gamma, self.on_failure = gamma, on_failure
        self.settings = {"tolerance": tolerance, "most": max_iterations, "balance": balance}

    def forward(self, M: Tensor, r: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """Solve for costs M (..., H, W) and masses r (..., H), c (..., W); see ``optimal_transport``."""
        return transport_plan(NodeCall(self.on_failure, self.settings, self._local), M, r, c, self.gamma)


def transport_plan(call: NodeCall, M: Any, r: Any, c: Any, gamma: Any) -> Tensor:
    """``optimal_transport``, its options in a ``NodeCall``: tolerance, most (iterations), and whether to balance."""
    check_dimensions("M", M, "H, W", 2)
    H, W = M.shape[-2:]
    uniform = (r is None, c is None)
    r = M.new_ones(H) if r is None else _masses("r", r, H, "rows")
    c = M.new_ones(W) if c is None else _masses("c", c, W, "columns")
    gamma = positive("gamma", gamma, M, gamma.shape if isinstance(gamma, Tensor) else ())
    gamma = gamma if isinstance(gamma, Tensor) else M.new_full((), gamma)
    (M, r, c, gamma), batch = flatten_batch(("M", "r", "c", "gamma"), (M, r, c, gamma), (2, 1, 1, 0))
    dtype = M.dtype
    tolerance = call.settings["tolerance"] or TOLERANCES.get(dtype, 4 * torch.finfo(dtype).eps)
    call = NodeCall(call.on_failure, {**call.settings, "tolerance": tolerance}, call.keeper)
    M, r, c, gamma = (part.double() for part in (M, r, c, gamma))
    r, c = (part / part.shape[1] if one else part for part, one in zip((r, c), uniform, strict=True))
    P, _ = _RULE(call, M, r, c, gamma)
    return P.to(dtype).reshape(*batch, H, W)


def _masses(name: str, masses: Any, size: int, what: str) -> Tensor:
    check_dimensions(name, masses, "H" if name == "r" else "W", 1)
    if masses.shape[-1] != size:
        raise ParameterError(
            f"{name}: got shape {tuple(masses.shape)}, expected (..., {size}): one mass for each of the {what} of M."
        )
    return masses


class _Masses(NamedTuple):
    """r and c with total one (zeros without mass), their totals (B, 1), and the mean of those."""

    r: Tensor
    c: Tensor
    rows: Tensor
    columns: Tensor
    total: Tensor


def _normalized(r: Tensor, c: Tensor) -> _Masses:
    rows, columns = r.sum(1, keepdim=True), c.sum(1, keepdim=True)
    total = (rows + columns) / 2
    rows, columns = (torch.where(part == 0, 1.0, part) for part in (rows, columns))
    return _Masses(r / rows, c / columns, rows, columns, total)


class _TransportRule(ClosedRule):
    """(M, r, c, gamma) to P = total diag(r) E diag(c) and the density E = exp(f + g - gamma M).

    Here r and c are normalized to a total of one. The potentials are defined by E c = 1 and E' r = 1. With Mg = gamma M
    the linearization is dE = E o (df + dg' - dMg) with

        [[I, E C], [E' R, I]] (df, dg) = ((E o dMg) c - E dc, (E o dMg)' r - E' dr),

    singular along the gauge (1, -1), and finite also where masses are zero. Eliminating df leaves the Schur complement
    I - E' R E C (W, W) with null vectors 1 (right) and c (left), lifted by 1 c'; as only f + g counts, any gauge
    will do.
    """

    names = ("M", "r", "c", "gamma")
    advice = {
        Status.INFEASIBLE: "infeasible elements have negative masses, or r and c of different totals: normalize them, "
        "or pass balance=True",
        Status.INACCURATE: "inaccurate elements stopped short of the tolerance: raise max_iterations or tolerance, or "
        "lower gamma",
        Status.FAILED: "failed elements have no mass, or costs times gamma too large for the arithmetic: lower gamma",
    }

    sparing = True

    def solve(self, call: NodeCall, *inputs: Tensor) -> SolvedNode:
        M, r, c, gamma = inputs
        tolerance = call.settings["tolerance"]
        rows, columns = r.sum(1), c.sum(1)
        apart = (rows - columns).abs() / torch.maximum(rows, columns).clamp(min=1e-300)
        negative = (r < 0).any(1) | (c < 0).any(1)
        infeasible = negative | ((apart > tolerance) & (not call.settings["balance"]))
        empty = (rows <= 0) | (columns <= 0)
        r, c, _, _, total = _normalized(r, c)
        sound = (~(infeasible | empty))[:, None]
        r = torch.where(sound, r, 1 / max(r.shape[1], 1))
        c = torch.where(sound, c, 1 / max(c.shape[1], 1))
        scaled = gamma[:, None, None] * M
        f, g, iterations, _, E = find_potentials(scaled, r, c, min(tolerance / 2, FINE), call.settings["most"])
        if E is None:
            E = torch.add(f[:, :, None], g[:, None]).sub_(scaled).clamp_(max=LARGEST).exp_()
        residual = (r * (_times(E, c) - 1)).abs().sum(1) + (c * (_times(E.mT, r) - 1)).abs().sum(1)
        residual = torch.where(residual.isfinite(), residual, torch.inf)
        status = torch.full(residual.shape, int(Status.FAILED), dtype=torch.int8, device=M.device)
        status[residual <= INACCURATE * tolerance] = int(Status.INACCURATE)
        status[residual <= tolerance] = int(Status.OPTIMAL)
        status[empty] = int(Status.FAILED)
        status[infeasible] = int(Status.INFEASIBLE)
        P = ((total * r)[:, :, None] * E).mul_(c[:, None])
        return SolvedNode((P, E), status, iterations, residual)

    def pullback(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], cotangents: Sequence[Any], needed: Sequence[bool]
    ) -> Sequence[Tensor | None]:
        (M, r, c, gamma), (P, E), (dP, dE) = inputs, outputs, cotangents
        dP = torch.zeros_like(P) if dP is None else dP
        masses = _normalized(r, c)
        shrunk = P * dP if dE is None else P * dP + E * dE
        left, right = _adjoint(P, E, masses, shrunk.sum(2), shrunk.sum(1))
        along = torch.stack([left, masses.r], 2) @ torch.stack([masses.c, right], 1)
        minus = torch.addcmul(shrunk, along, E, value=-1)  # the cotangent of gamma M
        dr, dc = _by_masses(E, masses, dP, left, right) if needed[1] or needed[2] else (None, None)
        return -gamma[:, None, None] * minus, dr, dc, -(M * minus).sum((1, 2)) if needed[3] else None

    def pushforward(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], tangents: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        (M, r, c, gamma), (P, E), (dM, dr, dc, dgamma) = inputs, outputs, tangents
        masses = r, c, rows, columns, total = _normalized(r, c)
        dtotal = (dr.sum(1, keepdim=True) + dc.sum(1, keepdim=True)) / 2
        dr = (dr - r * dr.sum(1, keepdim=True)) / rows
        dc = (dc - c * dc.sum(1, keepdim=True)) / columns
        dscaled = gamma[:, None, None] * dM + dgamma[:, None, None] * M
        turned = E * dscaled
        df, dg = _forward(P, E, masses, _times(turned, c) - _times(E, dc), _times(turned.mT, r) - _times(E.mT, dr))
        dE = E * (df[:, :, None] + dg[:, None] - dscaled)
        product = r[:, :, None] * c[:, None]
        changed = dr[:, :, None] * c[:, None] + r[:, :, None] * dc[:, None]
        dP = total[:, :, None] * (changed * E + product * dE) + dtotal[:, :, None] * product * E
        return dP, dE


def _by_masses(E: Tensor, masses: _Masses, dP: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The cotangents of r and c as they are given."""
    r, c, rows, columns, total = masses
    weighted = dP * E
    across, down = _times(weighted, c), _times(weighted.mT, r)
    dtotal = (across * r).sum(1, keepdim=True) / 2
    dr, dc = total * across - _times(E, right), total * down - _times(E.mT, left)
    dr = (dr - (dr * r).sum(1, keepdim=True)) / rows + dtotal
    return dr, (dc - (dc * c).sum(1, keepdim=True)) / columns + dtotal


def _times(A: Tensor, x: Tensor) -> Tensor:
    return (x[:, None] @ A.mT)[:, 0]  # a row times a matrix is the faster of the two forms


def _turned(masses: _Masses) -> _Masses:
    """Those of the transposed problem."""
    return _Masses(masses.c, masses.r, masses.columns, masses.rows, masses.total)


def _adjoint(P: Tensor, E: Tensor, masses: _Masses, df: Tensor, dg: Tensor) -> tuple[Tensor, Tensor]:
    """Solve [[I, R E], [C E', I]] (left, right) = (df, dg), on the shorter side."""
    if E.shape[1] < E.shape[2]:
        right, left = _adjoint(P.mT, E.mT, _turned(masses), dg, df)
        return left, right
    b = masses.total * (dg - masses.c * _times(E.mT, df))
    right = torch.linalg.solve_ex(_schur(P, E, masses), b[:, :, None])[0][:, :, 0]
    return df - masses.r * _times(E, right), right


def _forward(P: Tensor, E: Tensor, masses: _Masses, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Solve [[I, E C], [E' R, I]] (f, g) = (first, second), on the shorter side."""
    if E.shape[1] < E.shape[2]:
        g, f = _forward(P.mT, E.mT, _turned(masses), second, first)
        return f, g
    b = masses.total * (second - _times(E.mT, masses.r * first))
    g = torch.linalg.solve_ex(_schur(P, E, masses).mT, b[:, :, None])[0][:, :, 0]
    return first - _times(E, masses.c * g), g


def _schur(P: Tensor, E: Tensor, masses: _Masses) -> Tensor:
    """The transposed of I - E' R E C + 1 c', times the total, as C E' R times the total is P'.

    With a rounding error on the diagonal, so that nothing is divided by zero.
    """
    total = masses.total[:, :, None]
    identity = torch.eye(E.shape[2], dtype=E.dtype, device=E.device) * (1 + 1e-15)
    return torch.baddbmm(total * (identity + masses.c[:, :, None]), P.mT, E, alpha=-1)


_RULE = _TransportRule()
