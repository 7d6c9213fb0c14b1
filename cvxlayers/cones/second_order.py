"""The second-order cone K = K* = {(t, u): norm(u) <= t}, t first, of any dimension d >= 1.

All functions work on v (d, L), one cone for each lane. With the unit vector e = u / norm(u), v has the spectral
decomposition (Fukushima, Luo, Tseng 2002)

    v = l1 c1 + l2 c2,   l1, l2 = t +- norm(u),   c1, c2 = (1, +-e) / 2,

the projection takes the positive parts of l1 and l2, and its derivative is a Loewner operator of the same eigenvectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvxlayers.cones.arrays import Array, gap_relative_to, largest, norm
from cvxlayers.cones.blocks import BlockDerivative

__all__ = [
    "SecondOrderDerivative",
    "distance",
    "dual_derivative",
    "dual_distance",
    "linearize_dual",
    "margin",
    "project",
    "project_dual",
    "second_derivative",
]


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


def dual_derivative(v: Array) -> Array:
    """The derivative of Proj_{K*} at v as blocks, (d, d, L); see ``linearize_dual``."""
    return linearize_dual(v).dense()


def margin(v: Array) -> Array:
    """Distance from the boundaries of K and -K, where alone the projection has kinks, over max |v_i|, (L,)."""
    return gap_relative_to(v, linearize_dual(v).gap)


def distance(s: Array) -> Array:
    """How far s is from K, (L,): the infinity norm of s - Proj_K(s)."""
    size = norm(s[1:])
    # Between K and -K, s - Proj_K(s) = l2 c2, whose largest entry is the first.
    return np.where(s[0] + size <= 0, largest(s), np.maximum(size - s[0], 0.0) * 0.5)


def dual_distance(y: Array) -> Array:
    """How far y is from K* = K."""
    return distance(y)


def _polar(u: Array) -> tuple[Array, Array]:
    """norm(u) and e = u / norm(u), for numbers of any size; e = 0 for u = 0, where its weights are equal anyway."""
    unit = largest(u)
    e = u / np.where(unit == 0, 1.0, unit)
    length = np.sqrt(np.einsum("il,il->l", e, e))
    e /= np.where(length == 0, 1.0, length)
    return unit * length, e
