"""Row-wise maps onto the simplex: optimality, closed-form gradients, the order's gradient, masks, precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.nodes import entmax, project_simplex, softmax, sparsemax
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap

ROUGH = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
ORDERS = [1.0, 1.01, 1.25, 1.5, 1.75, 2.0, 3.0, 4.0]


def scores(batch: int = 4, n: int = 6, spread: float = 1.5) -> Tensor:
    return torch.as_tensor(np.random.default_rng(5).normal(size=(batch, n)) * spread)


@pytest.mark.parametrize("alpha", ORDERS)
def test_the_optimality_conditions_hold(alpha: float) -> None:
    z = scores(50, 30, 3.0)
    p = entmax(z, alpha)
    assert_close(p.sum(1), torch.ones(50), 1e-12, "sum")
    assert (p >= 0).all()
    if alpha == 1:
        assert_close(p, z.exp() / z.exp().sum(1, keepdim=True), 1e-12, "softmax")
        return
    level = torch.where(p > 0, z - p ** (alpha - 1) / (alpha - 1), -torch.inf)  # tau / (alpha - 1) on the support
    tau = level.amax(1, keepdim=True)
    assert_close(torch.where(p > 0, level, tau), tau.expand_as(z), 1e-9, "one tau for the support")
    assert bool((torch.where(p > 0, -torch.inf, z) <= tau + 1e-9).all()), "the others lie below it"


@pytest.mark.parametrize("alpha", ORDERS[1:])
def test_the_gradient_is_the_closed_form_of_the_order(alpha: float) -> None:
    z = scores().requires_grad_()
    p = entmax(z, alpha)
    w = torch.linspace(-1, 1, 6, dtype=torch.float64)
    (found,) = torch.autograd.grad((w * p).sum(), z)
    s = torch.where(p > 0, p ** (2 - alpha), 0.0).detach()
    expected = s * (w - (s * w).sum(1, keepdim=True) / s.sum(1, keepdim=True))
    assert_close(found, expected, 1e-9, "gradient")


def test_order_one_and_a_half_against_differences() -> None:
    """The reference's gradient is half of this."""
    z, h = torch.tensor([0.7, 0.2, -0.4, -3.0], dtype=torch.float64), 1e-5
    rows = [(entmax(z + h * e) - entmax(z - h * e)) / (2 * h) for e in torch.eye(4, dtype=torch.float64)]
    assert_close(torch.func.jacrev(entmax)(z), torch.stack(rows, 1), 1e-8, "Jacobian")


def test_sparsemax_is_the_euclidean_projection_onto_the_simplex() -> None:
    z = scores(20, 8)
    assert_close(sparsemax(z), project_simplex(z), 1e-12, "sparsemax")


@pytest.mark.parametrize("alpha", [1.0, 1.3, 1.5, 2.0, 2.5])
def test_derivatives_vmap_and_single_precision(alpha: float) -> None:
    assert_derivatives(lambda z: entmax(z, alpha), (scores(1, 4),))
    assert_vmap(lambda z: entmax(z, alpha), (scores(),))
    assert_single_precision(lambda z: entmax(z, alpha), (scores(),))


def test_the_order_has_a_gradient() -> None:
    alpha = torch.tensor([[1.2], [1.6]], dtype=torch.float64)
    assert_derivatives(entmax, (scores(2, 3), alpha))
    single = entmax(scores(3, 4), torch.tensor(1.5, dtype=torch.float64))
    assert_close(single, entmax(scores(3, 4), 1.5), 1e-12, "an order of dimension zero")


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_masked_scores_and_other_dimensions(alpha: float, dtype: torch.dtype) -> None:
    z = scores(3, 5).to(dtype)
    masked = z.clone()
    masked[:, 1] = -torch.inf
    p = entmax(masked, alpha)
    kept = [0, 2, 3, 4]
    assert_close(p[:, kept].double(), entmax(z[:, kept], alpha).double(), ROUGH.get(dtype, 1e-12), "masked")
    assert (p[:, 1] == 0).all()
    assert torch.equal(entmax(z.T, alpha, dim=0), entmax(z, alpha).T)
    assert entmax(z[:0], alpha).shape == (0, 5)
    assert (entmax(z[:, :1], alpha) == 1).all()
    assert_close(entmax(torch.zeros(2, 4, dtype=dtype), alpha).double(), [[0.25] * 4] * 2, 1e-6, "ties")


def test_a_row_without_a_finite_score_is_nan_for_every_order() -> None:
    z = torch.tensor([[-torch.inf, -torch.inf], [0.0, 1.0]])
    for alpha in ORDERS:
        p = entmax(z, alpha)
        assert p[0].isnan().all()
        assert p[1].isfinite().all()
    assert softmax(z)[0].isnan().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0],), "z: got list"),
        ((torch.ones(2, 0),), "z: got shape .* at least one entry"),
        ((torch.ones(2, 3), 0.5), "alpha: got 0.5"),
        ((torch.ones(2, 3), torch.tensor(1.0)), "alpha: got entries that are not above 1"),
        ((torch.ones(2, 3), torch.full((2,), 1.5)), "alpha: got shape"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        entmax(*arguments)
