"""Elements that have no solution, in the midst of others that have one, on every engine."""

from __future__ import annotations

from functools import cache

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.errors import OptionError, ParameterError, SolveError
from cvxlayers.layer.layer import Layer
from cvxlayers.solvers import registry
from tests.support.tolerance import assert_all_close, assert_close

ENGINES = registry.names(installed=True)
INFEASIBLE, UNBOUNDED, NAN = 1, 2, 4
SOLVED = [0, 3, 5]


@cache
def layer(engine: str, on_failure: str) -> Layer:
    """min c x_1 + |x_2 - c|^2  s.t.  low <= x_1 <= high,  x_1 <= x_3,  x_3 <= high: infeasible where low > high.

    Unbounded where low is -infinity, which no parameter may be: hence the factor on the lower bound.
    """
    x = cp.Variable(3)
    c, low, high, factor = cp.Parameter(name="c"), cp.Parameter(), cp.Parameter(), cp.Parameter()
    norm = 2 if "second_order" in registry.solver_class(engine).kinds else 1
    constraints = [factor * x[0] >= low, x[0] <= high, cp.norm(x[1:], norm) <= 2]
    problem = cp.Problem(cp.Minimize(c * x[0] + c * x[1] + 0.5 * x[2]), constraints)
    return Layer.from_problem(problem, [c, low, high, factor], [x], engine, on_failure=on_failure)


def batch(*elements: int) -> list[np.ndarray]:
    """Six elements: solvable but for one infeasible, one unbounded and one with a NaN; or those asked for."""
    c = np.array([1.0, 1.2, 0.9, 1.5, np.nan, 0.7])
    low = np.array([-1.0, 2.0, -1.0, -0.5, -1.0, -2.0])
    high = np.array([1.0, 1.0, 1.0, 2.0, 1.0, 3.0])
    factor = np.array([1.0, 1.0, 0.0, 2.0, 1.0, 0.5])
    where = list(elements) or slice(None)
    return [part[where] for part in (c, low, high, factor)]


@pytest.mark.parametrize("engine", ENGINES)
def test_raise_names_the_elements_and_their_status(engine: str) -> None:
    with pytest.raises(SolveError) as caught:
        layer(engine, "raise")(*batch(0, INFEASIBLE, UNBOUNDED, 3))
    assert caught.value.indices == (1, 2)
    assert caught.value.statuses == ("infeasible", "unbounded")
    text = str(caught.value)
    assert "2 of 4 batch elements" in text
    assert "1 (infeasible), 2 (unbounded)" in text
    assert "slack" in text
    assert "on_failure" in text
    info = layer(engine, "raise").info
    assert info is not None
    assert info.statuses.tolist() == ["optimal", "infeasible", "unbounded", "optimal"]


@pytest.mark.parametrize("engine", ENGINES)
def test_raise_names_the_parameter_that_is_not_finite(engine: str) -> None:
    with pytest.raises(ParameterError, match=r"parameter 'c': .*NaN or infinite.*batch elements \(4,\)"):
        layer(engine, "raise")(*batch())


@pytest.mark.parametrize("engine", ENGINES)
def test_nan(engine: str) -> None:
    record = layer(engine, "nan").solve(batch())
    (x,) = record.outputs
    assert np.isnan(x[[INFEASIBLE, UNBOUNDED, NAN]]).all()
    assert np.isfinite(x[SOLVED]).all()
    assert record.info.statuses.tolist() == ["optimal", "infeasible", "unbounded", "optimal", "failed", "optimal"]
    gradients = record.vjp([np.ones_like(x)])
    for gradient in gradients:
        assert np.isnan(gradient[[INFEASIBLE, UNBOUNDED, NAN]]).all()
        assert np.isfinite(gradient[SOLVED]).all()
    masked = np.ones_like(x)
    masked[[INFEASIBLE, UNBOUNDED, NAN]] = 0.0
    for gradient, found in zip(record.vjp([masked]), gradients, strict=True):
        assert (gradient[[INFEASIBLE, UNBOUNDED, NAN]] == 0).all()
        np.testing.assert_array_equal(gradient[SOLVED], found[SOLVED])
    (tangent,) = record.jvp([np.ones(6), None, None, None])
    assert np.isnan(tangent[[INFEASIBLE, UNBOUNDED, NAN]]).all()
    assert np.isfinite(tangent[SOLVED]).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_zero_grad(engine: str) -> None:
    record = layer(engine, "zero_grad").solve(batch())
    (x,) = record.outputs
    assert np.isfinite(x).all()
    assert (x[NAN] == 0).all()
    for gradient in record.vjp([np.ones_like(x)]):
        assert (gradient[[INFEASIBLE, UNBOUNDED, NAN]] == 0).all()
        assert np.isfinite(gradient).all()
    (tangent,) = record.jvp([np.ones(6), None, None, None])
    assert (tangent[[INFEASIBLE, UNBOUNDED, NAN]] == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_neighbours_are_undisturbed(engine: str, on_failure: str) -> None:
    """Equal to the batch of the solvable elements alone, to 1e-9, values and gradients."""
    record, alone = layer(engine, on_failure).solve(batch()), layer(engine, on_failure).solve(batch(*SOLVED))
    assert_close(record.outputs[0][SOLVED], alone.outputs[0], 1e-9, "outputs")
    weight = np.arange(18.0).reshape(6, 3)
    found = [gradient[SOLVED] for gradient in record.vjp([weight])]
    assert_all_close(found, alone.vjp([weight[SOLVED]]), 1e-8, "gradients")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_shared_parameter_gathers_the_gradients_of_the_solved_elements(engine: str) -> None:
    """A failed element adds nothing to the sum with zero_grad; with "nan" it must not be hidden in it."""
    c, low, high, _ = batch(0, INFEASIBLE, 3)
    shared = np.array(1.0)
    weight = np.ones((3, 3))
    (*_, total) = layer(engine, "zero_grad").solve([c, low, high, shared]).vjp([weight])
    (*_, alone) = layer(engine, "zero_grad").solve([c[[0, 2]], low[[0, 2]], high[[0, 2]], shared]).vjp([weight[:2]])
    assert_close(total, alone, 1e-8, "sum")
    (*_, poisoned) = layer(engine, "nan").solve([c, low, high, shared]).vjp([weight])
    assert np.isnan(poisoned)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_a_batch_of_failures_only(engine: str, on_failure: str) -> None:
    record = layer(engine, on_failure).solve(batch(INFEASIBLE, NAN, UNBOUNDED))
    gradients = record.vjp([np.ones((3, 3))])
    for gradient in gradients:
        assert np.isnan(gradient).all() if on_failure == "nan" else (gradient == 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_one_infinite_entry(engine: str) -> None:
    c, low, high, _ = batch(0, 3)
    with pytest.raises(ParameterError, match="NaN or infinite"):
        layer(engine, "raise")(c, low, high, np.array([np.inf, 1.0]))
    (x,) = layer(engine, "nan")(c, low, high, np.array([np.inf, 1.0]))
    assert np.isnan(x[0]).all()
    assert np.isfinite(x[1]).all()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("none", [np.inf, 1e20, 3e25])
def test_a_bound_that_is_none_is_no_row(engine: str, none: float) -> None:
    """For each element by itself: the first has no upper bound, the second the one of before."""
    c, low, high, factor = batch(0, 3)
    made = layer(engine, "raise")
    (without,), (whole,) = made(c, low, np.array([none, high[1]]), factor), made(c, low, high, factor)
    (far,) = made(c, low, np.array([1e6, high[1]]), factor)
    assert_close(without[0], far[0], 1e-6, "no bound, and one that is far away")
    assert_close(without[1], whole[1], 1e-9, "the other element")


def test_indices_count_through_several_leading_dimensions() -> None:
    c, low, high, factor = (part.reshape(2, 2) for part in batch(0, INFEASIBLE, UNBOUNDED, 3))
    with pytest.raises(SolveError) as caught:
        layer("CLARABEL", "raise")(c, low, high, factor)
    assert caught.value.indices == (1, 2)


def test_an_iteration_limit_is_never_silent() -> None:
    """A solver that stops early is sharpened, helped by another one or reported, never believed."""
    point = batch(0)
    hasty = layer("CLARABEL", "nan").solve(point, {"max_iters": 2})
    if hasty.info.statuses[0] == "optimal":
        assert hasty.info.residuals.worst[0] <= 1e-9
        assert_close(hasty.outputs[0], layer("CLARABEL", "nan")(*point)[0], 1e-5, "with help")
    else:
        assert np.isnan(hasty.outputs[0]).all()


@pytest.mark.parametrize("bad", ["ignore", None, 0])
def test_unknown_policies(bad: object) -> None:
    compiled = layer("CLARABEL", "raise").compiled
    with pytest.raises(OptionError, match="on_failure: expected one of 'raise', 'nan', 'zero_grad', got"):
        Layer(compiled, on_failure=bad)  # type: ignore[arg-type]


def attribute_layer(**attributes: object) -> Layer:
    x, p = cp.Variable((2, 2)), cp.Parameter((2, 2), name="p", **attributes)
    return Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x - p))))


@pytest.mark.parametrize(
    ("attributes", "value", "word"),
    [
        ({"nonneg": True}, [[1.0, 2.0], [-1.0, 0.0]], "nonnegative"),
        ({"nonpos": True}, [[-1.0, 2.0], [-1.0, 0.0]], "nonpositive"),
        ({"pos": True}, [[1.0, 2.0], [0.0, 1.0]], "positive"),
        ({"neg": True}, [[-1.0, -2.0], [0.0, -1.0]], "negative"),
        ({"symmetric": True}, [[1.0, 2.0], [1.0, 1.0]], "symmetric"),
        ({"PSD": True}, [[1.0, 2.0], [2.0, 1.0]], "positive semidefinite"),
        ({"NSD": True}, [[-1.0, 2.0], [2.0, -1.0]], "negative semidefinite"),
        ({"diag": True}, [[1.0, 0.5], [0.0, 1.0]], "diagonal"),
        ({"bounds": [-1, 1]}, [[0.0, 0.5], [0.0, 1.5]], "bounds"),
        ({"sparsity": ((0, 1), (0, 1))}, [[1.0, 0.5], [0.0, 1.0]], "spars"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_broken_attributes_are_named(attributes: dict[str, object], value: list[list[float]], word: str) -> None:
    layer, good = attribute_layer(**attributes), np.zeros((2, 2))
    if attributes.keys() & {"pos", "neg"}:
        good = np.full((2, 2), 1.0 if "pos" in attributes else -1.0)
    layer(good)
    with pytest.raises(ParameterError, match=word) as caught:
        layer(np.stack([good, good, np.array(value)]))
    assert "parameter 'p'" in str(caught.value)
    assert "(2,)" in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_broken_attributes_leave_the_neighbours_undisturbed(engine: str, on_failure: str) -> None:
    """min |x - c|^2 / 2 + w |x|_1 with one w < 0; the others are soft thresholding, and the last two a NaN and a -w."""
    x, c, w = cp.Variable(3), cp.Parameter(3, name="c"), cp.Parameter(nonneg=True, name="w")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c) / 2 + w * cp.norm1(x)))
    found = Layer.from_problem(problem, [c, w], [x], engine, on_failure=on_failure)
    centre = np.array([[2.0, -1.5, 0.3], [1.0, 1.0, 1.0], [-4.0, 5.0, 0.1], [np.nan, 0.0, 0.0], [1.0, 2.0, 3.0]])
    weight, good, bad = np.array([0.5, -0.125, 1.5, 1.0, -7.0]), [0, 2], [1, 3, 4]
    record = found.solve([centre, weight])
    assert record.info.statuses.tolist() == ["optimal", "failed", "optimal", "failed", "failed"]
    assert_close(record.outputs[0][good], np.array([[1.5, -1.0, 0.0], [-2.5, 3.5, 0.0]]), 1e-6, "outputs")
    to_c, to_w = record.vjp([np.ones((5, 3))])
    assert_close(to_c[good], np.array([[1.0, 1.0, 0.0]] * 2), 1e-5, "gradients")
    assert_close(to_w[good], np.zeros(2), 1e-5, "gradients")
    expected = np.nan if on_failure == "nan" else 0.0
    for part in (record.outputs[0], to_c, to_w):
        np.testing.assert_array_equal(part[bad], np.full(part[bad].shape, expected))
    none = found.solve([centre[bad], weight[bad]])
    assert none.info.statuses.tolist() == ["failed"] * 3
    for part in (*none.outputs, *none.vjp([np.ones((3, 3))]), *none.jvp([np.ones((3, 3)), None])):
        np.testing.assert_array_equal(part, np.full(part.shape, expected))


@pytest.mark.parametrize("value", ["text", None, [[1, 2], [3]], np.ones((2, 2), dtype=complex), object()])
def test_values_that_are_no_real_numbers(value: object) -> None:
    with pytest.raises(ParameterError, match="parameter 'p': expected real numbers of shape"):
        attribute_layer()(value)


def test_integers_and_lists_are_fine() -> None:
    (x,) = attribute_layer()([[1, 2], [3, 4]])
    assert_close(x, np.array([[1.0, 2.0], [3.0, 4.0]]), 1e-8, "x")


@pytest.mark.parametrize("on_failure", ["nan", "zero_grad"])
def test_a_single_problem_that_fails_has_a_gradient(on_failure: str) -> None:
    """Semidefinite, so that the kernels are given the spectra of no matrices at all."""
    X, C, b = cp.Variable((3, 3), PSD=True), cp.Parameter((3, 3)), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.trace(X) <= b])
    record = Layer.from_problem(problem, [C, b], [X], on_failure=on_failure).solve([np.eye(3), -1.0])
    assert record.info.statuses.tolist() == ["infeasible"]
    for gradient in record.vjp([np.ones((3, 3))]):
        assert np.isnan(gradient).all() if on_failure == "nan" else (gradient == 0).all()


def test_numbers_whose_squares_overflow_raise_no_warning() -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    single = Layer.from_problem(cp.Problem(cp.Minimize(cp.sum(x)), [x >= c * 1e-200]), [c], [x])
    with np.errstate(all="raise"):
        record = single.solve([[1e200, 3e200]])
    assert_close(record.outputs[0], np.array([1.0, 3.0]), 1e-9, "solution")
