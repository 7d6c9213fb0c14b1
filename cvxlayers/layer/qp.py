"""Quadratic programs given by their matrices: compiled from shapes and patterns alone, without CVXPY.

    minimize  1/2 z'Qz + p'z    subject to  G z <= h,  A z = b          (z: n)

In the standard form x = z, P = (Q + Q')/2 and q = p; its first rows are A z + s = b with s = 0, the others G z + s = h
with s >= 0. The dual variables y are therefore those of the Lagrangian Qz + p + G'lambda + A'nu = 0, lambda >= 0.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cvxlayers.cones.product import Cones
from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record
from cvxlayers.layer.report import Info
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem, Feature, OutputSpec, ParameterSpec
from cvxlayers.program.structure import Pattern, Structure
from cvxlayers.program.summary import Rows, Summarized

__all__ = ["QP", "Form", "Matrix", "compile_qp", "qp_rows", "read_form", "read_patterns"]

ARGUMENTS = ("Q", "p", "G", "h", "A", "b")
MATRICES = ("Q", "G", "A")
ROWS = ("Q", "p", "A", "G", "b", "h")
"""In which order they stand in theta: what P, q, A and b depend on lies together."""

CACHED = 32
"""How many forms one object keeps; the one that was not used for the longest time makes room."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Matrix:
    """What is known of Q, G or A before its values.

    Attributes
    ----------
    rows, columns : int
    places : bytes or None
        The only places that may be nonzero, as sorted int64 numbers row * columns + column; None: all.
    packed : bool
        Whether only the values at ``places`` are handed in, (..., nnz), instead of the whole matrix.
    """

    rows: int
    columns: int
    places: bytes | None = None
    packed: bool = False

    @property
    def entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the places, row by row."""
        if self.places is None:
            flat = np.arange(self.rows * self.columns)
        else:
            flat = np.frombuffer(self.places, dtype=np.int64)
        return flat // max(self.columns, 1), flat % max(self.columns, 1)

    @property
    def nnz(self) -> int:
        return self.rows * self.columns if self.places is None else len(self.places) // 8

    @property
    def shape(self) -> Shape:
        """Of one value as it is handed in."""
        return (self.nnz,) if self.packed else (self.rows, self.columns)


@dataclass(frozen=True)
class Form:
    """Everything about a quadratic program but its numbers: hashable, the key under which a layer is kept.

    Attributes
    ----------
    n : int
        Variables.
    Q, G, A : Matrix or None
        None: absent.
    p : bool
        Whether there is a linear term.
    duals : bool
        Whether the dual variables of the constraints that are there are returned after x.
    """

    n: int
    Q: Matrix | None = None
    p: bool = True
    G: Matrix | None = None
    A: Matrix | None = None
    duals: bool = False

    @property
    def present(self) -> dict[str, Shape]:
        """The arguments that are there, in their order, with the shape of one element."""
        shapes = {"Q": self.Q.shape} if self.Q else {}
        if self.p:
            shapes["p"] = (self.n,)
        if self.G:
            shapes |= {"G": self.G.shape, "h": (self.G.rows,)}
        if self.A:
            shapes |= {"A": self.A.shape, "b": (self.A.rows,)}
        return shapes


class QP(Summarized):
    """Batches of quadratic programs on NumPy arrays; ``cvxlayers.torch.QPLayer`` is the same for PyTorch.

        minimize  1/2 z'Qz + p'z    subject to  G z <= h,  A z = b

    Parameters
    ----------
    patterns : mapping of str to (rows, columns) array, optional
        For "Q", "G" or "A" where it may be nonzero: anything that is not zero counts. Values elsewhere are an error.
    duals : bool
        Whether the dual variables are returned as well.
    solver : str, optional
        Default: IPM where Numba is installed and the problem fits it, otherwise the default of ``cvxlayers.Layer``.
    options
        ``solver_args``, ``verbose``, ``on_failure``, ``check_parameters``, ``polish``, ``smoothing`` and
        ``broadcast``, as for ``cvxlayers.Layer``. What ``check_parameters`` means here: (Q + Q')/2 has to be positive
        semidefinite.

    Raises
    ------
    OptionError, ParameterError
        An unknown option or pattern; a pattern of the wrong shape.

    Examples
    --------
    The point of the half-space z1 + z2 <= h nearest to the origin, shifted by p, for two values of h:

    >>> qp = QP(duals=True)
    >>> z, multiplier = qp(np.eye(2), -np.ones(2), G=np.ones((1, 2)), h=[[1.0], [3.0]])
    >>> z.round(6).tolist(), abs(multiplier.round(6)).tolist()
    ([[0.5, 0.5], [1.0, 1.0]], [[0.5], [0.0]])
    >>> record = qp.solve(np.eye(2), -np.ones(2), G=np.ones((1, 2)), h=[[1.0], [3.0]])
    >>> Q, p, G, h = record.vjp([np.ones((2, 2)), None])
    >>> abs(h.round(6)).tolist()
    [[1.0], [0.0]]
    """

    def __init__(
        self, patterns: Mapping[str, Any] | None = None, *, duals: bool = False, solver: str | None = None,
        **options: Any,
    ) -> None:  # fmt: skip
        self.patterns = read_patterns(patterns)
        self.duals = duals
        self.solver = solver
        self.options = options
        self._begin()

    def _begin(self) -> None:
        self._local = threading.local()
        self._layer = lru_cache(CACHED)(self._make)

    def summary_rows(self) -> Rows:
        return qp_rows(self.patterns, self.duals, self.solver, self.info)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_local", "_layer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._begin()

    def _make(self, form: Form) -> Layer:
        compiled = compile_qp(form)
        return Layer(compiled, self.solver, **self.options)

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call; None before the first."""
        layer = getattr(self._local, "layer", None)
        return layer and layer.info

    def __call__(
        self, Q: Any = None, p: Any = None, G: Any = None, h: Any = None, A: Any = None, b: Any = None,
        solver_args: Mapping[str, Any] | None = None,
    ) -> tuple[np.ndarray, ...]:  # fmt: skip
        """Solve: (x,), and with ``duals`` the multipliers of G z <= h and of A z = b, as far as there are these."""
        return self.solve(Q, p, G, h, A, b, solver_args).outputs

    def solve(
        self, Q: Any = None, p: Any = None, G: Any = None, h: Any = None, A: Any = None, b: Any = None,
        solver_args: Mapping[str, Any] | None = None,
    ) -> Record:  # fmt: skip
        """Solve, and keep what the derivatives need.

        Parameters
        ----------
        Q, p, G, h, A, b : arrays (..., n, n), (..., n), (..., rows, n), (..., rows), (..., rows, n), (..., rows)
            Their batch dimensions broadcast together; None is an argument that is absent.
        solver_args : mapping, optional
            Options for this call.

        Returns
        -------
        Record
            Its ``vjp`` gives a cotangent for each argument that is there, in their order; that of one which was
            shared is the sum over the batch, and that of Q is symmetric: 1/2 (dx z' + z dx').

        Raises
        ------
        ParameterError
            Shapes that do not fit together, values that are not finite, a Q that is not positive semidefinite.
        SolveError
            With ``on_failure="raise"``, when some element is infeasible, unbounded or without a verified solution.
        """
        given = dict(zip(ARGUMENTS, (Q, p, G, h, A, b), strict=True))
        form = read_form({name: np.shape(v) for name, v in given.items() if v is not None}, self.patterns, self.duals)
        layer = self._layer(form)
        self._local.layer = layer
        return layer.solve([given[name] for name in form.present], solver_args)


def qp_rows(patterns: Mapping[str, Matrix], duals: bool, solver: str | None, info: Info | None) -> Rows:
    """The summary of a layer of quadratic programs, on any framework."""
    return [
        ("patterns", ", ".join(f"{name}: {matrix.nnz} nonzeros" for name, matrix in patterns.items()) or "dense"),
        ("duals", "returned" if duals else "not returned"),
        ("solver", solver or "by default"),
        ("last call", "none" if info is None else info.brief),
    ]


def read_patterns(patterns: Mapping[str, Any] | None) -> dict[str, Matrix]:
    """The patterns that a caller names, as matrices of which the whole value is handed in."""
    found = {}
    for name, pattern in (patterns or {}).items():
        if name not in MATRICES:
            raise OptionError(f"patterns: expected the names {', '.join(map(repr, MATRICES))}, got {name!r}.")
        mask = np.asarray(pattern.todense() if sp.issparse(pattern) else pattern) != 0
        if mask.ndim != 2:
            raise ParameterError(
                f"patterns: that of '{name}' has the shape {mask.shape}, expected a matrix (rows, columns) that is "
                "nonzero where values may be."
            )
        found[name] = Matrix(mask.shape[0], mask.shape[1], np.flatnonzero(mask).astype(np.int64).tobytes())
    return found


def read_form(shapes: Mapping[str, Shape], known: Mapping[str, Matrix] | None = None, duals: bool = False) -> Form:
    """The form of a call from the shapes of the arguments that are there.

    Parameters
    ----------
    shapes : mapping of str to tuple
        With any batch dimensions in front.
    known : mapping of str to Matrix
        What is known besides of some matrices.

    Raises
    ------
    ParameterError
        An argument without its partner, or shapes that do not fit together.

    Examples
    --------
    >>> form = read_form({"Q": (8, 2, 2), "p": (2,), "A": (1, 2), "b": (8, 1)})
    >>> form.n, form.G, form.present
    (2, None, {'Q': (2, 2), 'p': (2,), 'A': (1, 2), 'b': (1,)})
    """
    known = known or {}
    for matrix, vector in (("G", "h"), ("A", "b")):
        if (matrix in shapes) != (vector in shapes):
            there, missing = (matrix, vector) if matrix in shapes else (vector, matrix)
            raise ParameterError(
                f"argument '{missing}': it is None, but '{there}' was given; hand in both of '{matrix}' and "
                f"'{vector}', or none."
            )
    n = _variables(shapes, known)
    matrices = {name: _matrix(name, shapes, known.get(name), n) for name in MATRICES if name in shapes}
    form = Form(n, matrices.get("Q"), "p" in shapes, matrices.get("G"), matrices.get("A"), duals)
    for name, expected in form.present.items():
        got = shapes[name]
        if len(got) < len(expected) or got[len(got) - len(expected) :] != expected:
            raise ParameterError(
                f"argument '{name}': got the shape {got}, expected {expected} with any batch dimensions in front, for "
                f"{n} variables (as {_source(shapes, known)} has it); reshape it, or check the order of the arguments "
                "Q, p, G, h, A, b."
            )
    return form


def _variables(shapes: Mapping[str, Shape], known: Mapping[str, Matrix]) -> int:
    source = _source(shapes, known)
    n = known[source].columns if source in known and source != "p" else (shapes[source] or (0,))[-1]
    if n < 1:
        raise ParameterError(
            f"argument '{source}': got the shape {shapes[source]}, expected one with at least one variable in its last "
            "dimension."
        )
    return n


def _source(shapes: Mapping[str, Shape], known: Mapping[str, Matrix]) -> str:
    """The argument that tells the number of variables."""
    for name in ("p", "Q", "G", "A"):
        if name in shapes:
            return name
    raise ParameterError(
        "arguments: all of Q, p, G, h, A and b are None; hand in at least one that tells the number of variables."
    )


def _matrix(name: str, shapes: Mapping[str, Shape], known: Matrix | None, n: int) -> Matrix:
    shape = shapes[name]
    if known is None:
        if len(shape) < 2:
            raise ParameterError(
                f"argument '{name}': got the shape {shape}, expected a matrix (..., {'n' if name == 'Q' else 'rows'}, "
                f"{n}); for one row, add a dimension."
            )
        return Matrix(n if name == "Q" else shape[-2], n)
    if known.columns != n or (name == "Q" and known.rows != n):
        raise ParameterError(
            f"argument '{name}': its pattern has the shape {(known.rows, known.columns)}, which does not fit {n} "
            "variables."
        )
    return known


def compile_qp(form: Form) -> CompiledProblem:
    """The standard form of a quadratic program, with the arguments that are there as its parameters.

    Examples
    --------
    >>> compiled = compile_qp(Form(2, Q=Matrix(2, 2), G=Matrix(3, 2)))
    >>> [spec.name for spec in compiled.parameters], compiled.structure.m, compiled.structure.P.nnz
    (['Q', 'p', 'G', 'h'], 3, 3)
    """
    starts, features, k = {}, [], 0
    present = list(form.present)
    for name in sorted(present, key=ROWS.index):
        starts[name], size = k, int(np.prod(form.present[name], dtype=int))
        features.append(Feature(present.index(name), "identity", k, k + size))
        k += size
    n, equalities, inequalities = form.n, form.A.rows if form.A else 0, form.G.rows if form.G else 0
    m = equalities + inequalities
    P_pattern, P = _objective(form, starts, k)
    A_pattern, A = _constraints(form, starts, k, m)
    q = _copied([("p", 0, n)] if form.p else [], n, starts, k)
    right = [("b", 0, equalities)] * bool(form.A) + [("h", equalities, inequalities)] * bool(form.G)
    b = _copied(right, m, starts, k)
    varying = frozenset(name for name, part in zip("PqAb", (P, q, A, b), strict=True) if part.varies)
    structure = Structure(P_pattern, A_pattern, Cones(zero=equalities, nonneg=inequalities), varying)
    outputs, primal, dual = _outputs(form, equalities, m)
    offset = AffineMap(sp.csr_array((1, k)), np.zeros(1))
    return CompiledProblem(structure, _parameters(form), outputs, tuple(features), P, q, A, b, offset, primal, dual)


def _parameters(form: Form) -> tuple[ParameterSpec, ...]:
    specs = []
    for name, shape in form.present.items():
        matrix: Matrix | None = getattr(form, name) if name in MATRICES else None
        sparsity = None
        if matrix and matrix.places is not None and not matrix.packed:
            rows, columns = matrix.entries
            sparsity = tuple((rows + matrix.rows * columns).tolist())
        attributes = frozenset({"PSD in its symmetric part"} if name == "Q" else ())
        specs.append(ParameterSpec(name, shape, attributes, sparsity=sparsity))
    return tuple(specs)


def _objective(form: Form, starts: Mapping[str, int], k: int) -> tuple[Pattern, AffineMap]:
    """The upper triangle of (Q + Q')/2."""
    n = form.n
    i, j, source = _sources(form.Q, starts.get("Q", 0))
    folded = np.minimum(i, j) + n * np.maximum(i, j)
    used, place = np.unique(folded, return_inverse=True)
    weights = np.where(i == j, 1.0, 0.5)
    pattern = Pattern.of(used % n, used // n, (n, n))
    return pattern, AffineMap(sp.csr_array((weights, (place, source)), shape=(used.size, k)), np.zeros(used.size))


def _constraints(form: Form, starts: Mapping[str, int], k: int, m: int) -> tuple[Pattern, AffineMap]:
    """A over G, by columns."""
    i, j, source = _sources(form.A, starts.get("A", 0))
    below, columns, more = _sources(form.G, starts.get("G", 0))
    rows = np.concatenate([i, below + (form.A.rows if form.A else 0)])
    columns, source = np.concatenate([j, columns]), np.concatenate([source, more])
    order = np.lexsort((rows, columns))
    pattern = Pattern.of(rows[order], columns[order], (m, form.n))
    linear = sp.csr_array((np.ones(order.size), (np.arange(order.size), source[order])), shape=(order.size, k))
    return pattern, AffineMap(linear, np.zeros(order.size))


def _sources(matrix: Matrix | None, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row, column and row of theta of each place of a matrix."""
    if matrix is None:
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    rows, columns = matrix.entries
    within = np.arange(rows.size) if matrix.packed else rows + matrix.rows * columns
    return rows, columns, start + within


def _copied(parts: list[tuple[str, int, int]], size: int, starts: Mapping[str, int], k: int) -> AffineMap:
    """The map that copies arguments to rows ``at`` and after: (name, at, length)."""
    rows = np.concatenate([np.arange(at, at + length) for _, at, length in parts] or [np.zeros(0, dtype=int)])
    source = [starts[name] + np.arange(length) for name, _, length in parts]
    columns = np.concatenate(source or [np.zeros(0, dtype=int)])
    return AffineMap(sp.csr_array((np.ones(rows.size), (rows, columns)), shape=(size, k)), np.zeros(size))


def _outputs(form: Form, equalities: int, m: int) -> tuple[tuple[OutputSpec, ...], sp.csr_array, sp.csr_array]:
    """x, and the dual variables where they are asked for."""
    n = form.n
    outputs = [OutputSpec("x", (n,), "primal", 0, n)]
    rows = []
    for name, matrix, first in (("inequality_duals", form.G, equalities), ("equality_duals", form.A, 0)):
        if form.duals and matrix:
            start = outputs[-1].stop
            outputs.append(OutputSpec(name, (matrix.rows,), "dual", start, start + matrix.rows))
            rows.append(first + np.arange(matrix.rows))
    source = np.concatenate([*rows, np.zeros(0, dtype=int)]).astype(int)
    size = n + source.size
    primal = sp.csr_array((np.ones(n), (np.arange(n), np.arange(n))), shape=(size, n))
    dual = sp.csr_array((np.ones(source.size), (n + np.arange(source.size), source)), shape=(size, m))
    return tuple(outputs), primal, dual
