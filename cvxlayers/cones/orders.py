"""The rows of the product cone in the orders of solvers that have another one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cvxlayers.cones.arrays import Index
from cvxlayers.cones.kinds import CONES
from cvxlayers.cones.product import Cones

__all__ = ["from_scs_order", "row_order", "to_scs_order"]


@lru_cache(maxsize=64)
def row_order(cones: Cones, solver: str) -> Index:
    """The permutation, (m,), that gives a solver's row order: ``v_solver = v[row_order(cones, solver)]``.

    Each block keeps its place, and the factors sqrt(2) of semidefinite cones stay.

    Examples
    --------
    >>> row_order(Cones(nonneg=1, psd=(3,)), "SCS")
    array([0, 1, 2, 4, 3, 5, 6])
    """
    order = np.arange(cones.m)
    for block in cones.blocks:
        own = getattr(CONES[block.kind], "ROW_ORDERS", {}).get(solver)
        if own is not None:
            order[block.rows] = block.start + own(block.data)
    order.setflags(write=False)
    return order


def to_scs_order(cones: Cones) -> Index:
    """The permutation, (m,), that gives SCS's and diffcp's row order: ``v_scs = v[to_scs_order(cones)]``."""
    return row_order(cones, "SCS")


@lru_cache(maxsize=64)
def from_scs_order(cones: Cones) -> Index:
    """The inverse permutation, (m,): ``v = v_scs[from_scs_order(cones)]``."""
    inverse = np.argsort(to_scs_order(cones))
    inverse.setflags(write=False)
    return inverse
