"""What is known of a kind of cone beside its functions: its names, and how many rows and how much structure it has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["Kind", "svec_length"]


def svec_length(order: int) -> int:
    """The number of entries of the packed triangle of a symmetric matrix of this order."""
    return order * (order + 1) // 2


@dataclass(frozen=True)
class Kind:
    """A kind of cone; each file of ``cvxlayers.cones`` that has one says so in its ``KIND``.

    Parameters
    ----------
    name : str
        By which code knows it: the field of ``Cones``, and what solvers list.
    title : str
        By which people know it, in tables.
    measure : str
        What the field of ``Cones`` holds: the number of "rows" or of "cones", or of each cone its "dimension", its
        "order", its "exponent" or its "exponents".
    rows : callable
        The number of rows of one cone, from what the field holds of it (of "cones": 3).
    degree : callable
        The parameter of its logarithmically homogeneous barrier (Nesterov and Nemirovskii 1994), likewise.
    nonnegative : callable
        Which of d rows are nonnegative in all its points, as numbers below d.
    polyhedral : bool
        Whether it has rows and no blocks: its projection works row by row, and is linear in pieces.
    rank_one_terms : int
        How many rank-one terms its D, the derivative of the projection, has beside a multiple of the identity; 0 where
        there are as many as rows.
    spectrum : callable
        How many numbers ``BlockDerivative.spectrum`` takes for a cone of d rows; 0 where D is not told by one.
    compiled : bool
        Whether its functions are kernels as well (``cvxlayers.cones.kernels``), for where Numba is usable.
    """

    name: str
    title: str
    measure: str
    rows: Callable[[Any], int]
    degree: Callable[[Any], int]
    nonnegative: Callable[[int], Iterable[int]]
    polyhedral: bool = False
    rank_one_terms: int = 0
    spectrum: Callable[[int], int] = lambda d: d * (d + 1)
    compiled: bool = False

    def listed(self, held: Any) -> list[Any]:
        """Of each block what the field holds of it; rows make one block, if there are any."""
        if self.measure == "rows":
            return [held] if held else []
        return [3] * held if self.measure == "cones" else list(held)

    def held(self, listed: Iterable[Any]) -> Any:
        """What the field holds for these blocks: the inverse of ``listed``, but that rows are added up."""
        blocks = tuple(listed)
        return sum(blocks) if self.measure == "rows" else len(blocks) if self.measure == "cones" else blocks
