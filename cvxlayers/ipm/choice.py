"""When the solver pays: a prediction from the symbolic factorization, by measurement against Clarabel."""

from __future__ import annotations

from cvxlayers.ipm.symbolic import analysis_of
from cvxlayers.program import Structure

__all__ = ["fewest", "pays"]

FEW, CURVED, MANY, LARGE, HUGE = 1, 4, 8, 1_000_000, 20_000_000
"""It pays from so many elements on: the first number; the second with PSD, exponential or power cones; the third where
the factorization takes more operations than the fourth number, which no longer fit into the cache eight at a time. With
PSD cones and more operations than the last number (a dense block of an order beyond 30) it never does.

Measured on two cores with two threads, as the time of a call with Clarabel over that with this solver, for 1, 2,
4, 8 and 16 elements: simplex projections of 10 variables 1.6, 1.8, 2.4, 3.2, 4.1; of 50 variables 1.3, 1.7, 2.3, 3.1,
3.8; portfolios of 30 assets 1.5, 2.1, 3.2, 3.0, 4.5; predictive control 1.3, 1.5, 2.2, 3.5, 4.6; total variation of
200 points 1.2, 1.3, 1.9, 3.3, 5.2; dense QPs of 64 variables 1.3, 2.7, 3.8, 5.5, 7.4 (320 thousand operations);
second-order cones of dimension 21 1.0, 1.3, 1.8, 2.2, 2.7; sparse QPs of 512 variables 0.3, 0.3, 0.5, 1.2, 1.7 (4
million). With the other cones, as the processor time of the solution alone with 8 elements on one thread: logistic
regression with 60 exponential cones 2.8, an entropy of 100 terms 3.6, ten power cones 2.2; semidefinite programs of
order 5, 10, 20 and 30 4.5, 4.7, 2.6 and 1.3; with 1, 2 and 4 elements logistic regression 0.5, 0.9 and 1.9."""


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
    >>> pays(structure), fewest(structure)
    (True, 1)
    """
    few = fewest(structure)
    return few is not None and (batch is None or batch >= few)


def fewest(structure: Structure) -> int | None:
    """From how many elements on it pays; None where it never does, or does not take the structure."""
    analysis, cones = analysis_of(structure), structure.cones
    if analysis is None or (cones.psd and analysis.elimination.operations >= HUGE):
        return None
    if analysis.elimination.operations >= LARGE:
        return MANY
    return CURVED if cones.psd or cones.exponential or cones.power else FEW
