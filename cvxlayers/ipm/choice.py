"""When the solver pays: a prediction from the symbolic factorization, by measurement against Clarabel."""

from __future__ import annotations

from cvxlayers.ipm.symbolic import analysis_of
from cvxlayers.program import Structure

__all__ = ["fewest", "pays"]

KINDS = frozenset({"zero", "nonneg", "second_order"})

FEW, MANY, LARGE = 1, 5, 1_000_000
"""It pays from so many elements on: the first number, or the second where the factorization takes more operations than
the third, which no longer fit into the cache eight at a time.

Measured on two cores with two threads, as Clarabel's time over this solver's, for 1, 2, 4, 8 and 16 elements: simplex
projections of 50 variables 0.8, 1.7, 2.2, 3.5, 3.1; portfolios of 30 assets 0.9, 1.5, 2.7, 4.3, 4.5; model predictive
control 1.0, 1.9, 3.2, 9.3, 6.5; dense QPs of 64 variables 1.3, 4.6, 7.7, 10.5, 8.0 (320 thousand operations);
sparse QPs of 512 variables 0.3, 0.5, 1.0, 2.0, 2.0 (4 million)."""


def pays(structure: Structure, batch: int | None = None) -> bool:
    """Whether the solver takes this structure and is probably faster than Clarabel.

    Parameters
    ----------
    structure : Structure
    batch : int, optional
        How many elements are solved at a time; without it, many.

    Examples
    --------
    >>> import numpy as np
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program import Pattern
    >>> one = np.zeros(1, dtype=int)
    >>> structure = Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))
    >>> pays(structure), pays(structure, 1)
    (True, False)
    """
    few = fewest(structure)
    return few is not None and (batch is None or batch >= few)


def fewest(structure: Structure) -> int | None:
    """From how many elements on it pays; None where it does not take the structure."""
    if not structure.cones.kinds() <= KINDS:
        return None
    analysis = analysis_of(structure)
    if analysis is None:
        return None
    return FEW if analysis.elimination.operations < LARGE else MANY
