"""Problems whose answer is known by construction, made hard: degenerate, redundant, infeasible, unbounded.

A problem is made in units of one around a complementary pair (s, y), which proves its optimal value. Redundant rows and
cones are added as rows T A x + T s = T b that the others imply, with zero multipliers: neither the solution nor its
derivative in the numbers of the first rows changes. A problem also moves: F (of P = F'F), q, A and b along random
directions, the redundant rows with those that they come from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.cones import project_dual, svec, svec_length
from cvxlayers.cones.product import Cones
from cvxlayers.program.solution import Status
from cvxlayers.program.structure import Array, Structure, Values
from tests.ipm.problems import complementary, infeasible, structure_of, unbounded
from tests.support.regular import CONDITION, condition

__all__ = ["FAMILIES", "Hard"]

TRIES = 50
"""How often a problem is drawn anew that is to be regular and is not; some structures have none."""

Pair = Callable[[np.random.Generator, Cones], tuple[Array, Array]]


@dataclass(frozen=True)
class Hard:
    """A batch of problems with one structure, in units of one.

    Attributes
    ----------
    status : Status
        The right one.
    moved : t -> Values
        The values a step t along their directions; at zero the problem itself.
    tangent : Values or None
        The derivative of ``moved`` at zero; None where there is no solution to differentiate.
    objective : (B,) or None
        The optimal value.
    x : (n, B) or None
        The solution, NaN in elements where it need not be unique.
    sharpness : float
        How near to it an answer has to come, relative to its largest number: at degenerate points a small change of the
        data may move x by the root of it.
    """

    structure: Structure
    status: Status
    moved: Callable[[float], Values]
    tangent: Values | None = None
    objective: Array | None = None
    x: Array | None = None
    sharpness: float = 1e-4

    @property
    def values(self) -> Values:
        """Of the problem itself."""
        return self.moved(0.0)


@dataclass(frozen=True)
class _Dense:
    """One element, dense: P = F'F."""

    F: Array
    q: Array
    A: Array
    b: Array

    def along(self, other: _Dense, t: float) -> _Dense:
        return _Dense(*(getattr(self, name) + t * getattr(other, name) for name in ("F", "q", "A", "b")))


def around(
    rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool, pair: Pair = complementary,
    whole: bool = False, extend: Callable[[np.random.Generator, Cones], tuple[Cones, Array]] | None = None,
) -> Hard:  # fmt: skip
    """Problems around pairs (s, y); with ``whole`` in small whole numbers, with ``extend`` with redundant rows."""
    mask = rng.random((cones.m, n)) < 0.5
    larger, T = extend(rng, cones) if extend else (cones, np.eye(cones.m))
    structure = structure_of(np.ones((n, n)) * quadratic, ((T != 0).astype(float) @ mask.astype(float)), larger)
    elements, moves, points, unique = [], [], [], []
    for _ in range(batch):
        rank = int(rng.integers(0, n + 1)) if rng.random() < 0.3 else n
        rank = rank if quadratic else 0
        for _ in range(TRIES if pair is strict else 1):
            F, A, x = (_numbers(rng, shape, whole) for shape in ((rank, n), (cones.m, n), (n,)))
            F, A, (s, y) = np.vstack([F, np.zeros((n - rank, n))]), np.where(mask, A, 0.0), pair(rng, cones)
            if pair is strict and condition(cones, F.T @ F, A, y - s) <= CONDITION:
                break
        elements.append(_Dense(F, -(F.T @ (F @ x) + A.T @ y), A, A @ x + s))
        move = [rng.normal(size=part.shape) for part in (F, x, A, s)]
        moves.append(_Dense(np.where(F != 0, move[0], 0.0), move[1], np.where(mask, move[2], 0.0), move[3]))
        points.append(x)
        unique.append(rank == n and np.linalg.cond(F) < 1e3)

    def moved(t: float) -> Values:
        return _values(structure, [one.along(move, t) for one, move in zip(elements, moves, strict=True)], T)

    x = np.stack(points, axis=1)
    cost = [0.5 * np.sum((one.F @ point) ** 2) + one.q @ point for one, point in zip(elements, points, strict=True)]
    return Hard(structure, Status.OPTIMAL, moved, _tangent(structure, elements, moves, T), np.array(cost),
                np.where(unique, x, np.nan), 1e-4 if pair is strict else 1e-2)  # fmt: skip


def _numbers(rng: np.random.Generator, shape: tuple[int, ...], whole: bool) -> Array:
    return rng.integers(-1, 2, shape).astype(float) if whole else rng.normal(size=shape)


def _values(structure: Structure, elements: list[_Dense], T: Array) -> Values:
    P, A = structure.P, structure.A
    return Values(
        np.stack([(one.F.T @ one.F)[P.rows, P.columns] for one in elements], axis=1),
        np.stack([one.q for one in elements], axis=1),
        np.stack([(T @ one.A)[A.rows, A.columns] for one in elements], axis=1),
        np.stack([T @ one.b for one in elements], axis=1),
    )


def _tangent(structure: Structure, elements: list[_Dense], moves: list[_Dense], T: Array) -> Values:
    """P, along F, is F'dF + dF'F; the rest is linear."""
    linear = _values(structure, moves, T)
    both = [one.F.T @ move.F + move.F.T @ one.F for one, move in zip(elements, moves, strict=True)]
    P = np.stack([part[structure.P.rows, structure.P.columns] for part in both], axis=1)
    return linear._replace(P=P)


def strict(rng: np.random.Generator, cones: Cones) -> tuple[Array, Array]:
    """Strictly complementary pairs: the two parts of a random v (Moreau 1962)."""
    v = rng.normal(size=cones.m)
    y = project_dual(cones, v[:, None])[:, 0]
    return y - v, y


def weak(rng: np.random.Generator, cones: Cones) -> tuple[Array, Array]:
    """Pairs in which some rows and cones have neither s nor y: strict complementarity fails."""
    s, y = complementary(rng, cones)
    for block in cones.blocks:
        if block.start < cones.zero:
            continue
        if block.polyhedral:
            none = rng.random(block.stop - block.start) < 0.3
            s[block.rows], y[block.rows] = np.where(none, 0.0, s[block.rows]), np.where(none, 0.0, y[block.rows])
        elif rng.random() < 0.3:
            (s if rng.random() < 0.5 else y)[block.rows] = 0.0
    return s, y


def counted(rng: np.random.Generator, cones: Cones) -> tuple[Array, Array]:
    """Pairs in whole numbers on the polyhedral rows: ties everywhere."""
    s, y = weak(rng, cones)
    rows = slice(0, cones.zero + cones.nonneg)
    s[rows], y[rows] = np.ceil(2 * s[rows]), np.ceil(2 * y[rows])
    return s, y


def more_rows(rng: np.random.Generator, cones: Cones) -> tuple[Cones, Array]:
    """Equalities and inequalities that follow from the others: sums of some, with random positive factors."""
    zero, nonneg, m = cones.zero, cones.nonneg, cones.m
    extra = [int(rng.integers(1, 4)) if size else 0 for size in (zero, nonneg)]
    E, G = np.zeros((extra[0], m)), np.zeros((extra[1], m))
    E[:, :zero] = rng.normal(size=(extra[0], zero))
    G[:, zero : zero + nonneg] = rng.uniform(0.5, 2.0, (extra[1], nonneg)) * (rng.random((extra[1], nonneg)) < 0.4)
    G[:, :zero] = rng.normal(size=(extra[1], zero))
    G[~G.any(axis=1), -1 if not nonneg else zero] = 1.0
    base = np.eye(m)
    T = np.vstack([base[:zero], E, base[zero : zero + nonneg], G, base[zero + nonneg :]])
    return replace(cones, zero=zero + extra[0], nonneg=nonneg + extra[1]), T


def more_cones(rng: np.random.Generator, cones: Cones) -> tuple[Cones, Array]:
    """Every curved cone once more, in another unit; inequalities twice."""
    rows, base = [], np.eye(cones.m)
    for block in cones.blocks:
        part = base[block.rows]
        rows += [part] if block.start < cones.zero else [part, rng.uniform(0.5, 2.0) * part]
    twice = Cones.of((block.kind, block.data) for block in cones.blocks for _ in range(2))
    return replace(twice, zero=cones.zero), np.vstack([np.zeros((0, cones.m)), *rows])


def more_psd(rng: np.random.Generator, cones: Cones) -> tuple[Cones, Array]:
    """For every semidefinite matrix a part V'XV that is semidefinite as well: of a principal block, or a random one."""
    rows, orders, base = [], [], np.eye(cones.m)
    starts = Cones(cones.zero, cones.nonneg, cones.second_order).m + np.cumsum([0, *map(svec_length, cones.psd)])
    order_at = dict(zip(starts.tolist(), cones.psd, strict=False))
    for block in cones.blocks:
        part = base[block.rows]
        rows.append(part)
        if block.start in order_at:
            order = order_at[block.start]
            small = max(1, order - int(rng.integers(0, 2)))
            V = np.eye(order)[:, :small] if rng.random() < 0.5 else rng.normal(size=(order, small))
            units = np.eye(part.shape[0])
            maps = [svec.pack(V.T @ svec.unpack(unit) @ V) for unit in units]
            rows.append(np.stack(maps, axis=1) @ part)
            orders += [order, small]
    return replace(cones, psd=tuple(orders)), np.vstack([np.zeros((0, cones.m)), *rows])


def without(status: Status) -> Callable[..., Hard]:
    """Problems without a solution."""
    make = infeasible if status == Status.INFEASIBLE else unbounded

    def made(rng: np.random.Generator, n: int, cones: Cones, batch: int, quadratic: bool) -> Hard:
        structure, values = make(rng, n, cones, batch, quadratic)
        return Hard(structure, status, lambda t: values)

    return made


def _around(**options: object) -> Callable[..., Hard]:
    return lambda *arguments: around(*arguments, **options)  # type: ignore[arg-type]


FAMILIES: dict[str, Callable[..., Hard]] = {
    "feasible": _around(),
    "regular": _around(pair=strict),
    "ties": _around(pair=counted, whole=True),
    "weakly active": _around(pair=weak),
    "redundant rows": _around(pair=strict, extend=more_rows),
    "repeated cones": _around(pair=strict, extend=more_cones),
    "redundant psd": _around(pair=strict, extend=more_psd),
    "infeasible": without(Status.INFEASIBLE),
    "unbounded": without(Status.UNBOUNDED),
}
"""By name: (rng, n, cones, batch, quadratic) -> problems."""
