"""The form in which SCS and diffcp read a problem: PSD rows packed by the lower triangle, cones named in a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cvxlayers.cones import from_scs_order, to_scs_order
from cvxlayers.program.structure import Array, Pattern, Structure
from cvxlayers.solvers.elementwise import Start

__all__ = ["ScsForm", "permuted_rows"]


def permuted_rows(A: Pattern, place: NDArray[np.integer]) -> tuple[Pattern, NDArray[np.intp]]:
    """The pattern of A when row i moves to ``place[i]``, and where each of its nonzeros stood before."""
    rows = place[A.rows]
    nonzeros = np.lexsort((rows, A.columns))
    return Pattern(A.shape, A.indptr, rows[nonzeros].astype(np.int32)), nonzeros


@dataclass(frozen=True)
class ScsForm:
    """Computed once for a structure.

    Attributes
    ----------
    A : Pattern
        The pattern of A with its rows in SCS's order.
    nonzeros : (nnz,) int
        Where each of its nonzeros stands among ours: values of A for SCS = values[nonzeros].
    rows, back : (m,) int
        v for SCS = v[rows], and v = (v of SCS)[back].
    cones : mapping
        z, l, q, s, ep and p (only where there are power cones: diffcp does not know them).
    """

    A: Pattern
    nonzeros: NDArray[np.intp]
    rows: NDArray[np.intp]
    back: NDArray[np.intp]
    cones: dict[str, int | list[int] | list[float]]

    @classmethod
    def of(cls, structure: Structure) -> ScsForm:
        K, back = structure.cones, from_scs_order(structure.cones)
        pattern, nonzeros = permuted_rows(structure.A, back)
        cones: dict[str, int | list[int] | list[float]] = {
            "z": K.zero, "l": K.nonneg, "q": list(K.second_order), "s": list(K.psd), "ep": K.exponential
        }  # fmt: skip
        if K.power:
            cones["p"] = list(K.power)
        return cls(pattern, nonzeros, to_scs_order(K), back, cones)

    def point(self, answer: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        """The point x, y, s of an answer, with the rows in our order."""
        return answer["x"], answer["y"][self.back], answer["s"][self.back]

    def start(self, start: Start) -> Start:
        """A point of ours, with the rows in SCS's order."""
        x, y, s = start
        return x, y[self.rows], s[self.rows]
