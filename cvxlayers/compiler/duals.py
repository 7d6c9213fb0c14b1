"""Dual variables in CVXPY's sign, shape and layout, as linear functions of y."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.constraints import PSD, SOC, ExpCone, PowCone3D, PowConeND

from cvxlayers.compiler.canonicalize import Canonical
from cvxlayers.compiler.prepare import Prepared, dual_owners
from cvxlayers.cones.product import svec_length
from cvxlayers.errors import CompileError

__all__ = ["dual_components"]

# For each entry of a dual variable (Fortran order) its row in a block of y, and its weight; several for one entry add.
_Places = list[tuple[np.ndarray, np.ndarray]]


def dual_components(
    variable: cp.Variable, problem: cp.Problem, prepared: Prepared, canonical: Canonical
) -> list[sp.csr_array]:
    """The maps (size, m) from y to a dual variable: one, or for a complex one those of its real and imaginary part."""
    m = canonical.cones.m
    if variable.id not in prepared.duals:
        constraint, position = dual_owners(problem)[variable.id]
        return _read_off(variable, constraint, position, canonical)
    maps = [sp.csr_array((variable.size, m)), sp.csr_array((variable.size, m))]
    parts = prepared.duals[variable.id]
    for part in parts:
        (equality,) = _read_off(part.equality.dual_variables[0], part.equality, 0, canonical)
        maps[part.imaginary] = sp.csr_array(part.expand @ equality)
    return maps if any(part.imaginary for part in parts) else maps[:1]


def _read_off(
    variable: cp.Variable, constraint: cp.Constraint, position: int, canonical: Canonical
) -> list[sp.csr_array]:
    """The maps for a constraint that stands in y as one block of rows."""
    m = canonical.cones.m
    if not variable.size:
        return [sp.csr_array((0, m))]
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
            f"variables: the dual variable of constraint '{constraint}' was asked for, but canonicalization does not "
            "keep that constraint as one block of rows; leave this dual variable out."
        )
    maps = []
    for places in _dual_places(variable, constraint, position, final):
        block = sp.csr_array((variable.size, m))
        for rows, weights in places:
            block = block + sp.csr_array((weights, (np.arange(rows.size), start + rows)), shape=block.shape)
        maps.append(block)
    return maps


def _dual_places(
    variable: cp.Variable, constraint: cp.Constraint, position: int, final: cp.Constraint
) -> list[_Places]:
    """Where the entries of the dual variable stand in the constraint's block of y; for the real and imaginary part."""
    ones = np.ones(variable.size)
    if isinstance(constraint, PSD):
        return _psd_places(constraint, final)
    if isinstance(constraint, SOC):
        dimension = constraint.cone_sizes()[0]
        count = len(constraint.cone_sizes())
        cone = np.arange(count) * dimension
        if position == 0:
            return [[(cone, ones)]]
        inside = 1 + np.arange(dimension - 1)
        by_column = cone[None, :] + inside[:, None]  # (dimension - 1, cones)
        return [[((by_column if constraint.axis == 0 else by_column.T).ravel(order="F"), ones)]]
    if isinstance(constraint, PowConeND):
        if not isinstance(final, PowConeND):
            raise CompileError(
                f"variables: the dual variable of constraint '{constraint}' was asked for, but beside power cones of "
                "other dimensions CVXPY splits that constraint into several; leave this dual variable out, or give the "
                "cones one dimension."
            )
        return [_power_places(constraint, position)]
    if isinstance(constraint, ExpCone | PowCone3D):
        return [[(3 * np.arange(variable.size) + position, ones)]]
    return [[(np.arange(variable.size), ones)]]


def _power_places(constraint: PowConeND, position: int) -> _Places:
    """Each cone's rows are those of W and then the one of z; the cones are W's columns, or with axis 1 its rows."""
    dimension, count = constraint.cone_sizes()[0], constraint.num_cones()
    cone = np.arange(count) * dimension
    if position == 1:
        return [(cone + dimension - 1, np.ones(count))]
    by_column = cone[None, :] + np.arange(dimension - 1)[:, None]
    places = (by_column if constraint.axis == 0 else by_column.T).ravel(order="F")
    return [(places, np.ones(places.size))]


def _psd_places(constraint: PSD, final: cp.Constraint) -> list[_Places]:
    """Full matrices from packed triangles: upper, column by column, off-diagonals times sqrt(2).

    A Hermitian X = R + iC stands there as the real [[R, -C], [C, R]]. With its multiplier D in blocks,
    <D, [[R, -C], [C, R]]> = <D11 + D22, R> + <D21 - D12, C> = Re <Y, X>  for  Y = D11 + D22 + i (D21 - D12).
    """
    n = constraint.args[0].shape[-1]
    batch = constraint.args[0].shape[:-2]
    count = int(np.prod(batch, dtype=int))
    i, j = np.meshgrid(np.arange(n), np.arange(n), indexing="ij")

    def block(rows: np.ndarray, columns: np.ndarray, order: int, sign: float) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.minimum(rows, columns), np.maximum(rows, columns)
        weight = sign * np.where(rows == columns, 1.0, np.sqrt(0.5))
        blocks = np.arange(count).reshape(batch, order="F")
        places = blocks[..., None, None] * svec_length(order) + high * (high + 1) // 2 + low
        return places.ravel(order="F"), np.broadcast_to(weight, places.shape).ravel(order="F")

    if final.size == count * svec_length(n):
        return [[block(i, j, n, 1.0)]]
    diagonal = [block(i, j, 2 * n, 1.0), block(n + i, n + j, 2 * n, 1.0)]
    return [diagonal, [block(n + i, j, 2 * n, 1.0), block(i, n + j, 2 * n, -1.0)]]
