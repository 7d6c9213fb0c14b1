"""The nodes of the benchmark: add a file with a dictionary ``CASES`` and a line here."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.vision_cases import linear, pooling, projections, sets, transport
from benchmarks.vision_cases.case import Case

__all__ = ["CASES"]

CASES: dict[str, Callable[[bool], Case]] = {
    **projections.CASES,
    **pooling.CASES,
    **linear.CASES,
    **transport.CASES,
    **sets.CASES,
}
"""From a name to a function of ``quick`` that makes the case."""
