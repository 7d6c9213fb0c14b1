"""Tapes, Jacobians, forward mode and tf.function around the layer."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from cvxlayers.errors import DerivativeError  # noqa: E402
from cvxlayers.tensorflow import CvxpyLayer  # noqa: E402
from tests.contracts.table import case  # noqa: E402
from tests.support import adapters  # noqa: E402
from tests.support.tolerance import assert_all_close, assert_close  # noqa: E402

COMPILED = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])


@cache
def tf_layer(name: str) -> CvxpyLayer:
    row = case(name)
    built = row.build()
    return CvxpyLayer(built.problem, built.parameters, built.variables, gp=row.gp)


def wrap(run: Any, compiled: bool) -> Any:
    return tf.function(run) if compiled else run


@pytest.mark.parametrize("name", ["norm_ball", "simplex_projection", "dgp_box", "scalar"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    """TensorFlow's own, as Jacobians; their step is large enough for the solver's accuracy."""
    values = [tf.constant(v) for v in case(name).point()]
    theory, numeric = tf.test.compute_gradient(lambda *v: tf_layer(name)(*v)[0], values, delta=1e-3)
    assert_all_close(theory, numeric, 1e-4, "jacobians")


@COMPILED
@pytest.mark.parametrize("pfor", [True, False], ids=["pfor", "while"])
def test_jacobian(pfor: bool, compiled: bool) -> None:
    layer, values = tf_layer("norm_ball"), [tf.constant(v) for v in adapters.batch(case("norm_ball"))]

    def run(*given: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(given)
            (x,) = layer(*given)
        return tape.jacobian(x, given, experimental_use_pfor=pfor)

    found = wrap(run, compiled)(*values)
    record = layer.core.solve([v.numpy() for v in values])
    for index in np.ndindex(3, 3):
        unit = np.zeros((3, 3))
        unit[index] = 1.0
        assert_all_close([J[index] for J in found], record.vjp([unit]), adapters.TOLERANCE, f"row {index}")


@COMPILED
def test_batch_jacobian(compiled: bool) -> None:
    layer, (c,) = tf_layer("simplex_projection"), adapters.batch(case("simplex_projection"))

    def run(value: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(value)
            (x,) = layer(value)
        return tape.batch_jacobian(x, value)

    found = wrap(run, compiled)(tf.constant(c))
    for k in range(6):
        expected = layer.core.solve([c]).vjp([np.eye(6)[k] * np.ones((3, 1))])[0]
        assert_close(found[:, k], expected, adapters.TOLERANCE, f"row {k}")


@pytest.mark.parametrize("name", ["norm_ball", "dgp_posynomial"])
def test_forward_mode(name: str) -> None:
    """TensorFlow derives it from the gradient, whose own derivative in the cotangents is the layer's forward mode."""
    layer, values = tf_layer(name), adapters.batch(case(name))
    rng = np.random.default_rng(1)
    moves = [rng.normal(size=v.shape) for v in values]
    given = [tf.constant(v) for v in values]
    with tf.autodiff.ForwardAccumulator(given, [tf.constant(m) for m in moves]) as forward:
        outputs = layer(*given)
    assert_all_close([forward.jvp(o) for o in outputs], layer.core.solve(values).jvp(moves), 1e-10, "tangents")


def test_forward_mode_in_a_graph_is_refused_where_tensorflow_would_return_zeros() -> None:
    layer, value = tf_layer("simplex_projection"), tf.constant(case("simplex_projection").point()[0])

    def push(function: Any) -> Any:
        with tf.autodiff.ForwardAccumulator(value, tf.ones_like(value)) as forward:
            (x,) = function(value)
        return forward.jvp(x)

    with pytest.raises(Exception, match="in eager execution only"):
        tf.function(lambda: push(layer))()
    with pytest.raises(DerivativeError, match=r"forward mode through a tf\.function"):
        push(tf.function(lambda v: layer(v)))


@COMPILED
def test_a_second_derivative_is_refused(compiled: bool) -> None:
    layer = tf_layer("simplex_projection")

    def second(value: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(value)
            with tf.GradientTape() as inner:
                inner.watch(value)
                total = tf.reduce_sum(layer(value)[0] ** 2)
            gradient = inner.gradient(total, value)
        return outer.gradient(gradient, value)

    error = Exception if compiled else DerivativeError  # TensorFlow wraps what is raised while it builds a graph
    with pytest.raises(error, match="first derivatives only, and a second one was asked for"):
        wrap(second, compiled)(tf.constant(case("simplex_projection").point()[0]))


def test_the_gradient_of_a_gradient_in_something_else_is_allowed() -> None:
    """d/dw of d/dc <w, x(c)>: linear in w, no second derivative of the layer."""
    layer, (c,) = tf_layer("simplex_projection"), case("simplex_projection").point()
    weight, direction, value = tf.Variable(np.arange(6.0)), np.linspace(-1, 1, 6), tf.constant(c)
    with tf.GradientTape() as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(value)
            total = tf.reduce_sum(layer(value)[0] * weight)
        pushed = tf.reduce_sum(inner.gradient(total, value) * direction)
    expected = layer.core.solve([c]).jvp([direction])[0]
    assert_close(outer.gradient(pushed, weight), expected, adapters.TOLERANCE, "gradient")


def test_a_persistent_tape_and_sparse_cotangents() -> None:
    layer, (c,) = tf_layer("simplex_projection"), adapters.batch(case("simplex_projection"))
    value = tf.Variable(c)
    with tf.GradientTape(persistent=True) as tape:
        (x,) = layer(value)
        some = tf.reduce_sum(tf.gather(x, [0, 2, 2]))
    expected = layer.core.solve([c]).vjp([np.array([[1.0], [0.0], [2.0]]) * np.ones(6)])[0]
    for _ in range(2):
        assert_close(tape.gradient(some, value), expected, adapters.TOLERANCE, "gradient")


@pytest.mark.parametrize("signature", [[None, 6], [None, None, 6], None], ids=str)
def test_unknown_batch_sizes_keep_what_is_known_of_the_shape(signature: list[int | None] | None) -> None:
    layer, (c,) = tf_layer("simplex_projection"), adapters.batch(case("simplex_projection"))
    seen: list[Any] = []

    @tf.function(input_signature=[tf.TensorSpec(signature, tf.float64)])
    def run(value: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(value)
            (x,) = layer(value)
            total = tf.reduce_sum(x**2)
        gradient = tape.gradient(total, value)
        seen.append((x.shape.as_list() if x.shape.rank else None, gradient.shape.rank))
        return x, gradient

    for given in (c, c[:2]) if signature != [None, None, 6] else (c[None], c[:, None]):
        x, gradient = run(given)
        record = layer.core.solve([given])
        assert_close(x, record.outputs[0], adapters.TOLERANCE, "solution")
        assert_close(gradient, record.vjp([2 * record.outputs[0]])[0], adapters.TOLERANCE, "gradient")
    assert seen == [(signature, None if signature is None else len(signature))]


def test_static_shapes_of_a_mixed_batch() -> None:
    layer, shapes = CvxpyLayer.from_compiled(tf_layer("norm_ball").compiled, broadcast=True), []

    @tf.function
    def run(A: Any, b: Any, c: Any) -> Any:
        (x,) = layer(A, b, c)
        shapes.append(x.shape.as_list())
        return x

    A, b, c = case("norm_ball").point()
    x = run(np.stack([A] * 4)[:, None], np.stack([b] * 2), c)
    assert shapes == [[4, 2, 3]]
    assert x.shape == (4, 2, 3)


def test_a_training_loop_in_a_graph() -> None:
    layer = tf_layer("simplex_projection")
    rng = np.random.default_rng(0)
    given, target = tf.constant(rng.normal(size=(8, 4))), tf.nn.softmax(tf.constant(rng.normal(size=(8, 6))))
    weights = tf.Variable(0.1 * rng.normal(size=(4, 6)))

    @tf.function
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((layer(given @ weights)[0] - target) ** 2)
        weights.assign_sub(2.0 * tape.gradient(loss, weights))
        return loss

    losses = [float(step()) for _ in range(15)]
    assert losses[-1] < 0.9 * losses[0]
