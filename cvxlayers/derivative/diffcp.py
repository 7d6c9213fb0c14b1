"""The derivative that diffcp computes: that of the homogeneous self-dual embedding of a cone program without P.

With Q the skew matrix [[0, A', c], [-A, 0, b], [-c', -b', 0]], z = (x, v, 1) with v = y - s, and Pi(z) = (x, y, 1) its
projection onto R^n x K* x R_+, a solution is a zero of ((Q - I) Pi + I) z (Agrawal, Barratt, Boyd, Busseti, Moursi
2019, section 3; their c is our q). Its derivative in z is, with D that of Proj_{K*} at v,

    M = (Q - I) diag(I, D, 1) + I = [[0, A'D, c], [-A, I - D, b], [-c', -b'D, 0]].

Forward, M dz = dQ Pi(z) gives (dx, dy, ds) = -(du - x dw, D dv - y dw, D dv - dv - s dw) with dz = (du, dv, dw).
Backward, M'g = (gx, D (gy + gs) - gs, -(x'gx + y'gy + s'gs)) gives with g = (gu, gv, gw)

    dA = gv x' - y gu',    db = y gw - gv,    dc = x gw - gu.

M is singular by itself: a zero may be scaled, so M z = 0, and M'Pi(z) = 0 because Q is skew. Each right-hand side is
orthogonal to the kernel of the transpose, and moving dz along z, or g along Pi(z), changes nothing above. So
M + a Pi(z) z', with any a > 0, gives the same derivatives, and is regular where the solution map is differentiable.

What is not left to diffcp 1.1.9, and why: its mode lsqr stops early (gradients 10 to 40 % off were seen); its mode
dense solves normal equations, which squares the condition number; and its derivative of the projection onto the
exponential cone is off by up to 1 at about one in a hundred random points. The other projections' are its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from diffcp import _diffcp
from diffcp import cones as diffcp_cones
from numpy.typing import NDArray
from scipy.linalg import lapack, lstsq
from scipy.sparse.linalg import LinearOperator, lsmr, lsqr

from cvxlayers.cones import Cones, dual_derivative, from_scs_order, to_scs_order
from cvxlayers.derivative.base import Derivative, DerivativeReport, Linearization, kink_margin
from cvxlayers.errors import DerivativeError, EngineError, OptionError
from cvxlayers.program import Array, Structure, Values
from cvxlayers.solution import Solution

__all__ = ["DiffcpDerivative", "DiffcpLinearization"]

MODES = ("auto", "dense", "lsqr", "lsmr")

DENSE = 6000
"""The largest order n + m + 1 of M that is factorized (0.6 GB): "auto" does it up to there, and so does an iteration
that did not reach its end. It was 50 to 100 times faster than LSMR at every order that was tried, 160 to 3200."""

ACCEPTED = 1e-9
"""The relative residual up to which a solution of the linear system counts."""

SINGULAR = 1e-14
"""The reciprocal condition number below which M counts as singular, and least squares take over."""

ZERO = 1e-12
"""The singular values, relative to the largest, that count as zero in least squares."""

REFINEMENTS = 3
"""Solutions with the factors, the first included."""

ITERATIONS = 20
"""The limit of iterations, in multiples of the order."""

LEAST_SQUARES = 2
"""The code with which LSQR and LSMR say that the residual cannot become smaller."""

KEPT = 2**28
"""Bytes that the factors of one batch may take to be kept for later applications."""


class DiffcpDerivative(Derivative):
    """Derivatives of cone programs through the self-dual embedding.

    Parameters
    ----------
    structure : Structure
        Without P and without power cones, which diffcp does not know.
    threads : int
        How many threads may work on one batch.
    mode : "auto", "dense", "lsqr" or "lsmr"
        How the linear systems are solved: by LU, or by one of SciPy's iterations, run until its residual is small and
        followed by LU if it does not become small. "auto" is "dense" up to order 6000, "lsmr" beyond.

    Raises
    ------
    EngineError
        If the problem has a quadratic objective or a power cone.
    OptionError
        If there is no such mode.
    """

    def __init__(self, structure: Structure, threads: int = 1, mode: str = "auto") -> None:
        if structure.quadratic or structure.cones.power:
            what = "a quadratic objective (P)" if structure.quadratic else "power cones"
            raise EngineError(f"The derivative of DIFFCP cannot take {what}: choose another solver, such as CLARABEL.")
        if mode not in MODES:
            raise OptionError(f"The argument mode must be one of {', '.join(MODES)}, not {mode!r}.")
        self.structure = structure
        self.threads = threads
        self.layout = _Layout.of(structure)
        self.mode = mode if mode != "auto" else ("dense" if self.layout.order <= DENSE else "lsmr")

    def linearize(self, values: Values, solution: Solution) -> DiffcpLinearization:
        return DiffcpLinearization(self, values, solution)


class DiffcpLinearization(Linearization):
    """The derivative at the solutions of one batch; factors are made at the first application."""

    def __init__(self, derivative: DiffcpDerivative, values: Values, solution: Solution) -> None:
        self._derivative = derivative
        self._values = values
        self._x, self._y, self._s = solution.x, solution.y, solution.s
        self._blocks = derivative.layout.exponential_blocks(solution.y - solution.s)
        self._residual = np.zeros(solution.batch)
        self._fallback = np.zeros(solution.batch, dtype=bool)
        self._keep = solution.batch * derivative.layout.order**2 * 16 <= KEPT
        self._systems: dict[int, _System] = {}

    @property
    def report(self) -> DerivativeReport:
        near = kink_margin(self._derivative.structure.cones, self._y - self._s)
        return DerivativeReport(self._residual.copy(), near, self._fallback.copy())

    def vjp(self, dx: Array, dy: Array, ds: Array | None = None) -> Values:
        x, y, s = self._x, self._y, self._s
        structure, zeros = self._derivative.structure, np.zeros_like(y)
        ds = zeros if ds is None else ds
        last = -np.einsum("ib,ib->b", x, dx) - np.einsum("ib,ib->b", y, dy) - np.einsum("ib,ib->b", s, ds)

        def adjoint(i: int) -> Array:
            system = self._system(i)
            right = np.concatenate([dx[:, i], system.D.times(dy[:, i] + ds[:, i]) - ds[:, i], last[i : i + 1]])
            return self._solved(i, system, right, transposed=True)

        gu, gv, gw = self._split(self._each(adjoint, self._derivative.layout.order))
        A, varying = structure.A, structure.varying
        dA = gv[A.rows] * x[A.columns] - y[A.rows] * gu[A.columns] if "A" in varying else np.zeros((A.nnz, x.shape[1]))
        dq = x * gw - gu if "q" in varying else np.zeros_like(x)
        db = y * gw - gv if "b" in varying else zeros
        return Values(np.zeros((0, x.shape[1])), dq, dA, db)

    def jvp(self, dvalues: Values) -> tuple[Array, Array, Array]:
        x, y, s, A = self._x, self._y, self._s, self._derivative.structure.A
        dq, dA, db = dvalues.q, dvalues.A, dvalues.b
        last = -np.einsum("ib,ib->b", dq, x) - np.einsum("ib,ib->b", db, y)
        right = np.concatenate([A.transpose_times(dA, y) + dq, db - A.times(dA, x), last[None]])

        def tangent(i: int) -> Array:
            system = self._system(i)
            z = self._solved(i, system, right[:, i], transposed=False)
            return np.concatenate([z, system.D.times(z[x.shape[0] : -1])])

        order = self._derivative.layout.order
        rows = self._each(tangent, order + y.shape[0])
        du, dv, dw = self._split(rows[:order])
        Ddv = rows[order:]
        return x * dw - du, y * dw - Ddv, s * dw + dv - Ddv

    def _split(self, z: Array) -> tuple[Array, Array, Array]:
        n = self._x.shape[0]
        return z[:n], z[n:-1], z[-1]

    def _each(self, task: Callable[[int], Array], height: int) -> Array:
        """The vectors task(0), ..., task(B - 1) as columns, worked out by up to ``threads`` threads: (height, B)."""
        batch = self._x.shape[1]
        if not batch:
            return np.zeros((height, 0))
        workers = min(self._derivative.threads, batch)
        if workers < 2:
            return np.stack([task(i) for i in range(batch)], axis=1)
        with ThreadPoolExecutor(workers) as pool:
            return np.stack(list(pool.map(task, range(batch))), axis=1)

    def _system(self, i: int) -> _System:
        found = self._systems.get(i)
        if found is None:
            values, layout = self._values, self._derivative.layout
            v = self._y[:, i] - self._s[:, i]
            D = _Projection.at(layout, v, self._blocks[..., i])
            entries, A = np.ascontiguousarray(values.A[:, i]), layout.structure.A
            found = _System(
                A.matrix(entries),
                A.transposed(entries),
                values.b[:, i],
                values.q[:, i],
                self._x[:, i],
                self._y[:, i],
                v,
                D,
            )
            if self._keep:
                self._systems[i] = found
        return found

    def _solved(self, i: int, system: _System, right: Array, transposed: bool) -> Array:
        """The solution of the i-th element's system, entered into the report."""
        try:
            answer = _solve(system, right, transposed, self._derivative.mode)
        except DerivativeError as exc:
            raise DerivativeError(f"Batch element {i}: {exc}") from exc
        self._residual[i] = np.maximum(self._residual[i], answer.residual)
        self._fallback[i] |= answer.singular
        return answer.z


@dataclass(frozen=True)
class _Layout:
    """What depends on the structure alone: where the rows lie, and diffcp's cones.

    Rows before ``head`` are diffcp's; those of exponential cones follow. ``rows`` and ``back`` turn rows before
    ``head`` into diffcp's order and back.
    """

    structure: Structure
    head: int
    rows: NDArray[np.intp]
    back: NDArray[np.intp]
    cones: list[Any]

    @classmethod
    def of(cls, structure: Structure) -> _Layout:
        K = structure.cones
        before = Cones(K.zero, K.nonneg, K.second_order, K.psd)
        named = {"z": before.zero, "l": before.nonneg, "q": list(before.second_order), "s": list(before.psd)}
        cones = diffcp_cones.parse_cone_dict_cpp(diffcp_cones.parse_cone_dict(named))
        return cls(structure, before.m, to_scs_order(before), from_scs_order(before), cones)

    @property
    def order(self) -> int:
        """The order of M."""
        return self.structure.n + self.structure.m + 1

    def exponential_blocks(self, v: Array) -> Array:
        """D of each exponential cone, (3, 3, cones, B), for v (m, B)."""
        count = self.structure.cones.exponential
        if not count:
            return np.zeros((3, 3, 0, v.shape[1]))
        (_, blocks), *_ = dual_derivative(Cones(exponential=count), v[self.head :]).blocks
        return blocks


@dataclass(frozen=True)
class _Projection:
    """D, the symmetric derivative of Proj_{K*}, for one element."""

    layout: _Layout
    operator: Any
    point: Array
    blocks: Array

    @classmethod
    def at(cls, layout: _Layout, v: Array, blocks: Array) -> _Projection:
        point = np.ascontiguousarray(v[: layout.head][layout.rows])
        return cls(layout, _diffcp.dprojection(point, layout.cones, True), point, blocks)

    def times(self, w: Array) -> Array:
        """D w, (m,)."""
        head, out = self.layout.head, np.empty_like(w)
        out[:head] = self.operator.matvec(w[:head][self.layout.rows])[self.layout.back] if head else 0.0
        out[head:] = np.einsum("ijk,kj->ki", self.blocks, w[head:].reshape(-1, 3)).ravel()
        return out

    def dense(self) -> Array:
        """D, (m, m)."""
        head, back = self.layout.head, self.layout.back
        D = np.zeros((self.layout.structure.m,) * 2)
        if head:
            D[:head, :head] = _diffcp.dprojection_dense(self.point, self.layout.cones, True)[np.ix_(back, back)]
        for k in range(self.blocks.shape[2]):
            rows = slice(head + 3 * k, head + 3 * k + 3)
            D[rows, rows] = self.blocks[:, :, k]
        return D


@dataclass(frozen=True)
class _System:
    """M + border for one element, with border = a Pi(z) z' / (|Pi(z)| |z|) and a the size of M."""

    A: sp.csc_array
    At: sp.csr_array
    b: Array
    c: Array
    x: Array
    y: Array
    v: Array
    D: _Projection

    @cached_property
    def _border(self) -> tuple[Array, Array]:
        left, right = np.concatenate([self.x, self.y, [1.0]]), np.concatenate([self.x, self.v, [1.0]])
        norms = np.linalg.norm(left) * np.linalg.norm(right)
        squares = [2 * np.square(part).sum() for part in (self.A.data, self.b, self.c)]
        return left * (np.sqrt(np.sum(squares) / left.size) / norms), right

    def times(self, z: Array) -> Array:
        """(M + border) z, (n + m + 1,)."""
        n, (left, right) = self.x.size, self._border
        zx, zv, zw = z[:n], z[n:-1], z[-1]
        Dzv = self.D.times(zv)
        upper = self.At @ Dzv + self.c * zw
        lower = zv - Dzv - self.A @ zx + self.b * zw
        return np.concatenate([upper, lower, [-self.c @ zx - self.b @ Dzv]]) + left * (right @ z)

    def transpose_times(self, g: Array) -> Array:
        """(M + border)'g, (n + m + 1,)."""
        n, (left, right) = self.x.size, self._border
        gx, gv, gw = g[:n], g[n:-1], g[-1]
        upper = -(self.At @ gv) - self.c * gw
        lower = gv + self.D.times(self.A @ gx - gv - self.b * gw)
        return np.concatenate([upper, lower, [self.c @ gx + self.b @ gv]]) + right * (left @ g)

    @cached_property
    def matrix(self) -> Array:
        n, D, (left, right) = self.x.size, self.D.dense(), self._border
        M = np.outer(left, right)
        M[:n, n:-1] += self.At @ D
        M[n:-1, :n] -= self.A.toarray()
        M[n:-1, n:-1] += np.eye(self.v.size) - D
        M[:n, -1] += self.c
        M[n:-1, -1] += self.b
        M[-1, :n] -= self.c
        M[-1, n:-1] -= D @ self.b
        return M

    @cached_property
    def factor(self) -> tuple[Array, NDArray[np.int32], bool]:
        """The LU factors of the matrix, its pivots, and whether it is singular to working accuracy."""
        lu, pivots, info = lapack.dgetrf(self.matrix)
        reciprocal = 0.0 if info else lapack.dgecon(lu, np.abs(self.matrix).sum(axis=0).max())[0]
        return lu, pivots, not reciprocal > SINGULAR


@dataclass(frozen=True)
class _Answer:
    """The solution z of a system, its relative residual, and whether least squares had to do."""

    z: Array
    residual: float
    singular: bool


def _solve(system: _System, right: Array, transposed: bool, mode: str) -> _Answer:
    if not right.any():
        return _Answer(np.zeros_like(right), 0.0, False)
    return _direct(system, right, transposed) if mode == "dense" else _iterated(system, right, transposed, mode)


def _direct(system: _System, right: Array, transposed: bool) -> _Answer:
    """By LU with refinement; where that fails, the least-squares solution of least norm."""
    M = system.matrix.T if transposed else system.matrix
    lu, pivots, singular = system.factor
    if not singular:
        z = np.zeros_like(right)
        for _ in range(REFINEMENTS):
            z = z + lapack.dgetrs(lu, pivots, right - M @ z, trans=int(transposed))[0]
        residual = _relative(M @ z - right, right)
        if residual <= ACCEPTED:
            return _Answer(z, residual, False)
    if not (np.isfinite(M).all() and np.isfinite(right).all()):
        return _Answer(np.full_like(right, np.nan), np.nan, True)
    z = lstsq(M, right, cond=ZERO)[0]
    return _Answer(z, _relative(M @ z - right, right), True)


def _iterated(system: _System, right: Array, transposed: bool, mode: str) -> _Answer:
    """By LSQR or LSMR until the residual is small; if it does not become small, by LU."""
    order = right.size
    products = (system.times, system.transpose_times)
    times, back = reversed(products) if transposed else products
    operator = LinearOperator((order, order), matvec=times, rmatvec=back, dtype=np.float64)
    limits = {"iter_lim" if mode == "lsqr" else "maxiter": ITERATIONS * order}
    method = lsqr if mode == "lsqr" else lsmr
    z, reason = method(operator, right, atol=1e-14, btol=ACCEPTED / 10, conlim=0.0, **limits)[:2]
    residual = _relative(times(z) - right, right)
    if residual <= ACCEPTED:
        return _Answer(z, residual, False)
    if order <= DENSE:
        return _direct(system, right, transposed)
    if reason == LEAST_SQUARES:
        return _Answer(z, residual, True)
    raise DerivativeError(
        f"{mode} left its linear system of order {order} with the relative residual {residual:.1e}, which is not "
        "enough for a derivative. Choose another solver than DIFFCP: the others' derivative is factorized."
    )


def _relative(rest: Array, right: Array) -> float:
    return float(np.linalg.norm(rest) / np.linalg.norm(right))
