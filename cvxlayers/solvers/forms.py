"""Which solver takes which problem, as it is or in another form: with its objective linear, or its cones split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cvxlayers.program.structure import Structure
from cvxlayers.solvers import epigraph, split
from cvxlayers.solvers.base import Settings, Solver
from cvxlayers.solvers.outside import Guard
from cvxlayers.solvers.registry import from_outside

__all__ = ["maker", "suits"]


def maker(solver: type[Solver], structure: Structure) -> Callable[[Structure, Settings], Solver] | None:
    """The solver, with what brings the problem into a form that it takes in front of it; None where it takes none.

    >>> import numpy as np
    >>> from cvxlayers.cones.product import Cones
    >>> from cvxlayers.program.structure import Pattern
    >>> from cvxlayers.solvers.ecos import ECOS
    >>> one = np.zeros(1, dtype=int)
    >>> maker(ECOS, Structure(Pattern.of(one, one, (1, 1)), Pattern.of(one, one, (1, 1)), Cones(nonneg=1))) is ECOS
    False
    """
    own = Guard(solver) if from_outside(solver) else solver
    if solver.takes(structure):
        return own
    if epigraph.serves(solver, structure):
        return partial(epigraph.Epigraph, behind=own)
    if split.serves(solver, structure):
        return partial(split.Split, behind=own)
    return None


def suits(solver: type[Solver], structure: Structure) -> bool:
    """Whether the solver is a good choice for the problem, as it is or in another form."""
    return solver.suits(structure) or epigraph.serves(solver, structure) or split.serves(solver, structure, well=True)
