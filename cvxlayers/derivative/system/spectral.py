"""Functions of D, the derivative of the projection: the same eigenvectors, other eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.blocks import BlockDerivative, EigenBlocks
from cvxlayers.cones.projection import DualDerivative
from cvxlayers.cones.psd import PsdDerivative
from cvxlayers.cones.second_order import SecondOrderDerivative
from cvxlayers.program.structure import Array

__all__ = ["mapped", "mapped_part", "vanishing_rows"]


def mapped(D: DualDerivative, function: Callable[[Array, Array], Array], eps: Array) -> DualDerivative:
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
    parts = tuple((group, mapped_part(part, function, every[group.rows[:, 0]].ravel())) for group, part in D.parts)
    return replace(D, diagonal=diagonal, parts=parts)


def vanishing_rows(D: DualDerivative) -> NDArray[np.bool_]:
    """The rows (m, B) of the cones on whose block D is exactly zero, as it is for constraints that are not active."""
    rows = D.diagonal == 0
    for group, part in D.parts:
        rows[group.rows.T] = _vanishes(part).reshape(1, group.count, D.batch)
    return rows


def _vanishes(part: BlockDerivative) -> NDArray[np.bool_]:
    """The lanes whose blocks are exactly zero, (L,)."""
    if isinstance(part, SecondOrderDerivative):
        return (part.w1 == 0) & (part.w2 == 0) & (part.w3 == 0)
    if isinstance(part, PsdDerivative):
        return np.asarray((part.Omega == 0).all(axis=(1, 2)))
    assert isinstance(part, EigenBlocks)
    return np.asarray((part.eigenvalues == 0).all(axis=0))


def mapped_part(part: BlockDerivative, function: Callable[[Array, Array], Array], eps: Array) -> BlockDerivative:
    """The same for the blocks of one group, with eps for each of its lanes."""
    if isinstance(part, SecondOrderDerivative):
        return replace(part, w1=function(part.w1, eps), w2=function(part.w2, eps), w3=function(part.w3, eps))
    if isinstance(part, PsdDerivative):
        return replace(part, Omega=function(part.Omega, eps[:, None, None]))
    assert isinstance(part, EigenBlocks)
    return replace(part, eigenvalues=function(part.eigenvalues, eps))
