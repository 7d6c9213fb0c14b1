"""What every framework's layer must do: give what the NumPy layer gives, on a small part of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np

from cvxlayers.layer.layer import Layer
from tests.contracts.case import Built, Case, Sample
from tests.contracts.table import case
from tests.support.tolerance import assert_all_close

__all__ = [
    "BATCH",
    "REAL",
    "ROWS",
    "SHRINKAGE",
    "SHRUNK",
    "TOLERANCE",
    "Answer",
    "assert_contract",
    "batch",
    "cotangents",
    "interval",
    "shrinkage",
    "single",
    "tangents",
]

REAL = tuple(
    case(name)
    for name in ("lp", "qp_with_duals", "norm_ball", "sdp_order_3", "logistic", "dgp_posynomial", "total_variation")
)
ROWS = (*REAL, case("complex_vector"), case("hermitian"))
"""One of each kind: LP, QP, SOCP, SDP, exponential, DGP, a scalar parameter; and complex ones."""

BATCH = 3
TOLERANCE = 1e-10
"""The layers only convert, so their answers are those of the NumPy layer but for the order of a sum."""

Answer = tuple[Sequence[Any], Sequence[Any]]
"""Outputs, and the gradients of Re <cotangents, outputs>."""


def batch(row: Case) -> Sample:
    """``BATCH`` samples stacked, each a point at which the solution is differentiable."""
    return tuple(np.stack(values) for values in zip(*(row.point(seed) for seed in range(BATCH)), strict=True))


def interval() -> Built:
    """The point of [low, high] nearest to zero; infeasible where low > high."""
    x, low, high = cp.Variable(), cp.Parameter(name="low"), cp.Parameter(name="high")
    return Built(cp.Problem(cp.Minimize(cp.square(x)), [x >= low, x <= high]), [low, high], [x])


def shrinkage() -> Built:
    """Soft thresholding of c by w >= 0: where |c| > w the derivative is 1 in c and -sign(c) in w."""
    x, c, w = cp.Variable(2), cp.Parameter(2, name="c"), cp.Parameter(nonneg=True, name="w")
    return Built(cp.Problem(cp.Minimize(cp.sum_squares(x - c) / 2 + w * cp.norm1(x))), [c, w], [x])


SHRINKAGE = (np.array([[3.0, 2.0], [1.0, 1.0], [-2.0, -5.0]]), np.array([0.5, -0.25, 1.5]))
"""Values for ``shrinkage``; the second element breaks the sign of w."""

SHRUNK = (np.array([[2.5, 1.5], [0.0, 0.0], [-0.5, -3.5]]), np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), [-2, 0, 2])
"""The answer to them with on_failure="zero_grad": the output, and the gradients of its sum."""


def cotangents(outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Fixed numbers of the outputs' shapes, complex for complex ones."""
    rng = np.random.default_rng(5)
    found = [rng.normal(size=(2, *output.shape)) for output in outputs]
    return [a[0] + 1j * a[1] if np.iscomplexobj(o) else a[0] for a, o in zip(found, outputs, strict=True)]


def tangents(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Fixed directions of the values' shapes, complex for complex ones."""
    rng = np.random.default_rng(2)
    return [rng.normal(size=v.shape) + (1j * rng.normal(size=v.shape) if np.iscomplexobj(v) else 0) for v in values]


def single(values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same in single precision."""
    return [v.astype(np.complex64 if np.iscomplexobj(v) else np.float32) for v in map(np.asarray, values)]


def assert_contract(core: Layer, parameters: Sequence[np.ndarray], answer: Answer, what: str) -> None:
    """The layer's outputs and gradients are those of the NumPy layer that it is made of."""
    record = core.solve(parameters)
    weights = cotangents(record.outputs)
    outputs, gradients = ([np.asarray(array) for array in part] for part in answer)
    assert_all_close(outputs, record.outputs, TOLERANCE, f"{what}: outputs")
    assert_all_close(gradients, record.vjp(weights), TOLERANCE, f"{what}: gradients")
