"""What became of each element of a node's batch: the failure policy, the report, and the error."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cvxlayers.layer.failure import STATUS_NAMES, solve_error
from cvxlayers.layer.report import Info, Seconds
from cvxlayers.program.solution import Residuals, Status

__all__ = ["NodeCall", "Reporting", "SolvedNode", "advice_on"]


@dataclass(frozen=True)
class SolvedNode:
    """What a node's solver hands back: outputs, each (B, ...), and for each element (B,) its status and its figures."""

    outputs: tuple[torch.Tensor, ...]
    status: torch.Tensor
    iterations: torch.Tensor
    residuals: torch.Tensor

    @property
    def ok(self) -> torch.Tensor:
        """The elements with a verified solution, (B,)."""
        return self.status == int(Status.OPTIMAL)


@dataclass(frozen=True)
class NodeCall:
    """How one call is to be made: what becomes of failures, the solver's settings, and who keeps the report."""

    on_failure: str = "raise"
    settings: Mapping[str, Any] = field(default_factory=dict)
    keeper: threading.local | None = None

    def settle(self, solved: SolvedNode, advice: Mapping[Status, str], seconds: Seconds) -> None:
        """Hand the report to its keeper, and raise where the policy says so.

        Raises
        ------
        SolveError
            With ``on_failure="raise"``, when some element has no verified solution.
        """
        statuses = solved.status.cpu().numpy()
        if self.keeper is not None:
            self.keeper.info = _report(solved, statuses, seconds)
        bad = np.flatnonzero(statuses != Status.OPTIMAL)
        if bad.size and self.on_failure == "raise":
            raise solve_error(statuses, bad, advice_on(statuses, bad, advice))


def _report(solved: SolvedNode, statuses: NDArray[np.integer], seconds: Seconds) -> Info:
    """The one residual of a node stands as the primal one; what a node does not have is zero, or NaN."""
    residuals, nothing = solved.residuals.double().cpu().numpy(), np.zeros(len(statuses))
    return Info(
        statuses=STATUS_NAMES[statuses],
        iterations=solved.iterations.cpu().numpy().astype(np.int64),
        engines=np.full(len(statuses), "closed rule", dtype="U16"),
        residuals=Residuals(np.stack([residuals, nothing, nothing, nothing, np.full(len(statuses), np.nan)])),
        objective=np.full(len(statuses), np.nan),
        seconds=seconds,
    )


def advice_on(statuses: NDArray[np.integer], bad: NDArray[np.intp], advice: Mapping[Status, str]) -> list[str]:
    """What there is to be said of the kinds of failure that occur."""
    kinds = sorted({Status(statuses[i]) for i in bad})
    return [advice[kind] for kind in kinds if kind in advice]


class Reporting(torch.nn.Module):
    """A module that keeps the report of each thread's last call, in the form of the convex layers' reports.

    ``info.residuals.worst`` (B,) is how far each element is from its optimality conditions, in the units of the node's
    tolerance; NaN without a point. A node knows no ``objective``.

    Copies and pickles of it start without a report.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call; None before the first."""
        return getattr(self._local, "info", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._local = threading.local()
