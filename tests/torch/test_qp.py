"""The QP layer for PyTorch: conversion, sparse tensors, and code that was written for qpth."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cvxlayers import OptionError, ParameterError, SolveError  # noqa: E402
from cvxlayers.torch import QPFunction, QPLayer, QPSolution, solve_qp  # noqa: E402
from tests.support.quadratic import Known, known_qp  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402

NONE = torch.empty(0, dtype=torch.float64)


def problem(batch: int = 3, **sizes: int) -> Known:
    return known_qp(np.random.default_rng(0), batch, 4, **{"inequalities": 4, "equalities": 1, "active": 1, **sizes})


def tensors(known: Known, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(part, dtype=dtype, requires_grad=True) for name, part in known.data.items()}


def gradients(x: torch.Tensor, given: dict[str, torch.Tensor], weights: np.ndarray) -> dict[str, np.ndarray]:
    found = torch.autograd.grad(x, list(given.values()), torch.tensor(weights, dtype=x.dtype))
    return {name: part.to_dense().numpy() for name, part in zip(given, found, strict=True)}


def test_solutions_duals_and_gradients() -> None:
    known, weights = problem(), np.random.default_rng(1).normal(size=(3, 4))
    given = tensors(known)
    solution = QPLayer(duals=True)(**given)
    assert isinstance(solution, QPSolution)
    parts = [part.detach().numpy() for part in solution]
    assert_all_close(parts, [known.x, known.inequality, known.equality], 1e-7, "solution")
    found, right = gradients(solution.x, given, weights), known.gradients(weights)
    assert_all_close([found[name] for name in given], [right[name] for name in given], 1e-6, "gradients")


@pytest.mark.parametrize("sizes", [{}, {"equalities": 0}, {"inequalities": 0, "active": 0}], ids=str)
def test_gradcheck_of_everything_with_shared_arguments(sizes: dict[str, int]) -> None:
    known = problem(2, **sizes)
    given = tensors(known)
    for name in ("G", "A", "b"):  # shared: the second element is another point of the same constraints
        if name in given:
            given[name] = given[name][0].detach().requires_grad_()

    def function(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            part for part in solve_qp(**dict(zip(given, arguments, strict=True)), duals=True) if part is not None
        )

    assert torch.autograd.gradcheck(function, tuple(given.values()), eps=1e-4, atol=1e-5, rtol=1e-5)


def test_float32_in_float32_out_and_mixed_dtypes_promote() -> None:
    known, weights = problem(), np.random.default_rng(1).normal(size=(3, 4))
    given = tensors(known, torch.float32)
    x = solve_qp(**given)
    assert x.dtype == torch.float32
    assert_close(x.detach().numpy(), known.x, 1e-5, "x")
    found, right = gradients(x, given, weights), known.gradients(weights)
    assert all(part.dtype == np.float32 for part in found.values())
    assert_all_close([found[name] for name in given], [right[name] for name in given], 1e-4, "gradients")
    assert solve_qp(**{**given, "p": given["p"].double()}).dtype == torch.float64


@pytest.mark.parametrize("sizes", [
    {"equalities": 0}, {"inequalities": 0, "active": 0}, {"inequalities": 0, "active": 0, "equalities": 0}, {},
], ids=str)  # fmt: skip
def test_every_kind_in_single_precision(sizes: dict[str, int]) -> None:
    """Solutions, multipliers, and the gradients through all of them."""
    known, rng = problem(**sizes), np.random.default_rng(2)
    given = tensors(known, torch.float32)
    parts = [part for part in solve_qp(**given, duals=True) if part is not None]
    right = [known.x] + [known.inequality] * ("G" in given) + [known.equality] * ("A" in given)
    assert_all_close([part.detach().numpy() for part in parts], right, 1e-4, "solution")
    weights = [rng.normal(size=part.shape) for part in right]
    found = torch.autograd.grad(parts, list(given.values()), [torch.tensor(w, dtype=torch.float32) for w in weights])
    rest = iter(weights[1:])
    multipliers = [next(rest) if name in given else None for name in ("G", "A")]
    expected = known.gradients(weights[0], *multipliers)
    assert_all_close([part.numpy() for part in found], [expected[name] for name in given], 1e-3, "gradients")


def test_under_autocast() -> None:
    net, layer = torch.nn.Linear(3, 4), QPLayer()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = net(torch.ones(2, 3))
        x = layer(torch.eye(4), p, -torch.eye(4), torch.zeros(4))
        x.sum().backward()
    assert p.dtype == torch.bfloat16
    assert x.dtype == torch.float32
    assert_close(x.detach().numpy(), np.maximum(-p.detach().float().numpy(), 0), 1e-6, "x")
    assert_close(net.bias.grad.numpy(), -(p < 0).float().sum(0).numpy(), 1e-6, "gradient")


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("batched", [False, True])
def test_sparse_tensors_bring_their_pattern(layout: torch.layout, batched: bool) -> None:
    random, known = np.random.default_rng(2), problem()
    masks = {"Q": np.eye(4), "G": random.random((4, 4)) < 0.6, "A": np.array([[1, 0, 1, 1]])}
    dense = {
        name: (part if batched or name not in masks else part[:1].repeat(3, 0)) * masks.get(name, 1)
        for name, part in known.data.items()
    }
    whole = {name: torch.tensor(part, requires_grad=True) for name, part in dense.items()}
    given = {name: part if batched or name not in masks else part[0] for name, part in dense.items()}
    given = {name: torch.tensor(part) for name, part in given.items()}
    given = {name: part.to_sparse(layout=layout) if name in masks else part for name, part in given.items()}
    given = {name: part.requires_grad_() for name, part in given.items()}
    layer, weights = QPLayer(), random.normal(size=(3, 4))
    x = layer(**given)
    assert layer._local.layer.compiled.structure.P.nnz == 4
    right = solve_qp(**whole)
    assert_close(x.detach().numpy(), right.detach().numpy(), 1e-7, "x")
    found, full = gradients(x, given, weights), gradients(right, whole, weights)
    for name, part in found.items():
        expected = full[name] if part.shape == full[name].shape else full[name].sum(0)
        assert_close(part * masks.get(name, 1), expected * masks.get(name, 1), 1e-6, name)


def test_sparse_tensors_whose_patterns_differ_over_the_batch() -> None:
    G = torch.tensor([[[-1.0, 0.0], [0.0, 0.0]], [[0.0, -1.0], [-1.0, -1.0]]], dtype=torch.float64)
    p, h = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    given, whole = G.to_sparse().requires_grad_(), G.clone().requires_grad_()
    Q = torch.eye(2, dtype=torch.float64)
    x, right = solve_qp(Q, 2 * p, given, h), solve_qp(Q, 2 * p, whole, h)
    assert_close(x.detach().numpy(), right.detach().numpy(), 1e-8, "x")
    x[:, 0].sum().backward()
    right[:, 0].sum().backward()
    assert_close((given.grad.to_dense() * (G != 0)).numpy(), (whole.grad * (G != 0)).numpy(), 1e-7, "gradient")


def test_a_pattern_is_kept_to() -> None:
    known = problem(equalities=0)
    layer = QPLayer({"Q": torch.eye(4).to_sparse(), "G": torch.tensor(known.data["G"][0]) > 0})
    assert "Q: 4 nonzeros" in repr(layer)
    with pytest.raises(ParameterError, match=r"parameter '.'.*sparsity"):
        layer(**tensors(known))


@pytest.mark.parametrize("solver", [None, "CLARABEL"])
def test_the_report_says_who_solved_and_what(solver: str | None) -> None:
    layer = QPLayer(solver=solver, on_failure="nan")
    assert layer.info is None
    x = layer(torch.eye(1), torch.zeros(1), torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    assert torch.isnan(x[:, 0]).tolist() == [False, True]
    assert layer.info.statuses.tolist() == ["optimal", "infeasible"]
    if solver:
        assert layer.info.engines[0] == solver


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))], ids=["copy", "pickle"]
)
def test_copies_and_state(clone) -> None:
    given, layer = tensors(problem()), QPLayer(duals=True)
    right = layer(**given)
    assert torch.equal(clone(layer)(**given).x, right.x)
    assert layer.state_dict() == {}


def test_wrong_arguments_are_named() -> None:
    eye, ones = torch.eye(2), torch.ones(2)
    with pytest.raises(ParameterError, match="argument 'h'"):
        solve_qp(eye, ones, G=eye)
    with pytest.raises(ParameterError, match=r"argument 'G'.*\(2, 3\)"):
        solve_qp(eye, ones, torch.ones(2, 3), ones)
    with pytest.raises(ParameterError, match="argument 'Q': expected a tensor"):
        solve_qp("Q", ones)
    with pytest.raises(ParameterError, match="hybrid"):
        solve_qp(eye, ones, torch.ones(3, 2, 2).to_sparse(2), torch.ones(2))
    with pytest.raises(ParameterError, match=r"parameter 'Q'.*positive semidefinite"):
        solve_qp(-eye, ones)
    with pytest.raises(OptionError):
        solve_qp(eye, ones, solver_args={"epsilon": 1})


def test_every_combination_of_two_batches_is_asked_for() -> None:
    arguments = torch.eye(2), torch.full((4, 2), -2.0), torch.eye(2), torch.ones(3, 1, 2)
    with pytest.raises(ParameterError, match=r"'p' has \(4,\), 'h' has \(3, 1\).*to \(3, 4\).*broadcast=True"):
        solve_qp(*arguments)
    assert solve_qp(*arguments, broadcast=True).shape == QPLayer(broadcast=True)(*arguments).shape == (3, 4, 2)
    with pytest.raises(ParameterError, match=r"h\.squeeze\(-2\)"):
        solve_qp(*arguments[:3], torch.ones(4, 1, 2))


@pytest.mark.parametrize("on_failure", ["zero_grad", "nan"])
def test_batches_of_which_all_elements_fail_have_gradients(on_failure: str) -> None:
    """Infeasible, or with an indefinite Q, one by one or in a batch."""
    expected = torch.tensor(torch.nan if on_failure == "nan" else 0.0)
    G, h = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([-1.0, 0.5])
    for Q, right in ((torch.eye(2), h), (torch.eye(2), h.expand(3, 2)), (torch.ones(2, 2) - 2 * torch.eye(2), h.abs())):
        given = [part.clone().requires_grad_() for part in (Q, torch.ones(2), G, right)]
        layer = QPLayer(on_failure=on_failure, duals=True)
        x, multipliers, _ = layer(*given)
        (x.sum() + multipliers.sum()).backward()
        assert "optimal" not in layer.info.statuses
        for part in (*(p.grad for p in given),):
            assert torch.equal(part.isnan(), expected.expand_as(part).isnan())
            assert (part.nan_to_num() == 0).all()


# Code for qpth


def test_a_call_as_for_qpth_gives_the_same_function() -> None:
    known = problem()
    given = tensors(known)
    function = QPFunction(eps=1e-10, verbose=-1, notImprovedLim=5, maxIter=30, check_Q_spd=False)
    x = function(*given.values())
    assert_close(x.detach().numpy(), known.x, 1e-7, "x")
    weights = np.random.default_rng(1).normal(size=(3, 4))
    found, right = gradients(x, given, weights), known.gradients(weights)
    assert_all_close([found[name] for name in given], [right[name] for name in given], 1e-6, "gradients")


def test_empty_tensors_are_absent_arguments_and_one_problem_is_a_batch_of_one() -> None:
    eye, p = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    A, b = torch.ones(1, 2, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for given, expected in (
        ((eye, p, -eye, 0 * p, NONE, NONE), [0, 2]),  # without equalities
        ((eye, p, NONE, NONE, A, b), [-1, 2]),  # without inequalities: qpth has none of these
        ((eye, p, NONE, NONE, NONE, NONE), [-1, 2]),
        ((0 * eye, p, -eye, 0 * p, A, b), [0, 1]),  # a linear program: qpth refuses it
    ):
        x = QPFunction(verbose=-1)(*given)
        assert x.shape == (1, 2)
        assert_close(x.numpy(), [expected], 1e-6, "x")
    assert QPFunction()(eye, p.expand(5, 2), -eye, 0 * p, NONE, NONE).shape == (5, 2)
    assert QPFunction()(eye, p.expand(0, 2), -eye, 0 * p, NONE, NONE).shape == (0, 2)


def test_constraints_without_elements_are_absent_whatever_their_shape() -> None:
    """minimize |z|^2 - 4 z_1 + 2 z_2 subject to z <= 1.5: z = (1.5, -1), and without the bound (2, -1)."""
    Q, p = 2 * torch.eye(2), torch.tensor([-4.0, 2.0], requires_grad=True)
    bound, none, empty = (torch.eye(2), torch.full((2,), 1.5)), torch.empty(0), torch.empty
    absent = [(none, none), (empty(0, 2), none), (empty(1, 0), empty(1, 0)), (empty(0, 2), None), (None, empty(0, 3)),
              (empty(0, 2).to_sparse(), none), (empty(0, 2, dtype=torch.float64), none)]  # fmt: skip
    for A, b in absent:
        for given, expected in (((*bound, A, b), [[1.5, -1.0]]), ((A, b, A, b), [[2.0, -1.0]])):
            assert_close(QPFunction()(Q, p, *given).detach().numpy(), expected, 1e-5, f"{A}, {b}")
    x = QPFunction()(Q, p, *bound, empty(4, 0, 2), empty(4, 0))  # their batch is the only one
    assert_close(x.detach().numpy(), [[1.5, -1.0]] * 4, 1e-5, "the batch of what is absent")
    x.sum().backward()
    assert_close(p.grad.numpy(), [0.0, -2.0], 1e-5, "sum over the batch")
    for given in (
        (Q, p.expand(0, 2), *bound),
        (Q, p, bound[0].expand(0, 2, 2), bound[1]),
        (Q, p, bound[0], empty(0, 2)),
    ):
        assert QPFunction()(*given, none, none).shape == (0, 2)  # batches of size zero are there
    with pytest.raises(ParameterError, match="argument 'G': it is None, but 'h' was given"):
        QPFunction()(Q, p, empty(0, 2), torch.ones(1), none, none)
    with pytest.raises(ParameterError, match="argument 'h': it is None, but 'G' was given"):
        QPFunction()(Q, p, bound[0], none, none, none)


def test_the_gradient_of_a_shared_argument_is_the_sum_and_infeasible_problems_raise() -> None:
    eye, p = torch.eye(2, requires_grad=True), torch.full((4, 2), -1.0)
    QPFunction()(eye, p, -torch.eye(2), torch.zeros(2), torch.empty(0), torch.empty(0)).sum().backward()
    assert_close(eye.grad.numpy(), -4 * np.ones((2, 2)), 1e-5, "sum over the batch")
    G = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(SolveError, match="infeasible"):
        QPFunction()(torch.eye(2), p, G, -torch.ones(2), torch.empty(0), torch.empty(0))


def test_wrong_calls_of_the_function() -> None:
    with pytest.raises(ParameterError, match="got 4, expected the six"):
        QPFunction()(torch.eye(1), torch.ones(1), torch.eye(1), torch.ones(1))
    with pytest.raises(OptionError, match="eps"):
        QPFunction(eps=0)
