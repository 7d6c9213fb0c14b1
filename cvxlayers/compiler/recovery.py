"""From the standard form's x and y back to the caller's variables: slices, symmetric unpacking, exponentials, duals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.upper_tri import batched_upper_tri_to_full
from cvxpy.reductions.complex2real.complex2real import Complex2Real
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp

from cvxlayers.compiler.canonicalize import Canonical
from cvxlayers.compiler.duals import dual_components
from cvxlayers.compiler.leaves import free_entries
from cvxlayers.compiler.prepare import Prepared
from cvxlayers.program.compiled import OutputSpec

__all__ = ["Recovery", "recovery"]


@dataclass(frozen=True)
class Recovery:
    """The outputs, and the maps with rows = primal @ x + dual @ y."""

    outputs: tuple[OutputSpec, ...]
    primal: sp.csr_array
    dual: sp.csr_array


def recovery(
    problem: cp.Problem, variables: Sequence[cp.Variable], prepared: Prepared, canonical: Canonical
) -> Recovery:
    """How each wanted variable is read off a solution."""
    primal_ids = {variable.id for variable in problem.variables()}
    traced = _trace_variables(problem, canonical)
    n, m = canonical.program.x.size, canonical.cones.m
    outputs: list[OutputSpec] = []
    primal, dual = [sp.csr_array((0, n))], [sp.csr_array((0, m))]
    start = 0
    for variable in variables:
        exponential = False
        if variable.id in primal_ids:
            kind, maps = "primal", [component.map for component in traced[variable.id]]
            exponential = any(component.logarithm for component in traced[variable.id])
        else:
            kind, maps = "dual", dual_components(variable, problem, prepared, canonical)
        block = sp.vstack(maps, format="csr")
        empty = sp.csr_array((block.shape[0], m if kind == "primal" else n))
        primal.append(block if kind == "primal" else empty)
        dual.append(empty if kind == "primal" else block)
        stop = start + block.shape[0]
        shape = tuple(variable.shape)
        outputs.append(OutputSpec(variable.name(), shape, kind, start, stop, exponential, len(maps) == 2))
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
