"""The gradient uses the very call that was solved, in a graph, too, and does not keep it alive."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from cvxlayers.layer.record import ALIGNMENT, Record  # noqa: E402
from cvxlayers.tensorflow import CvxpyLayer, handles, rules  # noqa: E402
from tests.support.records import watch  # noqa: E402
from tests.support.tolerance import assert_close  # noqa: E402

VALUES = np.array([[0.5, 0.3, -0.4], [0.1, 0.2, 0.3]])
WEIGHTS = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])


@pytest.fixture
def layer() -> CvxpyLayer:
    x, c = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]), [c], [x])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[weakref.ref[Record]]]:
    """The records that were solved and those that were restored."""
    return watch(monkeypatch)


def gradient(layer: CvxpyLayer, compiled: bool = True) -> Any:
    def run(values: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            (x,) = layer(values)
        return tape.gradient(x, values, tf.constant(WEIGHTS))

    return tf.function(run) if compiled else run


def counts(calls: dict[str, list[Any]]) -> tuple[int, int]:
    return len(calls["solve"]), len(calls["restore"])


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "function"])
def test_the_gradient_starts_from_the_solved_call(layer, calls, compiled):
    right = layer.core.solve([VALUES]).vjp([WEIGHTS])[0]
    assert_close(gradient(layer, compiled)(tf.constant(VALUES)), right, 1e-10, "gradient")
    assert counts(calls) == (2, 0)


def test_numbers_alone_serve_where_the_memory_is_another(layer, calls, monkeypatch):
    right = layer.core.solve([VALUES]).vjp([WEIGHTS])[0]
    monkeypatch.setattr(rules, "keep", lambda record: record.point)
    assert_close(gradient(layer)(tf.constant(VALUES)), right, 1e-10, "gradient")
    assert counts(calls) == (2, 1)


def test_a_solved_call_is_found_by_its_own_point_and_shapes_alone(layer):
    record = layer.core.solve([VALUES])
    point = handles.keep(record)
    assert point.ctypes.data % ALIGNMENT == 0
    assert handles.record_of(point, [(2, 3)]) is record
    assert handles.record_of(point.copy(), [(2, 3)]) is None
    assert handles.record_of(point[:-1], [(2, 3)]) is None
    assert handles.record_of(point, [(1, 3)]) is None


def test_a_solved_call_dies_with_its_point(layer, calls):
    gradient(layer)(tf.constant(VALUES))
    tf.function(lambda: tf.numpy_function(lambda: 1.0, [], tf.float64))()  # TensorFlow lets arrays go at the next call
    gc.collect()
    assert calls["solve"][0]() is None
    assert not handles._RECORDS


def test_a_loop_in_a_graph_finds_the_call_of_each_turn(layer, calls):
    """The points of all turns wait in TensorFlow's stacks."""

    @tf.function
    def run(values: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(values)
            (x,) = tf.while_loop(lambda x: True, lambda x: (layer(2 * x)[0],), (values,), maximum_iterations=3)
        return x, tape.gradient(x, values, tf.constant(WEIGHTS))

    x, found = run(tf.constant(VALUES))
    records, here = [], VALUES
    for _ in range(3):
        records.append(layer.core.solve([2 * here]))
        (here,) = records[-1].outputs
    right = WEIGHTS
    for record in reversed(records):
        right = 2 * record.vjp([right])[0]
    assert_close(x, here, 1e-10, "solution")
    assert_close(found, right, 1e-10, "gradient")
    assert counts(calls) == (6, 0)


def test_threads_find_their_own_calls(layer):
    run = gradient(layer)
    points = [VALUES + np.random.default_rng(k).normal(size=VALUES.shape) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda point: run(tf.constant(point)).numpy(), points))
    for point, got in zip(points, found, strict=True):
        assert_close(got, layer.core.solve([point]).vjp([WEIGHTS])[0], 1e-10, "gradient")
