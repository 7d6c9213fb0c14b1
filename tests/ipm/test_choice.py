"""When the solver is said to pay."""

from __future__ import annotations

import numpy as np

from cvxlayers.cones.product import Cones
from cvxlayers.ipm import symbolic
from cvxlayers.ipm.choice import LARGE, MANY, MATRICES, fewest, pays
from tests.ipm.problems import structure_of

CURVED = (Cones(psd=(2,)), Cones(power=(0.3,)))


def test_it_pays_for_batches() -> None:
    small = structure_of(np.eye(10), np.eye(10), Cones(nonneg=10))
    assert pays(small) and pays(small, 2) and pays(small, 1) and fewest(small) == 1
    matrix, curve = (structure_of(np.zeros((1, 1)), np.ones((3, 1)), cones) for cones in CURVED)
    assert pays(matrix, MATRICES) and not pays(matrix, MATRICES - 1)
    assert pays(curve, MANY) and not pays(curve, MANY - 1)


def test_large_factors_need_larger_batches() -> None:
    wide = structure_of(np.ones((200, 200)), np.ones((20, 200)), Cones(nonneg=20))
    found = symbolic.analysis_of(wide)
    assert found is not None and found.elimination.operations > LARGE
    assert not pays(wide, MANY - 1) and pays(wide, MANY)
