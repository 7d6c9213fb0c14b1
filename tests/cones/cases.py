"""One product of a single cone for each kind and size, points in all regions, and the cones' definitions once more."""

from __future__ import annotations

from math import isqrt

import numpy as np

from cvxlayers.cones import Cones, dual_derivative

__all__ = ["CURVED", "SINGLE", "margin", "outside", "outside_dual", "points", "sharp_points"]

SINGLE: dict[str, Cones] = {
    "zero": Cones(zero=3),
    "nonneg": Cones(nonneg=4),
    "ray": Cones(second_order=(1,)),
    "second_order_2": Cones(second_order=(2,)),
    "second_order_5": Cones(second_order=(5,)),
    "psd_1": Cones(psd=(1,)),
    "psd_2": Cones(psd=(2,)),
    "psd_4": Cones(psd=(4,)),
    "exponential": Cones(exponential=1),
    "power_0.5": Cones(power=(0.5,)),
    "power_0.3": Cones(power=(0.3,)),
    "power_0.95": Cones(power=(0.95,)),
    "power_nd_2": Cones(power_nd=((0.3, 0.7),)),
    "power_nd_3": Cones(power_nd=((0.2, 0.3, 0.5),)),
    "power_nd_5": Cones(power_nd=((0.04, 0.06, 0.1, 0.1, 0.7),)),
}
CURVED = {name: cones for name, cones in SINGLE.items() if not cones.polyhedral}


def points(cones: Cones, count: int, seed: int = 0) -> np.ndarray:
    """Points (m, count) of moderate size in all regions: around the origin, around K, -K*, and the orthants."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((cones.m, count))
    v[:, ::5] *= np.array([1.0, 3.0, 0.3])[rng.integers(0, 3, v[:, ::5].shape[1])]
    v[0, 1::5] += 2.0  # towards K for cones with an axis
    v[0, 2::5] -= 2.0
    v[:, 3::5] = np.abs(v[:, 3::5])
    v[:, 4::5] = -np.abs(v[:, 4::5])
    return v


def sharp_points(cones: Cones) -> np.ndarray:
    """Points (m, count) on rays and faces: zeros among entries of very different sizes."""
    values = [0.0, 1.0, -1.0, 1e-8, -1e-8, 1e8, -1e8]
    rng = np.random.default_rng(1)
    if cones.m > 3:
        return rng.choice(values, (cones.m, 300))
    return np.array(np.meshgrid(*[values] * cones.m)).reshape(cones.m, -1)


def outside(cones: Cones, s: np.ndarray) -> np.ndarray:
    """By how much the lanes of s (m, B) break the inequalities that define the single cone K; negative is inside."""
    block = cones.blocks[0]
    if block.kind == "zero":
        return np.abs(s).max(axis=0)
    if block.kind == "nonneg":
        return -s.min(axis=0)
    if block.kind == "second_order":
        return np.sqrt((s[1:] ** 2).sum(axis=0)) - s[0]
    if block.kind == "psd":
        return -np.linalg.eigvalsh(matrices(s))[:, 0]
    if block.kind == "power_nd":
        return np.max([_power_nd_excess(s, np.array(block.data)), *-s[:-1]], axis=0)
    u, v, w = s
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        if block.kind == "power":
            return np.max([_power_excess(u, v, np.abs(w), block.data), -u, -v], axis=0)
        # The excess over w, or over u, whichever is smaller: both vanish on the boundary, and either may overflow.
        excess_w = np.where(v > 0, v * np.exp(u / v) - w, np.where((v == 0) & (u <= 0), -w, np.inf))
        excess_u = np.where((v > 0) & (w > 0), u - v * np.log(w / v), np.where((v == 0) & (w >= 0), u, np.inf))
        return np.minimum(np.nan_to_num(excess_w, nan=np.inf), excess_u)


def _power_excess(u: np.ndarray, v: np.ndarray, w: np.ndarray, alpha: float) -> np.ndarray:
    """The least change of one entry that gives u^alpha v^(1 - alpha) >= w; negative where it holds."""
    u, v = np.maximum(u, 0.0), np.maximum(v, 0.0)
    excess = [w - u**alpha * v ** (1 - alpha), (w / v ** (1 - alpha)) ** (1 / alpha) - u]
    excess.append((w / u**alpha) ** (1 / (1 - alpha)) - v)
    return np.min(np.nan_to_num(excess, nan=np.inf), axis=0)


def _power_nd_excess(s: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The least change of one entry that gives prod u_i^alpha_i >= |w|; negative where it holds."""
    u, w = np.maximum(s[:-1], 0.0), np.abs(s[-1])
    excess = [w - (u ** alpha[:, None]).prod(axis=0)]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for i, share in enumerate(alpha):
            others = np.delete(u ** alpha[:, None], i, axis=0).prod(axis=0)
            excess.append((w / others) ** (1 / share) - u[i])
    return np.min(np.nan_to_num(excess, nan=np.inf), axis=0)


def margin(cones: Cones, v: np.ndarray) -> np.ndarray:
    """How near v (m, B) is to a kink of the projection, relative to its largest entry."""
    return dual_derivative(cones, v).margin


def outside_dual(cones: Cones, y: np.ndarray) -> np.ndarray:
    """The same for K*."""
    block = cones.blocks[0]
    u, v, w = (*y, 0.0, 0.0)[:3]
    if block.kind == "zero":
        return np.zeros(y.shape[1])
    if block.kind == "power":
        return outside(cones, np.stack([u / block.data, v / (1 - block.data), w]))
    if block.kind == "power_nd":
        return outside(cones, y / np.array([*block.data, 1.0])[:, None])
    if block.kind == "exponential":
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            excess_w = np.where(u < 0, -u * np.exp(v / u - 1) - w, np.inf)
            excess_v = np.where((u < 0) & (w > 0), u + u * np.log(w / -u) - v, np.inf)
        return np.where(u == 0, np.maximum(-v, -w), np.minimum(excess_w, excess_v))
    return outside(cones, y)


def matrices(s: np.ndarray) -> np.ndarray:
    """The symmetric matrices (B, k, k) of packed vectors (k (k + 1) / 2, B), entry by entry."""
    order = (isqrt(8 * s.shape[0] + 1) - 1) // 2
    X = np.zeros((s.shape[1], order, order))
    place = 0
    for j in range(order):
        for i in range(j + 1):
            X[:, i, j] = X[:, j, i] = s[place] if i == j else s[place] / np.sqrt(2)
            place += 1
    return X
