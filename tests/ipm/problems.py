"""Random problems with known answers: a complementary pair (s, y) first, then data that make it optimal."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cvxlayers.cones import svec
from cvxlayers.cones.product import Cones
from cvxlayers.layer.answer import answer
from cvxlayers.layer.engine import EngineCache
from cvxlayers.layer.report import Stopwatch
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Pattern, Structure, Values

__all__ = ["answered", "feasible", "infeasible", "random_cones", "structure_of", "unbounded"]


def answered(structure: Structure, values: Values) -> Solution:
    """What a layer makes of the solver's points: verified and sharpened, without the help of another solver."""
    engine = EngineCache(structure).engine("IPM", {})
    return answer(structure, engine, lambda _: (), values, engine.solver.solve(values), True, Stopwatch())


def pattern_of(matrix: sp.sparray | Array) -> Pattern:
    """The pattern of a matrix's nonzeros."""
    found = sp.csc_array(matrix)
    found.sort_indices()
    return Pattern(found.shape, found.indptr.astype(np.int32), found.indices.astype(np.int32))


def structure_of(P: Array, A: Array, cones: Cones) -> Structure:
    """The structure of dense matrices' nonzeros."""
    return Structure(pattern_of(np.triu(P)), pattern_of(A), cones)


def random_cones(rng: np.random.Generator, n: int, *kinds: str) -> Cones:
    """A few rows of equalities and inequalities, and one or two cones of each of these kinds."""
    orders = {kind: rng.integers(1, 9 if kind == "second_order" else 5, rng.integers(1, 3)).tolist() for kind in kinds}
    return Cones(
        zero=int(rng.integers(0, max(1, n // 2))),
        nonneg=int(rng.integers(0, 2 * n)),
        second_order=tuple(orders.get("second_order", ())),
        psd=tuple(orders.get("psd", ())),
        exponential=len(orders.get("exponential", ())),
        power=tuple(rng.uniform(0.05, 0.95, len(orders.get("power", ()))).tolist()),
    )


def feasible(
    rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool, decades: float = 0.0
) -> tuple[Structure, Values]:
    """Problems with solutions, often degenerate; units of variables and rows spread over so many decades each way."""
    m, mask = cones.m, rng.random((cones.m, n)) < 0.5
    structure = structure_of(np.ones((n, n)) if quadratic else np.zeros((n, n)), mask.astype(float), cones)
    rank = int(rng.integers(0, n + 1))
    P, A, q, b = (np.zeros((size, batch)) for size in (structure.P.nnz, structure.A.nnz, n, m))
    for j in range(batch):
        F, Aj, x = rng.standard_normal((rank, n)), np.where(mask, rng.standard_normal((m, n)), 0.0), rng.normal(size=n)
        s, y = complementary(rng, cones)
        units, rows = 10 ** rng.uniform(-decades, decades, n), row_units(rng, cones, decades)
        F, Aj, x, s, y = F * units, Aj * units * rows[:, None], x / units, s * rows, y / rows
        Pj = F.T @ F if quadratic else np.zeros((n, n))
        P[:, j], A[:, j] = Pj[structure.P.rows, structure.P.columns], Aj[structure.A.rows, structure.A.columns]
        q[:, j], b[:, j] = -(Pj @ x + Aj.T @ y), Aj @ x + s
    return structure, Values(P, q, A, b)


def row_units(rng: np.random.Generator, cones: Cones, decades: float) -> Array:
    """A unit for each row; the rows of a curved cone share theirs."""
    units = np.empty(cones.m)
    for block in cones.blocks:
        alone = block.kind in ("zero", "nonneg")
        units[block.rows] = 10 ** rng.uniform(-decades, decades, block.stop - block.start if alone else 1)
    return units


def complementary(rng: np.random.Generator, cones: Cones) -> tuple[Array, Array]:
    """s in K and y in K* with s'y = 0."""
    s, y = np.zeros(cones.m), np.zeros(cones.m)
    for block in cones.blocks:
        size = block.stop - block.start
        if block.kind == "zero":
            y[block.rows] = rng.standard_normal(size)
        elif block.kind == "nonneg":
            active, values = rng.random(size) < 0.5, rng.uniform(0.01, 1.0, size)
            s[block.rows], y[block.rows] = np.where(active, 0.0, values), np.where(active, values, 0.0)
        elif block.kind == "psd":
            s[block.rows], y[block.rows] = semidefinite_pair(rng, int(block.data))
        elif block.kind in ("exponential", "power"):
            s[block.rows], y[block.rows] = nonsymmetric_pair(rng, block.kind, block.data)
        else:
            u = rng.standard_normal(size - 1)
            inner, edge = np.append(np.linalg.norm(u) + rng.uniform(0.1, 1.0), u), np.append(np.linalg.norm(u), u)
            mirrored = np.append(edge[0], -u)
            choice = rng.integers(3)
            s[block.rows] = (inner, 0 * inner, edge)[choice]
            y[block.rows] = (0 * inner, inner, rng.uniform(0.1, 1.0) * mirrored)[choice]
    return s, y


def semidefinite_pair(rng: np.random.Generator, order: int) -> tuple[Array, Array]:
    """Matrices with the same eigenvectors; of two eigenvalues one is zero, sometimes both are."""
    Q = np.linalg.qr(rng.standard_normal((order, order)))[0]
    whose, values = rng.integers(0, 2 if rng.random() < 0.7 else 3, order), rng.uniform(0.05, 1.0, order)
    S, Y = ((Q * np.where(whose == k, values, 0.0)) @ Q.T for k in range(2))
    return svec.pack(S), svec.pack(Y)


def nonsymmetric_pair(rng: np.random.Generator, kind: str, alpha: float) -> tuple[Array, Array]:
    """Orthogonal points of an exponential or power cone and of its dual: inside and zero, or on the boundaries."""
    s, y, edge, normal = nonsymmetric_points(rng, kind, alpha)
    zero, size = np.zeros(3), rng.uniform(0.1, 1.0, 2)
    return ((s, zero), (zero, y), (size[0] * edge, size[1] * normal))[rng.integers(3)]


def nonsymmetric_points(rng: np.random.Generator, kind: str, alpha: float) -> tuple[Array, Array, Array, Array]:
    """A point inside the cone, one inside its dual, and two on their boundaries that are orthogonal."""
    if kind == "exponential":
        r, room = rng.normal(), rng.uniform(0.1, 1.0)
        edge, normal = np.array([r, 1.0, np.exp(r)]), np.array([-1.0, r - 1.0, np.exp(-r)])
        up = np.array([0.0, 0.0, room])
        s, y = edge + up, normal + up
    else:
        u, v, sign = rng.uniform(0.1, 2.0), rng.uniform(0.1, 2.0), rng.choice([-1.0, 1.0])
        w = u**alpha * v ** (1 - alpha)
        edge, normal = np.array([u, v, sign * w]), np.array([alpha * w / u, (1 - alpha) * w / v, -sign])
        s, y = (point * np.array([1.0, 1.0, rng.uniform(-0.9, 0.9)]) for point in (edge, normal))
    return s, y, edge, normal


def inside(rng: np.random.Generator, cones: Cones, dual: bool) -> Array:
    """A point of K or of K*, half of it on the boundary."""
    point = np.add(*complementary(rng, cones))
    for block in cones.blocks:
        if block.kind in ("exponential", "power"):
            candidates = nonsymmetric_points(rng, block.kind, block.data)
            point[block.rows] = candidates[2 * rng.integers(2) + int(dual)]
    return point


def infeasible(rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool) -> tuple[Structure, Values]:
    """Problems for which some y in K* has A'y = 0 and b'y = -1."""
    m = cones.m
    structure, values = dense(rng, n, cones, batch, quadratic)
    A, b = values.A.reshape(n, m, batch), values.b
    for j in range(batch):
        y = inside(rng, cones, dual=True)
        y /= np.linalg.norm(y)
        A[:, :, j] -= np.outer(A[:, :, j] @ y, y)
        b[:, j] -= y * (y @ b[:, j] + 1)
    return structure, values


def unbounded(rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool) -> tuple[Structure, Values]:
    """Feasible problems for which some x has Px = 0, -Ax in K and q'x = -1."""
    m = cones.m
    structure, values = dense(rng, n, cones, batch, quadratic)
    A, b, q, P = values.A.reshape(n, m, batch), values.b, values.q, values.P
    for j in range(batch):
        x, s, point = rng.standard_normal(n), inside(rng, cones, dual=False), rng.standard_normal(n)
        s[: cones.zero] = 0.0
        x /= np.linalg.norm(x)
        A[:, :, j] -= np.outer(x, A[:, :, j].T @ x + s)
        q[:, j] -= x * (q[:, j] @ x + 1)
        F = rng.standard_normal((2, n))
        F -= np.outer(F @ x, x)
        if quadratic:
            P[:, j] = (F.T @ F)[structure.P.rows, structure.P.columns]
        s = inside(rng, cones, dual=False)
        s[: cones.zero] = 0.0
        b[:, j] = A[:, :, j].T @ point + s
    return structure, values


def dense(rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool) -> tuple[Structure, Values]:
    """Random dense data; A's nonzeros are those of an (n, m) array, column by column."""
    m = cones.m
    structure = structure_of(np.ones((n, n)) if quadratic else np.zeros((n, n)), np.ones((m, n)), cones)
    F = rng.standard_normal((batch, n, n))
    P = np.einsum("bki,bkj->ijb", F, F)[structure.P.rows, structure.P.columns]
    parts = (rng.standard_normal((size, batch)) for size in (n, structure.A.nnz, m))
    return structure, Values(P, *parts)
