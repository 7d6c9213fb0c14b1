"""One row of the contract table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cvxpy as cp
import numpy as np

__all__ = ["Built", "Case", "Sample"]

Sample = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Built:
    """A problem, its parameters in the order of the samples, and what is returned."""

    problem: cp.Problem
    parameters: Sequence[cp.Parameter]
    variables: Sequence[cp.Variable]


@dataclass(frozen=True, eq=False)
class Case:
    """A family of problems with parameters; one object per row, compared by identity.

    Parameters
    ----------
    name : str
    build : () -> Built
        A new problem, with new leaves, at each call.
    sample : Generator -> tuple of arrays
        Parameter values at which the solution is unique and differentiable.
    kinds : set of str
        The kinds of cone of the standard form with the objective kept quadratic.
    quadratic : bool
        Whether the standard form then has a P.
    only_quadratic : bool
        Whether the problem can be compiled in that form alone (quad_form with a parameter).
    gp : bool
    loose : bool
        Whether the standard form leaves some of its own x or y free at the solution (the bound of a norm that is not
        active), so that the derivative's linear system is singular, though consistent: it may be called a fallback.
    closed_form : Sample -> outputs, optional
    """

    name: str
    build: Callable[[], Built]
    sample: Callable[[np.random.Generator], Sample]
    kinds: frozenset[str] | set[str] = field(default_factory=frozenset)
    quadratic: bool = False
    only_quadratic: bool = False
    gp: bool = False
    loose: bool = False
    closed_form: Callable[..., tuple[Any, ...]] | None = None

    def __str__(self) -> str:
        return self.name

    def point(self, seed: int = 0) -> Sample:
        """A sample, the same in every process."""
        return self.sample(np.random.default_rng([seed, *self.name.encode()]))
