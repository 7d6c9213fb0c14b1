"""What layers, compiled problems and reports show of themselves: counts, names and spans, no arrays, no addresses."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.derivative.base import DerivativeReport
from cvxlayers.kernels import jit
from cvxlayers.layer.qp import QP
from cvxlayers.layer.report import Info
from cvxlayers.program.solution import Residuals

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = "IPM" if jit.usable() else "CLARABEL"
NASTY = "<script>alert('c & d')</script>"


class Table(HTMLParser):
    """The cells of a table, as a browser would show them, and the tags that make it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("caption", "th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


def shown(thing: Any) -> dict[str, str]:
    """The rows of a summary, after a look at both of its forms: they say the same."""
    table = Table(thing._repr_html_())
    assert table.tags <= {"table", "caption", "tbody", "tr", "th", "td"}
    title, *cells = table.cells
    assert title == type(thing).__name__
    rows = dict(zip(cells[::2], cells[1::2], strict=True))
    text = repr(thing)
    assert text.startswith(title)
    for name, value in rows.items():
        assert re.search(rf"^ *{re.escape(name)} +{re.escape(value)}$", text, re.MULTILINE), name
    assert "object at 0x" not in text
    assert "array(" not in text
    return rows


def projection(name: str = "c", **options: Any) -> cvxlayers.Layer:
    """The point nearest to c among those that are nonnegative and sum to a limit: none where that is negative."""
    x, c, limit = cp.Variable(2, name="x"), cp.Parameter(2, name=name), cp.Parameter(name="limit")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, cp.sum(x) == limit])
    return cvxlayers.Layer.from_problem(problem, [c, limit], [x], **options)


def constant() -> cvxlayers.Layer:
    """A problem without parameters, whose standard form has no rows."""
    x = cp.Variable(3, name="x")
    return cvxlayers.Layer.from_problem(cp.Problem(cp.Minimize(cp.sum_squares(x))))


def test_a_compiled_problem_shows_its_form() -> None:
    rows = shown(projection().compiled)
    assert rows["parameters"] == "c (2,), limit ()"
    assert rows["variables"] == "x (2,)"
    assert rows["objective"] == "minimize, quadratic"
    assert rows["standard form"] == "4 variables, 5 rows; nonzeros: P 2, A 8"
    assert rows["cones"] == "zero 3, nonneg 2"
    assert rows["depends on parameters"] == "b"


def test_cones_of_a_kind_are_counted() -> None:
    x, y = cp.Variable(3), cp.Variable(pos=True)
    norms = cp.Problem(cp.Maximize(cp.sum(x)), [cp.norm(x) <= 1, cp.norm(x[:2] - 1) <= 1])
    rows = shown(cvxlayers.compile(norms))
    assert rows["cones"] == "nonneg 2, second_order 7 (2 cones)"
    assert rows["objective"] == "maximize, linear"
    assert shown(cvxlayers.compile(cp.Problem(cp.Minimize(y), [y >= 2]), gp=True))["objective"].endswith(
        "in logarithms"
    )


def test_a_problem_without_parameters_and_without_cones_is_an_ordinary_case() -> None:
    layer = constant()
    rows = shown(layer.compiled)
    assert (rows["parameters"], rows["cones"], rows["depends on parameters"]) == ("none", "none", "nothing")
    assert shown(layer)["parameters"] == "none"
    layer()
    assert shown(layer)["last call"] == "1 optimal"


def test_many_parameters_are_not_all_named() -> None:
    x, many = cp.Variable(), [cp.Parameter(name=f"p{i}") for i in range(40)]
    compiled = cvxlayers.compile(cp.Problem(cp.Minimize(cp.square(x - sum(many))), [x >= 0]), many, [x])
    assert shown(compiled)["parameters"].endswith("p8 (), p9 (), 30 more")


def test_names_are_text_and_no_html() -> None:
    layer = projection(NASTY)
    for thing in (layer, layer.compiled):
        assert shown(thing)["parameters"] == f"{NASTY} (2,), limit ()"
        assert NASTY not in thing._repr_html_()
        assert "&lt;script&gt;" in thing._repr_html_()


def test_a_layer_that_was_never_called_says_so() -> None:
    layer = projection()
    assert shown(layer) == {
        "parameters": "c (2,), limit ()", "variables": "x (2,)", "solver": f"{DEFAULT}, by default",
        "on failure": "raise", "last call": "none",
    }  # fmt: skip
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert shown(twin) == shown(layer)


def test_a_layer_shows_its_settings() -> None:
    rows = shown(projection(solver="CLARABEL", smoothing=1e-3, on_failure="nan"))
    assert (rows["solver"], rows["smoothing"], rows["on failure"]) == ("CLARABEL", "0.001", "nan")
    assert shown(projection(solver_args={"solve_method": "SCS"}))["solver"] == "SCS"


def test_a_batch_with_failures_shows_how_many_of_each_status() -> None:
    layer = projection(on_failure="nan")
    layer(np.array([[0.3, 0.7], [np.nan, 0.0], [2.0, 1.0], [0.0, 0.0]]), np.array([1.0, 1.0, 1.0, -1.0]))
    assert layer.info is not None
    assert layer.info.statuses.tolist() == ["optimal", "failed", "optimal", "infeasible"]
    expected = "2 optimal, 1 infeasible, 1 failed"
    assert shown(layer.info)["statuses"] == shown(layer)["last call"] == expected


def test_a_report_shows_spans() -> None:
    info = Info(
        np.array(["optimal", "inaccurate", "optimal"]), np.array([9, 30, 7]), np.array(["IPM", "SCS", "IPM"]),
        Residuals(np.array([[1e-9, 2e-3, np.nan]] * 4 + [[1.0, 2.0, np.nan]])), np.array([-1.5, 2.0, np.nan]),
    )  # fmt: skip
    rows = shown(info)
    assert rows["statuses"] == "2 optimal, 1 inaccurate"
    assert rows["engines"] == "2 IPM, 1 SCS"
    assert rows["iterations"] == "7 to 30"
    assert rows["residuals"] == "1.0e-09 to 2.0e-03"
    assert rows["objective"] == "-1.5 to 2"
    assert rows["milliseconds"] == "not measured"
    assert rows["derivative"] == "not computed"


def test_a_report_says_what_is_known_of_the_derivative() -> None:
    layer = projection()
    record = layer.solve([np.array([[0.3, 0.7], [0.2, 0.1]]), 1.0])
    assert shown(record.info)["derivative"] == "not computed"
    record.vjp([np.ones((2, 2))])
    assert record.info.derivative is not None
    rows = shown(record.info.derivative)
    assert (rows["elements"], rows["fallback"]) == ("2", "none")
    said = "; ".join(f"{name} {value}" for name, value in rows.items())
    assert shown(record.info)["derivative"] == said
    assert re.search(r"solving \d+\.\d\d, .*derivative \d+\.\d\d$", shown(record.info)["milliseconds"])


def test_a_derivative_shows_its_worst_elements() -> None:
    report = DerivativeReport(
        np.array([1e-16, 2e-12]), np.array([0.0, 0.25]), np.array([1e-9, 1.0]), np.array([False, True])
    )
    assert shown(report) == {
        "elements": "2", "residual": "at most 2.0e-12", "margin": "at least 1.0e-09", "fallback": "in 1 element",
        "unserved": "at most 2.5e-01",
    }  # fmt: skip


def test_an_empty_batch_is_an_ordinary_case() -> None:
    layer = projection()
    record = layer.solve([np.zeros((0, 2)), 1.0])
    record.vjp([np.zeros((0, 2))])
    rows = shown(record.info)
    assert (rows["statuses"], rows["engines"], rows["iterations"]) == ("empty batch", "none", "none")
    assert (rows["residuals"], rows["objective"], rows["derivative"]) == ("no point", "unknown", "elements 0")
    assert shown(record.info.derivative) == {"elements": "0"}
    assert shown(layer)["last call"] == "empty batch"


def test_the_summary_of_a_large_batch_is_short() -> None:
    layer = projection()
    layer(np.random.default_rng(0).random((5000, 2)), 1.0)
    assert shown(layer.info)["statuses"] == "5000 optimal"
    assert len(repr(layer.info)) < 800


def test_a_torch_layer_is_a_module_with_the_same_rows() -> None:
    core = projection(NASTY)
    torch = pytest.importorskip("torch")
    from cvxlayers.torch import CvxpyLayer

    layer = CvxpyLayer.from_compiled(core.compiled)
    rows = shown(layer)
    assert rows == shown(core)
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), layer)
    assert f"  (1): CvxpyLayer(\n    parameters  {NASTY} (2,), limit ()\n" in repr(network)
    layer(torch.zeros(3, 2), torch.ones(3))
    assert shown(layer)["last call"] == "3 optimal"


def _kinds() -> list[Any]:
    if find_spec("torch") is None:
        return [QP]
    from cvxlayers.torch import QPLayer

    return [QP, QPLayer]


@pytest.mark.parametrize("kind", _kinds())
def test_quadratic_programs_by_their_matrices(kind: type) -> None:
    layer = kind(patterns={"Q": np.eye(2)}, duals=True, solver="CLARABEL")
    expected = {"patterns": "Q: 2 nonzeros", "duals": "returned", "solver": "CLARABEL", "last call": "none"}
    assert shown(layer) == expected
    layer(np.eye(2), np.ones((4, 2)))
    assert shown(layer) == {**expected, "last call": "4 optimal"}
    assert shown(kind())["patterns"] == "dense"


def test_a_jax_layer_has_the_same_rows() -> None:
    jax = pytest.importorskip("jax")
    from cvxlayers.jax import CvxpyLayer as JaxLayer

    layer = JaxLayer.from_compiled(projection().compiled)
    assert shown(layer)["last call"] == "none"
    layer(jax.numpy.ones((3, 2)), jax.numpy.ones(3))
    assert shown(layer)["last call"] == "3 optimal"


def test_a_keras_layer_shows_its_weights() -> None:
    pytest.importorskip("keras")
    code = """
import cvxpy as cp, numpy as np
from cvxlayers.keras import CvxpyLayer
x, c, limit = cp.Variable(2), cp.Parameter(2, name="c"), cp.Parameter(nonneg=True, name="limit")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0, cp.sum(x) <= limit])
layer = CvxpyLayer(problem, [c, limit], [x], weights={limit: 1.0})
layer(np.ones((3, 2)))
print(layer)
assert layer._repr_html_().startswith("<table><caption>CvxpyLayer</caption>")
"""
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert re.search(r"^ *weights +limit$", answer.stdout, re.MULTILINE)
    assert re.search(r"^ *last call +3 optimal$", answer.stdout, re.MULTILINE)
