"""The PyTorch layer over the same table: it only converts, so it must give what the NumPy layer gives."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cvxlayers.derivative.exact import ExactDerivative  # noqa: E402
from cvxlayers.errors import ParameterError  # noqa: E402
from cvxlayers.torch import CvxpyLayer  # noqa: E402
from tests.contracts.case import Case  # noqa: E402
from tests.contracts.table import CASES, case  # noqa: E402
from tests.support import adapters, layers  # noqa: E402
from tests.support.adapters import TOLERANCE  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402

DIFFERENTIABLE = [row for row in CASES if row.point()]
PEER_TIGHT = {"solve_method": "Clarabel", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
SMALL = [case(name) for name in ("norm_ball", "simplex_projection", "no_inequalities", "entropy", "dgp_box", "scalar")]


@cache
def torch_layer(name: str, **options: Any) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp, **options)


def tensors(values: Any, dtype: torch.dtype = torch.float64, grad: bool = True) -> list[torch.Tensor]:
    wide = {torch.float32: torch.complex64, torch.float64: torch.complex128}[dtype]
    return [
        torch.tensor(v, dtype=wide if np.iscomplexobj(v) else dtype, requires_grad=grad)
        for v in map(np.asarray, values)
    ]


def weights(outputs: Any) -> list[torch.Tensor]:
    """Fixed cotangents of the outputs' shapes and dtypes."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in outputs]


def pull(outputs: Any, cotangents: Any) -> None:
    torch.autograd.backward(list(outputs), list(cotangents))


@pytest.mark.parametrize("row", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_the_numpy_layer(row: Case) -> None:
    given = tensors(row.point())
    outputs = torch_layer(row.name)(*given)
    record = torch_layer(row.name).core.solve(row.point())
    tolerance = TOLERANCE if given else 1e-7  # without parameters the dtype is the default one, float32
    assert_all_close([o.detach().numpy() for o in outputs], record.outputs, tolerance, row.name)
    if given:
        cotangents = weights(outputs)
        pull(outputs, cotangents)
        expected = record.vjp([w.numpy() for w in cotangents])
        assert_all_close([t.grad.numpy() for t in given], expected, TOLERANCE, f"gradients of {row.name}")


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)
def test_float32_in_float32_out(row: Case) -> None:
    given = tensors(row.point(), torch.float32)
    outputs = torch_layer(row.name)(*given)
    assert all(o.dtype in (torch.float32, torch.complex64) for o in outputs)
    cotangents = weights(outputs)
    pull(outputs, cotangents)
    double = tensors([t.detach().numpy() for t in given])
    exact = torch_layer(row.name)(*double)
    pull(exact, [w.to(o.dtype) for w, o in zip(cotangents, exact, strict=True)])
    assert_all_close([o.detach().numpy() for o in outputs], [o.detach().numpy() for o in exact], 1e-6, "outputs")
    for single, wide in zip(given, double, strict=True):
        assert single.grad.dtype == single.dtype
        assert_close(single.grad.numpy(), wide.grad.numpy(), 1e-6, "gradient")


def test_mixed_dtypes_promote_and_each_gradient_keeps_its_own() -> None:
    A, b, c = (torch.tensor(v) for v in case("norm_ball").point())
    given = [A.float().requires_grad_(), b.requires_grad_(), c.float().requires_grad_()]
    (x,) = torch_layer("norm_ball")(*given)
    assert x.dtype == torch.float64
    x.sum().backward()
    assert [t.grad.dtype for t in given] == [torch.float32, torch.float64, torch.float32]


@pytest.mark.parametrize("row", SMALL, ids=str)
def test_gradcheck(row: Case) -> None:
    """PyTorch's own finite differences; their step is large enough for the solver's accuracy of 1e-8."""
    assert torch.autograd.gradcheck(torch_layer(row.name), tensors(row.point()), eps=1e-3, atol=1e-4, rtol=1e-4)


def test_gradcheck_of_a_batch_with_a_shared_parameter() -> None:
    row = case("norm_ball")
    A, b, _ = row.point()
    c = np.stack([row.point(seed)[2] for seed in range(3)])
    assert torch.autograd.gradcheck(torch_layer(row.name), tensors([A, b, c]), eps=1e-3, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "shapes",
    [((), (), ()), ((3,), (), ()), ((), (3,), ()), ((3,), (3,), (3,)), ((2, 3), (3,), ()), ((2, 1), (1, 3), (2, 3)),
     ((1,), (3,), (3,)), ((0,), (), (0,)), ((2, 0), (), (0,)), ((1, 1, 2), (2,), ())],
    ids=str,
)  # fmt: skip
def test_leading_dimensions_broadcast(shapes: tuple[tuple[int, ...], ...]) -> None:
    """Every element of the broadcast batch is the single call; every gradient has its parameter's own shape."""
    row, generator = case("norm_ball"), np.random.default_rng(4)
    given = tensors(
        [p + 0.05 * generator.normal(size=(*lead, *p.shape)) for lead, p in zip(shapes, row.point(), strict=True)]
    )
    layer, batch = torch_layer(row.name), np.broadcast_shapes(*shapes)
    (x,) = layer(*given)
    assert x.shape == (*batch, 3)
    (w,) = weights((x,))
    pull((x,), (w,))
    total = [np.zeros(t.shape) for t in given]
    spread = [np.broadcast_to(t.detach().numpy(), batch + p.shape) for t, p in zip(given, row.point(), strict=True)]
    owners = [_owners(lead, batch) for lead in shapes]
    for index in np.ndindex(*batch):
        single = tensors([s[index] for s in spread])
        (alone,) = layer(*single)
        assert_close(x[index].detach().numpy(), alone.detach().numpy(), 1e-7, f"element {index}")
        pull((alone,), (w[index],))
        for whole, part, owner in zip(total, single, owners, strict=True):
            whole[owner[index]] += part.grad.numpy()
    assert_all_close([t.grad.numpy() for t in given], total, 1e-6, "gradients")


def _owners(lead: tuple[int, ...], batch: tuple[int, ...]) -> np.ndarray:
    """For each element of the batch, the index into a parameter's own leading dimensions."""
    places = np.empty(lead, dtype=object)
    for index in np.ndindex(*lead):
        places[index] = index
    return np.broadcast_to(places, batch)


def test_without_gradients_nothing_is_linearized(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = ExactDerivative.linearize

    def counted(self: Any, values: Any, solution: Any) -> Any:
        calls.append(1)
        return original(self, values, solution)

    monkeypatch.setattr(ExactDerivative, "linearize", counted)
    layer, point = torch_layer("norm_ball", polish=False), case("norm_ball").point()
    (x,) = layer(*tensors(point, grad=False))
    assert not x.requires_grad
    with torch.no_grad():
        layer(*tensors(point))
    (x,) = layer(*tensors(point))
    assert calls == []
    x.sum().backward()
    assert calls == [1]


def test_only_what_needs_a_gradient_gets_one() -> None:
    A, b, c = tensors(case("norm_ball").point())
    A.requires_grad_(False)
    (x,) = torch_layer("norm_ball")(A, b, c)
    x.sum().backward()
    assert A.grad is None
    assert b.grad.shape == c.grad.shape == (3,)


def test_an_unused_output_counts_as_zero() -> None:
    row = case("qp_with_duals")
    given = tensors(row.point())
    torch_layer(row.name)(*given)[0].sum().backward()
    record = layers.layer(row, "CLARABEL").solve(row.point())
    assert_all_close([t.grad.numpy() for t in given], record.vjp([np.ones(5), None, None]), 1e-7, "gradients")


def test_backward_twice_through_a_retained_graph() -> None:
    given = tensors(case("norm_ball").point())
    (x,) = torch_layer("norm_ball")(*given)
    first = torch.autograd.grad(x.sum(), given, retain_graph=True)
    second = torch.autograd.grad(x.sum(), given)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_views_and_transposes_are_read_rightly() -> None:
    row = case("lp")
    A, b, c = row.point()
    plain = tensors([A, b, c])
    view = torch.tensor(np.ascontiguousarray(A.T), requires_grad=True)
    (x,), (other,) = torch_layer("lp")(*plain), torch_layer("lp")(view.T, *plain[1:])
    assert_close(other.detach().numpy(), x.detach().numpy(), 1e-9, "output")
    (gA,) = torch.autograd.grad(x.sum(), plain[:1])
    (gV,) = torch.autograd.grad(other.sum(), [view])
    assert_close(gV.T.numpy(), gA.numpy(), 1e-7, "gradient")


def test_wrong_calls_name_what_came_and_what_was_expected() -> None:
    layer = torch_layer("norm_ball")
    A, b, c = tensors(case("norm_ball").point())
    with pytest.raises(ParameterError, match=r"got 2 values, expected 3"):
        layer(A, b)
    with pytest.raises(ParameterError, match=r"shape \(3,\), expected \(3, 3\)"):
        layer(b, b, c)
    with pytest.raises(ParameterError, match=r"do not broadcast together.*\(2,\).*\(3,\)"):
        layer(A.expand(2, 3, 3), b.expand(3, 3), c)
    with pytest.raises(ParameterError, match="expected a tensor, got str"):
        layer("A", b, c)


@pytest.mark.parametrize("given", ["one", "all", "single"])
@pytest.mark.parametrize("on_failure", ["zero_grad", "nan"])
def test_a_broken_attribute_fails_alone_and_all_may_fail(on_failure: str, given: str) -> None:
    built, (c, w) = adapters.shrinkage(), adapters.SHRINKAGE
    layer = CvxpyLayer(built.problem, built.parameters, built.variables, on_failure=on_failure)
    values = {"one": (c, w), "all": (c, -1 - abs(w)), "single": (c[0], -w[0])}[given]
    parameters = tensors(values)
    (x,) = layer(*parameters)
    x.sum().backward()
    found = [part.detach().numpy() for part in (x, *(p.grad for p in parameters))]
    if given == "one":
        good = [0, 2]
        assert_all_close(
            [part[good] for part in found], [np.array(part)[good] for part in adapters.SHRUNK], 1e-6, "good"
        )
        found = [part[1] for part in found]
    for part in found:
        np.testing.assert_array_equal(part, np.full(part.shape, np.nan if on_failure == "nan" else 0.0))
    with pytest.raises(ParameterError, match=r"'w'.*nonneg"):
        CvxpyLayer(built.problem, built.parameters, built.variables)(*parameters)


def test_a_scalar_parameter_of_a_linear_layer_is_squeezed_or_refused() -> None:
    """A (B, 1) beside (B, n) is refused, also under vmap; mapped and shared batches combine as they did."""
    built, (c, w) = adapters.shrinkage(), tensors([adapters.SHRINKAGE[0], [0.5, 1.0, 1.5]])
    layer = CvxpyLayer(built.problem, built.parameters, built.variables)
    with pytest.raises(ParameterError, match=r"w\.squeeze\(-1\)"):
        layer(c, w[:, None])
    with pytest.raises(ParameterError, match=r"w\.squeeze\(-1\)"):
        torch.func.vmap(layer)(c.expand(2, 3, 2), w[:, None].expand(2, 3, 1))
    assert layer(c, w)[0].shape == (3, 2)
    assert torch.func.vmap(layer, (0, None))(c, w)[0].shape == (3, 3, 2)
    assert torch.func.vmap(layer, (None, 0))(c, w)[0].shape == (3, 3, 2)
    assert torch.func.vmap(torch.func.jacrev(lambda c, w: layer(c, w)[0], 1))(c, w).shape == (3, 2)
    every = CvxpyLayer(built.problem, built.parameters, built.variables, broadcast=True)
    (x,) = every(c, w[:, None])
    assert x.shape == (3, 3, 2)
    x.sum().backward()
    assert c.grad.shape == (3, 2)
    assert pickle.loads(pickle.dumps(every)).core.broadcast


def test_the_readme_example_of_cvxpylayers() -> None:
    """Its quick start works after changing the import, positional solver arguments included."""
    n, m = 2, 3
    x = cp.Variable(n)
    A, b = cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.pnorm(A @ x - b, p=1)), [x >= 0])
    assert problem.is_dpp()
    layer = CvxpyLayer(problem, parameters=[A, b], variables=[x])
    torch.manual_seed(0)
    A_tch, b_tch = torch.randn(m, n, requires_grad=True), torch.randn(m, requires_grad=True)
    (solution,) = layer(A_tch, b_tch, solver_args={"eps": 1e-8, "max_iters": 10000, "acceleration_lookback": 0})
    solution.sum().backward()
    assert solution.shape == (n,)
    assert A_tch.grad.shape == (m, n)
    assert torch.isfinite(A_tch.grad).all()
    assert torch.isfinite(b_tch.grad).all()


@pytest.mark.parametrize(
    "options",
    [{"solve_method": "ECOS"}, {"solve_method": "ECOS", "abstol": 1e-8, "max_iters": 80}, {"solve_method": None},
     {"solve_method": "SCS", "eps": 1e-9, "max_iters": 30_000, "acceleration_lookback": 0}, {"eps_abs": 1e-9},
     {"mode": "lsqr", "n_jobs_forward": 1, "n_jobs_backward": 1}],
    ids=str,
)  # fmt: skip
def test_options_at_the_call_of_a_quadratic_objective(options: dict[str, Any]) -> None:
    """The point of the half-space x_1 + x_2 <= 1 nearest to (3, 2) is (1, 0)."""
    if "ECOS" in options.values():
        pytest.importorskip("ecos")
    x, c = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) <= 1]), [c], [x])
    (centre,) = tensors([np.array([3.0, 2.0])])
    (found,) = layer(centre, solver_args=options)
    assert_close(found.detach().numpy(), np.array([1.0, 0.0]), 1e-7, "projection")
    (gradient,) = torch.autograd.grad(found[0], centre)
    assert_close(gradient.numpy(), np.array([0.5, -0.5]), 1e-7, "gradient")


@pytest.mark.parametrize(
    "row", [case(n) for n in ("norm_ball", "lp", "simplex_projection", "entropy", "no_inequalities", "psd_projection")],
    ids=str,
)  # fmt: skip
def test_gradients_agree_with_those_of_cvxpylayers(row: Case) -> None:
    """An independent implementation, on families on which its gradients were found right.

    Its gradient of a symmetric parameter counts both places of an entry in the upper one; ours is symmetric.
    """
    peer = pytest.importorskip("cvxpylayers.torch")
    built = row.build()
    other = peer.CvxpyLayer(built.problem, parameters=built.parameters, variables=built.variables)
    ours, theirs = tensors(row.point()), tensors(row.point())
    mine, yours = torch_layer(row.name)(*ours), other(*theirs, solver_args=PEER_TIGHT)
    cotangents = weights(mine)
    pull(mine, cotangents)
    pull(yours, cotangents)
    assert_all_close([o.detach().numpy() for o in yours], [o.detach().numpy() for o in mine], 1e-5, "outputs")
    found = [
        (t.grad + t.grad.T).numpy() / 2 if p.is_symmetric() and p.ndim == 2 else t.grad.numpy()
        for t, p in zip(theirs, built.parameters, strict=True)
    ]
    assert_all_close(found, [t.grad.numpy() for t in ours], 1e-4, "gradients")


def test_training_step_in_a_module() -> None:
    """The layer inside a network: parameters of the network before it move so as to lower the loss."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6))
    layer = torch_layer("simplex_projection")
    given, target = torch.randn(8, 4), torch.softmax(torch.randn(8, 6), dim=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = (layer(net(given))[0] - target).square().sum(dim=1).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
