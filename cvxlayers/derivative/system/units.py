"""Units in which y and s, and the parts of the linear system, can be compared, whatever units the caller has chosen.

What is compared with what follows from the optimality conditions alone, each row and column for itself, as in the
componentwise backward error of Oettli and Prager (1964): s_i with the terms of its row, and y_i with the terms of the
columns in which it is one,

    sigma_i = (|A||x| + |b| + |s|)_i,    eta_i = min over j of dual_j / |A_ij|,    dual = |P||x| + |q| + |A|'|y|.

The rows of a curved cone share the largest sigma and the smallest eta. A change of units of a row, a variable or the
objective changes sigma, eta and dual as it changes s, y and the gradient, so that y / eta, s / sigma and all that is
made of them stay what they are. Where the terms are rounding beside the others, in the scales of the problem (see
``cvxlayers.program.scales``), they tell nothing, and others are asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones.group import groups
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import dual_derivative
from cvxlayers.program.scales import Scales, by_row
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["FAINT", "FAINTEST", "Units", "kink_margin", "share_rows"]


FAINT, FAINTEST = 1e-6, 1e-10
"""What dual, and sigma, have to be beside the largest, in the scales of the problem, to tell anything."""


@dataclass(frozen=True)
class Units:
    """The sizes of the terms at one point.

    Attributes
    ----------
    dual : (n, B)
        Zero where it tells nothing.
    sigma, eta : (m, B)
        eta is infinite in rows of A without an entry that counts; sigma is the largest, in the scales of the problem,
        where it tells nothing.
    scales : Scales
        Of the problem.
    """

    dual: Array
    sigma: Array
    eta: Array
    scales: Scales

    @classmethod
    def of(cls, structure: Structure, values: Values, found: Scales, x: Array, y: Array, s: Array) -> Units:
        """The units at a point x (n, B), y and s (m, B) of a problem with these scales."""
        A, sizes, size_A, size_x, size_y = structure.A, np.abs(values.P), np.abs(values.A), np.abs(x), np.abs(y)
        dual = structure.P_times(sizes, size_x) + np.abs(values.q) + A.transpose_times(size_A, size_y)
        sigma = A.times(size_A, size_x) + np.abs(values.b) + np.abs(s)
        share_rows(structure.cones, sigma)
        by_scale = dual * found.D
        dual = np.where(by_scale > FAINT * by_scale.max(axis=0, initial=0.0), dual, 0.0)
        by_scale = sigma * found.E
        largest = by_scale.max(axis=0, initial=0.0)
        sigma = np.where(by_scale > FAINTEST * largest, sigma, largest / found.E)
        over = np.zeros_like(dual)
        np.divide(1.0, dual, out=over, where=dual > 0)
        price = by_row(A, size_A * over[A.columns])
        share_rows(structure.cones, price)
        eta = np.full_like(price, np.inf)
        np.divide(1.0, price, out=eta, where=price > 0)
        return cls(dual, sigma, eta, found)

    def select(self, elements: NDArray[np.intp] | slice) -> Units:
        """Those of some elements."""
        dual, sigma, eta = (part[:, elements] for part in (self.dual, self.sigma, self.eta))
        return Units(dual, sigma, eta, self.scales.select(elements))

    @property
    def balance(self) -> Array:
        """w (m, B) such that y / w and w s can be compared: the root of eta / sigma, or that of the scales."""
        known = np.isfinite(self.eta) & (self.sigma > 0) & np.isfinite(self.sigma)
        ratio = self.scales.E**2 / self.scales.cost
        np.divide(self.eta, self.sigma, out=ratio, where=known)
        return np.sqrt(ratio)


def kink_margin(cones: Cones, units: Units, y: Array, s: Array) -> Array:
    """Distance of y / eta - s / sigma from the nearest kink of the projection onto K*, (B,).

    Data that change by this relative amount, or a little less, may lead to another active set: near zero where strict
    complementarity fails. Where all terms are rounding in the scales of the problem, so are y and s. It is infinite
    where there are equalities only.
    """
    E, cost = units.scales.E, units.scales.cost
    sigma, eta = np.maximum(units.sigma, FAINTEST / E), np.maximum(units.eta, FAINTEST * E / cost)
    with np.errstate(invalid="ignore"):
        return dual_derivative(cones, y / eta - s / sigma).gap


def share_rows(cones: Cones, sizes: Array) -> None:
    """Let the rows of each curved cone have the largest of their sizes (m, B)."""
    for group in groups(cones):
        sizes[group.rows] = sizes[group.rows].max(axis=1, keepdims=True)
