"""The compiler: a parametrized CVXPY problem goes in once, a CompiledProblem comes out.

Only this room touches CVXPY's internals.
"""

from __future__ import annotations

from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.compiler.canonicalize import Canonical, canonicalize
from cvxlayers.compiler.implied import without_implied
from cvxlayers.compiler.parameters import parameter_features, parameter_spec
from cvxlayers.compiler.prepare import prepare
from cvxlayers.compiler.recovery import recovery
from cvxlayers.compiler.validate import validate
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Pattern, Structure

__all__ = ["compile"]


def compile(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter] | None = None,
    variables: Sequence[cp.Variable] | None = None,
    gp: bool = False,
    quadratic: bool = True,
) -> CompiledProblem:
    """Compile a parametrized problem into the standard form; the problem itself is left as it is.

    Parameters
    ----------
    problem : cvxpy.Problem
        Disciplined convex (DCP), or with ``gp=True`` log-log convex (DGP), and disciplined in its parameters (DPP;
        Agrawal, Amos, Barratt, Boyd, Diamond, Kolter 2019). No parameter needs a value.
    parameters : sequence of cvxpy.Parameter, optional
        All parameters of the problem, in the order in which values will be handed in. Default: the problem's own order.
    variables : sequence of cvxpy.Variable, optional
        What is returned, in this order: variables of the problem, or dual variables of its constraints
        (``constraint.dual_variables[0]``). Default: all variables of the problem, in its own order.
    gp : bool
        Whether to treat the problem as a log-log convex program (Agrawal, Diamond, Boyd 2019).
    quadratic : bool
        Whether a quadratic objective stays quadratic (P); if not, it becomes second-order cones, for an engine that
        takes no P. A parameter P in ``quad_form(x, P)`` needs it.

    Raises
    ------
    NotConvexError, NotDPPError, MixedIntegerError, UnknownLeafError
        See ``cvxlayers.errors``; the text names what is wrong and a way to write it.

    Examples
    --------
    >>> import cvxpy as cp
    >>> x, c = cp.Variable(3), cp.Parameter(3)
    >>> compiled = compile(cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0]))
    >>> compiled.structure.n, compiled.structure.cones.zero, compiled.structure.cones.nonneg
    (6, 4, 3)
    """
    parameters, variables = validate(problem, parameters, variables, gp, quadratic)
    prepared = prepare(problem, variables, gp, quadratic)
    canonical = canonicalize(prepared.problem, gp, quadratic)
    features, select = parameter_features(parameters, canonical)
    wanted = recovery(problem, variables, prepared, canonical)
    P_pattern, P = _objective_matrix(canonical, select)
    A_pattern, A, b = _constraints(canonical, select)
    q, offset = _objective_vector(canonical, select)
    varying = frozenset(name for name, part in zip("PqAb", (P, q, A, b), strict=True) if part.varies)
    structure = Structure(P_pattern, A_pattern, canonical.cones, varying)
    compiled = CompiledProblem(
        structure, tuple(parameter_spec(p) for p in parameters), wanted.outputs, features, P, q, A, b, offset,
        wanted.primal, wanted.dual, maximize=isinstance(problem.objective, cp.Maximize), gp=gp,
    )  # fmt: skip
    return without_implied(compiled)


def _constraints(canonical: Canonical, select: sp.csr_array) -> tuple[Pattern, AffineMap, AffineMap]:
    """A and b: CVXPY stuffs (coefficient, offset) with coefficient x + offset in K: A = -coefficient, b = offset."""
    n, m = canonical.program.x.size, canonical.cones.m
    tensor = sp.coo_array(canonical.program.A)
    entry = tensor.row.astype(np.int64)
    in_A = (entry < n * m) & (tensor.data != 0)
    used = np.unique(entry[in_A])
    pattern = Pattern.of(used % m if m else used, used // m if m else used, (m, n))
    A = _affine_part(tensor, in_A, np.searchsorted(used, entry[in_A]), -1.0, used.size, select)
    in_b = entry >= n * m
    b = _affine_part(tensor, in_b, entry[in_b] - n * m, 1.0, m, select)
    return pattern, A, b


def _objective_matrix(canonical: Canonical, select: sp.csr_array) -> tuple[Pattern, AffineMap]:
    """The upper triangle of (P + P')/2: CVXPY's P need not be symmetric as it stands."""
    n = canonical.program.x.size
    if canonical.program.P is None:
        empty = np.zeros(0, dtype=np.int64)
        return Pattern.of(empty, empty, (n, n)), AffineMap(sp.csr_array((0, select.shape[1])), np.zeros(0))
    tensor = sp.coo_array(canonical.program.P)
    entry = tensor.row.astype(np.int64)
    i, j = entry % n, entry // n
    folded = np.minimum(i, j) + n * np.maximum(i, j)
    keep = tensor.data != 0
    used = np.unique(folded[keep])
    weights = np.where(i == j, 1.0, 0.5)[keep]
    pattern = Pattern.of(used % n, used // n, (n, n))
    return pattern, _affine_part(tensor, keep, np.searchsorted(used, folded[keep]), weights, used.size, select)


def _objective_vector(canonical: Canonical, select: sp.csr_array) -> tuple[AffineMap, AffineMap]:
    """q, and the constant term of the objective, which is the tensor's last row."""
    n = canonical.program.x.size
    tensor = sp.coo_array(canonical.program.q)
    in_q = tensor.row < n
    q = _affine_part(tensor, in_q, tensor.row[in_q], 1.0, n, select)
    return q, _affine_part(tensor, ~in_q, tensor.row[~in_q] - n, 1.0, 1, select)


def _affine_part(
    tensor: sp.coo_array,
    keep: np.ndarray,
    rows: np.ndarray,
    weights: float | np.ndarray,
    size: int,
    select: sp.csr_array,
) -> AffineMap:
    """The kept entries of a tensor (entries, parameters + 1), sent to ``rows`` times ``weights``, as an affine map."""
    gathered = sp.csr_array((tensor.data[keep] * weights, (rows, tensor.col[keep])), shape=(size, tensor.shape[1]))
    constant = np.asarray(gathered[:, [-1]].todense()).ravel()
    linear = sp.csr_array(gathered[:, :-1] @ select)
    linear.eliminate_zeros()
    return AffineMap(linear, constant)
