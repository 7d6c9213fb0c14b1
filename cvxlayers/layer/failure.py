"""Elements without a solution: what may be done about them, and the error that lists them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cvxlayers.errors import OptionError, SolveError
from cvxlayers.program.solution import Status

__all__ = ["POLICIES", "STATUS_NAMES", "check_policy", "solve_error"]

POLICIES = ("raise", "nan", "zero_grad")

STATUS_NAMES = np.array([str(status) for status in Status])
"""By the number of the status."""

LISTED = 10
"""How many elements the error lists."""


def check_policy(on_failure: str) -> None:
    """Refuse a policy that nobody knows.

    Raises
    ------
    OptionError
    """
    if on_failure not in POLICIES:
        raise OptionError(f"on_failure: expected one of {', '.join(map(repr, POLICIES))}, got {on_failure!r}.")


def solve_error(statuses: NDArray[np.integer], bad: NDArray[np.intp], advice: Iterable[str]) -> SolveError:
    """The error that lists the failing elements ``bad`` of a batch with these statuses, and gives advice."""
    kinds = [str(Status(statuses[i])) for i in bad]
    shown = ", ".join(f"{i} ({kind})" for i, kind in list(zip(bad.tolist(), kinds, strict=True))[:LISTED])
    more = f" and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
    hint = "; ".join(advice)
    return SolveError(
        f"{len(bad)} of {len(statuses)} batch elements have no verified solution: {shown}{more}. Advice: "
        f'{hint + "; or " if hint else ""}pass on_failure="nan" or "zero_grad" to let the other elements go on.',
        bad.tolist(),
        kinds,
    )
