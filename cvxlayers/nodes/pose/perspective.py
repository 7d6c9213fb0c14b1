"""Perspective-n-point: the pose of a camera from points and their images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.nodes.declarative import DeclarativeLayer, DeclarativeNode, NodeInfo
from cvxlayers.nodes.pose.pose_search import Measured, find_poses
from cvxlayers.nodes.pose.rotation import rotate
from cvxlayers.nodes.rules.arguments import check_dimensions, check_entries

__all__ = ["PerspectiveNPoint", "perspective_n_point"]

OBJECTIVES = ("reprojection", "huber", "cosine")

NEAREST = 1e-9
"""Points with less depth than this, relative to the farthest, cannot be seen."""


def perspective_n_point(
    p2d: Tensor,
    p3d: Tensor,
    w: Tensor | None = None,
    K: Tensor | None = None,
    *,
    objective: str = "reprojection",
    delta: float = 1.0,
    tolerance: float | None = None,
    on_failure: str = "raise",
) -> Tensor:
    """The pose (theta, t) of least reprojection error: sum_i w_i e_i(K (R(theta) p3d_i + t), p2d_i).

    Parameters
    ----------
    p2d : (..., n, 2) tensor
        Image points, in the units that K maps to.
    p3d : (..., n, 3) tensor
        The points; at least four, not all on one line. In a plane is fine.
    w : (..., n) tensor, optional
        Weights, at least zero; default: 1 each.
    K : (..., 3, 3) tensor, optional
        The camera's intrinsic matrix, invertible; default: the identity, for normalized image points.
    objective : "reprojection", "huber" or "cosine"
        What e is: the squared distance in the image; Huber's function of the distance, quadratic up to ``delta``; or
        one minus the cosine of the angle between the directions. Default "reprojection".
    delta : float
        For "huber", positive, in the units of p2d. Default 1.
    tolerance : float, optional
        Of the relative optimality residuals; see ``cvxlayers.nodes.DeclarativeLayer``.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements that find no pose; see ``cvxlayers.nodes.DeclarativeLayer``.

    Returns
    -------
    (..., 6) tensor
        theta, the axis of the rotation times its angle (at most pi), and t: a point p is at R p + t before the camera.
        Differentiable in p2d, p3d, w and K. Batch dimensions broadcast; the work is done in double precision.

    Raises
    ------
    ParameterError
        Wrong shapes or dtypes, negative weights, a K without an inverse, NaN or infinite entries.
    OptionError
        An unknown objective or policy.
    SolveError
        With ``on_failure="raise"``, when the search for some element ends at no stationary point.

    Notes ----- The problem has local minima; the best of several starts is taken, which in all trials with at most
    moderate noise is the global one. Points in a plane seen from afar have two minima of almost equal cost; noise
    decides which is lower, as for few points with much noise. Source: Campbell, Liu, Gould 2020 (section 3) for the
    node, Terzakis and Lourakis 2020 for the starts.

    Examples
    --------
    >>> p3d = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0.5], [0.3, 1, 1]])
    >>> p2d = (p3d + torch.tensor([0.0, 0.0, 4.0]))
    >>> p2d = p2d[:, :2] / p2d[:, 2:]  # seen by a camera four units behind them
    >>> bool(torch.allclose(perspective_n_point(p2d, p3d), torch.tensor([0.0, 0, 0, 0, 0, 4]), atol=1e-4))
    True
    """
    node = PerspectiveNPoint(objective, delta=delta, tolerance=tolerance, on_failure=on_failure)
    return node(p2d, p3d, w, K)


class PerspectiveNPoint(torch.nn.Module):
    """``perspective_n_point`` as a module with fixed options; ``module.info`` is the report of this thread's last call.

    Parameters
    ----------
    objective, delta, tolerance, on_failure
        See ``perspective_n_point``.

    Examples
    --------
    >>> node = PerspectiveNPoint("cosine")
    >>> p3d = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0))
    >>> q = p3d + torch.tensor([0.1, 0.2, 6.0])
    >>> pose = node(q[..., :2] / q[..., 2:], p3d)
    >>> pose.shape, node.info.statuses.tolist()
    (torch.Size([4, 6]), ['optimal', 'optimal', 'optimal', 'optimal'])
    """

    def __init__(
        self,
        objective: str = "reprojection",
        *,
        delta: float = 1.0,
        tolerance: float | None = None,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        if objective not in OBJECTIVES:
            raise OptionError(f"objective: expected one of {', '.join(map(repr, OBJECTIVES))}, got {objective!r}.")
        if not isinstance(delta, int | float) or not 0 < delta < float("inf"):
            raise OptionError(f"delta: expected a positive finite number, got {delta!r}.")
        self.layer = DeclarativeLayer(_PoseNode(objective, float(delta)), on_failure=on_failure, tolerance=tolerance)

    @property
    def info(self) -> NodeInfo | None:
        """The report of this thread's last call; None before the first."""
        return self.layer.info

    def forward(self, p2d: Tensor, p3d: Tensor, w: Tensor | None = None, K: Tensor | None = None) -> Tensor:
        """The poses (..., 6) for images (..., n, 2) of points (..., n, 3); see ``perspective_n_point``."""
        return self.layer(*_checked(p2d, p3d, w, K))


def _checked(p2d: Any, p3d: Any, w: Any, K: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_dimensions("p2d", p2d, "n, 2", 2)
    check_dimensions("p3d", p3d, "n, 3", 2)
    n = p2d.shape[-2]
    w = p2d.new_ones(n) if w is None else check_dimensions("w", w, "n", 1)
    K = torch.eye(3, dtype=p2d.dtype, device=p2d.device) if K is None else check_dimensions("K", K, "3, 3", 2)
    for name, x, core in (("p2d", p2d, (n, 2)), ("p3d", p3d, (n, 3)), ("w", w, (n,)), ("K", K, (3, 3))):
        if tuple(x.shape[x.ndim - len(core) :]) != core:
            told = ", ".join(map(str, core))
            raise ParameterError(f"{name}: got shape {tuple(x.shape)}, expected (..., {told}); p2d has n = {n} points.")
    if n < 4:
        raise ParameterError(f"p2d: got {n} points, expected at least 4: fewer do not determine a pose.")
    check_entries(w, lambda plain: ~(plain < 0), "w: got negative entries, expected zero or more")
    check_entries(K, _invertible, "K: got a matrix without an inverse")
    return p2d, p3d, w, K


def _invertible(K: Tensor) -> Tensor:
    determinant = torch.linalg.det(K.double())
    return (determinant.abs() > 1e-12 * K.double().norm(dim=(-2, -1)) ** 3) | ~torch.isfinite(determinant)


class _PoseNode(DeclarativeNode):
    """(p2d, p3d, w, K) to (theta, t)."""

    shape = (6,)
    dims = (2, 2, 1, 2)

    def __init__(self, kind: str, delta: float) -> None:
        self.kind, self.delta = kind, delta

    def objective(self, *xs: Tensor, y: Tensor) -> Tensor:
        p2d, p3d, w, K = xs
        q = rotate(y[:, :3], p3d) + y[:, None, 3:]
        if self.kind == "cosine":
            return (w * (1 - (_directions(p2d, K) * torch.nn.functional.normalize(q, dim=2)).sum(2))).sum(1)
        h = q @ K.mT
        error = ((h[..., :2] / h[..., 2:] - p2d) ** 2).sum(2)
        if self.kind == "huber":
            far = error > self.delta**2
            distance = torch.where(far, error, 1.0).sqrt()
            error = torch.where(far, 2 * self.delta * distance - self.delta**2, error)
        return (w * error).sum(1)

    def solve(self, *xs: Tensor) -> Tensor:
        p2d, p3d, w, K = xs
        if not len(p2d):
            return p2d.new_zeros((0, 6))
        rays = _homogeneous(p2d) @ torch.linalg.inv(K).mT
        measure = self._cosine(p2d, w, K) if self.kind == "cosine" else self._reprojection(p2d, w, K)
        return find_poses(rays[..., :2] / rays[..., 2:], p3d, w, measure)

    def _reprojection(self, p2d: Tensor, w: Tensor, K: Tensor) -> Any:
        def measure(q: Tensor, element: Tensor) -> Measured:
            camera, weight = K[element], w[element]
            h = q @ camera.mT
            depth = h[..., 2:]
            image = h[..., :2] / depth
            residual = image - p2d[element]
            slope = (camera[:, None, :2] - image[..., None] * camera[:, None, 2:]) / depth[..., None]
            square = (residual**2).sum(2)
            error = square
            if self.kind == "huber":
                distance = square.sqrt().clamp(min=1e-300)
                far = distance > self.delta
                error = torch.where(far, 2 * self.delta * distance - self.delta**2, square)
                weight = torch.where(far, weight * self.delta / distance, weight)
            hidden = (q[..., 2] <= NEAREST * q[..., 2].amax(1, keepdim=True)) & (w[element] > 0)
            cost = (w[element] * error).sum(1)
            return Measured(torch.where(hidden.any(1) | ~cost.isfinite(), torch.inf, cost), residual, weight, slope)

        return measure

    def _cosine(self, p2d: Tensor, w: Tensor, K: Tensor) -> Any:
        directions = _directions(p2d, K)

        def measure(q: Tensor, element: Tensor) -> Measured:
            length = q.norm(dim=2, keepdim=True)
            unit = q / length
            residual = unit - directions[element]
            identity = torch.eye(3, dtype=q.dtype, device=q.device)
            slope = (identity - unit[..., None] * unit[..., None, :]) / length[..., None]
            cost = (w[element] * (residual**2).sum(2)).sum(1)
            return Measured(torch.where(cost.isfinite(), cost, torch.inf), residual, w[element], slope)

        return measure


def _homogeneous(p2d: Tensor) -> Tensor:
    return torch.cat([p2d, torch.ones_like(p2d[..., :1])], 2)


def _directions(p2d: Tensor, K: Tensor) -> Tensor:
    """The unit vectors towards image points, (B, n, 3)."""
    return torch.nn.functional.normalize(torch.linalg.solve_ex(K, _homogeneous(p2d).mT)[0].mT, dim=2)
