"""CompiledProblem: everything about a problem that does not change from call to call, free of CVXPY."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.linear import LinearMap, broadcast_column
from cvxlayers.program.packed_maps import Stack
from cvxlayers.program.structure import Array, Structure, Values
from cvxlayers.program.summary import Rows, Summarized, counted

__all__ = ["CompiledProblem", "Evaluation", "Feature", "OutputSpec", "ParameterSpec"]

LISTED = 10
"""How many parameters or variables a summary names."""


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter as the caller hands it in.

    Attributes
    ----------
    attributes : frozenset of str
        The CVXPY attributes that its values must satisfy ("nonneg", "pos", "PSD", "symmetric", ...).
    bounds : (lower, upper) or None
        For each entry, flattened in Fortran order.
    sparsity : tuple of int or None
        The only places that may be nonzero, in Fortran order.
    """

    name: str
    shape: tuple[int, ...]
    attributes: frozenset[str] = frozenset()
    complex: bool = False
    bounds: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    sparsity: tuple[int, ...] | None = None

    @cached_property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Feature:
    """Rows ``start:stop`` of theta: one parameter, flattened in Fortran order and transformed elementwise.

    ``transform`` is "identity", "log" (log-log convex programs), "real" or "imag".
    """

    parameter: int
    transform: str
    start: int
    stop: int


@dataclass(frozen=True)
class OutputSpec:
    """One returned variable: its shape, whether it is a "primal" or a "dual" variable, and how it is recovered.

    Rows ``start:stop`` of the recovery product hold it, flattened in Fortran order; a complex one has its real
    and then its imaginary part there. With ``exponential`` the rows hold its logarithm.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    stop: int
    exponential: bool = False
    complex: bool = False

    @cached_property
    def flat(self) -> bool:
        """Whether the rows are the variable's entries in their order."""
        return len(self.shape) < 2 and not (self.exponential or self.complex)


@dataclass(frozen=True)
class Evaluation:
    """What compiled kernels need in order to go from theta to the outputs' rows.

    Attributes
    ----------
    stack : Stack
        theta -> the values that vary, one below the other; and x, y (one below the other) -> the outputs' rows.
    parts : tuple
        For each of P, q, A, b the rows that it has among these values; or the column (rows, 1) of values that never
        vary; or the map itself, where it depends on parameters alone that the batch shares.
    """

    stack: Stack
    parts: tuple[slice | Array | AffineMap, ...]

    def at(self, theta: Array, made: Array) -> list[Array]:
        """The rows of ``made``, where these values are to be, or the column of each of P, q, A, b for theta (k, B)."""
        return [
            made[part] if isinstance(part, slice) else part(theta[:, :1]) if isinstance(part, AffineMap) else part
            for part in self.parts
        ]


@dataclass(frozen=True, repr=False)
class CompiledProblem(Summarized):
    """A parametrized problem in standard form; made by ``cvxlayers.compile``, frozen and picklable.

    Printed, it is a summary; in a notebook, a table.

    Attributes
    ----------
    structure : Structure
        Sizes, patterns and cones.
    parameters, outputs : tuple of ParameterSpec, tuple of OutputSpec
        In the order in which values are handed in and returned.
    features : tuple of Feature
        The rows of theta (k, B).
    P, q, A, b, offset : AffineMap
        theta -> values; ``offset`` is the constant term of the objective, one row.
    primal, dual : csr_array
        Recovery: rows = primal @ x + dual @ y.
    maximize, gp : bool
        Whether the problem maximizes, and whether it is a log-log convex program solved in logarithms.

    Examples
    --------
    >>> import cvxpy as cp, cvxlayers
    >>> x, c = cp.Variable(2), cp.Parameter(2, name="c")
    >>> compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0]))
    >>> [p.name for p in compiled.parameters], compiled.structure.cones.nonneg
    (['c'], 2)
    """

    structure: Structure
    parameters: tuple[ParameterSpec, ...]
    outputs: tuple[OutputSpec, ...]
    features: tuple[Feature, ...]
    P: AffineMap
    q: AffineMap
    A: AffineMap
    b: AffineMap
    offset: AffineMap
    primal: sp.csr_array
    dual: sp.csr_array
    maximize: bool = False
    gp: bool = False

    save: ClassVar[Callable[[CompiledProblem, str | os.PathLike[str]], None]]
    """Write it to a file that ``cvxlayers.load`` reads without CVXPY. The format is written in terms of this class, so
    it is ``cvxlayers.program.artefact`` that attaches this method."""

    @property
    def signature(self) -> Rows:
        """What goes in and what comes out, with shapes."""
        return [("parameters", _shaped(self.parameters)), ("variables", _shaped(self.outputs))]

    def summary_rows(self) -> Rows:
        structure = self.structure
        task = ["maximize" if self.maximize else "minimize", "quadratic" if structure.quadratic else "linear"]
        sizes = [counted(structure.n, "variable"), counted(structure.m, "row")]
        varying = ", ".join(name for name, part in self._maps if part.varies)
        return [
            *self.signature,
            ("objective", ", ".join([*task, "in logarithms"] if self.gp else task)),
            ("standard form", f"{', '.join(sizes)}; nonzeros: P {structure.P.nnz}, A {structure.A.nnz}"),
            ("cones", _cones(structure.cones)),
            ("depends on parameters", varying or "nothing"),
        ]

    @property
    def k(self) -> int:
        """The number of rows of theta."""
        return self.features[-1].stop if self.features else 0

    def evaluate(self, theta: Array, shared: frozenset[int] = frozenset()) -> Values:
        """The values of the standard form at theta (k, B): four sparse products.

        ``shared`` numbers the features that are the same for the whole batch. What depends on these alone is computed
        once and comes back as a broadcast view.
        """
        batch = theta.shape[1]
        parts = []
        for name, part in self._maps:
            once = shared and part.varies and self._inputs[name] <= shared
            parts.append(broadcast_column(part(theta[:, :1]), batch) if once else part(theta))
        return Values(*parts)

    def pullback(self, dvalues: Values) -> Array:
        """The cotangent of theta for one of the values, (k, B)."""
        dtheta = np.empty((self.k, dvalues.batch))
        if not self._adjacent:
            dtheta[:] = 0.0
        for name, part in self._maps:
            if not part.varies:
                continue
            if self._adjacent:
                part.pullback_columns(getattr(dvalues, name), dtheta[part.columns])
            else:
                dtheta[part.columns] += part.pullback_columns(getattr(dvalues, name))
        return dtheta

    def evaluation(self, shared: frozenset[int] = frozenset()) -> Evaluation:
        """How compiled kernels evaluate and recover; ``shared`` as for ``evaluate``."""
        if shared not in self._evaluations:
            self._evaluations[shared] = self._evaluation(shared)
        return self._evaluations[shared]

    def _evaluation(self, shared: frozenset[int]) -> Evaluation:
        parts: list[slice | Array | AffineMap] = []
        varying, start = [], 0
        for name, part in self._maps:
            if not part.varies:
                parts.append(np.ascontiguousarray(part.constant[:, None]))
            elif shared and self._inputs[name] <= shared:
                parts.append(part)
            else:
                parts.append(slice(start, start + part.rows))
                varying.append(part)
                start += part.rows
        matrix = sp.vstack([sp.csr_array((0, self.k)), *(part.linear for part in varying)], format="csr")
        constant = np.concatenate([np.zeros(0), *(part.constant for part in varying)])
        recovery = sp.hstack([self.primal, self.dual], format="csr")
        return Evaluation(Stack.of((sp.csr_array(matrix), constant), (sp.csr_array(recovery), None)), tuple(parts))

    @cached_property
    def _evaluations(self) -> dict[frozenset[int], Evaluation]:
        return {}

    @cached_property
    def adjoint(self) -> Stack:
        """What compiled kernels need in order to go from the outputs' rows' cotangents to theta's.

        Those -> the cotangents of x and y, one below the other; and rx, rv, the cotangents of P and those of A (each if
        it varies), one below the other -> the cotangents of the features, one below the other, each with its entries
        in C order.
        """
        n, m = self.structure.n, self.structure.m
        back = sp.vstack([self.primal.T, self.dual.T], format="csr")
        parts = [-self.q.linear.T, self.b.linear.T, *(p.linear.T for p in (self.P, self.A) if p.varies)]
        assert parts[0].shape == (self.k, n) and parts[1].shape == (self.k, m)
        order = [feature.start + _in_C_order(self.parameters[feature.parameter].shape) for feature in self.features]
        forth = sp.hstack(parts, format="csr")[np.concatenate([np.zeros(0, dtype=np.intp), *order])]
        return Stack.of((sp.csr_array(back), None), (sp.csr_array(forth), None))

    @cached_property
    def direct(self) -> bool:
        """Whether there are features, and all of them are parameters as they are."""
        return bool(self.features) and all(feature.transform == "identity" for feature in self.features)

    @cached_property
    def conditional(self) -> bool:
        """Whether some parameter has attributes, bounds or a sparsity pattern to be checked."""
        return any(p.attributes or p.bounds or p.sparsity is not None for p in self.parameters)

    @cached_property
    def complex(self) -> bool:
        """Whether some output is."""
        return any(spec.complex for spec in self.outputs)

    @cached_property
    def ends(self) -> NDArray[np.int32]:
        """Where each feature's rows of theta end."""
        return np.array([feature.stop for feature in self.features], dtype=np.int32)

    def by_feature(self, theta: Array) -> list[Array]:
        """The rows of theta (k, B) of each feature, (B, size), with the parameter's entries in C order."""
        parts = []
        for feature in self.features:
            shape, rows = self.parameters[feature.parameter].shape, theta[feature.start : feature.stop]
            folded = rows.reshape((*reversed(shape), rows.shape[1])) if len(shape) > 1 else rows
            parts.append(np.ascontiguousarray(folded.T).reshape(rows.shape[::-1]))
        return parts

    @cached_property
    def _maps(self) -> tuple[tuple[str, AffineMap], ...]:
        return ("P", self.P), ("q", self.q), ("A", self.A), ("b", self.b)

    @cached_property
    def _inputs(self) -> dict[str, frozenset[int]]:
        """The features on which P, q, A and b depend."""
        starts = [feature.start for feature in self.features]
        used = {name: np.unique(part.linear.indices) for name, part in self._maps}
        return {name: frozenset((np.searchsorted(starts, at, "right") - 1).tolist()) for name, at in used.items()}

    @cached_property
    def _adjacent(self) -> bool:
        """Whether P, q, A and b depend on rows of theta that follow each other, without gaps."""
        ends = [0, *(part.columns.stop for _, part in self._maps if part.varies)]
        starts = [*(part.columns.start for _, part in self._maps if part.varies), self.k]
        return starts == ends

    @cached_property
    def _primal(self) -> LinearMap:
        return LinearMap(self.primal)

    @cached_property
    def _dual(self) -> LinearMap:
        return LinearMap(self.dual)

    def recover(self, x: Array, y: Array) -> Array:
        """The rows of all outputs, before exponentials: (rows, B)."""
        rows = self._primal(x)
        if self.dual.nnz:
            rows += self._dual(y)
        return rows

    def recover_adjoint(self, rows: Array) -> tuple[Array, Array]:
        """The cotangents of x and y for a cotangent of the recovered rows."""
        dx = self._primal.adjoint(rows)
        if self.dual.nnz:
            return dx, self._dual.adjoint(rows)
        return dx, np.zeros((self.structure.m, rows.shape[1]))

    def objective(self, theta: Array, cost: Array) -> Array:
        """The problem's own objective where 1/2 x'Px + q'x is ``cost``, in the caller's sign and scale: (B,)."""
        if self.offset.varies:
            cost = cost + self.offset(theta)[0]
        elif self.offset.constant[0]:
            cost = cost + self.offset.constant[0]
        cost = -cost if self.maximize else cost
        return np.exp(cost) if self.gp else cost


def _shaped(specs: Sequence[ParameterSpec] | Sequence[OutputSpec]) -> str:
    """Names and shapes; where there are many, of the first."""
    said = [f"{spec.name} {spec.shape}" for spec in specs[:LISTED]]
    more = [f"{len(specs) - LISTED} more"] if len(specs) > LISTED else []
    return ", ".join([*said, *more]) or "none"


def _cones(cones: Cones) -> str:
    """The rows of each kind of cone, and where there are several of a kind how many."""
    rows, blocks = Counter[str](), Counter[str]()
    for block in cones.blocks:
        rows[block.kind] += block.stop - block.start
        blocks[block.kind] += 1
    said = [f"{kind} {rows[kind]}" + (f" ({many} cones)" if many > 1 else "") for kind, many in blocks.items()]
    return ", ".join(said) or "none"


def _in_C_order(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Where each entry, in C order, stands in Fortran order."""
    return np.arange(math.prod(shape)).reshape(shape, order="F").ravel()
