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

import numpy as np

from cvxlayers.cones import svec
from cvxlayers.cones.arrays import norm
from cvxlayers.cones.blocks import BlockDerivative, EigenBlocks
from cvxlayers.cones.group import Group
from cvxlayers.cones.product import Cones
from cvxlayers.cones.projection import DualDerivative, dual_derivative, project_dual
from cvxlayers.cones.psd import PsdDerivative
from cvxlayers.cones.second_order import SecondOrderDerivative
from cvxlayers.program.structure import Array

__all__ = ["smoothed_derivative", "smoothed_part", "smoothed_projection", "smoothed_rows"]


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
    >>> y = smoothed_projection(Cones(nonneg=1), np.array([[1.5]]), mu=1.0)
    >>> y, y - 1.5
    (array([[2.]]), array([[0.5]]))
    """
    y = project_dual(cones, v)
    inequalities = slice(cones.zero, cones.zero + cones.nonneg)
    y[inequalities] = _phi(v[inequalities], mu)
    for group, part in dual_derivative(cones, v).parts:
        if isinstance(part, SecondOrderDerivative | PsdDerivative):
            y[group.rows.T] = group.unfold(_spectral(group.fold(v), part, mu), v.shape[1])
    return y


def smoothed_derivative(cones: Cones, v: Array, mu: float) -> DualDerivative:
    """The derivative of Proj_mu at v; parameters as for ``smoothed_projection``.

    ``gap`` and ``margin`` of what comes back are those of the projection that is smoothed.

    Examples
    --------
    >>> D = smoothed_derivative(Cones(zero=1, nonneg=2), np.array([[3.0], [1.5], [0.0]]), mu=1.0)
    >>> D.diagonal.ravel()
    array([1. , 0.8, 0.5])
    """
    D = dual_derivative(cones, v)
    diagonal = D.diagonal.copy()
    inequalities = slice(cones.zero, cones.zero + cones.nonneg)
    diagonal[inequalities] = smoothed_rows(v[inequalities], mu)
    return replace(
        D, diagonal=diagonal, parts=tuple((group, smoothed_part(group, part, v, mu)) for group, part in D.parts)
    )


def smoothed_rows(v: Array, mu: float) -> Array:
    """The derivative of Proj_mu in nonnegative rows v, entry by entry."""
    return _difference(v, v, mu)


def smoothed_part(group: Group, part: BlockDerivative, v: Array, mu: float) -> BlockDerivative:
    """The derivative of Proj_mu on the cones of a group, from that of Proj_{K*}, at v (m, B)."""
    folded = group.fold(v)
    if isinstance(part, SecondOrderDerivative):
        l1, l2 = _second_order_eigenvalues(folded)
        w1, w2, w3 = _difference(l1, l1, mu), _difference(l2, l2, mu), _difference(l1, l2, mu)
        return replace(part, w1=w1, w2=w2, w3=w3)
    if isinstance(part, PsdDerivative):
        values = _psd_eigenvalues(folded, part)
        return replace(part, Omega=_difference(values[:, :, None], values[:, None, :], mu))
    assert isinstance(part, EigenBlocks)
    return replace(part, eigenvalues=0.5 + (part.eigenvalues - 0.5) * _share(folded, mu))


def _spectral(v: Array, part: SecondOrderDerivative | PsdDerivative, mu: float) -> Array:
    """phi of the eigenvalues of v (d, L), whose eigenvectors ``part`` has."""
    if isinstance(part, PsdDerivative):
        values = _phi(_psd_eigenvalues(v, part), mu)
        return svec.pack(np.moveaxis((part.Q * values[:, None, :]) @ part.Q.swapaxes(1, 2), 0, -1))
    high, low = (_phi(values, mu) for values in _second_order_eigenvalues(v))
    return np.concatenate([0.5 * (high + low)[None], 0.5 * (high - low) * part.e])


def _second_order_eigenvalues(v: Array) -> tuple[Array, Array]:
    size = norm(v[1:])
    return v[0] + size, v[0] - size


def _psd_eigenvalues(v: Array, part: PsdDerivative) -> Array:
    """The eigenvalues (L, k) of the matrices packed in v (d, L), for the eigenvectors of ``part``."""
    V = np.moveaxis(svec.unpack(v), -1, 0)
    return np.asarray(np.einsum("lik,lij,ljk->lk", part.Q, V, part.Q, optimize=True))


def _phi(a: Array, mu: float) -> Array:
    """The positive root y of y - mu / y = a, without cancellation for negative a."""
    root = np.sqrt(a * a + 4.0 * mu)
    return np.asarray(np.where(a > 0, 0.5 * (a + root), 2.0 * mu / (root - np.minimum(a, 0.0))))


def _difference(a: Array, b: Array, mu: float) -> Array:
    """The divided difference of phi between a and b, its derivative where they are equal."""
    return np.asarray((_phi(a, mu) + _phi(b, mu)) / (np.sqrt(a * a + 4.0 * mu) + np.sqrt(b * b + 4.0 * mu)))


def _share(v: Array, mu: float) -> Array:
    """|v| / sqrt(|v|^2 + 4 mu), (L,)."""
    size = norm(v)
    return np.asarray(size / np.sqrt(size * size + 4.0 * mu))
