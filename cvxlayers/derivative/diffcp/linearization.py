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
M + a Pi(z) z', with any a > 0, gives the same derivatives, and is regular where J (see ``system``) is. Elements of
which J is singular have the derivative of all engines (see ``refinement.least_norm``).

What is not left to diffcp 1.1.9, and why: its mode lsqr stops early (gradients 10 to 40 % off were seen); its mode
dense solves normal equations, which squares the condition number; and its derivative of the projection onto the
exponential cone is off by up to 1 at about one in a hundred random points. The other projections' are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import lapack
from scipy.sparse.linalg import LinearOperator, lsmr, lsqr

from cvxlayers.derivative.base import Derivative, DerivativeReport, Linearization
from cvxlayers.derivative.diffcp.embedding import KINDS, EmbeddingLayout, EmbeddingSystem, Projection
from cvxlayers.derivative.exact import ExactDerivative
from cvxlayers.derivative.rescaled import Rescaled, needs_units, scaled_problem
from cvxlayers.errors import EngineError, OptionError
from cvxlayers.program.parallel import parallel_for
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["DiffcpDerivative", "DiffcpLinearization", "Effort"]

MODES = ("auto", "dense", "sparse", "lsqr", "lsmr")

SPARSE = 400, 0.05
"""From which order on, and up to which share of nonzeros, "auto" factorizes a sparse matrix (measured: at order 1001
with 0.8 %, and at 1284 with 3 %, it was 6 times faster; at 198 with 5 %, and at 236 with 12 %, half as fast)."""

ACCEPTED = 1e-9
"""The relative residual up to which a solution of the linear system counts."""

REFINEMENTS = 3
"""Solutions with the factors, the first included."""


@dataclass(frozen=True)
class Effort:
    """How far the linear systems are pursued, and what is kept of them.

    Parameters
    ----------
    dense : int
        The largest order n + m + 1 of M that is factorized (0.6 GB): "auto" does it up to there, and so does an
        iteration that did not reach its end. It was 50 to 100 times faster than LSMR at every order that was tried,
        160 to 3200.
    iterations : int
        The limit of iterations, in multiples of the order.
    kept : int
        Bytes that the factors of one batch may take to be kept for later applications.

    Examples
    --------
    >>> Effort(kept=0).dense  # keeps no factors, and factorizes what it otherwise would
    6000
    """

    dense: int = 6000
    iterations: int = 20
    kept: int = 2**28


class DiffcpDerivative(Derivative):
    """Derivatives of cone programs through the self-dual embedding.

    Parameters
    ----------
    structure : Structure
        Without P and without power cones, which diffcp does not know.
    threads : int
        How many threads may work on one batch.
    mode : "auto", "dense", "sparse", "lsqr" or "lsmr"
        How the linear systems are solved: by LU, of a matrix that is stored densely or sparsely, or by one of SciPy's
        iterations, run until its residual is small; what is then not solved is by dense LU. "auto" is "sparse" or
        "dense", whichever is the faster, up to order 6000, "lsmr" beyond.
    effort : Effort, optional
        How far that goes, and what is kept.

    Raises
    ------
    EngineError
        If the problem has a quadratic objective or a power cone.
    OptionError
        If there is no such mode.
    """

    def __init__(
        self, structure: Structure, threads: int = 1, mode: str = "auto", effort: Effort | None = None
    ) -> None:
        strange = structure.cones.kinds() - KINDS
        if structure.quadratic or strange:
            what = "a quadratic objective (P)" if structure.quadratic else f"cones of the kind {', '.join(strange)}"
            raise EngineError(f"The derivative of DIFFCP cannot take {what}: choose another solver, such as CLARABEL.")
        if mode not in MODES:
            raise OptionError(f"The argument mode must be one of {', '.join(MODES)}, not {mode!r}.")
        self.structure = structure
        self.threads = threads
        self.layout = EmbeddingLayout.of(structure)
        self.effort = effort or Effort()
        self.mode = mode if mode != "auto" else _best(self.layout, self.effort.dense)

    def linearize(self, values: Values, solution: Solution) -> DiffcpLinearization:
        return DiffcpLinearization(self, values, solution)


class DiffcpLinearization(Linearization):
    """The derivative at the solutions of one batch; elements that are singular, or that the embedding's systems leave
    unsolved, have that of ``exact``, which is computed for all and says which are."""

    def __init__(self, derivative: DiffcpDerivative, values: Values, solution: Solution) -> None:
        self._exact = ExactDerivative(derivative.structure, derivative.threads).linearize(values, solution)
        self._own = _embedded(derivative, values, solution)

    @property
    def kept(self) -> int:
        return self._own.kept

    @property
    def report(self) -> DerivativeReport:
        own, exact = self._own.report, self._exact.report
        taken = exact.fallback | own.fallback
        return replace(exact, residual=np.where(taken, exact.residual, own.residual))

    def vjp(self, dx: Array, dy: Array, ds: Array | None = None) -> Values:
        own, exact = self._own.vjp(dx, dy, ds), self._exact.vjp(dx, dy, ds)
        return Values(*self._chosen(own, exact))

    def jvp(self, dvalues: Values) -> tuple[Array, Array, Array]:
        dx, dy, ds = self._chosen(self._own.jvp(dvalues), self._exact.jvp(dvalues))
        return dx, dy, ds

    def _chosen(self, own: Sequence[Array], exact: Sequence[Array]) -> list[Array]:
        taken = self._own.report.fallback | self._exact.report.fallback
        return [np.where(taken, theirs, ours) if taken.any() else ours for ours, theirs in zip(own, exact, strict=True)]


def _embedded(derivative: DiffcpDerivative, values: Values, solution: Solution) -> Linearization:
    """That of the embedding alone, in scaled units where the caller's may leave y and s incomparable."""
    elements = needs_units(derivative.structure, values, solution, flat=True)
    if elements.any():
        found, values, solution = scaled_problem(derivative.structure, values, solution, elements)
        return Rescaled(derivative.structure, found, _Embedded(derivative, values, solution))
    return _Embedded(derivative, values, solution)


class _Embedded(Linearization):
    """The derivative by the embedding; factors are made at the first application. Its report calls a fallback what is
    not solved."""

    def __init__(self, derivative: DiffcpDerivative, values: Values, solution: Solution) -> None:
        self._derivative = derivative
        self._values = values
        self._x, self._y, self._s = solution.x, solution.y, solution.s
        self._blocks = derivative.layout.exponential_blocks(solution.y - solution.s)
        self._residual = np.zeros(solution.batch)
        sparse = derivative.mode == "sparse" and solution.batch > 0
        self._entries = derivative.layout.entries(solution.y - solution.s) if sparse else None
        self._keep = solution.batch * derivative.layout.order**2 * 16 <= derivative.effort.kept
        self._systems: dict[int, EmbeddingSystem] = {}

    @property
    def kept(self) -> int:
        return len(self._systems)

    @property
    def report(self) -> DerivativeReport:
        nothing = np.zeros_like(self._residual)
        return DerivativeReport(self._residual.copy(), nothing, nothing, ~(self._residual <= ACCEPTED))

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
        found = np.empty((height, self._x.shape[1]))

        def column(i: int) -> None:
            found[:, i] = task(i)

        parallel_for(column, list(range(found.shape[1])), self._derivative.threads)
        return found

    def _system(self, i: int) -> EmbeddingSystem:
        found = self._systems.get(i)
        if found is None:
            values, layout = self._values, self._derivative.layout
            v = self._y[:, i] - self._s[:, i]
            D = Projection.at(layout, v, self._blocks[..., i])
            entries, A = np.ascontiguousarray(values.A[:, i]), layout.structure.A
            found = EmbeddingSystem(
                A.matrix(entries),
                A.transposed(entries),
                values.b[:, i],
                values.q[:, i],
                self._x[:, i],
                self._y[:, i],
                v,
                D,
                None if self._entries is None else self._entries[:, i],
            )
            if self._keep:
                self._systems[i] = found
        return found

    def _solved(self, i: int, system: EmbeddingSystem, right: Array, transposed: bool) -> Array:
        """The solution of the i-th element's system, whose residual is kept."""
        z, residual = _solve(system, right, transposed, self._derivative.mode, self._derivative.effort)
        self._residual[i] = np.maximum(self._residual[i], residual)
        return z


_Answer = tuple[Array, float]
"""The solution of a system and its relative residual."""


def _best(layout: EmbeddingLayout, dense: int) -> str:
    order, share = SPARSE
    if layout.order > dense:
        return "lsmr"
    return "sparse" if layout.order >= order and layout.filled <= share * layout.order**2 else "dense"


def _solve(system: EmbeddingSystem, right: Array, transposed: bool, mode: str, effort: Effort) -> _Answer:
    if not right.any():
        return np.zeros_like(right), 0.0
    if mode == "sparse":
        return _sparse(system, right, transposed, effort)
    return _dense(system, right, transposed) if mode == "dense" else _iterated(system, right, transposed, mode, effort)


def _sparse(system: EmbeddingSystem, right: Array, transposed: bool, effort: Effort) -> _Answer:
    """By sparse LU with refinement; where that fails, as without a sparse matrix."""
    factor = system.sparse
    if factor is not None:
        times = system.transpose_times if transposed else system.times
        z, residual = _refined(lambda rest: factor.solve(rest, transposed), times, right)
        if residual <= ACCEPTED:
            return z, residual
    return _solve(system, right, transposed, "dense" if right.size <= effort.dense else "lsmr", effort)


def _dense(system: EmbeddingSystem, right: Array, transposed: bool) -> _Answer:
    """By LU with refinement."""
    M = system.matrix.T if transposed else system.matrix
    lu, pivots, singular = system.factor
    if singular:
        return np.full_like(right, np.nan), np.inf
    return _refined(lambda rest: lapack.dgetrs(lu, pivots, rest, trans=int(transposed))[0], M.__matmul__, right)


def _refined(solve: Callable[[Array], Array], times: Callable[[Array], Array], right: Array) -> _Answer:
    z, rest = np.zeros_like(right), right
    for _ in range(REFINEMENTS):
        z = z + solve(rest)
        rest = right - times(z)
    return z, _relative(rest, right)


def _iterated(system: EmbeddingSystem, right: Array, transposed: bool, mode: str, effort: Effort) -> _Answer:
    """By LSQR or LSMR until the residual is small; if it does not become small, by LU."""
    order = right.size
    products = (system.times, system.transpose_times)
    times, back = reversed(products) if transposed else products
    operator = LinearOperator((order, order), matvec=times, rmatvec=back, dtype=np.float64)
    limits = {"iter_lim" if mode == "lsqr" else "maxiter": effort.iterations * order}
    method = lsqr if mode == "lsqr" else lsmr
    z = method(operator, right, atol=1e-14, btol=ACCEPTED / 10, conlim=0.0, **limits)[0]
    residual = _relative(times(z) - right, right)
    return (z, residual) if residual <= ACCEPTED or order > effort.dense else _dense(system, right, transposed)


def _relative(rest: Array, right: Array) -> float:
    return float(np.linalg.norm(rest) / np.linalg.norm(right))
