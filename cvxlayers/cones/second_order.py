"""The second-order cone K = K* = {(t, u): norm(u) <= t}, t first, of any dimension d >= 1.

All functions work on v (d, L), one cone for each lane. With the unit vector e = u / norm(u), v has the spectral
decomposition (Fukushima, Luo, Tseng 2002)

    v = l1 c1 + l2 c2,   l1, l2 = t +- norm(u),   c1, c2 = (1, +-e) / 2,

the projection takes the positive parts of l1 and l2, and its derivative is a Loewner operator of the same eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.cones import smooth
from cvxlayers.cones.arrays import Array, Flags, largest, norm
from cvxlayers.cones.blocks import BlockDerivative, Function, RankOneTerms
from cvxlayers.cones.kind import Kind
from cvxlayers.cones.pieces import CLEAR, Piece, halfspace, ray

__all__ = [
    "KIND",
    "SecondOrderDerivative",
    "distance",
    "dual_distance",
    "enlarged",
    "exposed",
    "linearize_dual",
    "project",
    "project_dual",
    "recession",
    "second_derivative",
]

KIND = Kind(
    "second_order", "second-order", "dimension", rows=int, degree=lambda d: 1, nonnegative=lambda d: (0,),
    rank_one_terms=2, spectrum=lambda d: 0,
)  # fmt: skip


@dataclass(frozen=True)
class SecondOrderDerivative(BlockDerivative):
    """D = w1 2 c1 c1' + w2 2 c2 c2' + w3 (I - 2 c1 c1' - 2 c2 c2'), stored as e (d - 1, L) and the weights (L,)."""

    e: Array
    w1: Array
    w2: Array
    w3: Array
    gap: Array

    def times(self, w: Array) -> Array:
        along = np.einsum("il,il->l", self.e, w[1:])
        first = 0.5 * self.w1 * (w[0] + along)
        second = 0.5 * self.w2 * (w[0] - along)
        product = np.empty_like(w)
        product[0] = first + second
        np.multiply(self.e, first - second - self.w3 * along, out=product[1:])
        product[1:] += self.w3 * w[1:]
        return product

    def dense(self) -> Array:
        d = self.e.shape[0] + 1
        mean, half = 0.5 * (self.w1 + self.w2), 0.5 * (self.w1 - self.w2)
        D = np.empty((d, d, self.e.shape[1]))
        D[0, 0] = mean
        D[0, 1:] = D[1:, 0] = half * self.e
        D[1:, 1:] = self.e[:, None] * self.e[None] * (mean - self.w3)
        diagonal = np.arange(1, d)
        D[diagonal, diagonal] += self.w3
        return D

    def map(self, function: Function, numbers: Array) -> SecondOrderDerivative:
        w1, w2, w3 = (function(w, numbers) for w in (self.w1, self.w2, self.w3))
        return replace(self, w1=w1, w2=w2, w3=w3)

    def vanishes(self) -> Flags:
        return np.asarray((self.w1 == 0) & (self.w2 == 0) & (self.w3 == 0))

    def smoothed(self, v: Array, mu: float) -> SecondOrderDerivative:
        l1, l2 = _eigenvalues(v)
        w1, w2, w3 = (smooth.divided_difference(a, b, mu) for a, b in ((l1, l1), (l2, l2), (l1, l2)))
        return replace(self, w1=w1, w2=w2, w3=w3)

    def smoothed_projection(self, v: Array, mu: float) -> Array:
        high, low = (smooth.phi(values, mu) for values in _eigenvalues(v))
        return np.concatenate([0.5 * (high + low)[None], 0.5 * (high - low) * self.e])

    def rank_one_terms(self) -> RankOneTerms:
        """D = w3 I + (w1 - w3) v1 v1' + (w2 - w3) v2 v2', with v1, v2 = (1, +-e) / sqrt(2)."""
        half = np.sqrt(0.5)
        vectors = np.empty((2, self.e.shape[0] + 1, self.e.shape[1]))
        vectors[:, 0] = half
        np.multiply(self.e, half, out=vectors[0, 1:])
        np.negative(vectors[0, 1:], out=vectors[1, 1:])
        return RankOneTerms(self.w3, np.stack([self.w1 - self.w3, self.w2 - self.w3]), vectors)


def project(v: Array) -> Array:
    """Proj_K(v), (d, L)."""
    size, e = _polar(v[1:])
    l1, l2 = v[0] + size, v[0] - size
    high, low = np.maximum(l1, 0.0), np.maximum(l2, 0.0)
    projected = np.empty_like(v)
    projected[0] = 0.5 * (high + low)
    np.multiply(e, 0.5 * (high - low), out=projected[1:])
    np.copyto(projected, v, where=l2 >= 0)
    return projected


def project_dual(v: Array) -> Array:
    """Proj_{K*}(v) = Proj_K(v): the cone is its own dual."""
    return project(v)


def linearize_dual(v: Array) -> SecondOrderDerivative:
    """The derivative of Proj_{K*} at v, without forming its blocks.

    The weights are w1, w2 = step(l1), step(l2) and w3 = (max(l1, 0) - max(l2, 0)) / (l1 - l2), with step(0) = 1/2. On
    the boundary of K or of -K this is the mean of the limits from the two sides, and at v = 0 it is I / 2.
    """
    size, e = _polar(v[1:])
    l1, l2 = v[0] + size, v[0] - size
    w1, w2 = 0.5 * (np.sign(l1) + 1.0), 0.5 * (np.sign(l2) + 1.0)
    between = (l1 > 0) & (l2 < 0)
    w3 = np.where(size == 0, w1, np.where(between, 0.5 * l1 / np.where(between, size, 1.0), l2 >= 0))
    gap = np.minimum(np.abs(l1), np.abs(l2)) / (np.sqrt(2.0) if v.shape[0] > 1 else 1.0)
    return SecondOrderDerivative(e, w1, w2, w3, gap)


def second_derivative(v: Array, a: Array, b: Array) -> Array:
    """The second derivative of Proj_{K*} at v along a and b, all (d, L): the derivative of D b along a.

    Only between K and -K does the projection bend. There, with r = norm(u), tau = t / r, w* = w - e e'w the part of w
    across e, De = u*/r and Dr = e'u along u,

        Proj(v) = (t + r) / 2 (1, e),
        D b = 1/2 (b_t + e'b_u) (1, e) + (1 + tau) / 2 (0, b_u*),

    and one more derivative along a, in which the terms with e'a and e'b partly cancel, is

        1/(2r) (a*'b*,  (b_t - tau e'b) a* + (a_t - tau e'a) b* - tau (a*'b*) e),

    symmetric in a and b. The projection is as smooth at v as max(l, 0) is at v's eigenvalues (Fukushima, Luo, Tseng
    2002), so that this exists everywhere but on the boundaries of K and of -K, where zero is returned.
    """
    size, e = _polar(v[1:])
    between = (v[0] + size > 0) & (v[0] - size < 0)
    r = np.where(between, size, 1.0)
    tau = v[0] / r
    along_a, along_b = np.einsum("il,il->l", e, a[1:]), np.einsum("il,il->l", e, b[1:])
    across_a, across_b = a[1:] - e * along_a, b[1:] - e * along_b
    inner = np.einsum("il,il->l", across_a, across_b)
    bent = np.empty_like(v)
    bent[0] = inner
    bent[1:] = (b[0] - tau * along_b) * across_a + (a[0] - tau * along_a) * across_b - tau * inner * e
    bent *= np.where(between, 0.5 / r, 0.0)
    return bent


def distance(s: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    size = norm(s[1:])
    # Between K and -K, s - Proj_K(s) = l2 c2, whose largest entry is the first.
    return np.where(s[0] + size <= 0, largest(s), np.maximum(size - s[0], 0.0) * 0.5)


def dual_distance(y: Array) -> Array:
    """How far y is from K* = K."""
    return distance(y)


def recession(piece: Piece, A: Array) -> tuple[list[Piece], Array]:
    """Directions within it, and their size: see ``pieces``."""
    return [piece], piece.map[0]


def enlarged(piece: Piece, z: Array) -> list[Piece]:
    """closure(K + R z) for z in K: a halfspace for z on the boundary, all for z inside."""
    size = float(np.linalg.norm(z[1:]))
    return halfspace(piece, np.concatenate([[size], -z[1:]])) if z[0] - size <= CLEAR * z[0] else []


def exposed(piece: Piece, z: Array, y: Array) -> list[Piece]:
    """K n y^perp for y in the face that z exposes: the multiples of z."""
    return ray(piece, z)


def _eigenvalues(v: Array) -> tuple[Array, Array]:
    size = norm(v[1:])
    return v[0] + size, v[0] - size


def _polar(u: Array) -> tuple[Array, Array]:
    """norm(u) and e = u / norm(u), for numbers of any size; e = 0 for u = 0, where its weights are equal anyway."""
    unit = largest(u)
    e = u / np.where(unit == 0, 1.0, unit)
    length = np.sqrt(np.einsum("il,il->l", e, e))
    e /= np.where(length == 0, 1.0, length)
    return unit * length, e
