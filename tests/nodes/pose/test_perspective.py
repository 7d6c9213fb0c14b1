"""Perspective-n-point: true poses, minima with noise, planes, half turns, derivatives, robustness, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.nodes import PerspectiveNPoint, perspective_n_point
from cvxlayers.nodes.pose.rotation import exponential, logarithm, rotate
from tests.support import differences
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_single_precision, assert_vmap

KINDS = ["reprojection", "huber", "cosine"]
CAMERA = torch.tensor([[800.0, 2.0, 320.0], [0.0, 790.0, 240.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def scene(
    batch: int, n: int, noise: float = 0.0, flat: bool = False, K: Tensor = CAMERA, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, points, weights, and the true poses."""
    rng = np.random.default_rng(seed)
    p3d = rng.normal(size=(batch, n, 3)) * [1, 1, 0 if flat else 1]
    axis = rng.normal(size=(batch, 3))
    theta = axis / np.linalg.norm(axis, axis=1, keepdims=True) * rng.uniform(0, 3.1, size=(batch, 1))
    t = np.concatenate([rng.normal(size=(batch, 2)) / 2, rng.uniform(6, 8, size=(batch, 1))], 1)
    p3d, theta, t = (torch.as_tensor(x) for x in (p3d, theta, t))
    h = (rotate(theta, p3d) + t[:, None]) @ K.mT
    p2d = h[..., :2] / h[..., 2:] + noise * torch.as_tensor(rng.normal(size=(batch, n, 2)))
    return p2d, p3d, torch.as_tensor(rng.uniform(0.5, 1.5, size=(batch, n))), torch.cat([theta, t], 1)


def objective(kind: str, y: Tensor, p2d: Tensor, p3d: Tensor, w: Tensor, delta: float = 1.0) -> Tensor:
    h = (exponential(y[:, :3]) @ p3d.mT).mT + y[:, None, 3:]
    if kind == "cosine":
        ray = torch.cat([p2d, torch.ones_like(p2d[..., :1])], -1) @ torch.linalg.inv(CAMERA).mT
        return (w * (1 - torch.cosine_similarity(h, ray, dim=-1))).sum(1)
    h = h @ CAMERA.mT
    distance = (h[..., :2] / h[..., 2:] - p2d).norm(dim=-1)
    robust = torch.where(distance > delta, 2 * delta * distance - delta**2, distance**2)
    return (w * (robust if kind == "huber" else distance**2)).sum(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "flat"), [(4, False), (4, True), (5, False), (6, False), (12, True), (12, False)])
def test_exact_images_give_the_true_pose(kind: str, n: int, flat: bool) -> None:
    p2d, p3d, w, true = scene(30, n, flat=flat)
    y = perspective_n_point(p2d, p3d, w, CAMERA, objective=kind)
    same = (exponential(y[:, :3]) - exponential(true[:, :3])).abs().amax((1, 2)) < 1e-7
    assert int(same.sum()) >= 29  # four points can be seen alike from two places
    assert_close(objective(kind, y, p2d, p3d, w), torch.zeros(30), 1e-12, "objective")
    assert_close(y[same], true[same], 1e-6, "pose")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flat", [False, True])
def test_with_noise_nothing_better_is_near_the_truth_or_the_answer(kind: str, flat: bool) -> None:
    p2d, p3d, w, true = scene(20, 8, noise=2.0, flat=flat)
    y = perspective_n_point(p2d, p3d, w, CAMERA, objective=kind, delta=1.0)
    found = objective(kind, y, p2d, p3d, w)
    assert bool((found <= objective(kind, true, p2d, p3d, w)).all())
    rng = np.random.default_rng(1)
    for size in (1e-2, 1e-3):
        other = y + size * torch.as_tensor(rng.normal(size=(20, 6)))
        assert bool((found <= objective(kind, other, p2d, p3d, w)).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flat", [False, True])
def test_derivatives_of_first_and_second_order(kind: str, flat: bool) -> None:
    """Along random directions in all four inputs: the solution's tangent, the gradient's, and both modes agree."""
    K = torch.tensor([[2.0, 0.1, 0.3], [0.0, 2.2, -0.2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    p2d, p3d, w, _ = scene(1, 7, noise=0.02, flat=flat, K=K)
    point = [x[0] for x in (p2d, p3d, w)] + [K]
    rng = np.random.default_rng(2)
    way = [rng.normal(size=x.shape) * size for x, size in zip(point, (0.02, 0.02, 0.1, 0.02), strict=True)]
    way[3][2] = 0
    node = PerspectiveNPoint(kind, delta=0.02)
    v = torch.as_tensor(rng.normal(size=6))

    def gradients(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad((node(*leaves) * v).sum(), leaves)

    def values(batch: list[np.ndarray]) -> list[np.ndarray]:
        inputs = [torch.as_tensor(x) for x in batch]
        return [node(*inputs).numpy(), *(x.numpy() for x in gradients(inputs))]

    expected = differences.differentiate(values, point, [way])[0].tangents
    tangents = tuple(torch.as_tensor(part) for part in way)
    _, moved = torch.func.jvp(node, tuple(point), tangents)
    assert_close(moved, expected[0], 1e-6, "tangent")
    leaves = [x.clone().requires_grad_() for x in point]
    first = torch.autograd.grad((node(*leaves) * v).sum(), leaves, create_graph=True)
    slope = sum((g * t).sum() for g, t in zip(first, tangents, strict=True))
    assert_close(slope.detach(), (v * moved).sum(), 1e-9, "<Jv, w> = <v, J'w>")
    second = torch.autograd.grad(slope, leaves)  # the derivative of the gradient along the way, as it is symmetric
    for found, true in zip(second, expected[1:], strict=True):
        assert_close(found, true, 1e-5, "gradient's tangent")


def test_vmap_and_single_precision() -> None:
    K = torch.eye(3, dtype=torch.float64)
    p2d, p3d, w, _ = scene(2, 6, noise=0.01, K=K)
    assert_vmap(perspective_n_point, (p2d, p3d, w))
    assert_single_precision(perspective_n_point, (p2d, p3d, w))


def test_weights_and_cameras_may_be_shared_and_absent() -> None:
    p2d, p3d, _, _ = scene(3, 6, noise=1.0)
    shared = torch.linspace(0.5, 1, 6, dtype=torch.float64).requires_grad_()
    cameras = CAMERA.repeat(3, 1, 1)
    y = perspective_n_point(p2d, p3d, shared[None], cameras)
    each = [perspective_n_point(p2d[i], p3d[i], shared, CAMERA) for i in range(3)]
    assert_close(y.detach(), torch.stack(each).detach(), 1e-9, "one by one")
    (together,) = torch.autograd.grad(y.sum(), shared)
    apart = sum(torch.autograd.grad(one.sum(), shared)[0] for one in each)
    assert_close(together, apart, 1e-9, "sum of gradients")
    normalized = (torch.cat([p2d, torch.ones(3, 6, 1)], -1) @ torch.linalg.inv(CAMERA).mT)[..., :2]
    cosine = perspective_n_point(p2d, p3d, None, CAMERA, objective="cosine")
    assert_close(perspective_n_point(normalized, p3d, objective="cosine"), cosine, 1e-7, "without a camera")


def test_a_wrong_match_moves_the_robust_pose_less_and_a_weight_of_zero_forgets_it() -> None:
    p2d, p3d, w, true = scene(5, 12, noise=0.3)
    spoiled, forgotten = p2d.clone(), w.clone()
    spoiled[:, 0] += 60
    forgotten[:, 0] = 0
    plain, huber = (perspective_n_point(spoiled, p3d, w, CAMERA, objective=kind) for kind in KINDS[:2])
    assert float((huber - true).norm()) < 0.2 * float((plain - true).norm())
    without = perspective_n_point(p2d[:, 1:], p3d[:, 1:], w[:, 1:], CAMERA)
    assert_close(perspective_n_point(spoiled, p3d, forgotten, CAMERA), without, 1e-7, "weight zero")


def test_rotations_forth_and_back() -> None:
    rng = np.random.default_rng(3)
    theta = torch.as_tensor(rng.normal(size=(500, 3)) * 2)
    theta[:3] = torch.tensor([[0.0, 0, 0], [1e-9, 0, 0], [0.05, 0.2, 0]])
    theta[3:6] = torch.eye(3) * np.pi
    R = exponential(theta)
    assert_close(R, torch.linalg.matrix_exp(_skew(theta)), 1e-13, "matrix exponential")
    assert_close(exponential(logarithm(R)), R, 1e-13, "there and back")
    assert float(logarithm(R).norm(dim=1).max()) <= np.pi + 1e-12
    near, p = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True), torch.as_tensor(rng.normal(size=(1, 2, 3)))
    assert torch.autograd.gradcheck(lambda x: rotate(x, p), near)
    assert torch.autograd.gradgradcheck(lambda x: rotate(x, p), near)


def _skew(theta: Tensor) -> Tensor:
    x, y, z = theta.unbind(1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).reshape(-1, 3, 3)


def test_elements_without_a_pose_fail_alone() -> None:
    p2d, p3d, w, _ = scene(3, 6, noise=0.5)
    p2d[1, 2] = torch.nan
    with pytest.raises(ParameterError, match="NaN or infinite"):
        perspective_n_point(p2d, p3d, w, CAMERA)
    node = PerspectiveNPoint(on_failure="nan")
    y = node(p2d, p3d, w, CAMERA)
    assert y.isnan().all(1).tolist() == [False, True, False]
    assert node.info is not None
    assert node.info.statuses.tolist() == ["optimal", "failed", "optimal"]
    assert perspective_n_point(p2d[:0], p3d[:0], w[:0], CAMERA).shape == (0, 6)
    with pytest.raises(SolveError):
        perspective_n_point(p2d[:1], p3d[:1], 0 * w[:1], CAMERA, tolerance=1e-30)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"p3d": torch.ones(5, 3)}, ParameterError, r"p3d: got shape \(5, 3\), expected \(..., 6, 3\)"),
        ({"p2d": torch.ones(6, 3)}, ParameterError, r"p2d: got shape \(6, 3\)"),
        ({"p2d": torch.ones(3, 2), "p3d": torch.ones(3, 3)}, ParameterError, "p2d: got 3 points, expected at least 4"),
        ({"w": -torch.ones(6)}, ParameterError, "w: got negative entries"),
        ({"K": torch.zeros(3, 3)}, ParameterError, "K: got a matrix without an inverse"),
        ({"objective": "l1"}, OptionError, "objective: expected one of 'reprojection'"),
        ({"objective": "huber", "delta": 0.0}, OptionError, "delta: expected a positive finite number"),
        ({"on_failure": "ignore"}, OptionError, "on_failure"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    given = {"p2d": torch.ones(6, 2), "p3d": torch.ones(6, 3), **arguments}
    with pytest.raises(error, match=message):
        perspective_n_point(**given)
