"""The derivative of a projection on many equal small cones: one symmetric block for each lane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from cvxlayers.cones.arrays import Array

__all__ = ["BlockDerivative", "DenseBlocks", "ruled_surface_blocks"]


class BlockDerivative(ABC):
    """D = derivative of Proj_{K*} at v, for the L lanes of one kind of cone of dimension d.

    D is symmetric with 0 <= D <= I, and therefore its own transpose.

    Attributes
    ----------
    gap : (L,)
        How far v is from a point where the projection is not differentiable, in the units of v.
    """

    gap: Array

    @abstractmethod
    def times(self, w: Array) -> Array:
        """D w for w (d, L)."""

    @abstractmethod
    def dense(self) -> Array:
        """The blocks, (d, d, L)."""


@dataclass(frozen=True)
class DenseBlocks(BlockDerivative):
    """Blocks that are small enough to be stored: D (d, d, L)."""

    D: Array
    gap: Array

    def times(self, w: Array) -> Array:
        return np.asarray(np.einsum("ijl,jl->il", self.D, w))

    def dense(self) -> Array:
        return self.D


def ruled_surface_blocks(ray: Array, normal: Array, tangent_weight: Array) -> Array:
    """normal normal' + weight tangent tangent', (3, 3, L), with tangent = ray x normal; ray and normal are unit (3, L).

    The boundary of a cone in R^3 is ruled by its rays. Along a ray it has no curvature, so that the principal
    directions of the surface at p = Proj_K(v) are p itself and the tangent t orthogonal to it, with curvature k. The
    projection onto a smooth surface from distance |v - p| moves by 1 / (1 + k |v - p|) along each principal direction
    (the parallel surface of differential geometry, as in do Carmo 1976), so that

        DProj_K  = ray ray' + t t' / (1 + k |v - p|),
        I - DProj_K = normal normal' + weight t t',    weight = k |v - p| / (1 + k |v - p|),

    and the second line is the derivative of Proj_{K*} at -v, by Moreau's Proj_{K*}(-v) = Proj_K(v) - v.
    """
    tangent = np.stack(
        [
            ray[1] * normal[2] - ray[2] * normal[1],
            ray[2] * normal[0] - ray[0] * normal[2],
            ray[0] * normal[1] - ray[1] * normal[0],
        ]
    )
    return np.asarray(normal[:, None] * normal[None] + tangent_weight * (tangent[:, None] * tangent[None]))
