"""The NumPy layer: batches of every shape, the report, warm starts, restoring, copies."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.kernels import jit


def projection() -> cvxlayers.Layer:
    """Projection onto the simplex; its solution is known in closed form."""
    x, c = cp.Variable(3, name="x"), cp.Parameter(3, name="c")
    return cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]))


def scaled(**options: Any) -> cvxlayers.Layer:
    """min (x - c)^2 s.t. x >= low: x = max(c, low), with two scalar parameters."""
    x, c, low = cp.Variable(name="x"), cp.Parameter(name="c"), cp.Parameter(name="low")
    return cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.square(x - c)), [x >= low]), [c, low], **options)


def priced(**options: Any) -> cvxlayers.Layer:
    """Two scalar parameters beside a vector: soft thresholding of the signal by price + fee."""
    x, signal = cp.Variable(4), cp.Parameter(4, name="signal")
    price, fee = cp.Parameter(nonneg=True, name="price"), cp.Parameter(nonneg=True, name="fee")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - signal) / 2 + (price + fee) * cp.norm1(x)))
    return cvxlayers.Layer.from_problem(problem, [signal, price, fee], **options)


@pytest.mark.parametrize("batch", [(), (1,), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_leading_dimensions_come_back(batch: tuple[int, ...]) -> None:
    c = np.random.default_rng(0).standard_normal((*batch, 3))
    layer = projection()
    record = layer.solve([c])
    (x,) = record.outputs
    assert x.shape == c.shape
    np.testing.assert_allclose(x.sum(-1), np.ones(batch), atol=1e-8)
    (gradient,) = record.vjp([np.ones_like(x)])
    assert gradient.shape == c.shape
    np.testing.assert_allclose(gradient, 0.0, atol=1e-8)  # the sum of x is fixed
    assert layer.info is not None
    assert layer.info.statuses.shape == (int(np.prod(batch, dtype=int)),)


def test_parameters_broadcast_as_in_numpy_and_gradients_are_summed() -> None:
    c = np.array([[3.0], [-1.0]])  # (2, 1)
    low = np.array([0.0, 1.0, 4.0])  # (3,)
    record = scaled(broadcast=True).solve([c, low])
    np.testing.assert_allclose(record.outputs[0], np.maximum(c, low), atol=1e-8)
    weight = np.arange(1.0, 7.0).reshape(2, 3)
    gradients = record.vjp([weight])
    active = c > low
    np.testing.assert_allclose(gradients[0], (weight * active).sum(1, keepdims=True), atol=1e-7)
    np.testing.assert_allclose(gradients[1], (weight * ~active).sum(0), atol=1e-7)


ENLARGED = [
    (((8, 4), (8, 1), ()), r"'signal' has \(8,\), 'price' has \(8, 1\)\).* to \(8, 8\).*price\.squeeze\(-1\) \(or"),
    (((8, 4), (8, 1), (8, 1)), r"price\.squeeze\(-1\) and fee\.squeeze\(-1\) \(or"),
    (((8, 4), (8,), (8, 1)), r"'fee' has the shape \(\).* by fee\.squeeze\(-1\) \(or.*axis=-1"),
    (((8, 1, 4), (8,), (1,)), r"'signal' has the shape \(4,\).*signal\.squeeze\(-2\) \(or.*axis=-2"),
    (((4,), (6,), (6, 1)), r"to \(6, 6\).*fee\.squeeze\(-1\)"),
    (((6, 4), (1, 1), ()), r"to \(1, 6\).*price\.squeeze"),
    (((0, 4), (0, 1), ()), r"to \(0, 0\).*price\.squeeze"),
    (
        ((5, 1, 4), (1, 7), ()),
        r"to \(5, 7\).*another\. If every combination is meant, pass broadcast=True to the layer",
    ),
    (((5, 1, 4), (7,), ()), r"to \(5, 7\).*another\. If every combination"),
]


@pytest.mark.parametrize(("shapes", "words"), ENLARGED, ids=str)
def test_every_combination_of_two_batches_is_asked_for(shapes: tuple[tuple[int, ...], ...], words: str) -> None:
    rng = np.random.default_rng(5)
    values = [rng.uniform(0.1, 3, shape) for shape in shapes]
    with pytest.raises(cvxlayers.ParameterError, match=words):
        priced()(*values)
    record = priced(broadcast=True).solve(values)
    signal, price, fee = values[0], values[1][..., None], values[2][..., None]
    expected = np.maximum(signal - price - fee, 0)
    np.testing.assert_allclose(record.outputs[0], expected, atol=1e-6)
    for gradient, value in zip(record.vjp([np.ones(expected.shape)]), values, strict=True):
        assert gradient.shape == value.shape
    assert priced().solve(values, broadcast=True).outputs[0].shape == expected.shape
    with pytest.raises(cvxlayers.ParameterError, match="broadcast=True"):
        priced(broadcast=True).solve(values, broadcast=False)


@pytest.mark.parametrize(
    "shapes",
    [((8, 4), (8,), ()), ((8, 4), (1,), ()), ((1, 4), (8,), (1,)), ((2, 8, 4), (8,), (2, 1)), ((4,), (5, 1), ()),
     ((5, 7, 4), (5, 1), (1, 7)), ((1, 4), (1, 1), ()), ((0, 4), (0,), (1,)), ((4,), (), ())],
    ids=str,
)  # fmt: skip
def test_batches_that_one_parameter_has_by_itself_are_ordinary(shapes: tuple[tuple[int, ...], ...]) -> None:
    values = [np.random.default_rng(6).uniform(0.1, 3, shape) for shape in shapes]
    (x,) = priced()(*values)
    np.testing.assert_allclose(x, np.maximum(values[0] - values[1][..., None] - values[2][..., None], 0), atol=1e-6)


def test_a_shape_that_does_not_fit_is_named_before_the_combinations() -> None:
    with pytest.raises(cvxlayers.ParameterError, match=r"'signal': got an array of shape \(8, 3\)"):
        priced()(np.ones((8, 3)), np.ones((8, 1)), 1.0)
    with pytest.raises(cvxlayers.ParameterError, match="do not broadcast together"):
        priced()(np.ones((8, 4)), np.ones(7), 1.0)


def test_a_shared_parameter_gets_the_sum() -> None:
    record = scaled().solve([np.array([3.0, 5.0, -1.0]), np.array(0.0)])
    np.testing.assert_allclose(record.vjp([np.array([1.0, 10.0, 100.0])])[1], 100.0, rtol=1e-7)


def test_forward_and_backward_derivatives_are_adjoint_and_right() -> None:
    c, low = np.array([3.0, -1.0]), np.array([0.5, 0.5])
    record = scaled().solve([c, low])
    (dx,) = record.jvp([np.array([1.0, 1.0]), np.array([2.0, 2.0])])
    np.testing.assert_allclose(dx, [1.0, 2.0], atol=1e-7)
    (alone,) = record.jvp([None, np.array([2.0, 2.0])])
    np.testing.assert_allclose(alone, [0.0, 2.0], atol=1e-7)


def test_inputs_are_not_changed() -> None:
    c = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)
    before = c.copy()
    record = projection().solve([c])
    record.vjp([np.ones((5, 3))])
    np.testing.assert_array_equal(c, before)


def test_the_report_of_a_call() -> None:
    layer = projection()
    assert layer.info is None
    c = np.array([[0.2, 0.3, 0.9], [5.0, 0.0, 0.0]])
    record = layer.solve([c])
    info = layer.info
    assert info is record.info
    assert info.statuses.tolist() == ["optimal", "optimal"]
    assert set(info.engines) == {"IPM" if jit.usable() else "CLARABEL"}
    assert (info.residuals.worst < 1e-8).all()
    np.testing.assert_allclose(info.objective, ((record.outputs[0] - c) ** 2).sum(-1), atol=1e-8)
    assert info.derivative is None
    record.vjp([np.ones((2, 3))])
    assert info.derivative is not None
    assert (info.derivative.residual < 1e-9).all()
    assert info.seconds.solving > 0
    assert info.seconds.derivative > 0
    assert "2 optimal" in str(info)


def test_the_objective_of_a_maximization_and_of_a_log_log_program() -> None:
    x, a = cp.Variable(pos=True), cp.Parameter(pos=True)
    layer = cvxlayers.Layer.from_problem(cp.Problem(cp.Maximize(a - x), [x >= 2]))
    layer(np.array(5.0))
    assert layer.info is not None
    np.testing.assert_allclose(layer.info.objective, [3.0], atol=1e-7)
    layer = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(a * x**2), [x >= 3]), gp=True)
    layer(np.array(2.0))
    assert layer.info is not None
    np.testing.assert_allclose(layer.info.objective, [18.0], rtol=1e-6)


def test_a_record_is_restored_from_its_point() -> None:
    layer = scaled(broadcast=True)
    parameters = [np.array([[3.0], [-1.0]]), np.array([0.0, 1.0, 4.0])]
    record = layer.solve(parameters)
    again = layer.restore(parameters, record.point)
    np.testing.assert_array_equal(again.outputs[0], record.outputs[0])
    cotangent = [np.arange(6.0).reshape(2, 3)]
    for one, other in zip(record.vjp(cotangent), again.vjp(cotangent), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(cvxlayers.ParameterError, match=r"point: got an array of shape \(7, 2\)"):
        layer.restore(parameters, record.point[..., 0])


def test_a_restored_record_keeps_failures() -> None:
    x, low = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.square(x)), [x >= low, x <= 1])
    layer = cvxlayers.Layer.from_problem(problem, on_failure="zero_grad")
    lows = np.array([0.5, 2.0, np.nan])
    record = layer.solve([lows])
    assert record.info.statuses.tolist() == ["optimal", "infeasible", "failed"]
    again = layer.restore([lows], record.point)
    np.testing.assert_array_equal(again.vjp([np.ones(3)])[0], record.vjp([np.ones(3)])[0])
    np.testing.assert_allclose(again.vjp([np.ones(3)])[0], [1.0, 0.0, 0.0], atol=1e-7)


def test_a_warm_start_of_another_size_is_refused() -> None:
    layer = projection()
    record = layer.solve([np.zeros((2, 3))])
    with pytest.raises(cvxlayers.ParameterError, match=r"warm: .* batch 2, expected .* batch 3"):
        layer.solve([np.zeros((3, 3))], warm=record.solution)


def test_a_warm_start_saves_iterations_and_keeps_the_answer() -> None:
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
    layer = cvxlayers.Layer.from_problem(problem, solver="SCS")
    c_value = np.array([[0.2, 0.3, 0.9], [1.0, 2.0, 0.5]])
    cold = layer.solve([c_value])
    warm = layer.solve([c_value], warm=cold.solution)
    np.testing.assert_allclose(warm.outputs[0], cold.outputs[0], atol=1e-7)
    assert (warm.info.iterations < cold.info.iterations).all()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_give_the_same_answers(duplicate: Callable[[cvxlayers.Layer], cvxlayers.Layer]) -> None:
    layer = projection()
    c = np.random.default_rng(2).standard_normal((4, 3))
    before = layer(c)[0]
    np.testing.assert_array_equal(duplicate(layer)(c)[0], before)


def test_one_bad_policy_is_named() -> None:
    x = cp.Variable()
    with pytest.raises(
        cvxlayers.OptionError, match="on_failure: expected one of 'raise', 'nan', 'zero_grad', got 'ignore'"
    ):
        cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.square(x))), on_failure="ignore")


def test_a_problem_without_parameters() -> None:
    x = cp.Variable(2)
    record = cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5])).solve([])
    np.testing.assert_allclose(record.outputs[0], [0.5, 0.5], atol=1e-7)
    assert record.vjp([np.ones(2)]) == ()


def test_smoothing_gives_gradients_at_the_vertices_of_a_linear_program() -> None:
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0])
    cost = np.array([1.0, 2.0, 4.0])
    exact = cvxlayers.Layer.from_problem(problem).solve([cost])
    smooth = cvxlayers.Layer.from_problem(problem, smoothing=1e-2).solve([cost])
    np.testing.assert_allclose(smooth.outputs[0], exact.outputs[0], atol=1e-8)
    target = np.array([0.0, 1.0, 0.0])
    np.testing.assert_allclose(exact.vjp([target])[0], 0.0, atol=1e-9)
    (gradient,) = smooth.vjp([target])
    assert gradient[1] < -1e-4  # making the second entry cheaper moves weight to it
    assert gradient[0] > 1e-4


@pytest.mark.parametrize("smoothing", [0.0, -1.0, np.inf, np.nan])
def test_a_smoothing_that_is_not_positive_is_refused(smoothing: float) -> None:
    x = cp.Variable()
    with pytest.raises(cvxlayers.OptionError, match="smoothing"):
        cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.square(x)), [x >= 1]), smoothing=smoothing)


def test_diffcp_has_no_smoothed_derivative() -> None:
    x = cp.Variable()
    with pytest.raises(cvxlayers.OptionError, match="DIFFCP has no smoothed derivative"):
        cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(x), [x >= 1]), solver="DIFFCP", smoothing=1e-3)
