"""From theta to the values of the standard form and back: what is shared, what is a selection, what is a sum."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.layer import packing
from cvxlayers.layer.qp import compile_qp, read_form
from cvxlayers.program.linear import LinearMap
from cvxlayers.program.structure import Values
from tests.contracts.table import CASES
from tests.support.layers import compiled
from tests.support.tolerance import assert_close

SHAPES = {"Q": (3, 3), "p": (3,), "G": (2, 3), "h": (2,), "A": (1, 3), "b": (1,)}


@pytest.mark.parametrize("weights", [np.ones(4), np.array([1.0, -2.0, 0.5, 3.0])], ids=["ones", "weights"])
@pytest.mark.parametrize("batch", [1, 7])
def test_a_selection_of_rows_is_the_sparse_product(weights: np.ndarray, batch: int, rng: np.random.Generator) -> None:
    matrix = sp.csr_array((weights, ([0, 1, 2, 3], [2, 0, 2, 5])), shape=(4, 6))
    v = rng.normal(size=(6, batch))
    np.testing.assert_array_equal(LinearMap(matrix)(v), matrix @ v)
    rows = np.zeros((4, batch))
    assert LinearMap(matrix)(v, rows) is rows
    np.testing.assert_array_equal(rows, matrix @ v)
    assert_close(LinearMap(matrix).adjoint(matrix @ v), matrix.T @ (matrix @ v), 1e-14, "adjoint")


@pytest.mark.parametrize("row", CASES, ids=str)
def test_the_pullback_is_the_sum_of_those_of_the_values(row, rng: np.random.Generator) -> None:
    problem = compiled(row)
    maps = {name: getattr(problem, name) for name in "PqAb"}
    weights = {name: rng.normal(size=(part.rows, 3)) for name, part in maps.items()}
    expected = sum(part.linear.T @ weights[name] for name, part in maps.items())
    assert_close(problem.pullback(Values(**weights)), expected, 1e-12, row.name)


def test_what_depends_on_shared_parameters_alone_is_evaluated_once(rng: np.random.Generator) -> None:
    problem = compile_qp(read_form(SHAPES))
    data = [rng.normal(size=shape) for shape in SHAPES.values()]
    data[1], data[3] = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))  # p and h have a batch dimension
    packed = packing.pack(problem, data)
    values, whole = problem.evaluate(packed.theta, packed.shared), problem.evaluate(packed.theta)
    for name in "PqAb":
        one, other = getattr(values, name), getattr(whole, name)
        np.testing.assert_array_equal(one, other)
        assert (one.strides[1] == 0) == (name in "PA")
    alone = packing.pack(problem, [data[0], data[1][0], data[2], data[3][0], *data[4:]])
    assert not alone.shared  # one element shares nothing
