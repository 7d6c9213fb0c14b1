"""The product cone K of the standard form: its dimensions and where each block's rows lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Block", "Cones", "svec_length"]


def svec_length(order: int) -> int:
    """The number of entries of the packed triangle of a symmetric matrix of this order."""
    return order * (order + 1) // 2


@dataclass(frozen=True)
class Block:
    """One cone of the product: its kind, its rows ``start:stop`` and its own data.

    ``data`` is the order of the matrix for a PSD block, the exponent alpha for a power block, and the
    dimension for every other kind.
    """

    kind: str
    start: int
    stop: int
    data: float

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Cones:
    """K = {0}^zero x R_+^nonneg x SOC... x PSD... x EXP^exponential x POW(alpha)..., always in this order.

    Parameters
    ----------
    zero, nonneg : int
        Number of rows that are equalities, and that are inequalities s >= 0.
    second_order : tuple of int
        Dimensions of the second-order cones {(t, u): norm(u) <= t}, t first.
    psd : tuple of int
        Orders of the positive semidefinite cones; their rows hold the upper triangle, column by column,
        with off-diagonal entries times sqrt(2) (see ``svec``).
    exponential : int
        Number of exponential cones {(u, v, w): v exp(u / v) <= w, v > 0} and their closure.
    power : tuple of float
        Exponents alpha in (0, 1) of the cones {(u, v, w): u^alpha v^(1 - alpha) >= |w|, u, v >= 0}.

    Examples
    --------
    >>> Cones(zero=1, nonneg=2, second_order=(3,), psd=(2,)).m
    9
    """

    zero: int = 0
    nonneg: int = 0
    second_order: tuple[int, ...] = ()
    psd: tuple[int, ...] = ()
    exponential: int = 0
    power: tuple[float, ...] = ()

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks in row order; zero and nonneg are one block each, and empty ones are left out."""
        return tuple(self._walk())

    @cached_property
    def m(self) -> int:
        """The number of rows, which is the length of s and of y."""
        return self.blocks[-1].stop if self.blocks else 0

    @cached_property
    def degree(self) -> int:
        """The barrier parameter: s'y / degree is the average complementarity."""
        return self.nonneg + len(self.second_order) + sum(self.psd) + 3 * self.exponential + 3 * len(self.power)

    @property
    def polyhedral(self) -> bool:
        """Whether K has only zero and nonnegative rows."""
        return not (self.second_order or self.psd or self.exponential or self.power)

    def kinds(self) -> frozenset[str]:
        """The kinds of cone that occur: a subset of zero, nonneg, second_order, psd, exponential, power."""
        return frozenset(block.kind for block in self.blocks)

    def _walk(self) -> Iterator[Block]:
        sizes: list[tuple[str, int, float]] = [("zero", self.zero, self.zero), ("nonneg", self.nonneg, self.nonneg)]
        sizes += [("second_order", d, d) for d in self.second_order]
        sizes += [("psd", svec_length(k), k) for k in self.psd]
        sizes += [("exponential", 3, 3)] * self.exponential
        sizes += [("power", 3, alpha) for alpha in self.power]
        start = 0
        for kind, size, data in sizes:
            if size:
                yield Block(kind, start, start + size, data)
                start += size
