"""The report of a call, in the form that the convex layers give it, and what to advise where it failed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from cvxlayers.derivative.base import DerivativeReport
from cvxlayers.layer.failure import STATUS_NAMES
from cvxlayers.layer.report import Info, Seconds
from cvxlayers.nodes.declarative.optimality import OptimalityPoint
from cvxlayers.nodes.declarative.system import OptimalitySystem
from cvxlayers.program.solution import Residuals, Status

__all__ = ["ADVICE", "NodeInfo", "judge", "report"]

# As for the convex layers: within this factor of the tolerance a point is called inaccurate, beyond it failed.
_INACCURATE = 1e3
# A point whose entries are beyond this has run away.
_FAR = 1e12


@dataclass(repr=False)
class NodeInfo(Info):
    """The report of one call of a declarative layer, as ``layer.info`` gives it to the thread that made the call.

    It has the attributes of ``Info``, and two more.

    Attributes
    ----------
    active : (B, q) array of bool
        The inequalities that the solution rests on: those met with equality, with a positive multiplier.
    multipliers : (B, p + q) array
        Those of the equality constraints, and after them those of the inequalities (zero where not active).
    """

    active: NDArray[np.bool_] = None  # type: ignore[assignment]
    multipliers: NDArray[np.float64] = None  # type: ignore[assignment]
    system: OptimalitySystem = field(default=None, repr=False)  # type: ignore[assignment]

    @property
    def derivative(self) -> DerivativeReport | None:
        """How trustworthy the derivative is, (B,) each; None until one was computed.

        ``residual``: of the linear systems. ``margin``: the smallest relative multiplier of an active inequality or
        distance to an inactive one (near zero the solution has a kink). ``fallback``: whether the system was singular,
        so that the pseudo-inverse was taken.
        """
        return None if self.system is None else self.system.report


def judge(point: OptimalityPoint, n: int, tolerance: float, stuck: torch.Tensor) -> torch.Tensor:
    """The status of each point, (B,) of ``Status``; ``stuck`` where the constraints seem to be incompatible (B,)."""
    worst = point.worst
    status = torch.full(worst.shape, int(Status.FAILED), dtype=torch.int8, device=worst.device)
    status[worst <= _INACCURATE * tolerance] = int(Status.INACCURATE)
    status[worst <= tolerance] = int(Status.OPTIMAL)
    y = point.z[:, :n]
    far = y.isfinite().all(-1) & (y.abs() > _FAR).any(-1) & (status != int(Status.OPTIMAL))
    status[far] = int(Status.UNBOUNDED)
    status[stuck & (point.primal > tolerance)] = int(Status.INFEASIBLE)
    return status


def report(
    system: OptimalitySystem, point: OptimalityPoint, status: torch.Tensor, objective: torch.Tensor,
    steps: torch.Tensor, engine: str, seconds: Seconds,
) -> NodeInfo:  # fmt: skip
    """The report of a batch."""
    lost = ~point.z.isfinite().all(-1)
    measured = torch.stack([point.primal, point.dual, point.gap, point.cone, objective])
    residuals = Residuals(torch.where(lost, torch.nan, measured).double().cpu().numpy())
    numbers = status.cpu().numpy()
    return NodeInfo(
        statuses=STATUS_NAMES[numbers],
        iterations=steps.cpu().numpy(),
        engines=np.full(numbers.shape, engine, dtype="U16"),
        residuals=residuals,
        objective=torch.where(lost, torch.nan, objective).double().cpu().numpy(),
        seconds=seconds,
        active=point.active.bool().cpu().numpy(),
        multipliers=point.z[:, system.form.n :].double().cpu().numpy(),
        system=system,
    )


ADVICE = {
    Status.INFEASIBLE: "infeasible elements have inputs for which no point nearby meets the constraints: soften them, "
    "or start elsewhere by writing initial(self, *xs)",
    Status.UNBOUNDED: "unbounded elements have an objective without a minimum: bound y or regularize",
    Status.INACCURATE: "inaccurate elements stopped short of the tolerance: improve solve, rescale the objective, or "
    "pass a larger tolerance",
    Status.FAILED: "failed elements do not meet the conditions of a minimum (where all of layer.info.residuals are "
    "small they are saddles or maxima): check solve and the constraints' signs (g <= 0), or start elsewhere by writing "
    "initial(self, *xs)",
}
