"""What a node with a closed-form derivative does with elements that fail, with threads, copies, and odd batches."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import vmap

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.nodes import (
    AnalyticCentre,
    OptimalTransport,
    RobustMean,
    TotalVariation,
    analytic_centre,
    optimal_transport,
    robust_mean,
    total_variation,
)
from cvxlayers.nodes.rules.call_result import Reporting


class Case(NamedTuple):
    """A node, good inputs of three elements, and what makes one of its inputs hopeless in the second element."""

    make: Callable[..., Reporting]
    inputs: tuple[Tensor, ...]
    place: int
    bad: float
    status: str


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tensor:
        return torch.as_tensor(rng.normal(size=shape))

    rows = normal(3, 6, 2)
    rows[:, 0] = -rows[:, 1:].sum(1)
    bounds = torch.ones(3, 6, dtype=torch.float64)
    weights = normal(3, 2, 5).abs()
    return {
        "transport": Case(OptimalTransport, (normal(3, 4, 5).abs(),), 0, np.nan, "failed"),
        "robust mean": Case(RobustMean, (weights, normal(3, 5, 2)), 1, np.nan, "failed"),
        "centre": Case(AnalyticCentre, (rows, bounds), 1, -1.0, "infeasible"),
        "total variation": Case(TotalVariation, (normal(3, 7),), 0, np.inf, "failed"),
    }


@pytest.fixture(params=list(cases()))
def case(request: pytest.FixtureRequest) -> Case:
    return cases()[request.param]


def spoiled(case: Case) -> list[Tensor]:
    inputs = [x.clone() for x in case.inputs]
    inputs[case.place][1] = case.bad
    return [x.requires_grad_() for x in inputs]


def test_failing_elements_are_named(case: Case) -> None:
    expected = SolveError if case.status == "infeasible" else ParameterError
    with pytest.raises(expected) as raised:
        case.make()(*spoiled(case))
    assert "1" in str(raised.value)
    if isinstance(raised.value, SolveError):
        assert raised.value.indices == (1,)
        assert raised.value.statuses == (case.status,)


@pytest.mark.parametrize("policy", ["nan", "zero_grad"])
def test_other_elements_go_on(case: Case, policy: str) -> None:
    inputs, good = spoiled(case), [x.clone().requires_grad_() for x in case.inputs]
    node = case.make(on_failure=policy)
    y = node(*inputs)
    assert node.info is not None
    assert (node.info.statuses == ["optimal", case.status, "optimal"]).all()
    expected = case.make()(*good)
    assert torch.equal(y[[0, 2]], expected[[0, 2]])
    assert y[1].isnan().all() if policy == "nan" else y[1].isfinite().all()
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    right = torch.autograd.grad(expected.square().sum(), good, create_graph=True)
    for found, true in zip(first, right, strict=True):
        assert torch.equal(found[[0, 2]], true[[0, 2]])
        assert found[1].isnan().all() if policy == "nan" else (found[1] == 0).all()
    kept = sum((g[[0, 2]] ** 2).sum() for g in first)
    true = sum((g[[0, 2]] ** 2).sum() for g in right)
    second = torch.autograd.grad(kept, inputs, allow_unused=True, materialize_grads=True)
    expected = torch.autograd.grad(true, good, allow_unused=True, materialize_grads=True)
    for found, other in zip(second, expected, strict=True):
        assert torch.allclose(found[[0, 2]], other[[0, 2]])
        assert (found[1] == 0).all(), "a failed element that nobody uses passes nothing on, of any order"


def test_unused_failures_have_zero_gradient(case: Case) -> None:
    inputs = spoiled(case)
    y = case.make(on_failure="nan")(*inputs)
    for found in torch.autograd.grad(y[[0, 2]].sum(), inputs):
        assert (found[1] == 0).all()
        assert found.isfinite().all()


def test_empty_batches_and_batches_of_batches(case: Case) -> None:
    node = case.make()
    y = node(*case.inputs)
    assert node(*(x[:0] for x in case.inputs)).shape == (0, *y.shape[1:])
    assert vmap(node)(*(x[:0] for x in case.inputs)).shape == (0, *y.shape[1:])
    doubled = node(*(torch.stack([x, x.flip(0)]) for x in case.inputs))
    assert torch.allclose(doubled, torch.stack([y, y.flip(0)]), atol=1e-9)
    assert torch.allclose(node(*(x[0] for x in case.inputs)), y[0], atol=1e-9)


SHARED: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "transport": (
        lambda M, r, c: optimal_transport(M, r / r.sum(-1, keepdim=True), c / c.sum(-1, keepdim=True)),
        tuple(torch.as_tensor(np.random.default_rng(1).uniform(0.1, 1, size)) for size in ((3, 4, 5), (3, 4), (3, 5))),
    ),
    "robust mean": (robust_mean, cases()["robust mean"].inputs),
    "centre": (analytic_centre, cases()["centre"].inputs),
    "total variation": (
        lambda x, lam: total_variation(x, lam[:, 0]),
        (cases()["total variation"].inputs[0], torch.full((3, 1), 0.3, dtype=torch.float64)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(SHARED))
def test_shared_inputs_get_the_sum_of_gradients(name: str) -> None:
    """Each input in turn is one element for a batch of three."""
    function, inputs = SHARED[name]
    weights = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    for place in range(len(inputs)):
        rest = [x.clone() for x in inputs]
        shared = inputs[place][:1].clone().requires_grad_()
        repeated = inputs[place][:1].repeat(3, *[1] * (inputs[place].ndim - 1)).requires_grad_()
        for given in (shared, repeated):
            y = function(*rest[:place], given, *rest[place + 1 :])
            (weights.reshape(3, *[1] * (y.ndim - 1)) * y.exp()).sum().backward()
        assert shared.grad.abs().max() > 1e-4
        assert torch.allclose(shared.grad, repeated.grad.sum(0, keepdim=True), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back(case: Case, dtype: torch.dtype) -> None:
    inputs = [x.to(dtype).requires_grad_() for x in case.inputs]
    y = case.make()(*inputs)
    assert y.dtype == dtype
    exact = case.make()(*(x.detach().double() for x in inputs))
    assert torch.allclose(y.detach().double(), exact, rtol=2e-2, atol=2e-2)
    for x, gradient in zip(inputs, torch.autograd.grad(y.sum(), inputs), strict=True):
        assert gradient.dtype == x.dtype
        assert gradient.isfinite().all()


def test_each_thread_has_its_own_report(case: Case) -> None:
    node = case.make(on_failure="nan")

    def work(size: int) -> int:
        for _ in range(5):
            node(*(x[:size] for x in case.inputs))
            assert node.info is not None
            if len(node.info.statuses) != size:
                return 0
        return size

    with ThreadPoolExecutor(4) as pool:
        sizes = [1, 2, 3] * 4
        assert list(pool.map(work, sizes)) == sizes
    assert node.info is None, "the thread of the test made no call"


def test_copies_start_without_a_report(case: Case) -> None:
    node = case.make()
    y = node(*case.inputs)
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert other.info is None
        assert torch.equal(other(*case.inputs), y)
    assert "optimal" in str(node.info)


def test_inputs_stay_as_they_are(case: Case) -> None:
    before = [x.clone() for x in case.inputs]
    case.make()(*case.inputs)
    assert all(torch.equal(x, y) for x, y in zip(case.inputs, before, strict=True))


def test_an_unknown_policy_is_refused(case: Case) -> None:
    with pytest.raises(OptionError, match="on_failure: expected one of 'raise', 'nan', 'zero_grad', got 'ignore'"):
        case.make(on_failure="ignore")
