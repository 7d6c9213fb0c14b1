"""From the standard form's x and y back to the caller's variables: slices, symmetric unpacking, exponentials, duals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.upper_tri import batched_upper_tri_to_full
from cvxpy.constraints import PSD, SOC, ExpCone, PowCone3D, SvecPSD
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp

from cvxlayers.compiled import OutputSpec
from cvxlayers.compiler.canonicalize import Canonical
from cvxlayers.compiler.parameters import free_entries
from cvxlayers.cones.product import svec_length
from cvxlayers.errors import CompileError

__all__ = ["Recovery", "dual_owners", "recovery"]


@dataclass(frozen=True)
class Recovery:
    """The outputs, and the maps with rows = primal @ x + dual @ y."""

    outputs: tuple[OutputSpec, ...]
    primal: sp.csr_array
    dual: sp.csr_array


def dual_owners(problem: cp.Problem) -> dict[int, tuple[cp.Constraint, int]]:
    """Which constraint each dual variable belongs to, and its position there: id -> (constraint, position)."""
    return {
        variable.id: (constraint, position)
        for constraint in problem.constraints
        for position, variable in enumerate(constraint.dual_variables)
    }


def recovery(problem: cp.Problem, variables: Sequence[cp.Variable], canonical: Canonical) -> Recovery:
    """How each wanted variable is read off a solution."""
    primal_ids = {variable.id for variable in problem.variables()}
    owners = dual_owners(problem)
    traced = _trace_variables(problem, canonical)
    n, m = canonical.program.x.size, canonical.cones.m
    outputs: list[OutputSpec] = []
    primal, dual = [sp.csr_array((0, n))], [sp.csr_array((0, m))]
    start = 0
    for variable in variables:
        if variable.id in primal_ids:
            components = traced[variable.id]
            block = sp.vstack([component.map for component in components], format="csr")
            primal.append(block)
            dual.append(sp.csr_array((block.shape[0], m)))
        else:
            components = []
            block = _dual_map(variable, *owners[variable.id], canonical)
            primal.append(sp.csr_array((block.shape[0], n)))
            dual.append(block)
        stop = start + block.shape[0]
        outputs.append(
            OutputSpec(
                variable.name(),
                tuple(variable.shape),
                "primal" if components else "dual",
                start,
                stop,
                exponential=any(component.logarithm for component in components),
                complex=len(components) == 2,
            )
        )
        start = stop
    return Recovery(tuple(outputs), sp.vstack(primal, format="csr"), sp.vstack(dual, format="csr"))


@dataclass(frozen=True)
class _Component:
    """A real component of a variable: a linear function of some stage's variable, possibly of its logarithm.

    ``map`` is (size, size of that variable) while it is traced, and (size, n) in the end.
    """

    stage_id: int
    map: sp.csr_array
    logarithm: bool = False


def _trace_variables(problem: cp.Problem, canonical: Canonical) -> dict[int, list[_Component]]:
    """Follow every variable through the chain to columns of x."""
    traced = {v.id: [_Component(v.id, sp.eye_array(v.size, format="csr"))] for v in problem.variables()}
    for reduction in canonical.reductions:
        if isinstance(reduction, Complex2Real) and reduction.canon_methods is not None:
            for variable, parts in reduction.canon_methods._variables.items():
                traced[variable.id] = _complex_parts(variable, parts)
            continue
        replaced: dict[int, tuple[int, sp.csr_array | None, bool]] = {}
        if isinstance(reduction, Dgp2Dcp) and reduction.canon_methods is not None:
            replaced = {v.id: (new.id, None, True) for v, new in reduction.canon_methods._variables.items()}
        elif isinstance(reduction, CvxAttr2Constr):
            replaced = {
                v.id: (new.id, sp.csr_array(free_entries(v).T) if v._has_dim_reducing_attr else None, False)
                for v, new in reduction._variables.items()
            }
            for v, (count, n) in reduction._symmetric_vars.items():
                replaced[v.id] = (v.id, sp.csr_array(batched_upper_tri_to_full(count, n)), False)
        for key, components in traced.items():
            traced[key] = [_follow(component, replaced) for component in components]
    return {key: [_place(component, canonical) for component in components] for key, components in traced.items()}


def _follow(component: _Component, replaced: dict[int, tuple[int, sp.csr_array | None, bool]]) -> _Component:
    if component.stage_id not in replaced:
        return component
    new_id, expand, logarithm = replaced[component.stage_id]
    moved = component.map if expand is None else sp.csr_array(component.map @ expand)
    return _Component(new_id, moved, component.logarithm or logarithm)


def _complex_parts(variable: cp.Variable, parts: tuple[cp.Variable | None, cp.Variable | None]) -> list[_Component]:
    """The real and the imaginary part; a Hermitian variable's imaginary part is its strict upper triangle."""
    size = variable.size
    real, imag = parts
    components = []
    for part, hermitian in ((real, False), (imag, bool(variable.attributes["hermitian"]))):
        if part is None:
            components.append(_Component(variable.id, sp.csr_array((size, 0))))
        elif hermitian:
            n = variable.shape[0]
            i, j = np.triu_indices(n, k=1)
            rows, signs = np.concatenate([i + n * j, j + n * i]), np.repeat([1.0, -1.0], i.size)
            skew = sp.csr_array((signs, (rows, np.tile(np.arange(i.size), 2))), shape=(size, i.size))
            components.append(_Component(part.id, skew))
        else:
            components.append(_Component(part.id, sp.eye_array(size, format="csr")))
    return components


def _place(component: _Component, canonical: Canonical) -> _Component:
    """Columns of x for a stage's variable; one that canonicalization dropped (nothing depends on it) is zero."""
    program = canonical.program
    size, n = component.map.shape[0], program.x.size
    column = program.var_id_to_col.get(component.stage_id)
    if column is None or component.map.shape[1] == 0:
        return _Component(component.stage_id, sp.csr_array((size, n)), component.logarithm)
    entries = sp.coo_array(component.map)
    placed = sp.csr_array((entries.data, (entries.row, entries.col + column)), shape=(size, n))
    return _Component(component.stage_id, placed, component.logarithm)


def _dual_map(variable: cp.Variable, constraint: cp.Constraint, position: int, canonical: Canonical) -> sp.csr_array:
    """The map from y to one dual variable, in CVXPY's own sign and layout."""
    final_id = constraint.id
    for reduction in canonical.reductions:
        final_id = reduction.cons_id_map.get(final_id, final_id)
    start = 0
    for final in canonical.program.constraints:
        if final.id == final_id:
            break
        start += final.size
    else:
        raise CompileError(
            f"variables: the dual variable of constraint '{constraint}' was asked for, but canonicalization does "
            "not keep that "
            "constraint as one block of rows; leave this dual variable out."
        )
    _refuse_rewritten(constraint, final)
    places, weights = _dual_places(variable, constraint, position, final)
    rows = np.arange(variable.size)
    return sp.csr_array((weights, (rows, start + places)), shape=(variable.size, canonical.cones.m))


def _refuse_rewritten(constraint: cp.Constraint, final: cp.Constraint) -> None:
    """Complex constraints and those that become other cones have no dual that can be read off y."""
    rewritten = constraint.is_complex() or (
        isinstance(constraint, PSD | SOC | ExpCone | PowCone3D)
        and type(final) is not type(constraint)
        and not (isinstance(constraint, PSD) and isinstance(final, SvecPSD))
    )
    if rewritten or (sum(v.size for v in constraint.dual_variables) < final.size and not isinstance(final, SvecPSD)):
        raise CompileError(
            f"variables: the dual variable of constraint '{constraint}' was asked for, but the constraint is rewritten "
            f"({type(constraint).__name__} becomes {type(final).__name__}) and its dual cannot be read off; "
            "write the constraint in real cones of the standard form, or leave this dual variable out."
        )


def _dual_places(
    variable: cp.Variable, constraint: cp.Constraint, position: int, final: cp.Constraint
) -> tuple[np.ndarray, np.ndarray]:
    """For each entry of the dual variable (Fortran order): its row in the constraint's block, and its weight."""
    ones = np.ones(variable.size)
    if isinstance(constraint, PSD):
        return _psd_places(constraint)
    if isinstance(constraint, SOC):
        dimension = constraint.cone_sizes()[0]
        count = len(constraint.cone_sizes())
        cone = np.arange(count) * dimension
        if position == 0:
            return cone, ones
        inside = 1 + np.arange(dimension - 1)
        by_column = cone[None, :] + inside[:, None]  # (dimension - 1, cones)
        return (by_column if constraint.axis == 0 else by_column.T).ravel(order="F"), ones
    if isinstance(constraint, ExpCone | PowCone3D):
        return 3 * np.arange(variable.size) + position, ones
    return np.arange(variable.size), ones


def _psd_places(constraint: PSD) -> tuple[np.ndarray, np.ndarray]:
    """Full symmetric matrices from packed triangles: upper, column by column, off-diagonals times sqrt(2)."""
    n = constraint.args[0].shape[-1]
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")
    low, high = np.minimum(i, j), np.maximum(i, j)
    one = high * (high + 1) // 2 + low
    weight = np.where(i == j, 1.0, np.sqrt(0.5))
    batch = constraint.args[0].shape[:-2]
    blocks = np.arange(int(np.prod(batch, dtype=int))).reshape(batch, order="F")
    places = blocks[..., None, None] * svec_length(n) + one
    return places.ravel(order="F"), np.broadcast_to(weight, places.shape).ravel(order="F")
