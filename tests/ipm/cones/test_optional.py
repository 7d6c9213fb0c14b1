"""PSD, exponential and power cones in the IPM solver: random problems, closed forms, certificates, lanes."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones import psd, svec
from cvxlayers.cones.product import Cones
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.ipm import IPM
from cvxlayers.verify.measure import measure
from tests.ipm.problems import answered, feasible, infeasible, random_cones, structure_of, unbounded

KINDS = (("psd",), ("exponential",), ("power",), ("second_order", "psd", "exponential", "power"))
NO_SOLUTION = (Status.INFEASIBLE, Status.UNBOUNDED)


def objective(structure: Structure, values: Values, x: Array) -> Array:
    return 0.5 * np.einsum("ib,ib->b", x, structure.P_times(values.P, x)) + (values.q * x).sum(axis=0)


def shared(structure: Structure, P: Array, q: Array, A: Array, b: Array) -> Values:
    """Values with the same P and A for all columns of q and b."""
    batch = max(q.shape[1], b.shape[1])
    entries = P[structure.P.rows, structure.P.columns], A[structure.A.rows, structure.A.columns]
    parts = [np.repeat(part[:, None], batch, axis=1) for part in entries]
    return Values(parts[0], np.broadcast_to(q, (q.shape[0], batch)).copy(), parts[1],
                  np.broadcast_to(b, (b.shape[0], batch)).copy())  # fmt: skip


@pytest.mark.parametrize("decades", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_random_problems_are_solved(kinds: tuple[str, ...], decades: float) -> None:
    rng = np.random.default_rng([len(kinds[0]), len(kinds), int(decades)])
    errors, codes = [], []
    for trial in range(12):
        n = int(rng.integers(1, 14))
        structure, values = feasible(rng, n, random_cones(rng, n, *kinds), 16, bool(trial % 2), decades)
        found = answered(structure, values)
        errors.append(measure(structure, values, found.x, found.y, found.s).worst)
        codes.append(found.status)
    error, status = np.concatenate(errors), np.concatenate(codes)
    assert not np.isin(status, NO_SOLUTION).any()
    assert (error[status == Status.OPTIMAL] <= 1e-6).all()
    assert (error <= 1e-8).mean() >= 0.9  # the others are not strictly complementary, or lie far from the rest
    assert (error <= 1e-6).mean() >= 0.98 and (status == Status.OPTIMAL).mean() >= 0.9, f"worst {error.max():.1e}"


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_agrees_with_clarabel(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(11)
    for trial in range(4):
        structure, values = feasible(rng, 8, random_cones(rng, 8, *kinds), 8, bool(trial % 2))
        found, other = (solver(structure, Settings()).solve(values) for solver in (IPM, Clarabel))
        both = (found.status == Status.OPTIMAL) & (other.status <= Status.INACCURATE)
        assert both.mean() >= 0.7
        gaps = np.abs(objective(structure, values, found.x) - objective(structure, values, other.x))[both]
        assert (gaps <= 1e-6 * (1 + np.abs(objective(structure, values, other.x)[both]))).all()


@pytest.mark.parametrize(("make", "proved", "never"), [(infeasible, Status.INFEASIBLE, Status.OPTIMAL),
                                                      (unbounded, Status.UNBOUNDED, Status.INFEASIBLE)])  # fmt: skip
@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_no_solution(kinds: tuple[str, ...], make: object, proved: Status, never: Status) -> None:
    rng = np.random.default_rng([int(proved), len(kinds)])
    codes = []
    for trial in range(16):
        n = int(rng.integers(3, 12))
        structure, values = make(rng, n, random_cones(rng, n, *kinds), 16, bool(trial % 2))  # type: ignore[operator]
        codes.append(IPM(structure, Settings()).solve(values).status)
    counts = np.bincount(np.concatenate(codes), minlength=5)
    assert counts[Status.OPTIMAL] == 0 and counts[never] == 0
    assert counts[proved] >= 0.7 * counts.sum(), counts.tolist()


@pytest.mark.parametrize("order", [1, 2, 4, 8])
@pytest.mark.parametrize("rank", [0, 1, 8])
def test_projection_onto_the_matrices(order: int, rank: int) -> None:
    """The nearest positive semidefinite matrix: of rank 0 to full, from matrices with repeated eigenvalues as well."""
    d, rng = order * (order + 1) // 2, np.random.default_rng(order)
    structure = structure_of(np.eye(d), -np.eye(d), Cones(psd=(order,)))
    Q = np.linalg.qr(rng.standard_normal((9, order, order)))[0]
    spread = np.where(np.arange(order) < rank, 1.0, -1.0) * rng.choice([0.5, 1.0, 2.0], (9, order))
    v = svec.pack(np.moveaxis((Q * spread[:, None, :]) @ Q.swapaxes(1, 2), 0, -1))
    found = IPM(structure, Settings()).solve(shared(structure, np.eye(d), -v, -np.eye(d), np.zeros((d, 1))))
    assert (found.status == Status.OPTIMAL).all()
    assert np.abs(found.x - psd.project(v)).max() <= 1e-6


def test_least_eigenvalue() -> None:
    """max t with C - t I positive semidefinite; the dual matrix has rank one."""
    order, rng = 6, np.random.default_rng(0)
    C = rng.standard_normal((order, order, 10))
    C = C + C.swapaxes(0, 1)
    A = svec.pack(np.eye(order))[:, None]
    structure = structure_of(np.zeros((1, 1)), A, Cones(psd=(order,)))
    found = IPM(structure, Settings()).solve(
        shared(structure, np.zeros((1, 1)), np.full((1, 10), -1.0), A, svec.pack(C))
    )
    assert (found.status == Status.OPTIMAL).all()
    np.testing.assert_allclose(found.x[0], np.linalg.eigvalsh(C.T)[:, 0], atol=1e-8)


def test_logarithm_of_a_sum_of_exponentials() -> None:
    """min t with sum of exp(c_i - t) <= 1: t = log sum exp(c_i), also where exp(c_i) would overflow."""
    k, rng = 4, np.random.default_rng(1)
    # Variables t, z_1, ..., z_k; sum z <= 1, and (c_i - t, 1, z_i) in the exponential cone.
    A = np.zeros((1 + 3 * k, 1 + k))
    A[0, 1:] = 1.0
    b = np.zeros((1 + 3 * k, 12))
    c = rng.standard_normal((k, 12)) * np.repeat([1.0, 10.0, 300.0], 4)
    b[0] = 1.0
    for i in range(k):
        A[1 + 3 * i, 0], A[3 + 3 * i, 1 + i] = 1.0, -1.0
        b[1 + 3 * i], b[2 + 3 * i] = c[i], 1.0
    structure = structure_of(np.zeros((1 + k, 1 + k)), A, Cones(nonneg=1, exponential=k))
    q = np.zeros((1 + k, 1))
    q[0] = 1.0
    found = IPM(structure, Settings()).solve(shared(structure, np.zeros((1 + k, 1 + k)), q, A, b))
    assert (found.status == Status.OPTIMAL).all()
    np.testing.assert_allclose(found.x[0], np.logaddexp.reduce(c), rtol=1e-7)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 0.5, 0.99])
def test_weighted_geometric_mean(alpha: float) -> None:
    """max w with u^alpha v^(1 - alpha) >= w and p u + r v <= 1: shares alpha and 1 - alpha of the budget."""
    rng = np.random.default_rng(2)
    prices = 10 ** rng.uniform(-1, 1, (2, 9))
    pattern = np.vstack([[1.0, 1.0, 0.0], -np.eye(3)])
    structure = structure_of(np.zeros((3, 3)), pattern, Cones(nonneg=1, power=(alpha,)))
    A = np.repeat(pattern[:, :, None], 9, axis=2)
    A[0, :2] = prices
    b = np.zeros((4, 9))
    b[0] = 1.0
    q = np.repeat([[0.0], [0.0], [-1.0]], 9, axis=1)
    values = Values(np.zeros((0, 9)), q, A[structure.A.rows, structure.A.columns], b)
    found = IPM(structure, Settings()).solve(values)
    u, v = alpha / prices[0], (1 - alpha) / prices[1]
    assert (found.status == Status.OPTIMAL).all()
    np.testing.assert_allclose(found.x[2], u**alpha * v ** (1 - alpha), rtol=1e-7)
    np.testing.assert_allclose(found.x[:2], [u, v], rtol=1e-3)  # which move like the root of the gap


@pytest.mark.parametrize(("b", "status"), [((-1.0, 0.0, 1.0), Status.OPTIMAL), ((1.0, 0.0, 1.0), Status.INFEASIBLE),
                                           ((-1.0, 0.0, -1.0), Status.INFEASIBLE)])  # fmt: skip
def test_face_of_the_exponential_cone(b: tuple[float, ...], status: Status) -> None:
    """(u, 0, w - x) is in the cone for u <= 0 and w >= x: there are answers, but no point is inside the cone."""
    A = np.array([[0.0], [0.0], [1.0 if b[2] > 0 else 0.0]])
    structure = structure_of(np.zeros((1, 1)), A, Cones(exponential=1))
    found = IPM(structure, Settings()).solve(
        shared(structure, np.zeros((1, 1)), np.array([[-1.0]]), A, np.array(b)[:, None])
    )
    # (1, 0, w) is no further than any distance from points of the cone, so that an honest failure is right as well.
    assert found.status[0] in (status, Status.FAILED, Status.INACCURATE) or (status, found.status[0]) == (
        Status.INFEASIBLE, Status.UNBOUNDED)  # fmt: skip
    if found.status[0] == Status.OPTIMAL:
        assert abs(found.x[0, 0] - 1) <= 1e-5


def test_matrices_without_an_inside() -> None:
    """X of order 3 with X_11 = 0: no feasible X is positive definite, and no dual solution need exist."""
    d = 6
    rows = np.vstack([np.eye(d)[:1], -np.eye(d)])
    structure = structure_of(np.eye(d), rows, Cones(zero=1, psd=(3,)))
    C = np.random.default_rng(3).standard_normal((3, 3, 8))
    v = svec.pack(C + C.swapaxes(0, 1))
    found = IPM(structure, Settings()).solve(shared(structure, np.eye(d), -v, rows, np.zeros((d + 1, 1))))
    assert not np.isin(found.status, NO_SOLUTION).any()
    block = np.array([2, 4, 5])  # what is left is the block of rows and columns 2 and 3
    right = np.zeros_like(v)
    right[block] = psd.project(v[block])
    done = found.status == Status.OPTIMAL
    assert (np.abs(found.x - right)[:, done] <= 1e-3).all()


@pytest.mark.parametrize("kinds", KINDS, ids="-".join)
def test_lanes_are_independent_of_their_company(kinds: tuple[str, ...]) -> None:
    """An element alone, beside copies, and beside elements that fail or need many more steps: the same answer."""
    rng = np.random.default_rng(4)
    structure, values = feasible(rng, 6, random_cones(rng, 6, *kinds), 8, True)
    solver = IPM(structure, Settings())
    together = solver.solve(values)
    hostile = Values(*(part.copy() for part in (values.P, values.q, values.A, values.b)))
    hostile.b[:, 1::2] *= 1e9
    hostile.A[:, 3] = 0.0
    beside = solver.solve(hostile)
    for element in range(8):
        alone = solver.solve(values.select(np.array([element])))
        assert alone.status[0] == together.status[element]
        gap = np.abs(objective(structure, values.select(np.array([element])), alone.x)[0]
                     - objective(structure, values, together.x)[element])  # fmt: skip
        assert gap <= 1e-7
        if element % 2 == 0:
            assert beside.status[element] == alone.status[0]


def test_lanes_that_are_done_are_frozen() -> None:
    """Each element takes its own number of steps, however long the others need."""
    rng = np.random.default_rng(5)
    structure, values = feasible(rng, 10, Cones(nonneg=5, psd=(3,), exponential=2, power=(0.4,)), 24, True)
    found = IPM(structure, Settings()).solve(values)
    assert len(set(found.iterations.tolist())) > 2 and (found.iterations >= 5).all()


def test_too_few_iterations_are_not_called_optimal() -> None:
    rng = np.random.default_rng(6)
    structure, values = feasible(rng, 6, Cones(psd=(3,), exponential=2, power=(0.4,)), 8, True)
    found = IPM(structure, Settings(options={"max_iters": 3})).solve(values)
    assert (found.status == Status.FAILED).all() and np.isfinite(found.x).all()
