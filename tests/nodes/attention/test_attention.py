"""Attention: weights and means as solutions, the ordinary one as a special case, robustness, derivatives, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.nodes import (
    DeclarativeAttention,
    RobustMean,
    declarative_attention,
    optimal_transport,
    robust_mean,
    sinkhorn_weights,
)
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap

PENALTIES = ["pseudo-huber", "huber", "welsch"]


def parts(batch: int = 2, Q: int = 3, K: int = 5, D: int = 4, C: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys, values."""
    rng = np.random.default_rng(7)
    return tuple(torch.as_tensor(rng.normal(size=shape)) for shape in ((batch, Q, D), (batch, K, D), (batch, K, C)))


def phi(distance: Tensor, alpha: float, penalty: str) -> Tensor:
    if penalty == "pseudo-huber":
        return alpha**2 * ((1 + (distance / alpha) ** 2).sqrt() - 1)
    if penalty == "huber":
        return torch.where(distance <= alpha, distance**2 / 2, alpha * (distance - alpha / 2))
    return alpha**2 * (1 - torch.exp(-(distance**2) / (2 * alpha**2)))


def test_softmax_attention_is_the_ordinary_one() -> None:
    q, k, v = parts()
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert_close(declarative_attention(q, k, v), expected, 1e-12, "softmax")
    mask = torch.as_tensor(np.random.default_rng(0).uniform(size=(2, 3, 5)) < 0.7)
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert_close(declarative_attention(q, k, v, mask), expected, 1e-12, "masked")
    assert_close(DeclarativeAttention(lambda s: s.softmax(-1))(q, k, v, mask), expected, 1e-12, "a map of one's own")


def test_sinkhorn_attention_shares_out_in_both_directions() -> None:
    q, k, v = parts()
    A = DeclarativeAttention("sinkhorn").weights(q @ k.mT / 2)
    assert_close(A.sum(-1), torch.ones(2, 3), 1e-8, "rows")
    assert_close(A.sum(-2), torch.full((2, 5), 3 / 5), 1e-7, "columns")
    assert_close(A, 3 * optimal_transport(-q @ k.mT / 2), 1e-8, "as a plan")
    assert_close(declarative_attention(q, k, v, map="sinkhorn"), A @ v, 1e-8, "output")
    r, c = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64), torch.tensor([0.0, 1.0, 1.0, 1.0, 1.0]).double()
    masses = sinkhorn_weights(q @ k.mT, r, c)
    assert_close(masses.sum(-2), c.expand(2, 5), 1e-8, "other masses")


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("C", [1, 3])
def test_a_robust_mean_is_a_minimum(penalty: str, C: int) -> None:
    rng = np.random.default_rng(8)
    A, v = torch.as_tensor(rng.uniform(0.1, 1, size=(4, 3, 9))), torch.as_tensor(rng.normal(size=(4, 9, C)))
    v[:, 0] += 30

    def objective(y: Tensor) -> Tensor:
        return (A * phi((y[..., None, :] - v[:, None]).norm(dim=-1), 1.0, penalty)).sum(-1)

    y = robust_mean(A, v, 1.0, penalty)
    near = y + 1e-3 * torch.as_tensor(rng.normal(size=(100, *y.shape)))
    assert float((objective(near) - objective(y)).min()) > 0


@pytest.mark.parametrize("penalty", PENALTIES)
def test_derivatives_of_robust_means(penalty: str) -> None:
    rng = np.random.default_rng(9)
    A, v = torch.as_tensor(rng.uniform(0.2, 1, size=(1, 1, 4))), torch.as_tensor(rng.normal(size=(1, 4, 2)))
    v[:, 0] += 4
    alpha = torch.tensor([1.3], dtype=torch.float64)

    def mean(A: Tensor, v: Tensor, alpha: Tensor) -> Tensor:
        return robust_mean(A, v, alpha, penalty, tolerance=1e-13)

    assert_derivatives(mean, (A, v, alpha))
    more = (A.repeat(3, 1, 1), torch.cat([v, 2 * v, 3 * v]), torch.cat([alpha, 2 * alpha, 3 * alpha]))
    assert_vmap(mean, more)
    assert_single_precision(lambda *x: robust_mean(*x, penalty), more)


@pytest.mark.parametrize("map", ["softmax", "sparsemax", "entmax", "sinkhorn"])
@pytest.mark.parametrize("penalty", [None, "huber"])
def test_attention_is_differentiable_in_queries_keys_and_values(map: str, penalty: str | None) -> None:
    node = DeclarativeAttention(map, penalty=penalty, alpha=0.8, tolerance=1e-13)
    q, k, v = parts(2, 2, 3, 2, 1)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    assert torch.autograd.gradcheck(node, leaves)
    assert torch.autograd.gradgradcheck(node, [x[:1].detach().requires_grad_() for x in leaves])
    single = DeclarativeAttention(map, penalty=penalty, alpha=0.8)(*(x.float() for x in leaves))
    assert single.dtype == torch.float32
    assert_close(single.detach(), node(*leaves).detach(), 1e-3, "float32")


def test_robust_attention_withstands_an_outlier() -> None:
    _, _, v = parts()
    spoiled = v.clone()
    spoiled[:, 2] = 1e4
    A = torch.full((2, 3, 5), 0.2, dtype=torch.float64)
    moved = {p: (robust_mean(A, spoiled, 1.0, p) - robust_mean(A, v, 1.0, p)).abs().max() for p in PENALTIES}
    assert max(moved.values()) < 3
    assert float((A @ spoiled - A @ v).abs().max()) > 1e3


def test_a_mean_that_is_no_isolated_minimum_fails() -> None:
    A, v = torch.ones(1, 1, 2, dtype=torch.float64), torch.tensor([[[-100.0], [100.0]]], dtype=torch.float64)
    with pytest.raises(SolveError, match="no isolated minimum"):
        robust_mean(A, v, 1.0, "welsch")
    with pytest.raises(SolveError, match="no isolated minimum"):
        robust_mean(A, v, 1.0, "huber")  # any point between the two is a minimum
    with pytest.raises(SolveError, match="no isolated minimum"):
        robust_mean(0 * A, v)
    node = RobustMean(penalty="pseudo-huber", max_iterations=0, on_failure="zero_grad")
    node(torch.ones(1, 1, 3, dtype=torch.float64), torch.tensor([[[-100.0], [0.0], [5.0]]], dtype=torch.float64))
    assert node.info is not None
    assert node.info.statuses.tolist() == ["inaccurate"]


def test_equal_values_are_their_own_mean() -> None:
    A, v = torch.ones(1, 2, 3), torch.full((1, 3, 2), 5.0)
    for penalty in PENALTIES:
        assert_close(robust_mean(A, v, 1.0, penalty), torch.full((1, 2, 2), 5.0), 1e-6, penalty)


def test_a_learned_alpha_gets_its_gradient() -> None:
    alpha = torch.nn.Parameter(torch.tensor(0.5))
    node = DeclarativeAttention(penalty="huber", alpha=alpha)
    node(*(x.float() for x in parts())).square().sum().backward()
    assert alpha.grad is not None
    assert float(alpha.grad) != 0


def test_bad_arguments_are_named() -> None:
    q, k, v = parts()
    with pytest.raises(OptionError, match="map: expected one of softmax"):
        DeclarativeAttention("hardmax")
    with pytest.raises(OptionError, match="penalty: expected one of 'pseudo-huber'"):
        DeclarativeAttention(penalty="l1")
    with pytest.raises(ParameterError, match=r"keys: got shape"):
        declarative_attention(q, k[..., :2], v)
    with pytest.raises(ParameterError, match=r"mask: got torch.float64, expected a bool tensor"):
        declarative_attention(q, k, v, torch.ones(3, 5, dtype=torch.float64))
    with pytest.raises(OptionError, match="mask: got one with map="):
        declarative_attention(q, k, v, torch.ones(3, 5, dtype=torch.bool), map="sinkhorn")
    with pytest.raises(ParameterError, match=r"values: got shape \(2, 5, 2\), expected \(..., 4, C\)"):
        robust_mean(torch.ones(2, 3, 4, dtype=torch.float64), v)
    with pytest.raises(ParameterError, match=r"alpha: got -1.0"):
        robust_mean(torch.ones(2, 3, 5, dtype=torch.float64), v, -1.0)


def test_a_robust_mean_in_float32_is_found_where_the_minimum_is_flat():
    generator = torch.Generator().manual_seed(34)  # on whose numbers a search in float32 stops at 2e-5
    q, k, v = (torch.randn(2, rows, columns, generator=generator) for rows, columns in ((3, 8), (5, 8), (5, 4)))
    attention = DeclarativeAttention(penalty="welsch")
    found = attention(q, k, v)
    assert found.dtype == torch.float32
    exact = DeclarativeAttention(penalty="welsch")(q.double(), k.double(), v.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
