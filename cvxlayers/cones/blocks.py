"""The derivative of a projection on many equal small cones: one symmetric block for each lane."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.cones import smooth
from cvxlayers.cones.arrays import Array, Flags

__all__ = ["BlockDerivative", "EigenBlocks", "Function", "RankOneTerms", "ruled_surface_frame"]

Function = Callable[[Array, Array], Array]
"""Of eigenvalues and of a number for each lane that broadcasts against them, entry by entry."""


@dataclass(frozen=True)
class RankOneTerms:
    """D = unit I + sum over k of weights_k v_k v_k', with v_k of length one and orthogonal to each other.

    Attributes
    ----------
    unit : (L,)
    weights : (terms, L)
    vectors : (terms, d, L)
    """

    unit: Array
    weights: Array
    vectors: Array


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

    @abstractmethod
    def map(self, function: Function, numbers: Array) -> BlockDerivative:
        """function(D, numbers): the same eigenvectors, other eigenvalues; one number for each lane, (L,)."""

    @abstractmethod
    def vanishes(self) -> Flags:
        """The lanes whose blocks are exactly zero, (L,)."""

    @abstractmethod
    def smoothed(self, v: Array, mu: float) -> BlockDerivative:
        """The derivative of Proj_mu, the projection smoothed along the central path, at the same v (d, L).

        See ``cvxlayers.derivative.system.smoothing``.
        """

    def smoothed_projection(self, v: Array, mu: float) -> Array | None:
        """Proj_mu(v), (d, L); None for cones without a product, where Proj_mu is the projection itself."""
        return None

    def rank_one_terms(self) -> RankOneTerms:
        """D by the few terms that ``Kind.rank_one_terms`` counts."""
        raise NotImplementedError(f"{type(self).__name__} is not told by few rank-one terms.")

    def spectrum(self) -> Array:
        """Eigenvectors, and below them what stands for the eigenvalues, as the kernels of the batched interior-point
        solver read them: (size, L), with the size that ``Kind.spectrum`` says."""
        raise NotImplementedError(f"{type(self).__name__} is not told by its spectrum.")


@dataclass(frozen=True)
class EigenBlocks(BlockDerivative):
    """Blocks given by all their eigenvectors Q (d, d, L), in columns, and eigenvalues (d, L)."""

    Q: Array
    eigenvalues: Array
    gap: Array

    def times(self, w: Array) -> Array:
        inner = self.eigenvalues * np.einsum("ijl,il->jl", self.Q, w)
        return np.asarray(np.einsum("ijl,jl->il", self.Q, inner))

    def dense(self) -> Array:
        columns = zip(self.Q.swapaxes(0, 1), self.eigenvalues, strict=True)
        first, *others = (value * (q[:, None] * q[None]) for q, value in columns)
        return np.asarray(sum(others, first))  # exactly symmetric, unlike a product of matrices

    def map(self, function: Function, numbers: Array) -> EigenBlocks:
        return replace(self, eigenvalues=function(self.eigenvalues, numbers))

    def vanishes(self) -> Flags:
        return np.asarray((self.eigenvalues == 0).all(axis=0))

    def smoothed(self, v: Array, mu: float) -> EigenBlocks:
        return replace(self, eigenvalues=0.5 + (self.eigenvalues - 0.5) * smooth.share(v, mu))

    def spectrum(self) -> Array:
        d, lanes = self.eigenvalues.shape
        return np.concatenate([self.Q.swapaxes(0, 1).reshape(d * d, lanes), self.eigenvalues])


def ruled_surface_frame(ray: Array, normal: Array) -> Array:
    """The eigenvectors normal, tangent = ray x normal and ray of D, (3, 3, L), for ray and normal unit (3, L).

    The boundary of a cone in R^3 is ruled by its rays. Along a ray it has no curvature, so that the principal
    directions of the surface at p = Proj_K(v) are p itself and the tangent t orthogonal to it, with curvature k. The
    projection onto a smooth surface from distance |v - p| moves by 1 / (1 + k |v - p|) along each principal direction
    (the parallel surface of differential geometry, as in do Carmo 1976), so that

        DProj_K  = ray ray' + t t' / (1 + k |v - p|),
        I - DProj_K = normal normal' + weight t t',    weight = k |v - p| / (1 + k |v - p|),

    and the second line is the derivative of Proj_{K*} at -v, by Moreau's Proj_{K*}(-v) = Proj_K(v) - v. Its eigenvalues
    are 1, weight and 0.
    """
    tangent = np.stack(
        [
            ray[1] * normal[2] - ray[2] * normal[1],
            ray[2] * normal[0] - ray[0] * normal[2],
            ray[0] * normal[1] - ray[1] * normal[0],
        ]
    )
    return np.stack([normal, tangent, ray], axis=1)
