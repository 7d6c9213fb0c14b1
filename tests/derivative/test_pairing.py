"""The cotangents of the values, at sizes where they are computed in several parts."""

from __future__ import annotations

import numpy as np

from cvxlayers.cones import Cones
from cvxlayers.derivative.pairing import cotangents
from cvxlayers.program.structure import Pattern, Structure
from tests.support.tolerance import assert_close


def test_parts_make_the_whole(rng: np.random.Generator) -> None:
    n, m, batch = 40, 30, 64
    upper, full = np.triu_indices(n), np.indices((m, n)).reshape(2, -1)
    order, by_column = np.lexsort(upper), np.lexsort(full)
    P = Pattern.of(upper[0][order], upper[1][order], (n, n))
    A = Pattern.of(full[0][by_column], full[1][by_column], (m, n))
    rx, x = rng.normal(size=(2, n, batch))
    rv, y = rng.normal(size=(2, m, batch))
    found = cotangents(Structure(P, A, Cones(nonneg=m)), rx, rv, x, y)
    dA = -(y[:, None] * rx + rv[:, None] * x)
    dP = -(rx[:, None] * x + x[:, None] * rx) / 2
    assert_close(found.A, dA[A.rows, A.columns], 1e-14, "dA")
    twice = np.where(P.rows == P.columns, 1, 2)[:, None]  # an entry above the diagonal stands for two
    assert_close(found.P, twice * dP[P.rows, P.columns], 1e-14, "dP")
