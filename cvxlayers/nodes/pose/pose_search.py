"""Poses from points and their images: starts from a relaxation on rotations, then damped Gauss-Newton steps.

With normalized image points (x, y) and N = [[1, 0, -x], [0, 1, -y]], a point seen exactly has N (R p + t) = 0.
Eliminating t leaves r'Omega r for the nine entries r of R (Terzakis, Lourakis 2020). Candidates are the rotations
nearest to its smallest eigenvectors, those from the first two columns alone (which serve points in a plane), and a
few fixed ones; each goes down on r'Omega r, and the best few, points in front of the camera first, go on to the
objective itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cvxlayers.nodes.pose.rotation import exponential, logarithm

__all__ = ["Measured", "find_poses"]

STARTS, EARLY, LATE = 4, 12, 60
"""How many candidates go on, for how many steps, and for how many the best of them."""

EIGENVECTORS, DESCENT = 4, 8
"""How many eigenvectors give candidates, and how many steps these make on the relaxation."""


class Measured(NamedTuple):
    """Points q (B, n, 3) before the camera, judged: cost (B,), residuals (B, n, k), their weights (B, n), and the
    derivative of the residuals in q, (B, n, k, 3). Costs are infinite where a point cannot be seen."""

    cost: Tensor
    residual: Tensor
    weight: Tensor
    slope: Tensor


Measure = Callable[[Tensor, Tensor], Measured]
"""From points q (B', n, 3) and the element of the batch that each belongs to (B',)."""


class _Poses(NamedTuple):
    """Rotations (B, 3, 3) and translations (B, 3)."""

    R: Tensor
    t: Tensor

    def select(self, which: Tensor) -> _Poses:
        """Some of them."""
        return _Poses(self.R[which], self.t[which])


def find_poses(rays: Tensor, p: Tensor, w: Tensor, measure: Measure) -> Tensor:
    """The axis-angle vectors and translations (B, 6) of least cost that are found.

    ``rays`` (B, n, 2) are normalized image points, p (B, n, 3) the points, w (B, n) their weights.
    """
    total = w.sum(1)[:, None, None].clamp(min=1e-300)
    centre = (w[:, :, None] * p).sum(1, keepdim=True) / total
    spread = (w[:, :, None] * (p - centre) ** 2).sum((1, 2), keepdim=True) / total
    size = torch.where(spread > 0, spread, 1.0).sqrt()
    axes = torch.linalg.eigh(_covariance((p - centre) / size, w)).eigenvectors.flip(2)
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    local = (p - centre) / size @ axes  # the axis of least extent is the last
    starts = _starts(rays, local, w)
    batch, element = len(p), torch.arange(len(p), device=p.device)
    several = element.repeat_interleave(STARTS)
    poses, cost = _descend(starts, local, several, measure, EARLY)
    best = cost.reshape(batch, STARTS).argmin(1) + STARTS * element
    poses, _ = _descend(poses.select(best), local, element, measure, LATE)
    R = poses.R @ axes.mT
    t = size[:, 0] * poses.t - (R @ centre.mT)[:, :, 0]
    return torch.cat([logarithm(R), t], 1)


def _covariance(p: Tensor, w: Tensor) -> Tensor:
    return _usable((w[:, :, None] * p).mT @ p)


def _usable(matrices: Tensor) -> Tensor:
    """The matrices, and the identity where one is not finite: what comes of that fails on its own, later."""
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(matrices.isfinite().all(-1).all(-1)[..., None, None], matrices, identity)


def _starts(rays: Tensor, p: Tensor, w: Tensor) -> _Poses:
    """The best STARTS candidates of each element, in turn."""
    omega, to_t = _relaxation(rays, p, w)
    R = _refined(_candidates(omega), omega)
    r = R.flatten(2)
    cost = ((r @ omega) * r).sum(2)
    t = r @ to_t.mT
    depth = (p @ R[:, :, 2, :].mT) + t[:, None, :, 2]  # (B, n, candidates)
    behind = ((depth <= 0) & (w > 0)[:, :, None]).sum(1)
    scale = cost.amax(1, keepdim=True).clamp(min=1e-300)
    order = (cost / scale + behind).argsort(1)[:, :STARTS]
    pick = order[:, :, None]
    R = r.gather(1, pick.expand(-1, -1, 9)).reshape(-1, 3, 3)
    return _Poses(R, t.gather(1, pick.expand(-1, -1, 3)).reshape(-1, 3))


def _relaxation(rays: Tensor, p: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Omega (B, 9, 9), and the map from r to t, (B, 3, 9)."""
    batch, n = p.shape[:2]
    N = torch.eye(2, 3, dtype=p.dtype, device=p.device).repeat(batch, n, 1, 1)
    N[..., 2] = -rays
    A = (N[..., None] * p[:, :, None, None]).flatten(3)  # N (R p) = A r
    weighted = w[:, :, None, None] * N
    NN = torch.einsum("bnki,bnkj->bij", weighted, N)
    NA = torch.einsum("bnki,bnkj->bij", weighted, A)
    ridge = 1e-12 * NN.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].clamp(min=1e-300)
    identity = torch.eye(3, dtype=p.dtype, device=p.device)
    to_t = -torch.linalg.solve_ex(NN + ridge * identity, NA)[0]
    AA = torch.einsum("bnki,bnkj->bij", w[:, :, None, None] * A, A)
    omega = AA + NA.mT @ to_t
    return _usable((omega + omega.mT) / 2), to_t


def _candidates(omega: Tensor) -> Tensor:
    """Rotations (B, candidates, 3, 3)."""
    batch = len(omega)
    full = torch.linalg.eigh(omega).eigenvectors[:, :, :EIGENVECTORS].mT.reshape(batch, -1, 3, 3)
    flat = [0, 1, 3, 4, 6, 7]  # the entries of the first two columns
    pair = torch.linalg.eigh(omega[:, flat][:, :, flat]).eigenvectors[:, :, :1].mT.reshape(batch, 1, 3, 2)
    pair = torch.cat([pair, torch.linalg.cross(pair[..., 0], pair[..., 1])[..., None]], 3)
    turns = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=omega.dtype, device=omega.device)
    mirrored = pair * pair.new_tensor([-1.0, -1.0, 1.0])
    fixed = torch.diag_embed(turns).expand(batch, 4, 3, 3)
    return torch.cat([_nearest_rotation(torch.cat([full, -full, pair, mirrored], 1)), fixed], 1)


def _nearest_rotation(X: Tensor) -> Tensor:
    U, _, Vh = torch.linalg.svd(_usable(X))
    sign = torch.ones_like(X[..., 0])
    sign[..., 2] = torch.linalg.det(U @ Vh).sign()
    return (U * sign[..., None, :]) @ Vh


def _generators(like: Tensor) -> Tensor:
    """The matrices of e_i x: (3, 3, 3)."""
    G = like.new_zeros((3, 3, 3))
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        G[i, j, k], G[i, k, j] = -1.0, 1.0
    return G


def _refined(R: Tensor, omega: Tensor) -> Tensor:
    """Gauss-Newton steps on r'Omega r over the rotations."""
    G, identity = _generators(R), torch.eye(3, dtype=R.dtype, device=R.device)
    for _ in range(DESCENT):
        J = (G[:, None, None] @ R[None]).flatten(3).permute(1, 2, 3, 0)  # (B, candidates, 9, 3)
        OJ = omega[:, None] @ J
        H = J.mT @ OJ
        gradient = (R.flatten(2)[:, :, None] @ OJ)[:, :, 0]
        ridge = 1e-6 * H.diagonal(dim1=2, dim2=3).sum(2)[..., None, None].clamp(min=1e-300)
        step = -torch.linalg.solve_ex(H + ridge * identity, gradient[..., None])[0][..., 0]
        step = step / step.norm(dim=2, keepdim=True).clamp(min=1.0)  # at most one radian
        R = exponential(step.flatten(0, 1)).reshape(R.shape) @ R
    return R


def _descend(poses: _Poses, p: Tensor, element: Tensor, measure: Measure, most: int) -> tuple[_Poses, Tensor]:
    """Levenberg and Marquardt's method from each pose, on the points of its element; and the costs (B,)."""
    R, t = poses.R.clone(), poses.t.clone()
    damping = torch.full_like(t[:, 0], 1e-3)
    active = torch.arange(len(t), device=t.device)
    final = torch.full_like(damping, torch.inf)
    here = measure(_moved(poses, p, element), element)
    final = here.cost.clone()
    for _ in range(most):
        turned = p[element[active]] @ R[active].mT
        step, idle = _step(here, turned, damping[active])
        if idle.any():
            on = ~idle
            active, step, here = active[on], step[on], Measured(*(part[on] for part in here))
        if not active.numel():
            break
        trial = _Poses(exponential(step[:, :3]) @ R[active], t[active] + step[:, 3:])
        there = measure(_moved(trial, p, element[active]), element[active])
        better = there.cost < here.cost
        taken = active[better]
        R[taken], t[taken], final[taken] = trial.R[better], trial.t[better], there.cost[better]
        damping[active] *= torch.where(better, 0.1, 4.0)
        here = Measured(*(_choose(better, new, old) for new, old in zip(there, here, strict=True)))
        stuck = damping[active] > 1e12
        if stuck.any():
            active, here = active[~stuck], Measured(*(part[~stuck] for part in here))
    return _Poses(R, t), final


def _moved(poses: _Poses, p: Tensor, element: Tensor) -> Tensor:
    return p[element] @ poses.R.mT + poses.t[:, None]


def _choose(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(mask.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _step(here: Measured, turned: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """The damped step (B, 6) in a rotation from the left and a translation, and whose it is too small to matter."""
    spin = torch.linalg.cross(here.slope, turned[:, :, None].expand_as(here.slope))  # -slope [turned]_x, with its sign
    J = torch.cat([-spin, here.slope], 3)
    weighted = here.weight[:, :, None, None] * J
    H = torch.einsum("bnki,bnkj->bij", weighted, J)
    gradient = torch.einsum("bnki,bnk->bi", weighted, here.residual)
    diagonal = H.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True).clamp(min=1e-300)
    damped = H + torch.diag_embed(damping[:, None] * diagonal + floor)
    step = -torch.linalg.solve_ex(damped, gradient[:, :, None])[0][:, :, 0]
    step = torch.where(step.isfinite().all(1, keepdim=True), step, 0.0)
    return step, step.abs().amax(1) <= 1e-13
