"""Projections onto the product cone K and its dual K*, and the derivative D of Proj_{K*}, for a whole batch.

All arrays are (m, B) with the batch last, and rows in the order of ``Cones``. By Moreau (1962), v = y - s with y in K*,
s in K and s'y = 0 is split again by y = Proj_{K*}(v) and s = y - v = Proj_K(-v).

A lane that is not finite gives NaN in its own lane and leaves the others alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from cvxlayers.cones import nonneg, zero
from cvxlayers.cones.arrays import Array, Index, largest
from cvxlayers.cones.blocks import BlockDerivative
from cvxlayers.cones.group import Group, groups
from cvxlayers.cones.kinds import CONES, KINDS
from cvxlayers.cones.product import Cones
from cvxlayers.errors import DerivativeError, ParameterError
from cvxlayers.kernels import jit

__all__ = [
    "DualDerivative",
    "distance",
    "dual_derivative",
    "dual_distance",
    "dual_second_derivative",
    "group_derivative",
    "groups",
    "project",
    "project_dual",
    "project_group",
]


@dataclass(frozen=True)
class DualDerivative:
    """D = derivative of Proj_{K*} at v = y - s: symmetric, 0 <= D <= I, block-diagonal over the cones.

    D = diag(diagonal) + blocks: each row is either polyhedral or in exactly one block.

    Parameters
    ----------
    cones : Cones
    diagonal : (m, B)
        The diagonal of D on polyhedral rows: 1 for zero, 0, 1/2 or 1 for nonneg. Zero on all other rows.
    parts : tuple of (Group, BlockDerivative)
        The blocks of each group, in the form that its cone stores.
    gap : (B,)
        Distance of v from the nearest point where Proj_{K*} is not differentiable, in the units of v; exact for zero,
        nonneg, second-order and PSD cones, and to first order near such points for the others. Infinite where there
        are only equalities.
    scale : (B,)
        The largest absolute entry of v.
    """

    cones: Cones
    diagonal: Array
    parts: tuple[tuple[Group, BlockDerivative], ...]
    gap: Array
    scale: Array

    @property
    def batch(self) -> int:
        return int(self.diagonal.shape[1])

    @property
    def margin(self) -> Array:
        """gap / scale, (B,), and 0 where v = 0 (but infinite where there are only equalities)."""
        return np.asarray(self.gap / np.where(self.scale == 0, 1.0, self.scale))

    @cached_property
    def blocks(self) -> list[tuple[Index, Array]]:
        """For each of ``groups(cones)``: its rows (N, d) and its blocks D (d, d, N, B). Formed at the first use."""
        return [(group.rows, group.unfold(part.dense(), self.batch)) for group, part in self.parts]

    def matvec(self, w: Array) -> Array:
        """D w, which is also D'w, for w (m, B)."""
        product = self.diagonal * w
        for group, part in self.parts:
            product[group.rows.T] = group.unfold(part.times(group.fold(w)), self.batch)
        return product


def project(cones: Cones, v: Array) -> Array:
    """Proj_K(v), (m, B).

    Parameters
    ----------
    cones : Cones
    v : (m, B)

    Raises
    ------
    ParameterError
        Where v is not (m, B) with the m of the cones.

    Examples
    --------
    >>> project(Cones(zero=1, nonneg=2), np.array([[3.0], [1.0], [-1.0]])).ravel()
    array([0., 1., 0.])
    """
    return _apply(cones, v, "project")


def project_dual(cones: Cones, v: Array) -> Array:
    """Proj_{K*}(v), (m, B); parameters and errors as for ``project``.

    Examples
    --------
    >>> project_dual(Cones(zero=1, nonneg=2), np.array([[3.0], [1.0], [-1.0]])).ravel()
    array([3., 1., 0.])
    """
    return _apply(cones, v, "project_dual")


def dual_derivative(cones: Cones, v: Array) -> DualDerivative:
    """The derivative of Proj_{K*} at v (m, B); where it does not exist, an element of the generalized Jacobian.

    Which element, stands with each cone. Parameters and errors as for ``project``.

    Examples
    --------
    >>> D = dual_derivative(Cones(zero=1, nonneg=2), np.array([[3.0], [1.0], [-1.0]]))
    >>> D.diagonal.ravel(), D.margin
    (array([1., 1., 0.]), array([0.33333333]))
    """
    v = _checked(cones, v)
    flat, batch = cones.zero + cones.nonneg, v.shape[1]
    diagonal = np.empty_like(v)
    diagonal[: cones.zero] = 1.0
    diagonal[cones.zero : flat] = nonneg.dual_derivative(v[cones.zero : flat])
    diagonal[flat:] = 0.0
    gap = nonneg.gap(v[cones.zero : flat])
    parts = []
    with np.errstate(invalid="ignore"):
        for group in groups(cones):
            part = group_derivative(group, v)
            gap = np.minimum(gap, group.unfold(part.gap, batch).min(axis=0))
            parts.append((group, part))
    return DualDerivative(cones, diagonal, tuple(parts), gap, largest(v))


def group_derivative(group: Group, v: Array) -> BlockDerivative:
    """The blocks of D of one group of cones at v (m, B), its lanes those of ``group.fold(v)``."""
    part: BlockDerivative = _call(group, "linearize_dual", v)
    return part


def project_group(group: Group, folded: Array) -> Array:
    """Proj_{K*} of one group of cones; v and what comes back are folded, (d, N B) (see ``Group.fold``)."""
    function: Callable[..., Any] = _cone(group.kind).project_dual
    with np.errstate(invalid="ignore"):
        lanes = folded.shape[1] // group.count
        projected: Array = function(folded, *group.per_lane(lanes))
    return projected


def dual_second_derivative(cones: Cones, v: Array, a: Array, b: Array) -> Array:
    """The second derivative of Proj_{K*} at v along a and b, all (m, B): the derivative of D b along a.

    Zero on zero and nonnegative rows, where the projection is linear in pieces, and symmetric in a and b.

    Raises
    ------
    DerivativeError
        There are cones whose second derivative is not known here: others than zero, nonnegative and second-order ones.

    Examples
    --------
    >>> v, a, b = (np.array([w]).T for w in ([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]))
    >>> dual_second_derivative(Cones(second_order=(3,)), v, a, b).ravel() + 0.0
    array([0.5, 0. , 0. ])
    """
    v, bent = _checked(cones, v), np.zeros(np.broadcast_shapes(a.shape, b.shape))
    with np.errstate(invalid="ignore"):
        for group in groups(cones):
            second = getattr(CONES[group.kind], "second_derivative", None)
            if second is None:
                raise DerivativeError(
                    f"A second derivative was asked for, and this problem has cones of the kind '{group.kind}', for "
                    "which there is none; there are second derivatives for zero, nonnegative and second-order cones. "
                    "Use a first-order method, or finite differences of the gradient."
                )
            folded = second(group.fold(v), group.fold(a), group.fold(b))
            bent[group.rows.T] = group.unfold(folded, v.shape[1])
    return bent


def distance(cones: Cones, s: Array) -> Array:
    """How far s (m, B) is from K: the infinity norm of s - Proj_K(s), (B,)."""
    return _largest_distance(cones, s, "distance")


def dual_distance(cones: Cones, y: Array) -> Array:
    """How far y (m, B) is from K*: the infinity norm of y - Proj_{K*}(y), (B,)."""
    return _largest_distance(cones, y, "dual_distance")


def _checked(cones: Cones, v: Array) -> Array:
    v = np.asarray(v, dtype=np.float64)
    if v.ndim != 2 or v.shape[0] != cones.m:
        raise ParameterError(
            f"The vector to project has shape {v.shape}, but these cones have {cones.m} rows: "
            f"pass an array of shape ({cones.m}, B), with the batch as its last axis."
        )
    return v


@lru_cache(maxsize=8)
def _cone(kind: str) -> Any:
    """What has the functions of this cone: its kernels, or its module."""
    if KINDS[kind].compiled and jit.usable():
        from cvxlayers.cones.kernels.entry import compiled_cone  # here, because it loads Numba

        return compiled_cone(kind)
    return CONES[kind]


def _call(group: Group, name: str, v: Array) -> Any:
    """Call a cone's function on the folded rows of its group, with the exponents where it has some."""
    function: Callable[..., Any] = getattr(_cone(group.kind), name)
    folded = group.fold(v)
    return function(folded, *group.per_lane(v.shape[1]))


def _apply(cones: Cones, v: Array, name: str) -> Array:
    v = _checked(cones, v)
    flat = cones.zero + cones.nonneg
    projected = np.empty_like(v)
    projected[: cones.zero] = getattr(zero, name)(v[: cones.zero])
    projected[cones.zero : flat] = getattr(nonneg, name)(v[cones.zero : flat])
    with np.errstate(invalid="ignore"):
        for group in groups(cones):
            projected[group.rows.T] = group.unfold(_call(group, name, v), v.shape[1])
    return projected


def _largest_distance(cones: Cones, v: Array, name: str) -> Array:
    v = _checked(cones, v)
    flat = cones.zero + cones.nonneg
    worst = np.maximum(getattr(zero, name)(v[: cones.zero]), getattr(nonneg, name)(v[cones.zero : flat]))
    with np.errstate(invalid="ignore"):
        for group in groups(cones):
            worst = np.maximum(worst, group.unfold(_call(group, name, v), v.shape[1]).max(axis=0))
    return np.asarray(worst)
