"""Bounds that are none: rows of the nonnegative cone whose b_i is infinite, or so large that users mean it to be.

Such a row is no row, for each element of a batch by itself: its entries of A become zero and its b_i one, so that s_i
is one, y_i zero, and no solver, measure or derivative ever sees it. A parameter may hold an infinite entry if all that
it enters is b, in nonnegative rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cvxlayers.layer.glance import all_below
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["LARGEST", "finite_bounds", "open_rows", "parameters_of_bounds", "without"]

LARGEST = 0.999e20
"""A bound of this size or more is none (1e20 is what QP solvers and data sets write, up to rounding)."""

FAR = 1e30
"""Stands for infinity in a parameter: what a bound is multiplied with does not make it small."""


def parameters_of_bounds(compiled: CompiledProblem) -> tuple[bool, ...]:
    """For each parameter, whether it enters nothing but b, in rows of the nonnegative cone."""
    cones = compiled.structure.cones
    elsewhere = np.zeros(compiled.k, dtype=bool)
    for part in (compiled.P, compiled.q, compiled.A):
        elsewhere[part.linear.indices] = True
    entries = compiled.b.linear.tocoo()
    bound = (entries.row >= cones.zero) & (entries.row < cones.zero + cones.nonneg)
    elsewhere[entries.col[~bound]] = True
    found = [not compiled.gp] * len(compiled.parameters)
    for feature in compiled.features:
        found[feature.parameter] &= not elsewhere[feature.start : feature.stop].any()
    return tuple(found)


def finite_bounds(compiled: CompiledProblem, bounds: tuple[bool, ...], theta: Array) -> Array:
    """theta with finite numbers in place of the infinite ones of parameters that are bounds."""
    found = theta.copy()
    for feature in compiled.features:
        if bounds[feature.parameter]:
            rows = found[feature.start : feature.stop]
            rows[:] = np.where(np.isinf(rows), np.copysign(FAR, rows), rows)
    return found


def open_rows(structure: Structure, b: Array) -> NDArray[np.bool_] | None:
    """The rows of the nonnegative cone that bound nothing, (nonneg, B); None if every row does."""
    cones = structure.cones
    rows = b[cones.zero : cones.zero + cones.nonneg]
    if all_below(rows, LARGEST):
        return None
    return np.asarray(rows >= LARGEST)


def without(structure: Structure, values: Values, rows: NDArray[np.bool_]) -> Values:
    """The values without these rows, (nonneg, B)."""
    whole = np.zeros((structure.m, values.batch), dtype=bool)
    whole[structure.cones.zero : structure.cones.zero + structure.cones.nonneg] = rows
    A = np.where(whole[structure.A.rows], 0.0, values.A)
    return Values(values.P, values.q, A, np.where(whole, 1.0, values.b))
