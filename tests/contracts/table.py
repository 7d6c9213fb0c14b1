"""The table of problems that every engine, derivative and adapter is tested on.

A new family is a row in one of the files below; a new engine needs nothing: it is tested as soon as it is registered.
"""

from __future__ import annotations

from tests.contracts import curved, polyhedral, special
from tests.contracts.case import Case

__all__ = ["CASES", "case"]

CASES: tuple[Case, ...] = (*polyhedral.CASES, *curved.CASES, *special.CASES)


def case(name: str) -> Case:
    """The row of this name."""
    return next(row for row in CASES if row.name == name)
