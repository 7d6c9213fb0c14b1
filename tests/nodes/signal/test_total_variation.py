"""Total-variation denoising: optimality, another solver, gradients that average over pieces, weights, errors."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch
from torch import Tensor

from cvxlayers.errors import ParameterError
from cvxlayers.nodes import TotalVariation, total_variation
from tests.support.tolerance import assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def walks(batch: int, N: int, seed: int = 0) -> Tensor:
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(batch, N)).cumsum(1))


@pytest.mark.parametrize("N", [1, 2, 3, 17, 300])
@pytest.mark.parametrize("lam", [0.0, 0.1, 1.0, 5.0, 1e4])
def test_the_optimality_conditions_hold(N: int, lam: float) -> None:
    """y = x - D'z with |z| <= lam, and z = lam where y jumps up, -lam where it jumps down."""
    x = walks(6, N)
    y = total_variation(x, lam)
    z = (y - x).cumsum(1)
    size = 1 + float(x.abs().sum(1).max())
    assert float(z[:, -1].abs().max()) < 1e-13 * size
    jump = y[:, 1:] - y[:, :-1]
    assert float((z[:, :-1].abs() - lam).clamp(min=0).max() if N > 1 else 0.0) < 1e-12 * size
    assert_close(torch.where(jump == 0, 0.0, z[:, :-1] - lam * jump.sign()), 0 * jump, 1e-12 * size, "bounds at jumps")


def test_another_solver_finds_the_same() -> None:
    x, weights = walks(1, 25)[0], torch.as_tensor(np.random.default_rng(1).uniform(0, 2, 24))
    y = cp.Variable(25)
    objective = cp.sum_squares(y - x.numpy()) / 2 + 0.7 * cp.norm1(cp.multiply(weights.numpy(), cp.diff(y)))
    cp.Problem(cp.Minimize(objective)).solve(cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    assert_close(total_variation(x, 0.7, weights), y.value, 1e-6, "Clarabel")


def test_a_constant_piece_averages_its_cotangents() -> None:
    """The reference tutorial's gradient is the identity."""
    x = torch.tensor([0.0, 0.2, 0.1, 5.2, 5.0, 9.0], dtype=torch.float64, requires_grad=True)
    y = total_variation(x, 0.5)
    pieces = torch.tensor([0, 0, 0, 1, 1, 2])
    for piece in range(3):
        assert len(set(y[pieces == piece].tolist())) == 1
    w = torch.arange(1.0, 7.0, dtype=torch.float64)
    (found,) = torch.autograd.grad((w * y).sum(), x)
    assert_close(found, torch.tensor([2.0, 2.0, 2.0, 4.5, 4.5, 6.0]), 1e-14, "averages")


def test_the_gradient_in_lam_is_the_pull_of_the_jumps() -> None:
    lam = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    x = torch.tensor([0.0, 0.2, 0.1, 5.2, 5.0, 9.0], dtype=torch.float64)
    slopes = [float(torch.autograd.grad(total_variation(x, lam)[i], lam)[0]) for i in (0, 3, 5)]
    assert_close(slopes, [1 / 3, 0.0, -1.0], 1e-14, "one end pulled up, both pulled, one pulled down")


def test_derivatives_vmap_and_single_precision() -> None:
    weights = torch.tensor([[1.0, 0.7, 1.3]], dtype=torch.float64)
    lam = torch.tensor([0.4], dtype=torch.float64)
    assert_derivatives(total_variation, (walks(1, 4), lam, weights))
    many = (walks(3, 9), torch.tensor([0.1, 0.5, 2.0], dtype=torch.float64))
    assert_vmap(total_variation, many)
    assert_single_precision(total_variation, many)


def test_a_very_uneven_signal_is_cut_to_the_end() -> None:
    x = 2.0 ** torch.arange(40, dtype=torch.float64)
    node = TotalVariation(0.1)
    y = node(x)
    assert_close(y[1:-1], x[1:-1], 1e-12, "a monotone signal keeps its inner steps")
    assert y[0].item() == 1.1
    assert node.info is not None
    assert node.info.iterations[0] > 10


def test_results_do_not_depend_on_company() -> None:
    x = walks(5, 60)
    together = total_variation(x, 1.0)
    alone = torch.stack([total_variation(row, 1.0) for row in x])
    assert_close(together, alone, 1e-14, "alone")


def test_a_learned_lam_gets_its_gradient() -> None:
    lam = torch.nn.Parameter(torch.tensor(0.3))
    TotalVariation(lam)(walks(4, 20).float()).square().sum().backward()
    assert lam.grad is not None
    assert float(lam.grad) < 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0],), "x: got list"),
        ((torch.ones(3), -1.0), "lam: got -1.0"),
        ((torch.ones(3), torch.tensor(-1.0)), "lam: got negative entries"),
        ((torch.ones(3), 1.0, torch.ones(3)), r"weights: got shape \(3,\), expected \(..., 2\)"),
        ((torch.ones(3), 1.0, torch.tensor([1.0, -1.0])), "weights: got negative entries"),
        ((torch.tensor([1.0, torch.nan]),), "x: got NaN or infinite entries"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        total_variation(*arguments)
