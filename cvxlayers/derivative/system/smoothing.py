"""The projection smoothed along the central path: derivatives that are useful at vertices and at kinks.

Instead of s'y = 0, points on the central path have s o y = mu e, with each cone's own product o and unit e (Faraut,
Koranyi 1994); they solve the program with the barrier mu (-log det s) added to its objective, where det is the product
of the entries, (t^2 - |u|^2)^(1/2), or the determinant. For v = y - s the eigenvalues of y are then

    phi(l) = (l + sqrt(l^2 + 4 mu)) / 2    of v's eigenvalues l,

with v's eigenvectors. This is a smooth map y = Proj_mu(v) that tends to Proj_{K*} as mu -> 0 (Chen, Mangasarian 1996
for rows; Fukushima, Luo, Tseng 2002 for second-order, Sun, Sun 2008 for semidefinite cones). Its derivative has v's
eigenvectors and the divided differences of phi as eigenvalues, all of them between 0 and 1:

    (phi(a) - phi(b)) / (a - b) = (1 + (a + b) / (sqrt(a^2 + 4 mu) + sqrt(b^2 + 4 mu))) / 2.

Exponential and power cones have no such product. Their D is drawn towards I / 2 as phi' is in the nonnegative rows,
with |v| in place of |l|; this ridge is a regularization, and Proj_mu is the exact projection there:

    D_mu = I / 2 + (D - I / 2) |v| / sqrt(|v|^2 + 4 mu).
"""

from __future__ import annotations

from dataclasses import replace

from cvxlayers.cones import smooth
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import DualDerivative, dual_derivative, project_dual
from cvxlayers.program.structure import Array

__all__ = ["smoothed_derivative", "smoothed_projection", "smoothed_rows"]


def smoothed_projection(cones: Cones, v: Array, mu: float) -> Array:
    """y = Proj_mu(v), (m, B).

    Parameters
    ----------
    cones : Cones
    v : (m, B)
    mu : float
        What s o y is to be, in the units of s times y; positive.

    Examples
    --------
    >>> import numpy as np
    >>> y = smoothed_projection(Cones(nonneg=1), np.array([[1.5]]), mu=1.0)
    >>> y, y - 1.5
    (array([[2.]]), array([[0.5]]))
    """
    y = project_dual(cones, v)
    inequalities = slice(cones.zero, cones.zero + cones.nonneg)
    y[inequalities] = smooth.phi(v[inequalities], mu)
    for group, part in dual_derivative(cones, v).parts:
        projected = part.smoothed_projection(group.fold(v), mu)
        if projected is not None:
            y[group.rows.T] = group.unfold(projected, v.shape[1])
    return y


def smoothed_derivative(cones: Cones, v: Array, mu: float) -> DualDerivative:
    """The derivative of Proj_mu at v; parameters as for ``smoothed_projection``.

    ``gap`` and ``margin`` of what comes back are those of the projection that is smoothed.

    Examples
    --------
    >>> import numpy as np
    >>> D = smoothed_derivative(Cones(zero=1, nonneg=2), np.array([[3.0], [1.5], [0.0]]), mu=1.0)
    >>> D.diagonal.ravel()
    array([1. , 0.8, 0.5])
    """
    D = dual_derivative(cones, v)
    diagonal = D.diagonal.copy()
    inequalities = slice(cones.zero, cones.zero + cones.nonneg)
    diagonal[inequalities] = smoothed_rows(v[inequalities], mu)
    return replace(
        D, diagonal=diagonal, parts=tuple((group, part.smoothed(group.fold(v), mu)) for group, part in D.parts)
    )


def smoothed_rows(v: Array, mu: float) -> Array:
    """The derivative of Proj_mu in nonnegative rows v, entry by entry."""
    return smooth.divided_difference(v, v, mu)
