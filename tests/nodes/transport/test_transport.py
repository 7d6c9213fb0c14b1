"""Entropic optimal transport: marginals, optimality, derivatives of both orders, large gamma, zero masses, failures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cvxlayers.errors import ParameterError, SolveError
from cvxlayers.nodes import OptimalTransport, optimal_transport
from tests.support import differences
from tests.support.tolerance import assert_all_close, assert_close
from tests.support.transformations import assert_derivatives, assert_single_precision, assert_vmap


def data(batch: int, H: int, W: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Costs, and masses of total one."""
    rng = np.random.default_rng(seed)
    M = torch.as_tensor(rng.uniform(size=(batch, H, W)))
    r, c = (torch.as_tensor(rng.normal(size=(batch, n))).softmax(1) for n in (H, W))
    return M, r, c


def off(P: Tensor, r: Tensor, c: Tensor) -> float:
    """How far the worst plan is from both marginals, in sums of absolute values."""
    return float(((P.detach().sum(-1) - r).abs().sum(-1) + (P.detach().sum(-2) - c).abs().sum(-1)).max())


@pytest.mark.parametrize("gamma", [0.1, 10.0, 1e3, 1e5])
@pytest.mark.parametrize(("H", "W"), [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1), (1, 1)])
def test_both_marginals_are_met_and_the_plan_has_the_optimal_form(H: int, W: int, gamma: float) -> None:
    M, r, c = data(5, H, W)
    node = OptimalTransport(gamma)
    P = node(M, r, c)
    assert off(P, r, c) <= 1.1e-9
    assert node.info is not None
    assert node.info.residuals.worst.max() <= 1e-9
    if gamma <= 10:  # log P - log r c' + gamma M = f + g: its mixed differences vanish
        dual = P.log() - (r[:, :, None] * c[:, None]).log() + gamma * M
        mixed = dual - dual[:, :1] - dual[:, :, :1] + dual[:, :1, :1]
        assert_close(mixed, torch.zeros_like(mixed), 1e-9, "optimality")


def test_no_plan_with_these_marginals_is_better() -> None:
    M, r, c = data(1, 4, 5)
    gamma, rng = 3.0, np.random.default_rng(1)
    P = optimal_transport(M, r, c, gamma)

    def objective(P: Tensor) -> Tensor:
        return (P * M).sum((1, 2)) + (P * (P / (r[:, :, None] * c[:, None])).log()).sum((1, 2)) / gamma

    other = torch.as_tensor(rng.normal(size=(200, 4, 5)))
    other = other - other.mean(1, keepdim=True)
    other = other - other.mean(2, keepdim=True)
    assert float((objective(P + 1e-4 * other) - objective(P)).min()) > 0


def test_independent_coupling_without_costs_and_assignment_without_entropy() -> None:
    M, r, c = data(2, 5, 5)
    assert_close(optimal_transport(0 * M, r, c), r[:, :, None] * c[:, None], 1e-12, "no costs")
    P = optimal_transport(M, gamma=1e5)
    for plan, costs in zip(P, M, strict=True):
        rows, columns = linear_sum_assignment(costs)
        expected = torch.zeros_like(plan)
        expected[rows, columns] = 0.2
        assert_close(plan, expected, 1e-6, "assignment")


@pytest.mark.parametrize(("H", "W"), [(2, 3), (1, 1)])
def test_derivatives_of_first_and_second_order(H: int, W: int) -> None:
    M, r, c = data(1, H, W)
    gamma = torch.tensor([4.0], dtype=torch.float64)

    def plan(M: Tensor, r: Tensor, c: Tensor, gamma: Tensor) -> Tensor:
        return optimal_transport(M, 2 * r, 1.5 * c, gamma, balance=True, tolerance=1e-13)

    assert_derivatives(plan, (M, r, c, gamma))


def test_the_transposed_problem_has_the_transposed_plan_and_derivatives() -> None:
    M, r, c = data(2, 5, 3)
    w = torch.linspace(-1, 1, 15, dtype=torch.float64).reshape(5, 3)
    answers = []
    for turned in (False, True):
        leaves = [x.clone().requires_grad_() for x in (M, r, c)]
        P = optimal_transport(leaves[0].mT, *leaves[:0:-1], 5.0).mT if turned else optimal_transport(*leaves, 5.0)
        first = torch.autograd.grad((w * P).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), leaves)
        answers.append([P.detach(), *(x.detach() for x in first), *second])
    assert_all_close(*answers, 1e-9, "transposed")


def test_vmap_and_single_precision() -> None:
    M, r, c = data(3, 4, 3)
    gamma = torch.tensor([1.0, 5.0, 20.0], dtype=torch.float64)
    assert_vmap(optimal_transport, (M, r, c, gamma))
    assert_single_precision(lambda M, r, c, g: optimal_transport(M, r, c, g, balance=True), (M, r, c, gamma))


def test_the_gradient_without_balancing_is_right_along_feasible_changes() -> None:
    M, r, c = (x[0] for x in data(1, 3, 4))
    rng = np.random.default_rng(2)
    w = torch.as_tensor(rng.normal(size=(3, 4)))
    ways = [rng.normal(size=n) * 0.02 for n in (3, 4)]
    ways = [d - d.mean() for d in ways]

    def value(batch: list[np.ndarray]) -> list[np.ndarray]:
        masses = [torch.as_tensor(part) for part in batch]
        return [(optimal_transport(M, *masses, 8.0, tolerance=1e-13) * w).sum((1, 2)).numpy()]

    (found,) = differences.differentiate(value, [r.numpy(), c.numpy()], [ways])
    leaves = [x.clone().requires_grad_() for x in (r, c)]
    (optimal_transport(M, *leaves, 8.0) * w).sum().backward()
    slope = sum(float((x.grad * torch.as_tensor(d)).sum()) for x, d in zip(leaves, ways, strict=True))
    assert_close(slope, found.tangents[0], 1e-7, "slope", floor=1e-3)


def test_zero_masses_have_empty_rows_and_right_gradients() -> None:
    M = data(1, 3, 4)[0][0]
    r, c = torch.tensor([0.0, 0.4, 0.6], dtype=M.dtype), torch.tensor([0.3, 0.3, 0.4, 0.0], dtype=M.dtype)
    leaves = [x.clone().requires_grad_() for x in (M, r, c)]
    P = optimal_transport(*leaves, 4.0)
    assert (P[0] == 0).all()
    assert (P[:, 3] == 0).all()
    w = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    gradients = torch.autograd.grad((w * P).sum(), leaves, create_graph=True)
    ways = [torch.tensor(way, dtype=M.dtype) for way in ([1.0, -0.4, -0.6], [-0.2, -0.3, -0.5, 1.0])]

    def value(h: float) -> Tensor:
        return (w * optimal_transport(M, r + h * ways[0], c + h * ways[1], 4.0, tolerance=1e-13)).sum()

    h = 1e-4  # one-sided, as masses are not negative; extrapolated
    slopes = [(value(h * k) - value(0)) / (h * k) for k in (1, 2, 4)]
    expected = (8 * slopes[0] - 6 * slopes[1] + slopes[2]) / 3
    found = (gradients[1] * ways[0]).sum() + (gradients[2] * ways[1]).sum()
    assert_close(found.detach(), expected, 1e-6, "slope towards positive mass")
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)
    assert all(x.isfinite().all() for x in second)


@pytest.mark.parametrize("gamma", [1e2, 1e4, 1e6, 1e8])
def test_large_gamma_in_single_precision_is_finite_and_on_the_marginals(gamma: float) -> None:
    M = data(4, 7, 6)[0].float().requires_grad_()
    P = optimal_transport(M, gamma=gamma)
    assert off(P, torch.tensor(1 / 7), torch.tensor(1 / 6)) <= 3e-6
    P.square().sum().backward()
    assert M.grad is not None
    assert M.grad.isfinite().all()


def test_an_iteration_limit_is_no_silent_wrong_answer() -> None:
    M, r, c = data(3, 6, 6)
    with pytest.raises(SolveError, match=r"\((inaccurate|failed)\)"):
        optimal_transport(M, r, c, 1e4, max_iterations=1)
    node = OptimalTransport(1e4, max_iterations=1, on_failure="zero_grad")
    P = node(M, r, c)
    assert P.isfinite().all()
    assert node.info is not None
    assert node.info.residuals.worst.max() > 1e-9


def test_masses_that_allow_no_plan_are_infeasible() -> None:
    M, r, c = data(2, 3, 3)
    with pytest.raises(SolveError, match=r"0 \(infeasible\), 1 \(infeasible\).*balance=True"):
        optimal_transport(M, r, 1.1 * c)
    assert off(optimal_transport(M, r, 1.1 * c, balance=True), 1.05 * r, 1.05 * c) <= 2e-9
    negative = r.clone()
    negative[1, 0] -= 1
    negative[1, 1] += 1
    node = OptimalTransport(on_failure="nan")
    node(M, negative, c)
    assert node.info is not None
    assert node.info.statuses.tolist() == ["optimal", "infeasible"]
    node(M, 0 * r, 0 * c)
    assert node.info.statuses.tolist() == ["failed", "failed"]


def test_a_learned_gamma_gets_its_gradient() -> None:
    gamma = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    node = OptimalTransport(gamma)
    assert list(node.parameters()) == [gamma]
    node(data(3, 4, 4)[0]).square().sum().backward()
    assert gamma.grad is not None
    assert float(gamma.grad) != 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"M": [[1.0]]}, "M: got list, expected a torch.Tensor"),
        ({"M": torch.ones(3)}, r"M: got shape \(3,\)"),
        ({"M": torch.ones(2, 3, dtype=torch.int64)}, "M: got dtype torch.int64"),
        ({"M": torch.ones(2, 3), "r": torch.ones(3)}, r"r: got shape \(3,\), expected \(..., 2\)"),
        ({"M": torch.ones(2, 3), "c": torch.ones(3).double()}, "c: got torch.float64"),
        ({"M": torch.ones(4, 2, 3), "r": torch.ones(3, 2)}, "batch dimensions do not broadcast"),
        ({"M": torch.ones(2, 3), "gamma": 0.0}, "gamma: got 0.0, expected a positive"),
        ({"M": torch.ones(2, 3), "gamma": torch.tensor(-1.0)}, "gamma: got entries that are not positive"),
        ({"M": torch.full((2, 3), torch.inf)}, "M: got NaN or infinite entries"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        optimal_transport(**arguments)


def test_a_failure_keeps_the_gradients_of_the_others_in_all_arguments() -> None:
    M, r, c = data(3, 4, 5)
    r[1] *= 2
    gamma = torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)
    w = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)

    def gradients(which: list[int], **options: str) -> list[Tensor]:
        leaves = [x[which].clone().requires_grad_() for x in (M, r, c, gamma)]
        P = optimal_transport(*leaves, **options)
        return list(torch.autograd.grad((w * P).sum(), leaves))

    found, expected = gradients([0, 1, 2], on_failure="zero_grad"), gradients([0, 2])
    assert_all_close([x[::2] for x in found], expected, 1e-12, "the others")
    assert all((x[1] == 0).all() for x in found)
