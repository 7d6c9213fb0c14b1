"""Robust pooling of numbers: global minima, closed-form derivatives, flat pieces, outliers, single precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.nodes.robust.penalties import PENALTIES
from cvxlayers.nodes.robust.robust_pooling import RobustPool, robust_pool
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def samples(B: int = 3, N: int = 8, seed: int = 0) -> Tensor:
    """(B, 2, N / 2), one sample in four an outlier."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(B, N))
    x[:, ::4] += rng.uniform(5, 30, x[:, ::4].shape)
    return torch.as_tensor(x).reshape(B, 2, N // 2)


def cost(name: str, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    """For candidates y (B, G)."""
    s = (y[:, :, None] - x.flatten(1)[:, None]) ** 2
    return PENALTIES[name].value(s, torch.tensor(alpha, dtype=torch.float64)).sum(-1)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_the_minimum_is_global(name: str) -> None:
    for alpha, N, seed in ((0.05, 24, 1), (0.5, 24, 2), (0.5, 2, 3), (3.0, 24, 4), (50.0, 24, 5), (1.0, 200, 6)):
        x = samples(10, N, seed)
        y = robust_pool(x, name, alpha)
        flat = x.flatten(1).sort(1).values
        near = (flat[:, :, None] + alpha * torch.linspace(-1.2, 1.2, 9, dtype=torch.float64)).flatten(1)
        rivals = torch.cat([near, (flat[:, 1:] + flat[:, :-1]) / 2, flat.mean(1, keepdim=True)], 1)
        gap = cost(name, x, y[:, None], alpha)[:, 0] - cost(name, x, rivals, alpha).amin(1)
        assert float(gap.max()) <= 1e-12 * N * max(1.0, alpha**2), f"alpha {alpha}, N {N}"


@pytest.mark.parametrize("name", list(PENALTIES))
def test_derivatives(name: str) -> None:
    x, alpha = samples(1, 4), torch.tensor([0.8], dtype=torch.float64)
    assert_derivatives(lambda x, alpha: robust_pool(x, name, alpha), (x, alpha))


@pytest.mark.parametrize("name", list(PENALTIES))
def test_vmap_and_single_precision(name: str) -> None:
    alpha = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    assert_vmap(lambda x, alpha: robust_pool(x, name, alpha), (samples(), alpha))
    assert_single_precision(lambda x, alpha: robust_pool(x, name, alpha), (samples(), alpha))


def test_closed_forms() -> None:
    x = torch.tensor([[[0.0, 1.0, 2.0, 60.0]]], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([1.5], dtype=torch.float64, requires_grad=True)
    assert robust_pool(x, "quadratic").item() == pytest.approx(15.75)
    # Three inliers and one outlier: 3 y - 3 = alpha.
    y = robust_pool(x, "huber", alpha)
    assert y.item() == pytest.approx(1.5, abs=1e-14)
    by_x, by_alpha = torch.autograd.grad(y, (x, alpha))
    assert_close(by_x, np.array([[[1, 1, 1, 0]]]) / 3, 1e-15, "inliers share")
    assert float(by_alpha) == pytest.approx(1 / 3)
    y = robust_pool(x, "truncated-quadratic", alpha)
    assert y.item() == pytest.approx(1.0, abs=1e-15)
    by_x, by_alpha = torch.autograd.grad(y, (x, alpha))
    assert_close(by_x, np.array([[[1, 1, 1, 0]]]) / 3, 1e-15, "inliers share")
    assert float(by_alpha) == 0


def test_where_huber_is_flat_the_middle_is_taken_with_its_derivative() -> None:
    x = torch.tensor([[0.0, 10.0, -3.0, 11.0]], dtype=torch.float64, requires_grad=True)
    y = robust_pool(x, "huber", 1.0)
    assert y.item() == 5.0
    (gradient,) = torch.autograd.grad(y, x)
    assert gradient.tolist() == [[0.5, 0.5, 0.0, 0.0]]
    single = robust_pool(x.float() / 10, "huber", 0.01)  # sums of 0.01 do not cancel exactly
    assert single.item() == pytest.approx(0.5)


def test_far_outliers_and_offsets_do_no_harm() -> None:
    x = samples(4, 20)
    for name in ("pseudo-huber", "huber", "welsch", "truncated-quadratic"):
        base = robust_pool(x, name)
        assert_close(robust_pool(x + 1e6, name) - 1e6, base, 1e-8, f"{name}, offset")
        far = torch.cat([x.flatten(1), torch.tensor([[1e9, -1e9]]).double().expand(4, 2)], 1)[:, None]
        if name in ("welsch", "truncated-quadratic"):
            assert_close(robust_pool(far, name), base, 1e-9, f"{name}, two far outliers")
        assert torch.isfinite(robust_pool(far, name)).all()


def test_shapes_scalars_and_empty_batches() -> None:
    for name in PENALTIES:
        assert robust_pool(torch.full((1, 1), 3.0), name).tolist() == 3
        assert robust_pool(torch.ones(0, 4, 2, 2), name).shape == (0, 4)
        assert robust_pool(torch.ones(2, 3, 4, 5), name, torch.ones(3)).tolist() == [[1.0] * 3] * 2
    alpha = torch.nn.Parameter(torch.tensor(0.7))
    layer = RobustPool("pseudo-huber", alpha)
    layer(samples().float()).sum().backward()
    assert alpha.grad is not None
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal"] * 3


def test_bad_arguments_are_named() -> None:
    x = samples()
    with pytest.raises(OptionError, match="penalty: got 'l1', expected one of 'quadratic', 'pseudo-huber'"):
        robust_pool(x, "l1")
    with pytest.raises(ParameterError, match="alpha: got 0, expected a positive finite number"):
        robust_pool(x, alpha=0)
    with pytest.raises(ParameterError, match=r"x: got shape \(8,\), expected \(..., H, W\)"):
        robust_pool(x[0].flatten())
    with pytest.raises(ParameterError, match=r"x: got NaN or infinite entries in batch elements \[0, 1, 2\]"):
        robust_pool(x / 0)
    mixed = torch.stack([x[0], torch.full_like(x[0], torch.nan)])
    assert torch.isnan(robust_pool(mixed, on_failure="nan")).tolist() == [False, True]
