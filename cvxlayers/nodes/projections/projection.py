"""Euclidean projections onto the simplex and onto norm spheres and balls, differentiable in the point and the radius.

Derivatives of every order, forward and reverse, are those of the closed form on the active set; nothing is unrolled.
The active set is found by comparing entries with thresholds of their own size, never with an absolute tolerance. Module
``projection_rules`` has both for all but the simplest sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError
from cvxlayers.nodes.projections.projection_rules import L1Rule, L2Rule
from cvxlayers.nodes.rules.arguments import check_dimensions, check_entries, positive

__all__ = [
    "SETS",
    "Projection",
    "project_l1_ball",
    "project_l1_sphere",
    "project_l2_ball",
    "project_l2_sphere",
    "project_linf_ball",
    "project_linf_sphere",
    "project_simplex",
    "project_simplex_kl",
]

Radius = Tensor | float

_SIMPLEX, _L1_SPHERE, _L1_BALL = L1Rule(signs=False), L1Rule(), L1Rule(ball=True)
_L2_SPHERE, _L2_BALL = L2Rule(), L2Rule(ball=True)


def project_simplex(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point with nonnegative entries of sum ``radius``; with radius 1 this is sparsemax.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        With support S = {i: y_i > 0}: dy_i = dx_i - (sum_S dx - d radius) / |S| for i in S, and 0 elsewhere. Where an
        entry is about to enter the support the projection has a kink, and the derivative is that from inside.

    Raises
    ------
    ParameterError
        x is not a floating tensor, has no entries, or the radius is not positive or does not broadcast.

    Examples
    --------
    >>> project_simplex(torch.tensor([0.9, 0.5, -1.0]))
    tensor([0.7000, 0.3000, 0.0000])
    """
    r = _prepared(x, radius)
    return _SIMPLEX(x, r)


def project_simplex_kl(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The point y of the simplex that minimizes sum_i y_i log(y_i / x_i): y = radius x / sum(x).

    Parameters
    ----------
    x : (..., n) tensor
        Positive.
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        With S = sum(x) and radius 1 its Jacobian is I / S - x 1' / S^2.

    Raises
    ------
    ParameterError
        As ``project_simplex``, or an entry of x is not positive.

    Examples
    --------
    >>> project_simplex_kl(torch.tensor([1.0, 3.0]))
    tensor([0.2500, 0.7500])
    """
    r = _prepared(x, radius)
    check_entries(x, lambda plain: plain > 0, "x: got entries that are not positive, where the divergence is undefined")
    return r * x / x.sum(-1, keepdim=True)


def project_l1_sphere(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point whose absolute values sum to ``radius``.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        sign(x) times the projection of |x| onto the simplex. From inside the ball a zero entry may go either way; it
        goes to the positive side.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_l1_sphere(torch.tensor([-0.3, 0.1]))
    tensor([-0.6000,  0.4000])
    """
    r = _prepared(x, radius)
    return _L1_SPHERE(x, r)


def project_l1_ball(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point whose absolute values sum to at most ``radius``.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        x itself in the ball, and on its surface, where the derivative is that from inside.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_l1_ball(torch.tensor([-0.9, 0.5]))
    tensor([-0.7000,  0.3000])
    """
    r = _prepared(x, radius)
    return _L1_BALL(x, r)


def project_l2_sphere(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point of Euclidean length ``radius``: radius x / |x|.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        At x = 0 every point of the sphere is nearest; radius times the first unit vector is returned, with a zero
        derivative in x.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_l2_sphere(torch.tensor([3.0, 4.0]), 10.0)
    tensor([6., 8.])
    """
    r = _prepared(x, radius)
    return _L2_SPHERE(x, r)


def project_l2_ball(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point of Euclidean length at most ``radius``.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        x itself in the ball, and on its surface, where the derivative is that from inside.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_l2_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    r = _prepared(x, radius)
    return _L2_BALL(x, r)


def project_linf_sphere(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point whose largest absolute value is ``radius``.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        From outside the entries are clipped; from inside the largest one (the first of several) is stretched, a zero
        one to the positive side. A clipped or stretched entry has derivative 0 in x and its sign in the radius.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_linf_sphere(torch.tensor([[-0.5, 0.2], [3.0, 0.2]]))
    tensor([[-1.0000,  0.2000],
            [ 1.0000,  0.2000]])
    """
    r = _prepared(x, radius)
    plain, outer = x.detach(), torch.as_tensor(r, dtype=x.dtype, device=x.device)
    size = plain.abs()
    largest = torch.arange(x.shape[-1], device=x.device) == size.argmax(-1, keepdim=True)
    stretched = (size.amax(-1, keepdim=True) < r) & largest
    above, below = (plain > r) | (stretched & (plain >= 0)), (plain < -r) | (stretched & (plain < 0))
    return torch.where(above, outer, torch.where(below, -outer, x))


def project_linf_ball(x: Tensor, radius: Radius = 1.0) -> Tensor:
    """The nearest point whose absolute values are at most ``radius``: each entry clipped.

    Parameters
    ----------
    x : (..., n) tensor
    radius : positive float, or tensor that broadcasts to x.shape[:-1]

    Returns
    -------
    (..., n) tensor
        A clipped entry has derivative 0 in x and its sign in the radius; one at the bound counts as not clipped.

    Raises
    ------
    ParameterError
        As ``project_simplex``.

    Examples
    --------
    >>> project_linf_ball(torch.tensor([-3.0, 0.5]))
    tensor([-1.0000,  0.5000])
    """
    r = _prepared(x, radius)
    plain, outer = x.detach(), torch.as_tensor(r, dtype=x.dtype, device=x.device)
    return torch.where(plain > r, outer, torch.where(plain < -r, -outer, x))


SETS: dict[str, Callable[[Tensor, Radius], Tensor]] = {
    "simplex": project_simplex,
    "simplex_kl": project_simplex_kl,
    "l1_sphere": project_l1_sphere,
    "l1_ball": project_l1_ball,
    "l2_sphere": project_l2_sphere,
    "l2_ball": project_l2_ball,
    "linf_sphere": project_linf_sphere,
    "linf_ball": project_linf_ball,
}
"""The projection onto each set, by the set's name."""


class Projection(torch.nn.Module):
    """The nearest point of a set, along the last dimension.

    Parameters
    ----------
    onto : str
        "simplex", "simplex_kl" (nearest in the Kullback-Leibler divergence), "l1_sphere", "l1_ball", "l2_sphere",
        "l2_ball", "linf_sphere" or "linf_ball".
    radius : positive float or tensor
        A ``torch.nn.Parameter`` is learned.

    Raises
    ------
    OptionError
        No such set.

    Examples
    --------
    >>> Projection("l1_ball", radius=2.0)(torch.tensor([[3.0, -1.5]]))
    tensor([[ 1.7500, -0.2500]])
    """

    def __init__(self, onto: str = "simplex", radius: Radius = 1.0) -> None:
        super().__init__()
        if onto not in SETS:
            raise OptionError(f"onto: got {onto!r}, expected one of {', '.join(map(repr, SETS))}.")
        self.onto = onto
        self.radius = radius

    def forward(self, x: Tensor, radius: Radius | None = None) -> Tensor:
        """(..., n) to (..., n); a radius given here replaces the module's own."""
        return SETS[self.onto](x, self.radius if radius is None else radius)

    def extra_repr(self) -> str:
        return f"onto={self.onto!r}"


def _prepared(x: Any, radius: Any) -> Any:
    """The radius, with a last dimension of one where it is a tensor, after a look at both."""
    check_dimensions("x", x, "n", 1)
    r = positive("radius", radius, x, x.shape[:-1])
    return r[..., None] if isinstance(r, Tensor) else r
