"""What became of each element of a node's batch: the failure policy, the report, and the error."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cvxlayers.errors import OptionError, SolveError
from cvxlayers.solution import Status

__all__ = ["POLICIES", "Call", "NodeInfo", "Reporting", "Solved", "check_policy"]

POLICIES = ("raise", "nan", "zero_grad")


@dataclass(frozen=True)
class NodeInfo:
    """The report of one call of a node.

    Attributes
    ----------
    statuses : (B,) array of str
        "optimal", "inaccurate", "infeasible", "unbounded" or "failed", for each element of the flattened batch.
    iterations : (B,) array of int
    residuals : (B,) array
        How far each element is from its optimality conditions, in the units of the tolerance; NaN without a point.
    """

    statuses: NDArray[np.str_]
    iterations: NDArray[np.int64]
    residuals: NDArray[np.float64]

    def __str__(self) -> str:
        counts = zip(*np.unique(self.statuses, return_counts=True), strict=True)
        told = ", ".join(f"{count} {status}" for status, count in counts) or "empty batch"
        worst = float(np.nanmax(self.residuals, initial=0.0))
        return f"{told}; at most {self.iterations.max(initial=0)} iterations; worst residual {worst:.1e}"


@dataclass(frozen=True)
class Solved:
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
class Call:
    """How one call is to be made: what becomes of failures, the solver's settings, and who keeps the report."""

    on_failure: str = "raise"
    settings: Mapping[str, Any] = field(default_factory=dict)
    keeper: threading.local | None = None

    def settle(self, solved: Solved, advice: Mapping[Status, str]) -> None:
        """Hand the report to its keeper, and raise where the policy says so.

        Raises
        ------
        SolveError
            With ``on_failure="raise"``, when some element has no verified solution.
        """
        statuses = solved.status.cpu().numpy()
        if self.keeper is not None:
            self.keeper.info = NodeInfo(
                _NAMES[statuses], solved.iterations.cpu().numpy(), solved.residuals.double().cpu().numpy()
            )
        bad = np.flatnonzero(statuses != Status.OPTIMAL)
        if bad.size and self.on_failure == "raise":
            raise _solve_error(statuses, bad, advice)


_NAMES = np.array([str(status) for status in Status])


def _solve_error(statuses: NDArray[np.integer], bad: NDArray[np.intp], advice: Mapping[Status, str]) -> SolveError:
    kinds = [Status(statuses[i]) for i in bad]
    shown = ", ".join(f"{i} ({kind})" for i, kind in list(zip(bad.tolist(), kinds, strict=True))[:10])
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    told = "; ".join(advice[kind] for kind in sorted(set(kinds)) if kind in advice)
    return SolveError(
        f"{len(bad)} of {len(statuses)} batch elements have no verified solution: {shown}{more}. Advice: "
        f'{told + "; or " if told else ""}pass on_failure="nan" or "zero_grad" to let the other elements go on.',
        bad.tolist(),
        [str(kind) for kind in kinds],
    )


def check_policy(on_failure: str) -> None:
    """Refuse a policy that nobody knows.

    Raises
    ------
    OptionError
    """
    if on_failure not in POLICIES:
        raise OptionError(f"on_failure: expected one of {', '.join(map(repr, POLICIES))}, got {on_failure!r}.")


class Reporting(torch.nn.Module):
    """A module that keeps the report of each thread's last call.

    Copies and pickles of it start without a report.
    """

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    @property
    def info(self) -> NodeInfo | None:
        """The report of this thread's last call; None before the first."""
        return getattr(self._local, "info", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_local"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._local = threading.local()
