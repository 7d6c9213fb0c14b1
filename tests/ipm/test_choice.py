"""Which problems are IPM's by default, which only by name, which are too large; and how much memory a batch takes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from cvxlayers.cones.product import Cones
from cvxlayers.errors import EngineError
from cvxlayers.ipm import batch as batches
from cvxlayers.ipm.kkt import symbolic
from cvxlayers.layer.engine import EngineCache
from cvxlayers.program.structure import Structure, Values
from cvxlayers.solvers.base import Settings
from cvxlayers.solvers.ipm import IPM
from tests.ipm.problems import pattern_of


def _lp(n: int, rows: int, batch: int = 1) -> tuple[Structure, Values]:
    """minimize q'x with dense inequalities and 0 <= x <= 1."""
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((rows, n))
    A = sp.csc_array(sp.vstack([sp.csc_array(dense), -sp.eye_array(n), sp.eye_array(n)]))
    A.sort_indices()
    structure = Structure(pattern_of(sp.csc_array((n, n))), pattern_of(A), Cones(nonneg=rows + 2 * n))
    b = np.concatenate([dense @ rng.random(n) + 0.1, np.zeros(n), np.ones(n)])
    q = rng.standard_normal((n, batch))
    return structure, Values(np.zeros((0, batch)), q, *(np.repeat(part[:, None], batch, 1) for part in (A.data, b)))


def _default(structure: Structure) -> str:
    return EngineCache(structure).engine(None, {}).solver.name


@pytest.mark.parametrize("n", [1950, 2050])
def test_many_nonzeros_alone_are_no_reason(n: int) -> None:
    structure, _ = _lp(n, 200)
    assert abs(structure.A.nnz - 400_000) < 20_000
    assert _default(structure) == "IPM"


def test_large_dense_blocks_are_for_others_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "MANY", 10)
    structure, values = _lp(40, 10)
    analysis = symbolic.analysis_of(structure)
    assert analysis is not None and analysis.light  # few operations for each entry of L
    monkeypatch.setattr(symbolic, "HIGH", 1)
    assert not analysis.light
    assert _default(structure) == "CLARABEL"
    assert IPM.takes(structure) and IPM(structure, Settings()).solve(values).ok.all()


def test_what_takes_long_to_analyse_is_for_others_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "QUICK_SIZE", 60)
    structure, values = _lp(40, 10)
    assert _default(structure) == "CLARABEL"
    assert IPM(structure, Settings()).solve(values).ok.all()
    assert EngineCache(structure).engine("IPM", {}).solver.name == "IPM"


@pytest.mark.parametrize("limit", ["LARGEST_SIZE", "LARGEST_ENTRIES", "LARGEST_FACTOR"])
def test_what_does_not_fit_is_refused(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, limit, 100)
    structure, _ = _lp(40, 10)
    assert _default(structure) == "CLARABEL"
    with pytest.raises(EngineError, match="as large as this one"):
        IPM(structure, Settings())


@pytest.mark.parametrize("threads", [1, 2])
def test_large_ones_are_worked_on_one_by_one(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    structure, values = _lp(20, 5, batch=19)
    together = IPM(structure, Settings(threads)).solve(values)
    monkeypatch.setattr(batches, "LARGEST", 1)
    solver = IPM(structure, Settings(threads))
    alone = solver.solve(values)
    assert not solver._layout.idle[False]  # no work space for eight has been made
    assert alone.ok.all() and np.abs(alone.x - together.x).max() <= 1e-12
    assert alone.residuals is not None and alone.residuals.within(1e-9)
