"""What the right answers are, and how far an answer is from them.

Solutions are compared with a closed form, or with CVXPY and Clarabel at tight tolerances, element by element; gradients
of the loss sum(w * x) with a closed form, or in random directions with finite differences of those tight solutions. No
part of the package takes part in these references.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cvxpy as cp
import numpy as np

from benchmarks.families import Array, Family
from tests.support import differences

__all__ = ["GRADIENT_LIMIT", "SOLUTION_LIMIT", "Reference", "Verdict", "inner", "judge", "make_reference"]

SOLUTION_LIMIT = 1e-3
GRADIENT_LIMIT = 1e-2
"""Relative errors above which an answer is wrong. They are loose on purpose: first-order solvers at their default
accuracy can stay below them, and what an answer is worth can be read off its error in the table."""

REACH = 2.0**-6
"""The length of the directions, relative to the data: where constraints come and go, differences do not settle, and
large problems have many such places."""

LADDER = (1e-12, 1e-11, 1e-10, 1e-9)
"""Tolerances to ask of Clarabel, until one is met."""

SETTLED = 1e-6
"""To what difference two estimates of the tangents must agree for a slope to be trusted."""

LEVELS = 6
"""How many steps the differences try, each half of the last."""


@dataclass(frozen=True)
class Reference:
    """The right answers of one family.

    Attributes
    ----------
    weights : tuple of arrays
        The cotangents w, (B, *shape).
    solutions : tuple of arrays
        (B, *shape).
    gradients : tuple of arrays or None
        By the closed form, (B, *shape); None without one.
    elements : (E,) array of int
        Of which elements the slopes are known.
    directions : tuple of arrays
        A direction in the parameters of those elements, (D, E, *shape).
    slopes : (D, E) array
        The derivative of each element's loss along each direction; NaN where the differences did not settle.
    """

    weights: tuple[Array, ...]
    solutions: tuple[Array, ...]
    gradients: tuple[Array, ...] | None
    elements: np.ndarray
    directions: tuple[Array, ...]
    slopes: Array

    def select(self, elements: np.ndarray) -> Reference:
        """The answers of some elements; without a closed form these must be all of ``self.elements``."""
        weights, solutions = (tuple(part[elements] for part in parts) for parts in (self.weights, self.solutions))
        if self.gradients is not None:
            gradients = tuple(part[elements] for part in self.gradients)
            return replace(self, weights=weights, solutions=solutions, gradients=gradients)
        return replace(self, weights=weights, solutions=solutions, elements=np.arange(len(self.elements)))

    @property
    def unsettled(self) -> int:
        """How many slopes could not be determined."""
        return int(np.isnan(self.slopes).sum())


@dataclass(frozen=True)
class Verdict:
    """The relative errors of an answer, of the worst element each."""

    solution: float
    gradient: float

    @property
    def worst(self) -> float:
        """The larger of the two, each relative to its limit."""
        return max(self.solution / SOLUTION_LIMIT, self.gradient / GRADIENT_LIMIT)

    @property
    def wrong(self) -> str:
        """What is wrong with the answer, with figures; empty where nothing is.

        >>> Verdict(1e-9, 0.37).wrong
        'wrong: gradient off by 37 %'
        """
        faults = []
        if not self.solution <= SOLUTION_LIMIT:
            faults.append(f"solution {_off(self.solution)}")
        if not self.gradient <= GRADIENT_LIMIT:
            faults.append(f"gradient {_off(self.gradient)}")
        return "wrong: " + ", ".join(faults) if faults else ""


def _off(error: float) -> str:
    if not math.isfinite(error):
        return "not finite"
    if error < 1:
        return f"off by {100 * error:.2g} %"
    return f"off by {100 * error:.0f} %" if error < 1e4 else f"off by a factor of {error:.0e}"


def make_reference(
    family: Family, seed: int = 0, most_elements: int = 8, directions: int = 1, closed: bool = True
) -> Reference:
    """Find the right answers; slopes for at most so many elements, spread over the batch.

    With ``closed=False`` a closed form is not used, even where there is one.

    Raises
    ------
    RuntimeError
        If some element has no tight solution, or more than a quarter of the slopes did not settle.
    """
    weights = family.weights(seed)
    if closed and family.closed is not None:
        solutions, gradients = family.closed(family.data, weights)
        return Reference(weights, solutions, gradients, np.zeros(0, dtype=int), (), np.zeros((0, 0)))
    elements = np.unique(np.linspace(0, family.batch - 1, min(family.batch, most_elements)).astype(int))
    ways = _directions(family.select(elements), np.random.default_rng([seed, 2]), directions)
    slopes = np.full((directions, elements.size), np.nan)
    for column, element in enumerate(elements):
        w = [part[element] for part in weights]
        slopes[:, column] = _slopes(family, element, [way[:, column] for way in ways], w)
    found = Reference(weights, _solve(family, family.data), None, elements, ways, slopes)
    if found.unsettled > slopes.size // 4:
        raise RuntimeError(
            f"{family.name}: no reference for the gradient, because {found.unsettled} of {slopes.size} "
            "finite differences did not settle."
        )
    return found


def _solve(family: Family, data: Sequence[Array]) -> tuple[Array, ...]:
    """The solutions of all elements by CVXPY and Clarabel, at the tightest tolerance of the ladder that is met."""
    rows = [_solve_element(family, values) for values in zip(*data, strict=True)]
    return tuple(np.stack(column) for column in zip(*rows, strict=True))


def _solve_element(family: Family, values: tuple[Array, ...]) -> tuple[Array, ...]:
    if family.solution is not None:
        return tuple(np.asarray(part, dtype=float) for part in family.solution(*values))
    for parameter, value in zip(family.parameters, values, strict=True):
        parameter.value = value
    for accuracy in LADDER:
        # The reduced tolerances are the same: a point that misses them is no solution.
        options = {
            f"{kind}tol_{name}": accuracy for kind in ("", "reduced_") for name in ("gap_abs", "gap_rel", "feas")
        }
        try:
            family.problem.solve(cp.CLARABEL, gp=family.gp, warm_start=False, max_iter=500, **options)
        except cp.error.SolverError:
            continue
        if family.problem.status == cp.OPTIMAL:
            return tuple(np.array(variable.value, dtype=float) for variable in family.variables)
    raise RuntimeError(f"{family.name}: no reference, because Clarabel missed every tolerance of {LADDER}.")


def _directions(family: Family, rng: np.random.Generator, count: int) -> tuple[Array, ...]:
    """Random directions, in each parameter REACH times its data's size, symmetric where the parameter is."""
    ways = []
    for parameter, data in zip(family.parameters, family.data, strict=True):
        way = rng.standard_normal((count, *data.shape)) * REACH * np.sqrt(np.mean(data**2))
        symmetric = any(parameter.attributes[name] for name in ("PSD", "NSD", "symmetric"))
        ways.append((way + way.swapaxes(-1, -2)) / 2 if symmetric else way)
    return tuple(ways)


def _slopes(family: Family, element: int, ways: list[Array], weights: list[Array]) -> Array:
    """The slopes of one element's loss along each of the directions (D, *shape)."""
    point = [part[element] for part in family.data]
    along = list(zip(*ways, strict=True))
    found = differences.differentiate(lambda batch: _solve(family, batch), point, along, LEVELS)
    slopes = [differences.inner(weights, derivative.tangents) for derivative in found]
    return np.where([derivative.agreement <= SETTLED for derivative in found], slopes, np.nan)


def inner(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """The inner product of each element, (B,)."""
    return np.sum([(a * b).reshape(len(a), -1).sum(axis=1) for a, b in zip(first, second, strict=True)], axis=0)


def judge(right: Reference, outputs: Sequence[Array], gradients: Sequence[Array]) -> Verdict:
    """The errors of an answer: solutions (B, *shape) and the gradients of sum(w * x), (B, *shape).

    The error of a solution is its largest deviation, relative to the largest entry of its variable in the batch. The
    error of a gradient is, with a closed form, its largest deviation (norm over an element) relative to the root mean
    square of the norms; without, its largest deviation of a slope relative to the root mean square of the slopes.
    """
    solution = max(_largest(x - true) / _largest(true) for x, true in zip(outputs, right.solutions, strict=True))
    if right.gradients is not None:
        wrong = [g - true for g, true in zip(gradients, right.gradients, strict=True)]
        off, sizes = np.sqrt(inner(wrong, wrong)), np.sqrt(inner(right.gradients, right.gradients))
    else:
        chosen = [gradient[right.elements] for gradient in gradients]
        found = np.stack([inner(chosen, way) for way in zip(*right.directions, strict=True)])
        settled = ~np.isnan(right.slopes)
        off, sizes = (found - right.slopes)[settled], right.slopes[settled]
    return Verdict(float(solution), float(_largest(off) / np.sqrt(np.mean(sizes**2))))


def _largest(values: Array) -> float:
    return float(np.abs(values).max())
