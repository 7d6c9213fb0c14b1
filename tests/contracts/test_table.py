"""The table itself: its declarations are true, its closed forms and samples are right."""

from __future__ import annotations

import numpy as np
import pytest

from cvxlayers.cones import KINDS
from cvxlayers.solvers import registry
from tests.contracts.case import Case
from tests.contracts.table import CASES
from tests.support import layers
from tests.support.tolerance import assert_all_close


def test_names_are_distinct() -> None:
    assert len({row.name for row in CASES}) == len(CASES)


def test_every_cone_and_form_occurs() -> None:
    assert set().union(*(row.kinds for row in CASES)) == set(KINDS)
    assert {row.quadratic for row in CASES} == {row.gp for row in CASES} == {True, False}


@pytest.mark.parametrize("engine", registry.names(installed=True))
def test_every_engine_is_tested(engine: str) -> None:
    assert sum(layers.takes(row, engine) for row in CASES) >= 10


@pytest.mark.parametrize("row", CASES, ids=str)
def test_declared_form_is_what_compiles(row: Case) -> None:
    structure = layers.compiled(row).structure
    assert structure.cones.kinds() == row.kinds
    assert structure.quadratic == row.quadratic


@pytest.mark.parametrize("row", [row for row in CASES if row.closed_form], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_closed_form_is_the_reference(row: Case, seed: int) -> None:
    assert row.closed_form is not None
    found = layers.expected(row, seed)
    assert_all_close(found.outputs, row.closed_form(*row.point(seed)), 1e-8, row.name)


@pytest.mark.parametrize("row", CASES, ids=str)
def test_samples_fit_the_parameters(row: Case) -> None:
    parameters = row.build().parameters
    assert [np.shape(value) for value in row.point()] == [parameter.shape for parameter in parameters]
