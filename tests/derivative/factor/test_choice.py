"""The parts of the factorizations: normal matrices, functions of D, symbolic elimination, and the choice of a path."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.factor.choice import WAYS, Choice
from cvxlayers.derivative.factor.condensed import CondensedFactorization
from cvxlayers.derivative.factor.conic_blocks import ConicBlocks
from cvxlayers.derivative.factor.lanes import LanesFactorization
from cvxlayers.derivative.factor.normal import DenseNormal, PairNormal
from cvxlayers.derivative.factor.quasidefinite import QuasiDefinite
from cvxlayers.derivative.factor.sparse import SparseFactorization
from cvxlayers.derivative.factor.symbolic import count_pairs, eliminate
from cvxlayers.derivative.system.system import System, SystemLayout
from cvxlayers.errors import OptionError
from cvxlayers.program.structure import Structure
from tests.derivative.problems import Problem, pattern, random_problem

ALL = Cones(zero=2, nonneg=4, second_order=(1, 3, 8, 3), psd=(3,), exponential=1, power=(0.4,))


def system_of(problem: Problem) -> System:
    return problem.system()


def full(blocks_of, m: int, i: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The i-th matrix of a function of D, column by column."""
    return np.stack(
        [blocks_of.matvec(np.eye(m)[:, [k]].repeat(blocks_of.batch, axis=1))[:, i] for k in range(m)], axis=1
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
def test_normal_matrices(shared: bool, density: float, batch: int, rng: np.random.Generator) -> None:
    problem = random_problem(rng, 7, ALL, batch, density, shared=shared)
    system, structure = system_of(problem), problem.structure
    W, c = system.plain_W, system.scales[0]
    ways = [PairNormal.of(structure, 0.0).assemble(system), DenseNormal(structure, 0.0).assemble(system)]
    for i in range(batch):
        P = structure.P.matrix(np.ascontiguousarray(problem.values.P[:, i])).toarray()
        A = structure.A.matrix(np.ascontiguousarray(problem.values.A[:, i])).toarray()
        expected = np.triu(P + A.T @ full(W, ALL.m, i) @ A + system.delta * np.diag(c[:, i] ** -2))
        for H in ways:
            np.testing.assert_allclose(np.triu(H[i]), expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())


def test_functions_of_D(rng: np.random.Generator) -> None:
    problem = random_problem(rng, 7, ALL, batch=2)
    system, identity = system_of(problem), np.eye(ALL.m)
    for i in range(2):
        D = full(system.D, ALL.m, i)
        regular, r = identity - D + system.delta * D, np.diag(system.scales[1][:, i])
        # In units of the inverses: both have eigenvalues from one to 1 / eps.
        np.testing.assert_allclose(regular @ full(system.T, ALL.m, i), identity, atol=1e-7)
        np.testing.assert_allclose(regular @ full(system.W, ALL.m, i), D, atol=1e-7)
        plain = full(system.plain_W, ALL.m, i)
        np.testing.assert_allclose(
            plain, r @ full(system.W, ALL.m, i) @ r, rtol=1e-12, atol=1e-12 * np.abs(plain).max()
        )


@pytest.mark.parametrize("path", WAYS)
def test_every_path_solves_with_a_near_neighbour_of_the_system(path: str, rng: np.random.Generator) -> None:
    problem = random_problem(rng, ALL.m + 1, ALL, batch=3)
    system = system_of(problem)
    f, g = rng.standard_normal((ALL.m + 1, 3)), rng.standard_normal((ALL.m, 3))
    factor = Choice.of(SystemLayout.of(problem.structure), path).fastest(3).factorize(system)
    assert factor.usable.all()
    rest_f, rest_g, error = system.residual(*factor.solve(f, g, np.arange(3)), f, g)
    assert error.max() < 1e-5
    assert np.abs(rest_f).max() < 1e-4 and np.abs(rest_g).max() < 1e-4


def arrow(n: int) -> Structure:
    """One equality over all variables, one inequality for each."""
    mask = np.concatenate([np.ones((1, n), bool), np.eye(n, dtype=bool)])
    return Structure(pattern(np.eye(n, dtype=bool)), pattern(mask), Cones(zero=1, nonneg=n))


def test_symbolic_elimination_of_an_arrow() -> None:
    n = 20
    matrix = QuasiDefinite.of(SystemLayout.of(arrow(n)))
    found = matrix.structures()
    elimination = eliminate(found)
    # Each inequality and then its variable is eliminated, with no fill, the equality comes last: three levels.
    assert len(elimination.levels) == 3
    assert elimination.rows.size == (2 * n + 1) + 2 * n
    assert elimination.pairs == count_pairs(found) == 2 * n


def test_symbolic_elimination_finds_the_pattern_of_the_factor(rng: np.random.Generator) -> None:
    problem = random_problem(rng, 12, ALL, batch=1, density=0.15)
    matrix = QuasiDefinite.of(SystemLayout.of(problem.structure))
    elimination = eliminate(matrix.structures())
    order = matrix.order.size
    K = np.zeros((order, order))
    K[matrix.indices, matrix.columns] = rng.uniform(0.5, 1.0, matrix.indices.size)
    K = K + K.T + 100 * np.eye(order)
    L = np.linalg.cholesky(K)
    found = set(zip(elimination.rows.tolist(), elimination.columns.tolist(), strict=True))
    assert {(int(i), int(j)) for i, j in np.argwhere(np.abs(L) > 1e-14)} <= found
    assert len(found) == elimination.rows.size


def test_wide_cones_take_few_nonzeros() -> None:
    d, n = 200, 3
    structure = Structure(
        pattern(np.zeros((n, n), bool)), pattern(np.ones((d, n), bool)), Cones(second_order=(d,)), frozenset("q")
    )
    assert QuasiDefinite.of(SystemLayout.of(structure)).source.size < 20 * d


def test_the_entries_of_the_blocks_are_counted() -> None:
    for cones in (ALL, Cones(), Cones(zero=3), Cones(second_order=(2, 9, 30, 9), psd=(4, 4))):
        assert ConicBlocks.count(cones) == ConicBlocks.of(cones).rows.size


def test_a_way_that_is_preferred_takes_every_batch() -> None:
    dense = arrow(50)
    kinds = {"condensed": CondensedFactorization, "sparse": SparseFactorization, "lanes": LanesFactorization}
    for way in WAYS:
        exact = ExactDerivative(dense, prefer=way)
        assert exact.kernels_for(1) is exact.kernels_for(4096) is None
        assert {type(exact.choice.fastest(batch)) for batch in (1, 256, 4096)} == {kinds[way]}
    arrays, kernels = ExactDerivative(dense, prefer="arrays"), ExactDerivative(dense, prefer="kernels")
    assert arrays.kernels_for(1) is arrays.kernels_for(4096) is None
    assert len(arrays.choice.candidates) > 1
    assert kernels.kernels_for(1) is kernels.kernels_for(4096) is kernels.kernels
    with pytest.raises(OptionError, match="prefer is 'dense', but must be one of 'kernels', 'arrays', 'condensed'"):
        ExactDerivative(dense, prefer="dense")


def test_the_choice_of_a_path() -> None:
    small = ExactDerivative(arrow(50))
    assert isinstance(small.choice.fastest(1), CondensedFactorization)
    assert isinstance(small.choice.fastest(256), LanesFactorization)
    assert isinstance(ExactDerivative(arrow(4000)).choice.fastest(1), SparseFactorization | LanesFactorization)
    n = 60
    dense = Structure(pattern(np.triu(np.ones((n, n), bool))), pattern(np.ones((n, n), bool)), Cones(nonneg=n))
    for batch in (1, 64, 1024):
        assert isinstance(ExactDerivative(dense).choice.fastest(batch), CondensedFactorization)
