"""When the solver is said to pay."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones.product import Cones
from cvxlayers.ipm import symbolic
from cvxlayers.ipm.choice import CURVED, LARGE, MANY, fewest, pays
from cvxlayers.solvers.ipm import IPM
from tests.ipm.problems import structure_of


def test_it_pays_for_batches() -> None:
    small = structure_of(np.eye(10), np.eye(10), Cones(nonneg=10))
    assert pays(small) and pays(small, 2) and pays(small, 1) and fewest(small) == 1


@pytest.mark.parametrize("cones", [Cones(psd=(2,)), Cones(exponential=1), Cones(power=(0.3,))], ids=str)
def test_curved_cones_need_a_few(cones: Cones) -> None:
    structure = structure_of(np.zeros((1, 1)), np.ones((3, 1)), cones)
    assert pays(structure, CURVED) and not pays(structure, CURVED - 1)


def test_large_matrices_are_for_others() -> None:
    order = 36
    size = order * (order + 1) // 2
    wide = structure_of(np.zeros((size, size)), np.eye(size), Cones(psd=(order,)))
    assert fewest(wide) is None and IPM.takes(wide)
    wider = structure_of(np.zeros((1, 1)), np.ones((80 * 81 // 2, 1)), Cones(psd=(80,)))
    assert not IPM.takes(wider)


def test_large_factors_need_larger_batches() -> None:
    wide = structure_of(np.ones((200, 200)), np.ones((20, 200)), Cones(nonneg=20))
    found = symbolic.analysis_of(wide)
    assert found is not None and found.elimination.operations > LARGE
    assert not pays(wide, MANY - 1) and pays(wide, MANY)
