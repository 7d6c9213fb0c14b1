"""Problems whose KKT matrix is worse conditioned than its regularization: long chains of differences."""

from __future__ import annotations

from itertools import pairwise

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.cones.product import Cones
from cvxlayers.layer.layer import Layer
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.ipm import IPM
from tests.ipm.problems import pattern_of
from tests.support.tolerance import assert_close


def _convex(n: int, price: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """The convex sequence x with a few kinks that is nearest to -q: x + q is the second difference of multipliers that
    are zero at the kinks and up to ``price`` between them."""
    kinks = np.sort(rng.choice(np.arange(n // 10, n - n // 10), 4, replace=False))
    jumps, y = np.zeros(n - 2), np.zeros(n - 2)
    jumps[kinks] = rng.uniform(1, 3, kinks.size) / n
    x = 0.3 + np.concatenate([[0.0], np.cumsum(np.concatenate([[-0.7], -0.7 + np.cumsum(jumps)])) / n])
    edges = [-1, *kinks.tolist(), n - 2]
    for left, right in pairwise(edges):
        k = np.arange(left + 1, right)
        y[k] = price * np.sin(np.pi * (k - left) / (right - left)) ** 2
    return x, np.convolve(y, [1.0, -2.0, 1.0]) - x


@pytest.mark.parametrize(("n", "price"), [(300, 1e3), (1000, 1e4), (1500, 1e5), (2000, 1e3)])
def test_the_nearest_convex_sequence(n: int, price: float) -> None:
    rng = np.random.default_rng(0)
    x, q = cp.Variable(n), cp.Parameter(n)
    layer = Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + q @ x), [cp.diff(x, 2) >= 0]), [q], [x])
    right, values = zip(*(_convex(n, amplitude, rng) for amplitude in (1.0, price)), strict=True)
    (found,) = layer(np.stack(values))
    assert layer.info is not None and layer.info.engines.tolist() == ["IPM", "IPM"]
    assert_close(found, np.stack(right), 1e-8, "sequences")


def test_a_second_attempt_is_made_unless_the_caller_has_chosen_the_regularization() -> None:
    structure = Structure(pattern_of(np.eye(1)), pattern_of(np.ones((1, 1))), Cones(nonneg=1))
    again = IPM(structure, Settings(2, options={"max_iters": 7})).again
    assert isinstance(again, IPM) and again.settings.threads == 2 and again.settings.options["max_iters"] == 7
    assert again.settings.options["static_regularization"] < IPM.defaults["static_regularization"]
    assert again.again is None
    assert IPM(structure, Settings(options={"static_regularization": 1e-9})).again is None


def test_the_iteration_ends_at_the_exact_point() -> None:
    """Total variation of a random walk: where an exact point is found, mu need not fall any further."""
    n, rng = 2000, np.random.default_rng(0)
    D, I = sp.diags_array([np.ones(n - 1), -np.ones(n - 1)], offsets=[0, 1], shape=(n - 1, n)), sp.eye_array(n - 1)  # noqa: E741
    A = sp.csc_array(sp.vstack([sp.hstack([D, -I]), sp.hstack([-D, -I])]))
    P = sp.csc_array(sp.diags_array(np.concatenate([np.ones(n), np.zeros(n - 1)])))
    P.eliminate_zeros()
    A.sort_indices()
    structure = Structure(pattern_of(P), pattern_of(A), Cones(nonneg=2 * n - 2))
    q = np.concatenate([-0.1 * rng.standard_normal(n).cumsum(), np.ones(n - 1)])
    values = Values(P.data[:, None], q[:, None], A.data[:, None], np.zeros((2 * n - 2, 1)))
    solution = IPM(structure, Settings()).solve(values)
    assert solution.ok.all() and solution.residuals is not None and solution.residuals.within(1e-12)
    assert solution.iterations[0] <= 30
