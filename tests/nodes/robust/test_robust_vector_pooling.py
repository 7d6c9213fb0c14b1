"""Robust pooling of vectors: stationary, low, right derivatives in both forms of the Hessian, flat pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.nodes.robust import robust_descent
from cvxlayers.nodes.robust.penalties import PENALTIES
from cvxlayers.nodes.robust.robust_descent import descend
from cvxlayers.nodes.robust.robust_pooling import robust_pool
from cvxlayers.nodes.robust.robust_vector_pooling import RobustVectorPool, robust_vector_pool
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def samples(B: int = 3, C: int = 2, N: int = 8, seed: int = 0) -> Tensor:
    """One sample in four an outlier, each in its own direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, C, N))
    x[:, :, ::4] += rng.uniform(4, 20, x[:, :, ::4].shape) * rng.choice([-1, 1], x[:, :, ::4].shape)
    return torch.as_tensor(x)


def cost(name: str, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """For candidates y (B, C, G)."""
    s = ((y[..., None] - x[:, :, None]) ** 2).sum(1)
    return PENALTIES[name].value(s, torch.tensor(alpha, dtype=torch.float64)).sum(-1)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_no_candidate_is_lower(name: str) -> None:
    for alpha, C, N, seed in ((0.3, 2, 24, 1), (2.0, 3, 24, 2), (1.0, 8, 4, 3), (2.0, 2, 300, 4)):
        x = samples(10, C, N, seed)
        y = robust_vector_pool(x, name, alpha)
        noise = torch.as_tensor(np.random.default_rng(9).normal(size=(10, C, 100)))
        reach = 0.1 if PENALTIES[name].convex else 0.01  # not convex: a minimum, and below each sample, but no more
        rivals = torch.cat([x, x.mean(2, keepdim=True), y[..., None] + reach * alpha * noise], 2)
        gap = cost(name, x, y[..., None], alpha)[:, 0] - cost(name, x, rivals, alpha).amin(1)
        assert float(gap.max()) <= 1e-12 * N * max(1.0, alpha**2), f"alpha {alpha}, C {C}, N {N}"


@pytest.mark.parametrize(
    ("name", "C", "N"), [*((name, 2, 3) for name in PENALTIES), ("pseudo-huber", 4, 3), ("welsch", 4, 3)]
)
def test_derivatives(name: str, C: int, N: int) -> None:
    x = torch.as_tensor(np.random.default_rng(C).normal(size=(1, C, N)))
    alpha = torch.tensor([1.1], dtype=torch.float64)
    assert_derivatives(lambda x, alpha: robust_vector_pool(x, name, alpha), (x, alpha))


@pytest.mark.parametrize("name", list(PENALTIES))
def test_vmap_and_single_precision(name: str) -> None:
    alpha = torch.tensor([1.0, 1.5, 2.0], dtype=torch.float64)
    assert_single_precision(lambda x, alpha: robust_vector_pool(x, name, alpha), (samples(), alpha))
    assert_vmap(lambda x, alpha: robust_vector_pool(x[None], name, alpha)[0], (samples(), alpha))


@pytest.mark.parametrize("name", list(PENALTIES))
def test_with_one_entry_it_is_the_pooling_of_numbers(name: str) -> None:
    x = samples(5, 1, 12)
    assert_close(robust_vector_pool(x, name), robust_pool(x, name)[:, None], 1e-9, name)


def test_the_median_of_a_triangle_is_where_its_sides_are_seen_under_120_degrees() -> None:
    # With Huber and a small alpha the pooled vector is the geometric median: here Fermat's point of a regular triangle.
    angles = torch.tensor([0.0, 2 * np.pi / 3, 4 * np.pi / 3], dtype=torch.float64)
    x = torch.stack([angles.cos(), angles.sin()])[None] + 5
    y = robust_vector_pool(x.requires_grad_(), "huber", 1e-3)
    assert_close(y.detach(), np.full((1, 2), 5.0), 1e-12, "Fermat's point")
    (gradient,) = torch.autograd.grad(y[0, 0], x)
    # H_i = a (I - u_i u_i') and H = (3 a / 2) I: dy = 2/3 sum (I - u u') dx.
    u = (x.detach() - 5)[0]
    expected = (2 / 3) * (torch.tensor([[1.0], [0.0]]).double() - u * u[:1])
    assert_close(gradient[0], expected, 1e-10, "its derivative")


def test_a_flat_minimum_has_the_derivative_of_least_norm() -> None:
    x = torch.tensor([[[0.0, 10.0], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    y = robust_vector_pool(x, "huber", 1.0)
    assert 1 <= y[0, 0].item() <= 9
    (gradient,) = torch.autograd.grad(y.sum(), x)
    expected = np.array([[[0.0, 0.0], [0.5, 0.5]]])  # across the line only, in inverse proportion to the distances
    assert_close(gradient, expected, 1e-6, "gradient")


def test_shapes_and_empty_batches() -> None:
    for name in PENALTIES:
        assert robust_vector_pool(torch.full((1, 1, 1), 3.0), name).tolist() == [[3.0]]
        assert robust_vector_pool(torch.ones(0, 4, 2, 2), name).shape == (0, 4)
        assert_close(robust_vector_pool(torch.ones(2, 3, 4, 5), name, torch.ones(2)), np.ones((2, 3)), 1e-6, name)
    alpha = torch.nn.Parameter(torch.tensor(0.7))
    layer = RobustVectorPool("pseudo-huber", alpha)
    layer(samples().float()).sum().backward()
    assert alpha.grad is not None
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal"] * 3


def test_bad_arguments_are_named() -> None:
    x = samples()
    with pytest.raises(OptionError, match="penalty: got 'l1'"):
        robust_vector_pool(x, "l1")
    with pytest.raises(ParameterError, match=r"x: got shape \(2, 8\), expected \(B, C, ...\)"):
        robust_vector_pool(x[0])
    with pytest.raises(ParameterError, match=r"alpha: got shape \(2,\)"):
        robust_vector_pool(x, alpha=torch.ones(2).double())
    with pytest.raises(ParameterError, match="x: got NaN or infinite entries in batch elements"):
        robust_vector_pool(x / 0)


def test_a_start_beside_a_saddle_comes_to_a_minimum() -> None:
    """Of two points a little more than 2 alpha apart the middle is a saddle, which Newton's steps go towards."""
    x = torch.tensor([[[-1.02, 1.02], [0.0, 0.0]]], dtype=torch.float64)
    start = torch.tensor([[1e-6, 0.1]], dtype=torch.float64)
    y, iterations, good = descend(PENALTIES["welsch"], x, torch.ones(1, dtype=torch.float64), start)
    assert bool(good) and 200 < int(iterations) < 1000
    # By symmetry y lies on the first axis, where (y - t) exp(-(y - t)^2 / 2) + (y + t) exp(-(y + t)^2 / 2) = 0.
    near, far = y[0, 0] - 1.02, y[0, 0] + 1.02
    assert abs(y[0, 0].item()) > 0.1
    assert abs(y[0, 1].item()) < 1e-12
    assert abs(float(near * (-(near**2) / 2).exp() + far * (-(far**2) / 2).exp())) < 1e-12


def curvature(x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """The least eigenvalue of Welsch's Hessian, relative to the sum of its weights."""
    d = y[..., None] - x
    psi, slope, _ = PENALTIES["welsch"].terms((d * d).sum(1), torch.tensor(alpha, dtype=x.dtype))
    H = (slope[:, None] * d) @ d.mT + psi.sum(1)[:, None, None] * torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.eigvalsh(H)[:, 0] / psi.sum(1)


def two_points(C: int, t: float) -> tuple[Tensor, Tensor]:
    """At distance 2 t, and so that the median of each coordinate, the lower of two, is as far from both; the way."""
    way = torch.zeros(C, dtype=torch.float64)
    way[:2] = torch.tensor([1.0, -1.0], dtype=way.dtype) / 2**0.5
    return torch.stack([3 + t * way, 3 - t * way], 1)[None], way


@pytest.mark.parametrize("C", [2, 5])
@pytest.mark.parametrize("t", [0.9, 1.02])
def test_the_middle_of_two_points_is_a_minimum_only_where_they_are_near(C: int, t: float) -> None:
    """The lowest starts, mean and median, come to the middle, a saddle where the points are more than 2 alpha apart."""
    x, way = two_points(C, t)
    y = robust_vector_pool(x, "welsch")
    along = (y[0] - 3) @ way
    assert_close(y[0] - 3, along * way, 1e-9, "on the line through them")
    assert (abs(float(along)) > 0.1) == (t > 1)
    near, far = along - t, along + t
    assert abs(float(near * (-(near**2) / 2).exp() + far * (-(far**2) / 2).exp())) < 1e-12
    assert float(curvature(x, y, 1.0)) > 0


def test_of_samples_that_mirror_each_other_a_minimum_is_found() -> None:
    rng = np.random.default_rng(5)
    for C, N, alpha in ((2, 1, 1.3), (4, 5, 0.8), (3, 1, 1.2), (2, 4, 1.0)):
        half = torch.as_tensor(rng.normal(size=(200, C, N)))
        x = torch.cat([half, -half], 2)
        assert float(curvature(x, robust_vector_pool(x, "welsch", alpha), alpha).min()) > -1e-8


def test_who_has_left_too_many_saddles_has_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robust_descent, "ESCAPES", 0)
    x = torch.cat([two_points(2, 1.02)[0], two_points(2, 0.9)[0]])
    with pytest.raises(SolveError, match="1 of 2 batch elements have no verified solution: 0 "):
        robust_vector_pool(x, "welsch")
