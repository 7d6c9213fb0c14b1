"""The module around a node: batches, shared inputs, failures, reports, threads."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.func import jacrev, vmap  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from cvxlayers.errors import OptionError, ParameterError, SolveError  # noqa: E402
from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode  # noqa: E402
from tests.support import nodes  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

D = torch.float64


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(output.sum(), inputs, retain_graph=True)


@pytest.mark.parametrize("shape", [(), (1,)], ids=["no dimension", "batch 1"])
def test_shared_inputs_get_the_sum_of_the_gradients(shape: tuple[int, ...]) -> None:
    layer, (x, _) = DeclarativeLayer(nodes.Sphere()), nodes.inputs(nodes.Sphere())
    shared = torch.full(shape, 1.3, dtype=D, requires_grad=True)
    each = torch.full((3,), 1.3, dtype=D, requires_grad=True)
    (together,), (apart,) = gradients(layer(x, shared), [shared]), gradients(layer(x, each), [each])
    assert together.shape == shape
    assert_close(together.sum(), apart.sum(), 1e-12, "sum of gradients")


def test_a_node_that_declares_dimensions_takes_any_batch() -> None:
    class Ball(nodes.Ball):
        dims = (1, 0)

    layer, (x, r) = DeclarativeLayer(Ball()), nodes.inputs(nodes.Ball())
    expected = DeclarativeLayer(nodes.Ball())(x, r)
    assert_close(layer(x[1], r[1]), expected[1], 1e-12, "no batch")
    radius = torch.tensor([[0.5], [1.5]], dtype=D, requires_grad=True)
    y = layer(x, radius)
    assert y.shape == (2, 3, 3)
    assert_close(y.detach()[1], DeclarativeLayer(nodes.Ball())(x, torch.tensor(1.5, dtype=D)), 1e-12, "broadcast")
    assert_close(gradients(y[1], [radius])[0][0], [0.0], 1e-12, "gradient of the other row")
    with pytest.raises(ParameterError, match="expected 1 dimensions"):
        layer(r[0], r)
    with pytest.raises(ParameterError, match="got 1 inputs, expected 2"):
        layer(x)


def test_an_objective_may_not_depend_on_an_input_and_a_function_on_y() -> None:
    class Idle(nodes.Sphere):
        def objective(self, x: Tensor, r: Tensor, other: Tensor, y: Tensor) -> Tensor:
            return super().objective(x, r, y)

        def equality_constraints(self, x: Tensor, r: Tensor, other: Tensor, y: Tensor) -> Tensor:
            return super().equality_constraints(x, r, y)

        def inequality_constraints(self, x: Tensor, r: Tensor, other: Tensor, y: Tensor) -> Tensor:
            return torch.stack([other - 9, -torch.ones_like(other)], -1)

        def initial(self, x: Tensor, r: Tensor, other: Tensor) -> Tensor:
            return x

    xs = [x.requires_grad_() for x in (*nodes.inputs(nodes.Sphere()), torch.ones(3, dtype=D))]
    y = DeclarativeLayer(Idle())(*xs)
    assert_close(y.detach(), nodes.Sphere().closed_form(*xs[:2]).detach(), 1e-12, "solution")
    assert gradients(y, xs)[2].tolist() == [0.0, 0.0, 0.0]


def test_integers_ride_along_and_matrices_come_out() -> None:
    class Picked(DeclarativeNode):
        shape = (2, 3)

        def objective(self, x: Tensor, k: Tensor, y: Tensor) -> Tensor:
            rows = torch.nn.functional.one_hot(k, 2).to(y.dtype)
            return ((y - rows[:, :, None] * x[:, None]) ** 2).sum((1, 2))

    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    y = DeclarativeLayer(Picked())(x, torch.tensor([1, 0]))
    assert y.shape == (2, 2, 3)
    assert y.dtype == torch.float32
    assert y.detach()[0].tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]]
    assert gradients(y, [x])[0].tolist() == [[1.0] * 3] * 2


def test_chunks_give_what_the_whole_gives() -> None:
    node = nodes.TwoBalls()
    (x,) = nodes.inputs(node)
    x.requires_grad_()
    results = []
    for chunk in (None, 1, 2):
        layer = DeclarativeLayer(node, chunk=chunk)
        y = layer(x)
        (first,) = torch.autograd.grad((y**2).sum(), x, create_graph=True)
        results.append([y.detach(), first.detach(), torch.autograd.grad((first**2).sum(), x)[0]])
        assert layer.info.statuses.shape == layer.info.derivative.residual.shape == (3,)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_close(two, one, 1e-12, "chunked")


def test_the_work_may_be_done_in_single_precision() -> None:
    """The active set is found relative to the precision: on the ball, and with a solver that is exact to float32."""
    for node in (nodes.Ball(), nodes.BallBySolve(), nodes.Simplex()):
        xs = [x.requires_grad_() for x in nodes.inputs(node, torch.float32)]
        y = DeclarativeLayer(node, dtype=None)(*xs)
        wide = [x.detach().double().requires_grad_() for x in xs]
        expected = node.closed_form(*wide)
        assert_close(y.detach(), expected.detach(), 1e-5, "solution")
        for actual, wanted in zip(gradients(y, xs), gradients(expected, wide), strict=True):
            assert_close(actual, wanted, 1e-3, "gradient")


def test_an_empty_batch_is_a_batch() -> None:
    layer, (x, r) = DeclarativeLayer(nodes.Ball()), nodes.inputs(nodes.Ball())
    none = x[:0].requires_grad_()
    y = layer(none, r[:0])
    assert y.shape == (0, 3)
    assert gradients(y, [none])[0].shape == (0, 3)


@pytest.fixture
def spoiled() -> list[Tensor]:
    """Inputs whose second element is not finite."""
    x, r = nodes.inputs(nodes.Ball())
    x[1, 0] = torch.nan
    return [x.requires_grad_(), r.requires_grad_()]


def test_inputs_that_are_not_finite_are_refused(spoiled: list[Tensor]) -> None:
    with pytest.raises(ParameterError, match="input 0: batch element 1 has a NaN"):
        DeclarativeLayer(nodes.Ball())(*spoiled)


@pytest.mark.parametrize(("policy", "lost"), [("nan", torch.nan), ("zero_grad", 0.0)])
def test_failed_elements_follow_the_policy_and_spoil_no_other(policy: str, lost: float, spoiled: list[Tensor]) -> None:
    layer = DeclarativeLayer(nodes.Ball(), on_failure=policy)
    y = layer(*spoiled)
    assert layer.info.statuses.tolist() == ["optimal", "failed", "optimal"]
    good = [x.detach()[[0, 2]].requires_grad_() for x in spoiled]
    expected = DeclarativeLayer(nodes.Ball())(*good)
    assert_close(y.detach()[1], torch.full((3,), lost), 0, "lost element")
    assert_close(y.detach()[[0, 2]], expected.detach(), 1e-12, "other elements")
    used = torch.autograd.grad(y[[0, 2]].sum(), spoiled, create_graph=True)
    for actual, wanted in zip(used, gradients(expected, good), strict=True):
        assert_close(actual.detach()[[0, 2]], wanted, 1e-12, "gradients of the others")
        assert actual[1].abs().sum() == 0
    assert all(torch.isfinite(second[[0, 2]]).all() for second in gradients(used[0].sum(), spoiled))
    for gradient in gradients(y, spoiled):
        assert_close(gradient[1], torch.full_like(gradient[1], lost), 0, "gradient of the lost element")


def test_failures_under_vmap(spoiled: list[Tensor]) -> None:
    layer = DeclarativeLayer(nodes.Ball(), on_failure="zero_grad")
    x, r = (t.detach() for t in spoiled)
    many = vmap(layer, (0, None))(torch.stack([x, x.nan_to_num(2.0)]), r)
    assert_close(many[0], layer(x, r), 1e-12, "with a failure")
    assert_close(many[1], layer(x.nan_to_num(2.0), r), 1e-12, "without")
    jacobian = vmap(jacrev(layer), (0, None))(torch.stack([x, x.nan_to_num(2.0)]), r)
    assert torch.isfinite(jacobian).all()
    assert jacobian[0, 1].abs().sum() == 0


@pytest.mark.parametrize(("policy", "lost"), [("nan", torch.nan), ("zero_grad", 0.0)])
@pytest.mark.parametrize("spoilt", ["NaN", "infeasible"])
def test_where_everything_failed_training_goes_on(policy: str, lost: float, spoilt: str) -> None:
    """The gradient graph is whole: first and second derivatives, forward mode and vmap, shared inputs too."""

    class Apart(nodes.Ball):
        def inequality_constraints(self, x: Tensor, r: Tensor, y: Tensor) -> Tensor:
            return torch.cat([super().inequality_constraints(x, r, y), 2 + y[:, :1]], -1)  # y1 <= -2 outside the ball

    x = torch.full((2, 3), torch.nan if spoilt == "NaN" else 0.4, dtype=D)
    radius = torch.ones(1, dtype=D, requires_grad=True)
    layer = DeclarativeLayer(nodes.Ball() if spoilt == "NaN" else Apart(), on_failure=policy)
    given = x.clone().requires_grad_()
    y = layer(given, radius)
    assert set(layer.info.statuses) == {"failed" if spoilt == "NaN" else "infeasible"}
    assert y.detach().isnan().all() if policy == "nan" else y.detach().isfinite().all()
    for gradient, wrt in zip(
        torch.autograd.grad(y.sum(), [given, radius], create_graph=True), (x, radius), strict=True
    ):
        assert_close(gradient.detach(), torch.full(wrt.shape, lost), 0, "gradient")
    assert_close(torch.autograd.grad((0 * layer(given, radius)).sum(), given)[0], torch.zeros_like(x), 0, "unused")
    alone = lambda x: layer(x[None], radius.detach())[0]  # noqa: E731
    assert_close(vmap(jacrev(alone))(x), torch.full((2, 3, 3), lost), 0, "vmap of jacrev", floor=1)
    assert_close(torch.func.jvp(alone, (x[0],), (x[0],))[1], torch.full((3,), lost), 0, "forward mode")
    (torch.nn.Linear(3, 1, dtype=D)(y) + radius).sum().backward()  # as in a training loop


def test_where_everything_failed_it_is_an_error_by_default() -> None:
    with pytest.raises(SolveError, match="failed"):
        DeclarativeLayer(nodes.Ball(), max_iterations=1, tolerance=1e-300)(*nodes.inputs(nodes.Ball()))


def test_reports_belong_to_the_thread_that_called() -> None:
    layer = DeclarativeLayer(nodes.Ball())
    assert layer.info is None
    x, r = nodes.inputs(nodes.Ball())

    def call(size: int) -> tuple[int, int]:
        y = layer(x[:1].expand(size, 3), r[:1].expand(size))
        return len(y), len(layer.info.statuses)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(1, 9))) == [(n, n) for n in range(1, 9)]
    assert layer.info is None


def test_the_report_tells_how_far_the_derivative_can_be_trusted() -> None:
    layer, (x, r) = DeclarativeLayer(nodes.Ball()), nodes.inputs(nodes.Ball())
    y = layer(x.requires_grad_(), r)
    assert layer.info.derivative is None
    assert layer.info.engines.tolist() == ["NEWTON"] * 3
    assert layer.info.active.tolist() == [[False], [True], [True]]
    gradients(y, [x])
    report = layer.info.derivative
    assert report.residual.max() < 1e-14
    assert not report.fallback.any()
    assert report.margin.min() > 0.01
    assert "3 optimal" in str(layer.info)
    assert "3 NEWTON" in str(layer.info)


def test_layers_are_copied_pickled_and_printed() -> None:
    layer, xs = DeclarativeLayer(nodes.Ball(), on_failure="nan"), nodes.inputs(nodes.Ball())
    expected = layer(*xs)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.info is None
        assert torch.equal(twin(*xs), expected)
    assert "Ball(), on_failure='nan'" in repr(layer)


def test_a_node_may_be_a_module_with_buffers() -> None:
    class Scaled(DeclarativeNode, torch.nn.Module):
        shape = (3,)

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 4.0]))

        def objective(self, x: Tensor, y: Tensor) -> Tensor:
            return ((self.scale.to(y) * y - x) ** 2).sum(-1)

    net = torch.nn.Sequential(torch.nn.Linear(3, 3), DeclarativeLayer(Scaled()))
    assert "1.node.scale" in net.state_dict()
    x = torch.ones(2, 3)
    assert_close(net(x).detach(), (net[0](x) / net[1].node.scale).detach(), 1e-6, "solution")
    net(x).sum().backward()
    assert_close(net[0].bias.grad, [2.0, 1.0, 0.5], 1e-6, "gradient of the layer below")


def test_modes_of_pytorch() -> None:
    """Inference mode, vectorized jacobians of torch.autograd, and checkpoints."""
    layer, (x, r) = DeclarativeLayer(nodes.Ball()), nodes.inputs(nodes.Ball())
    expected = layer(x, r)
    with torch.inference_mode():
        assert torch.equal(layer(x.clone(), r.clone()), expected)
    jacobian = jacrev(layer)(x, r)
    for strategy in ("reverse-mode", "forward-mode"):
        found = torch.autograd.functional.jacobian(lambda x: layer(x, r), x, vectorize=True, strategy=strategy)
        assert_close(found, jacobian, 1e-12, strategy)
    x.requires_grad_()
    y = checkpoint(layer, x, r, use_reentrant=True)
    y.sum().backward()  # reentrant checkpoints know no torch.autograd.grad
    assert_close(x.grad, jacobian.sum((0, 1)), 1e-12, "checkpoint")


class Quadratic(DeclarativeNode):
    """Misused below."""

    shape = (3,)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2).sum(-1)


class Summed(Quadratic):
    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return ((y - x) ** 2).sum()


class Shapeless(Quadratic):
    shape = None


class Short(Quadratic):
    def solve(self, x: Tensor) -> Tensor:
        return x[:, :2]


class Listed(Quadratic):
    def equality_constraints(self, x: Tensor, y: Tensor) -> Any:
        return [y[:, 0]]


class Learned(Quadratic):
    def __init__(self) -> None:
        self.w = torch.ones(3, dtype=D, requires_grad=True)

    def objective(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.w * (y - x) ** 2).sum(-1)


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        (Summed(), ParameterError, r"Summed.objective returned a tensor of shape \(\), expected \(2,\)"),
        (Shapeless(), OptionError, "the shape of its solution is unknown"),
        (Short(), ParameterError, r"Short.solve returned a tensor of shape \(2, 2\), expected \(2, 3\)"),
        (Listed(), ParameterError, "Listed.equality_constraints returned list"),
        (Learned(), ParameterError, "requires a gradient and is not among the inputs"),
        (DeclarativeNode(), NotImplementedError, "has no objective"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, DeclarativeNode) else None,
)
def test_a_wrong_node_is_told_what_is_wrong(node: Any, error: type[Exception], message: str) -> None:
    if type(node) is DeclarativeNode:
        node.shape = (3,)
    with pytest.raises(error, match=message):
        DeclarativeLayer(node)(torch.zeros(2, 3, dtype=D))


def test_a_tangent_that_would_be_lost_is_an_error() -> None:
    node = Learned()
    with torch.autograd.forward_ad.dual_level():
        node.w = torch.autograd.forward_ad.make_dual(torch.ones(3, dtype=D), torch.ones(3, dtype=D))
        with pytest.raises(ParameterError, match="not among the inputs"):
            DeclarativeLayer(node)(torch.zeros(2, 3, dtype=D))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_failure": "ignore"}, "on_failure: expected one of"),
        ({"chunk": 0}, "chunk: expected a positive number"),
        ({"regularization": -1.0}, "regularization: expected a number that is not negative"),
        ({"tolerance": 0.0}, "tolerance: expected a positive number"),
        ({"max_iterations": 0}, "max_iterations: expected a positive number"),
        ({"dtype": torch.int64}, "dtype: expected"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        DeclarativeLayer(Quadratic(), **options)
    with pytest.raises(OptionError, match="node: expected an instance of DeclarativeNode"):
        DeclarativeLayer(Quadratic)


def test_wrong_inputs_are_refused() -> None:
    layer, (x, r) = DeclarativeLayer(nodes.Ball()), nodes.inputs(nodes.Ball())
    with pytest.raises(ParameterError, match="at least one input"):
        layer()
    with pytest.raises(ParameterError, match=r"\(3,\), \(2,\) do not fit together"):
        layer(x, r[:2])
    with pytest.raises(ParameterError, match="input 0: it is complex"):
        layer(x.to(torch.complex128), r)
    with pytest.raises(ParameterError, match="input 1: expected a tensor, got str"):
        layer(x, "r")
    with pytest.raises(ParameterError, match="input 1: it is on meta"):
        layer(x, r.to("meta"))
