"""The product cone K of the standard form: its dimensions and where each block's rows lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cvxlayers.cones.kind import Kind, svec_length
from cvxlayers.cones.kinds import KINDS

__all__ = ["Block", "Cones", "svec_length"]


@dataclass(frozen=True)
class Block:
    """One cone of the product: its kind, its rows ``start:stop`` and its own data.

    ``data`` is what the field of ``Cones`` holds of it (see ``Kind``): the order of a PSD cone, the exponent of a power
    cone, the exponents of an n-dimensional one, and the dimension of every other kind.
    """

    kind: str
    start: int
    stop: int
    data: Any

    @property
    def polyhedral(self) -> bool:
        """Whether the projection works row by row."""
        return KINDS[self.kind].polyhedral

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Cones:
    """K = {0}^zero x R_+^nonneg x SOC... x PSD... x EXP^exponential x POW(alpha)... x POW(alpha, ...), in this order.

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
    power_nd : tuple of tuples of float
        Exponents of the n-dimensional power cones {(u_1, ..., u_k, w): prod u_i^alpha_i >= |w|, u >= 0}, of each two
        or more positive ones that add up to 1.

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
    power_nd: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, blocks: Iterable[tuple[str, Any]]) -> Cones:
        """The product of cones given by their kinds and data (see ``Block``), in the order of their kinds.

        >>> Cones.of([("second_order", 3), ("nonneg", 2), ("second_order", 4)])
        Cones(zero=0, nonneg=2, second_order=(3, 4), psd=(), exponential=0, power=(), power_nd=())
        """
        listed: dict[str, list[Any]] = {name: [] for name in KINDS}
        for name, data in blocks:
            listed[name].append(data)
        return cls(**{name: kind.held(listed[name]) for name, kind in KINDS.items()})

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
        return sum(kind.degree(data) for kind, data in self._listed())

    @cached_property
    def polyhedral(self) -> bool:
        """Whether K has only zero and nonnegative rows."""
        return all(kind.polyhedral for kind, _ in self._listed())

    @property
    def flat(self) -> int:
        """The number of rows before the blocks: equalities and inequalities."""
        return self.zero + self.nonneg

    def kinds(self) -> frozenset[str]:
        """The kinds of cone that occur: a subset of zero, nonneg, second_order, psd, exponential, power, power_nd."""
        return frozenset(kind.name for kind, _ in self._listed())

    def count_rows(self) -> int:
        """The number of rows, without listing the blocks.

        >>> Cones(nonneg=10**12, exponential=10**12).count_rows()
        4000000000000
        """
        total = 0
        for name, kind in KINDS.items():
            held = getattr(self, name)
            total += kind.rows(3) * held if kind.measure == "cones" else sum(map(kind.rows, kind.listed(held)))
        return total

    def _listed(self) -> Iterator[tuple[Kind, Any]]:
        for name, kind in KINDS.items():
            for data in kind.listed(getattr(self, name)):
                yield kind, data

    def _walk(self) -> Iterator[Block]:
        start = 0
        for kind, data in self._listed():
            stop = start + kind.rows(data)
            yield Block(kind.name, start, stop, data)
            start = stop
