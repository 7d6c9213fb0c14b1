"""Rotations of space by axis-angle vectors: smooth everywhere, also at zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["exponential", "logarithm", "rotate"]

SMALL = 0.05
"""Below this squared angle series are used; what they leave out is below rounding."""


def rotate(theta: Tensor, p: Tensor) -> Tensor:
    """Points p (B, n, 3) rotated by theta (B, 3): Rodrigues' formula p + a theta x p + b theta x (theta x p).

    With s = |theta|^2 both a = sin(s^(1/2)) / s^(1/2) and b = (1 - cos(s^(1/2))) / s are power series in s, so that
    derivatives of every order are right, zero included.
    """
    s = (theta * theta).sum(1)[:, None, None]
    near = s < SMALL
    safe = torch.where(near, 1.0, s)
    angle = safe.sqrt()
    a = torch.where(near, _series(s, 1.0, 6), angle.sin() / angle)
    b = torch.where(near, _series(s, 0.5, 12), (1 - angle.cos()) / safe)
    axis = theta[:, None].expand_as(p)
    once = torch.linalg.cross(axis, p)
    return p + a * once + b * torch.linalg.cross(axis, once)


def _series(s: Tensor, first: float, divisor: int) -> Tensor:
    """first (1 - s / d_1 (1 - s / d_2 (...))) with the divisors 2 3, 4 5, ... (for 6), or 3 4, 5 6, ... (for 12)."""
    k = 2 if divisor == 6 else 3
    value = torch.ones_like(s)
    for j in range(6, -1, -1):
        value = 1 - s / ((k + 2 * j) * (k + 2 * j + 1)) * value
    return first * value


def exponential(theta: Tensor) -> Tensor:
    """The rotation matrices (B, 3, 3) of axis-angle vectors (B, 3)."""
    identity = torch.eye(3, dtype=theta.dtype, device=theta.device).expand(len(theta), 3, 3)
    return rotate(theta, identity).mT


def logarithm(R: Tensor) -> Tensor:
    """The axis-angle vectors (B, 3), of angles up to pi, of rotation matrices (B, 3, 3), by their quaternions.

    The largest of the quaternion's components is computed first, so that nothing cancels (Shepperd 1978).
    """
    trace = R.diagonal(dim1=1, dim2=2).sum(1)
    squares = torch.cat([trace[:, None], R.diagonal(dim1=1, dim2=2)], 1)  # the largest marks the largest component
    outer = torch.empty((len(R), 4, 4), dtype=R.dtype, device=R.device)  # 4 q q', of which one column is taken
    skew = R - R.mT
    outer[:, 0, 0] = 1 + trace
    for i, (j, k) in enumerate(((1, 2), (2, 0), (0, 1))):
        outer[:, 0, i + 1] = outer[:, i + 1, 0] = skew[:, k, j]
        outer[:, i + 1, i + 1] = 1 + 2 * R[:, i, i] - trace
        outer[:, j + 1, k + 1] = outer[:, k + 1, j + 1] = R[:, j, k] + R[:, k, j]
    chosen = squares.argmax(1)[:, None, None].expand(-1, 4, 1)
    q = torch.nn.functional.normalize(outer.gather(2, chosen)[:, :, 0], dim=1)
    q = torch.where(q[:, :1] < 0, -q, q)
    length = q[:, 1:].norm(dim=1, keepdim=True)
    angle = 2 * torch.atan2(length, q[:, :1])
    return q[:, 1:] * torch.where(length > 1e-12, angle / length.clamp(min=1e-12), 2.0)
