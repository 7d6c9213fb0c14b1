"""Functions of D, the derivative of the projection: the same eigenvectors, other eigenvalues."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.blocks import Function
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.program.structure import Array

__all__ = ["map_eigenvalues", "vanishing_rows"]


def map_eigenvalues(D: DualDerivative, function: Function, eps: Array) -> DualDerivative:
    """f(D), for an elementwise function f(eigenvalues, eps).

    Parameters
    ----------
    D : DualDerivative
    function : callable
    eps : (1, B) or (m, B)
        Equal on the rows of each cone that is not polyhedral.
    """
    flat = D.cones.zero + D.cones.nonneg
    diagonal = np.zeros_like(D.diagonal)
    every = np.broadcast_to(eps, D.diagonal.shape)
    diagonal[:flat] = function(D.diagonal[:flat], every[:flat])
    parts = tuple((group, part.map(function, every[group.rows[:, 0]].ravel())) for group, part in D.parts)
    return replace(D, diagonal=diagonal, parts=parts)


def vanishing_rows(D: DualDerivative) -> NDArray[np.bool_]:
    """The rows (m, B) of the cones on whose block D is exactly zero, as it is for constraints that are not active."""
    rows = D.diagonal == 0
    for group, part in D.parts:
        rows[group.rows.T] = part.vanishes().reshape(1, group.count, D.batch)
    return rows
