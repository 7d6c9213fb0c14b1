"""An eager derivative uses the very call that was solved, and does not keep it alive."""

from __future__ import annotations

import gc
import weakref

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvxlayers.jax import CvxpyLayer
from cvxlayers.layer.record import Record
from tests.support.records import watch


@pytest.fixture
def layer() -> CvxpyLayer:
    x, c = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]), [c], [x])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[weakref.ref[Record]]]:
    """The records that were solved and those that were restored."""
    return watch(monkeypatch)


def test_an_eager_gradient_starts_from_the_solved_call(layer, calls):
    """Under grad, jacrev and jacfwd nothing is restored."""
    values = jnp.array([0.5, 0.3, -0.4])
    right = np.array([[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    assert np.allclose(jax.grad(lambda v: layer(v)[0][0])(values), right[0], atol=1e-6)
    assert np.allclose(jax.jacrev(lambda v: layer(v)[0])(values), right, atol=1e-6)
    assert np.allclose(jax.jacfwd(lambda v: layer(v)[0])(values), right, atol=1e-6)
    assert (len(calls["solve"]), len(calls["restore"])) == (3, 0)


def test_numbers_alone_serve_where_the_array_is_another(layer, calls):
    """The pullback handed into compiled code has the point's numbers, and finds the same gradient."""
    values, weights = jnp.array([[0.5, 0.3, -0.4], [0.1, 0.2, 0.3]]), jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
    _, pull = jax.vjp(lambda v: layer(v)[0], values)
    eager, compiled = pull(weights)[0], jax.jit(pull)(weights)[0]
    assert np.allclose(eager, compiled, atol=1e-6)
    assert len(calls["restore"]) == 1


def test_a_solved_call_dies_with_its_pullback(layer, calls):
    """Nothing of a call stays once JAX has let its arrays go."""
    _, pull = jax.vjp(lambda v: layer(v)[0], jnp.ones(3))
    gc.collect()
    assert calls["solve"][0]() is not None
    del pull
    gc.collect()
    assert calls["solve"][0]() is None


def test_without_jit_the_results_are_arrays_of_jax_all_the_same(layer, calls):
    values = jnp.array([0.5, 0.3, -0.4])
    with jax.disable_jit():
        (x,), pull = jax.vjp(layer, values)
        (gradient,) = pull((jnp.array([1.0, 0.0, 0.0]),))
    assert isinstance(x, jax.Array)
    assert isinstance(gradient, jax.Array)
    assert np.allclose(gradient, [0.5, -0.5, 0.0], atol=1e-6)
    assert (len(calls["solve"]), len(calls["restore"])) == (1, 0)
