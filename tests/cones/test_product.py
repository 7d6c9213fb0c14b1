"""Products of cones: groups, lanes, empty batches, damaged lanes, the order of packed matrices, and wrong shapes."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cvxlayers.cones import (
    Cones,
    distance,
    dual_derivative,
    dual_distance,
    from_scs_order,
    groups,
    pack,
    project,
    project_dual,
    svec_length,
    svec_order,
    to_scs_order,
    unpack,
)
from cvxlayers.errors import CvxlayersError, ParameterError
from tests.cones.cases import margin, points
from tests.support.tolerance import assert_close

MIXED = Cones(
    zero=2, nonneg=3, second_order=(3, 1, 4, 3), psd=(2, 1, 3, 2), exponential=3, power=(0.3, 0.5, 0.3, 0.9),
    power_nd=((0.2, 0.3, 0.5), (0.1, 0.1, 0.3, 0.5), (0.6, 0.3, 0.1)),
)  # fmt: skip


def one_block(kind: str, data: Any) -> Cones:
    """The product of this block alone."""
    return Cones.of([(kind, data)])


def test_groups_hold_every_curved_row_once() -> None:
    found = groups(MIXED)
    assert [(group.kind, group.rows.shape) for group in found] == [
        ("second_order", (2, 3)), ("second_order", (1, 1)), ("second_order", (1, 4)),
        ("psd", (2, 3)), ("psd", (1, 1)), ("psd", (1, 6)), ("exponential", (3, 3)), ("power", (4, 3)),
        ("power_nd", (2, 4)), ("power_nd", (1, 5)),
    ]  # fmt: skip
    rows = np.concatenate([group.rows.ravel() for group in found])
    np.testing.assert_array_equal(np.sort(rows), np.arange(MIXED.zero + MIXED.nonneg, MIXED.m))
    assert found[-3].exponents is not None and found[-3].exponents.tolist() == [0.3, 0.5, 0.3, 0.9]
    assert found[-2].exponents is not None and found[-2].exponents.T.tolist() == [[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]
    assert groups(MIXED) is found
    assert groups(pickle.loads(pickle.dumps(MIXED))) is found


@pytest.mark.parametrize("function", [project, project_dual])
def test_product_is_each_block_by_itself(function: object) -> None:
    v = points(MIXED, 50)
    together = function(MIXED, v)  # type: ignore[operator]
    for block in MIXED.blocks:
        alone = function(one_block(block.kind, block.data), v[block.rows])  # type: ignore[operator]
        np.testing.assert_allclose(together[block.rows], alone, rtol=0, atol=1e-15)


def test_distances_and_gaps_are_the_worst_of_the_blocks() -> None:
    v = points(MIXED, 50)
    parts = [(one_block(block.kind, block.data), v[block.rows]) for block in MIXED.blocks]
    np.testing.assert_allclose(distance(MIXED, v), np.max([distance(*part) for part in parts], axis=0), rtol=1e-14)
    np.testing.assert_allclose(dual_distance(MIXED, v), np.max([dual_distance(*p) for p in parts], axis=0), rtol=1e-14)
    gaps = np.min([dual_derivative(*part).gap for part in parts], axis=0)
    np.testing.assert_allclose(margin(MIXED, v), gaps / np.abs(v).max(axis=0), rtol=1e-12)


def test_derivative_of_a_product() -> None:
    v, w = points(MIXED, 20), points(MIXED, 20, seed=1)
    D = dual_derivative(MIXED, v)
    assert D.diagonal.shape == v.shape
    assert [blocks.shape for _, blocks in D.blocks] == [
        (group.dimension, group.dimension, group.count, 20) for group in groups(MIXED)
    ]
    expected = D.diagonal * w
    for rows, blocks in D.blocks:
        for cone, place in enumerate(rows):
            expected[place] += np.einsum("ijb,jb->ib", blocks[:, :, cone], w[place])
    assert_close(D.matvec(w), expected, 1e-14, "D w")
    for block in MIXED.blocks:
        alone = dual_derivative(one_block(block.kind, block.data), v[block.rows]).matvec(w[block.rows])
        assert_close(D.matvec(w)[block.rows], alone, 1e-14, block.kind)


def test_each_lane_is_computed_as_if_alone() -> None:
    v, w = points(MIXED, 20), points(MIXED, 20, seed=1)
    D = dual_derivative(MIXED, v)
    results = project(MIXED, v), project_dual(MIXED, v), D.matvec(w)
    for lane in range(20):
        one = v[:, [lane]]
        alone = project(MIXED, one), project_dual(MIXED, one), dual_derivative(MIXED, one).matvec(w[:, [lane]])
        for whole, part in zip(results, alone, strict=True):
            np.testing.assert_allclose(whole[:, [lane]], part, rtol=0, atol=1e-14)
        assert distance(MIXED, v)[lane] == pytest.approx(distance(MIXED, one)[0], abs=1e-14)


def test_empty_batch_and_empty_product() -> None:
    for cones, batch in ((MIXED, 0), (Cones(), 3), (Cones(), 0), (Cones(nonneg=2), 0)):
        v = np.zeros((cones.m, batch))
        assert project(cones, v).shape == project_dual(cones, v).shape == v.shape
        assert dual_derivative(cones, v).matvec(v).shape == v.shape
        assert distance(cones, v).shape == dual_distance(cones, v).shape == margin(cones, v).shape == (batch,)
    rows, blocks = dual_derivative(MIXED, np.zeros((MIXED.m, 0))).blocks[0]
    assert rows.shape == (2, 3)
    assert blocks.shape == (3, 3, 2, 0)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_a_damaged_lane_leaves_the_others_alone(damage: float) -> None:
    v = points(MIXED, 6)
    first = {block.kind: block for block in reversed(MIXED.blocks)}
    for block in first.values():
        broken = v.copy()
        broken[block.start, 2] = damage
        good = [0, 1, 3, 4, 5]
        for function in (project, project_dual, distance, dual_distance):
            np.testing.assert_allclose(function(MIXED, broken)[..., good], function(MIXED, v)[..., good], atol=1e-15)
        D = dual_derivative(MIXED, broken)
        np.testing.assert_allclose(D.matvec(v)[:, good], dual_derivative(MIXED, v).matvec(v)[:, good], atol=1e-14)
        if np.isnan(damage):
            assert np.isnan(distance(MIXED, broken)[2])
            assert np.isnan(project_dual(MIXED, broken)[block.rows, 2]).any()
            assert np.isnan(D.matvec(v)[block.rows, 2]).any() or block.kind == "zero"
            assert np.isnan(D.margin[2])


def test_inputs_are_not_changed() -> None:
    v = points(MIXED, 5)
    v.setflags(write=False)
    project(MIXED, v), project_dual(MIXED, v), distance(MIXED, v), dual_derivative(MIXED, v).matvec(v)
    y = project_dual(Cones(zero=2), v[:2])
    assert y.flags.writeable
    assert not np.shares_memory(y, v)


@pytest.mark.parametrize("shape", [(MIXED.m + 1, 2), (MIXED.m,), (2, MIXED.m)])
def test_wrong_shapes_are_named(shape: tuple[int, ...]) -> None:
    for function in (project, project_dual, dual_derivative, margin, distance, dual_distance):
        with pytest.raises(ParameterError, match=rf"\({MIXED.m}, B\)") as caught:
            function(MIXED, np.zeros(shape))
        assert str(shape) in str(caught.value)
        assert isinstance(caught.value, CvxlayersError)


def test_packing_keeps_inner_products_and_unpacks() -> None:
    rng = np.random.default_rng(0)
    for order in (1, 2, 3, 7):
        X, Y = (M + M.swapaxes(0, 1) for M in rng.standard_normal((2, order, order, 5)))
        assert pack(X).shape == (svec_length(order), 5)
        assert svec_order(svec_length(order)) == order
        assert_close(np.einsum("ib,ib->b", pack(X), pack(Y)), np.einsum("ijb,ijb->b", X, Y), 1e-14, "inner product")
        assert_close(unpack(pack(X)), X, 1e-15, "unpack")
    assert_close(pack(np.array([[1.0, 2.0], [2.0, 3.0]])), np.array([1.0, np.sqrt(8.0), 3.0]), 1e-15, "order")


def test_scs_order_is_the_lower_triangle_by_columns() -> None:
    order, before = 4, 3
    cones = Cones(nonneg=before, psd=(order, 2), exponential=1)
    X = np.arange(16.0).reshape(order, order)
    X = X + X.T
    ours = np.concatenate([[7.0, 8.0, 9.0], pack(X), [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    lower = [X[i, j] * (1 if i == j else np.sqrt(2)) for j in range(order) for i in range(j, order)]
    scs = ours[to_scs_order(cones)]
    np.testing.assert_allclose(scs, np.concatenate([[7, 8, 9], lower, [1, 2, 3], [4, 5, 6]]), rtol=1e-15)
    np.testing.assert_array_equal(scs[from_scs_order(cones)], ours)


@settings(max_examples=40)
@given(
    zero=st.integers(0, 2), nonneg=st.integers(0, 2), second_order=st.lists(st.integers(1, 4), max_size=3),
    psd=st.lists(st.integers(1, 3), max_size=3), exponential=st.integers(0, 2),
    power=st.lists(st.floats(0.01, 0.99), max_size=2),
    shares=st.lists(st.lists(st.floats(0.1, 1.0), min_size=2, max_size=4), max_size=2),
    batch=st.integers(0, 3), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_any_product_splits_a_vector_into_complementary_parts(
    zero: int, nonneg: int, second_order: list[int], psd: list[int], exponential: int,
    power: list[float], shares: list[list[float]], batch: int, seed: int,
) -> None:  # fmt: skip
    power_nd = tuple(tuple(share / sum(own) for share in own) for own in shares)
    cones = Cones(zero, nonneg, tuple(second_order), tuple(psd), exponential, tuple(power), power_nd)
    v = np.random.default_rng(seed).standard_normal((cones.m, batch))
    y, s = project_dual(cones, v), project(cones, -v)
    assert_close(y - s, v, 1e-14, "v = y - s")
    assert_close(np.einsum("ib,ib->b", y, s), np.zeros(batch), 1e-14, "s'y")
    assert distance(cones, s).max(initial=0.0) <= 1e-14
    assert dual_distance(cones, y).max(initial=0.0) <= 1e-14
    D = dual_derivative(cones, v)
    assert_close(D.matvec(v), y, 1e-13, "D v = y")
