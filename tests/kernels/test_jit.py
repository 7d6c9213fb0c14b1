"""Numba that is installed and of no use: one warning that says why and what to do, and everything else serves."""

from __future__ import annotations

import os
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from cvxlayers.errors import EngineError
from cvxlayers.kernels import jit
from cvxlayers.solvers.registry import SOLVERS, choose, names, solver_class


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    jit.hindrance.cache_clear()
    yield
    jit.hindrance.cache_clear()


def test_where_numba_works_there_is_nothing_to_say() -> None:
    assert jit.usable() and jit.hindrance() is None
    assert SOLVERS["IPM"].installed() and SOLVERS["IPM"].hindrance() == ""


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (None, "cannot be imported .*ModuleNotFoundError: import of numba halted"),
        (types.ModuleType("numba"), "cannot be imported .*AttributeError"),  # as an empty folder of that name is
    ],
)
def test_one_warning_and_no_ipm(monkeypatch: pytest.MonkeyPatch, module: object, words: str) -> None:
    monkeypatch.setattr(jit, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "numba", module)  # type: ignore[arg-type]
    with pytest.warns(RuntimeWarning, match=f"{words}.*the other solvers.*pip install") as caught:
        assert not jit.usable()
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not SOLVERS["IPM"].installed() and "IPM" not in names(installed=True)
        assert choose(frozenset({"nonneg"}), quadratic=True).name == "CLARABEL"
        with pytest.raises(EngineError, match=f"IPM cannot run here.*{words}.*pip install.*CLARABEL, SCS"):
            solver_class("IPM")


def test_without_numba_nobody_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "find_spec", lambda name: None)
    assert not jit.usable()
    assert jit.hindrance() == "Numba is not installed."


CHILD = """
import cvxpy as cp, numpy as np, cvxlayers
from cvxlayers.cones import Cones
from cvxlayers.cones.projection import project_dual
x, t = cp.Variable(4, name="x"), cp.Parameter(4, name="t")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - t) + cp.sum(cp.exp(-x))), [cp.norm(x) <= 2])
for solver in (None, "SCS"):
    layer = cvxlayers.Layer.from_problem(problem, [t], [x], solver=solver)
    record = layer.solve([np.linspace(-1, 1, 12).reshape(3, 4)])
    assert set(record.info.engines) == {solver or "CLARABEL"}, record.info.engines
    assert np.isfinite(record.vjp([np.ones((3, 4))])[0]).all()
try:
    cvxlayers.Layer.from_problem(problem, [t], [x], solver="IPM")
except cvxlayers.EngineError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("text", "variables", "words"),
    [
        ("raise OSError('libllvmlite.so: cannot open shared object file')", {}, "OSError: libllvmlite"),
        (None, {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT"),
    ],
)
def test_layers_solve_and_differentiate_all_the_same(
    tmp_path: Path, text: str | None, variables: dict[str, str], words: str
) -> None:
    path = [str(Path(jit.__file__).parents[2])]
    if text is not None:
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text(text, encoding="utf-8")
        path.insert(0, str(tmp_path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path), **variables}
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("RuntimeWarning") == 1 and words in done.stderr
    assert words in done.stdout and "CLARABEL, SCS" in done.stdout
