"""Into theta and out of the recovered rows: Fortran order, broadcasting, and each map's adjoint."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.errors import ParameterError
from cvxlayers.layer import packing
from cvxlayers.program.compiled import CompiledProblem
from tests.contracts.case import Case
from tests.contracts.table import CASES, case
from tests.support import layers
from tests.support.differences import inner
from tests.support.tolerance import assert_all_close, assert_close


def compiled_matrix() -> CompiledProblem:
    X, M, v = cp.Variable((2, 3)), cp.Parameter((2, 3), name="M"), cp.Parameter(3, name="v")
    return cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(X - M) + cp.sum(X @ v))), [M, v], [X])


def noise(rng: np.random.Generator, shape: tuple[int, ...], complex_: bool) -> np.ndarray:
    return rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)


def test_features_are_in_fortran_order() -> None:
    compiled = compiled_matrix()
    M, v = np.arange(6.0).reshape(2, 3), np.array([7.0, 8.0, 9.0])
    packed = packing.pack(compiled, [M, v])
    assert packed.theta.shape == (9, 1)
    for feature in compiled.features:
        value = (M, v)[feature.parameter]
        np.testing.assert_array_equal(packed.theta[feature.start : feature.stop, 0], value.ravel(order="F"))


def test_batch_is_the_last_axis() -> None:
    compiled = compiled_matrix()
    M, v = np.arange(24.0).reshape(4, 2, 3), np.array([7.0, 8.0, 9.0])
    together = packing.pack(compiled, [M, v])
    assert together.batch == (4,)
    for i in range(4):
        np.testing.assert_array_equal(together.theta[:, [i]], packing.pack(compiled, [M[i], v]).theta)


def test_several_leading_dimensions_are_flattened_in_c_order(rng: np.random.Generator) -> None:
    compiled = compiled_matrix()
    M, v = rng.normal(size=(2, 1, 2, 3)), rng.normal(size=(5, 3))
    packed = packing.pack(compiled, [M, v])
    assert packed.batch == (2, 5)
    for element, (i, j) in enumerate(np.ndindex(2, 5)):
        np.testing.assert_array_equal(packed.theta[:, [element]], packing.pack(compiled, [M[i, 0], v[j]]).theta)


LEADS = [((), ()), ((4,), ()), ((), (4,)), ((4,), (1,)), ((2, 1), (3,)), ((1, 1), (2, 3)), ((0,), ()), ((1,), (1,))]


@pytest.mark.parametrize("leads", LEADS, ids=str)
def test_unpack_cotangents_is_the_adjoint_of_pack_tangents(
    leads: tuple[tuple[int, ...], ...], rng: np.random.Generator
) -> None:
    compiled = compiled_matrix()
    shapes = [lead + spec.shape for lead, spec in zip(leads, compiled.parameters, strict=True)]
    packed = packing.pack(compiled, [rng.normal(size=shape) for shape in shapes])
    tangents = [rng.normal(size=shape) for shape in shapes]
    w = rng.normal(size=packed.theta.shape)
    forward = packing.pack_tangents(compiled, packed, tangents)
    backward = packing.unpack_cotangents(compiled, packed, compiled.by_feature(w))
    assert [g.shape for g in backward] == shapes
    assert_close(inner([forward], [w]), inner(tangents, backward), 1e-12, "adjoint")


@pytest.mark.parametrize("row", [row for row in CASES if row.point()], ids=str)
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_parameters_of_every_kind(row: Case, batch: tuple[int, ...], rng: np.random.Generator) -> None:
    """With logarithms and complex parts too, in both directions, for each row of the table."""
    compiled = layers.compiled(row)
    point = [np.broadcast_to(p, batch + np.shape(p)) for p in row.point()]
    packed = packing.pack(compiled, point)
    tangents = [noise(rng, np.shape(p), np.iscomplexobj(p)) for p in point]
    w = rng.normal(size=packed.theta.shape)
    forward = packing.pack_tangents(compiled, packed, tangents)
    backward = packing.unpack_cotangents(compiled, packed, compiled.by_feature(w))
    assert_close(inner([forward], [w]), inner(tangents, backward), 1e-12, "adjoint")


@pytest.mark.parametrize("row", CASES, ids=str)
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_outputs_of_every_kind(row: Case, batch: tuple[int, ...], rng: np.random.Generator) -> None:
    compiled = layers.compiled(row)
    size = int(np.prod(batch, dtype=int))
    rows = rng.normal(size=(compiled.primal.shape[0], size))
    drows = rng.normal(size=rows.shape)
    tangents = packing.unpack_tangents(compiled, rows, drows, batch)
    outputs = packing.unpack(compiled, rows, batch)
    assert [o.shape for o in outputs] == [batch + spec.shape for spec in compiled.outputs]
    assert [t.shape for t in tangents] == [o.shape for o in outputs]
    cotangents = [noise(rng, o.shape, np.iscomplexobj(o)) for o in outputs]
    backward = packing.pack_cotangents(compiled, rows, cotangents, batch)
    assert_close(inner(tangents, cotangents), inner([drows], [backward]), 1e-12, "adjoint")


def test_tangents_are_derivatives_of_pack_and_unpack(rng: np.random.Generator) -> None:
    """Where they are not linear: logarithms in and exponentials out."""
    row = case("dgp_posynomial")
    compiled, h = layers.compiled(row), 1e-5
    point, tangents = list(row.point()), [rng.normal(size=np.shape(p)) for p in row.point()]
    ahead, behind = (packing.pack(compiled, [p + s * t for p, t in zip(point, tangents, strict=True)]).theta
                     for s in (h, -h))  # fmt: skip
    packed = packing.pack(compiled, point)
    assert_close(packing.pack_tangents(compiled, packed, tangents), (ahead - behind) / (2 * h), 1e-8, "pack")
    rows = rng.normal(size=(compiled.primal.shape[0], 1))
    drows = rng.normal(size=rows.shape)
    up, down = (packing.unpack(compiled, rows + s * drows, ()) for s in (h, -h))
    found = packing.unpack_tangents(compiled, rows, drows, ())
    assert_all_close(found, [(a - b) / (2 * h) for a, b in zip(up, down, strict=True)], 1e-8, "unpack")


def test_inputs_are_not_written_to(rng: np.random.Generator) -> None:
    row = case("robust_lp")
    given = [np.array(p) for p in row.point()]
    for value in given:
        value.setflags(write=False)
    kept = [value.copy() for value in given]
    record = layers.layer(row, "CLARABEL").solve(given)
    record.vjp([np.ones_like(o) for o in record.outputs])
    record.jvp(given)
    for value, before in zip(given, kept, strict=True):
        np.testing.assert_array_equal(value, before)


def test_any_memory_layout_of_the_input(rng: np.random.Generator) -> None:
    compiled = compiled_matrix()
    M, v = rng.normal(size=(4, 2, 3)), rng.normal(size=3)
    plain = packing.pack(compiled, [M, v]).theta
    for other in (np.asfortranarray(M), np.ascontiguousarray(M.transpose(2, 1, 0)).transpose(2, 1, 0), M[::-1][::-1]):
        np.testing.assert_array_equal(packing.pack(compiled, [other, v]).theta, plain)
    np.testing.assert_array_equal(packing.pack(compiled, [M.tolist(), tuple(v)]).theta, plain)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, bool])
def test_other_dtypes_become_float64(dtype: type) -> None:
    compiled = compiled_matrix()
    M, v = np.ones((2, 3), dtype=dtype), np.zeros(3)
    theta = packing.pack(compiled, [M, v]).theta
    assert theta.dtype == np.float64
    np.testing.assert_array_equal(theta[:6, 0] if compiled.features[0].parameter == 0 else theta[3:, 0], 1.0)


def test_errors_name_the_parameter_and_the_shapes() -> None:
    compiled = compiled_matrix()
    M, v = np.ones((2, 3)), np.ones(3)
    with pytest.raises(ParameterError, match=r"got 1 values, expected 2, one for each of 'M', 'v'"):
        packing.pack(compiled, [M])
    with pytest.raises(
        ParameterError, match=r"'M': got an array of shape \(3, 2\), expected \(2, 3\) or \(\.\.\., 2, 3\)"
    ):
        packing.pack(compiled, [M.T, v])
    with pytest.raises(ParameterError, match=r"'v': got an array of shape \(\), expected \(3,\)"):
        packing.pack(compiled, [M, 1.0])
    with pytest.raises(ParameterError, match=r"'M' has \(2,\), 'v' has \(3,\)"):
        packing.pack(compiled, [np.ones((2, 2, 3)), np.ones((3, 3))])


def test_logarithms_of_numbers_that_are_not_positive() -> None:
    layer = cvxlayers.Layer(layers.compiled(case("dgp_posynomial")))
    with pytest.raises(ParameterError, match="positive values only, got -1 in batch element "):
        layer.solve([np.array([[1.0, 1, 1], [1, -1, 1]]), 0.4])
