"""The notebooks of the documentation run in their short mode, check their own results, and draw."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.support.site import docs_module

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "docs" / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("*.py"))
BACKEND = {"keras_fit": "jax"}
"""Those that choose something once for a whole process, and so get one of their own."""

every = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def cells(script: Path) -> list[tuple[str, str]]:
    """The cells of a percent script: their kinds and what stands in them."""
    found = re.findall(r"^# %%( \[markdown\])?\n(.*?)(?=^# %%|\Z)", script.read_text(encoding="utf-8"), re.M | re.S)
    return [("markdown" if mark else "code", text) for mark, text in found]


def labelled(figure: Figure) -> bool:
    """Whether every pair of axes says what it shows."""
    return all(axes.get_title() or axes.get_xlabel() or axes.get_ylabel() for axes in figure.axes)


@every
def test_a_notebook_runs_and_draws(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CVXLAYERS_NOTEBOOKS", "short")
    if script.stem in BACKEND:
        for package in ("keras", BACKEND[script.stem]):
            pytest.importorskip(package)
        run_alone(script)
        return
    pytest.importorskip(next((name for name in ("jax", "torch") if f"import {name}\n" in script.read_text()), "numpy"))
    monkeypatch.chdir(NOTEBOOKS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    plt.close("all")
    plt.switch_backend("Agg")
    try:
        runpy.run_path(str(script))
        figures = [plt.figure(number) for number in plt.get_fignums()]
        assert figures
        assert all(map(labelled, figures))
        for figure in figures:
            figure.canvas.draw()
            pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
            assert len(np.unique(pixels.reshape(-1, 4), axis=0)) > 20
    finally:
        plt.close("all")
    assert capsys.readouterr().err == ""


def run_alone(script: Path) -> None:
    code = (
        f"import runpy, matplotlib.pyplot as plt; runpy.run_path({str(script)!r}); "
        "assert plt.get_fignums(); assert all(a.get_xlabel() for n in plt.get_fignums() for a in plt.figure(n).axes)"
    )
    settings = {"MPLBACKEND": "Agg", "KERAS_BACKEND": BACKEND[script.stem], "TF_CPP_MIN_LOG_LEVEL": "3"}
    answer = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings, "PYTHONPATH": str(ROOT)}, cwd=NOTEBOOKS,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr[-2000:]


@every
def test_a_notebook_is_told_and_checked(script: Path) -> None:
    parts = cells(script)
    prose = "".join(text for kind, text in parts if kind == "markdown")
    code = "".join(text for kind, text in parts if kind == "code")
    assert re.match(r"# # \S", prose), "it begins with a title"
    assert prose.count("\n# ## ") >= 1
    assert "$$" in prose
    assert len(prose.split()) > 150
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))) >= 2


def test_there_are_notebooks_for_the_field() -> None:
    assert len(SCRIPTS) >= 10
    listed = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert {f"notebooks/{script.name}" for script in SCRIPTS} == set(re.findall(r"\((notebooks/\w+\.py)\)", listed))


NOTEBOOK = {
    "metadata": {"cvxlayers": {"short": True}},
    "cells": [
        {
            "cell_type": "markdown",
            "source": ["# A title\n", "with $x_i^2 < y$ and\n", "$$\\sum_i x_i$$\n", "costs 5 $."],
        },
        {
            "cell_type": "code",
            "source": "a < b",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m1 < 2\x1b[0m\n", "next\n"]},
                {"output_type": "display_data", "data": {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}},
                {"output_type": "execute_result", "data": {"text/html": "<table></table>", "text/plain": "no"}},
                {"output_type": "execute_result", "data": {"text/plain": ["array([1])"]}},
            ],
        },
        {"cell_type": "code", "source": "pass", "outputs": []},
    ],
}


def test_a_notebook_becomes_a_page() -> None:
    markdown = pytest.importorskip("markdown")
    pytest.importorskip("latex2mathml")
    page = docs_module("notebook_pages").NotebookPage("name", NOTEBOOK)
    text = page.markdown()
    assert text.startswith("# A title\nwith ")
    assert "<" not in text.replace("a < b", "")  # it waits until Markdown is done
    assert "![Figure 1 of the notebook](name-1.png)" in text
    assert page.pictures == {"name-1.png": b"hello"}
    assert "run in its short mode" in text
    html = page.filled(markdown.markdown(text, extensions=["fenced_code"]))
    assert html.count("<math") == 2
    assert html.count('display="block"') == 1
    assert "costs 5 $." in html
    assert '<pre class="nb-output"><code>1 &lt; 2\nnext</code></pre>' in html
    assert '<div class="nb-output"><table></table></div>' in html
    assert "<p><div" not in html
    assert "array([1])" in html
    assert "&lt;Figure&gt;" not in html
    assert '<img class="nb-figure" alt="Figure 1 ' in html
    assert "notebookpiece" not in html


@pytest.mark.parametrize(("shape", "wide"), [((38, 90), True), ((38, 70), False), ((40, 40), False)])
def test_pictures_of_several_things_are_wide(shape: tuple[int, int], wide: bool, tmp_path: Path) -> None:
    plt.imsave(tmp_path / "picture.png", np.zeros(shape))
    assert docs_module("notebook_pages").is_wide((tmp_path / "picture.png").read_bytes()) == wide


def test_more_pieces_than_ten_keep_apart() -> None:
    pytest.importorskip("latex2mathml")
    source = "\n\n".join(f"$x_{{{number}}}$" for number in range(25))
    notebook = {"metadata": {}, "cells": [{"cell_type": "markdown", "source": source}]}
    page = docs_module("notebook_pages").NotebookPage("name", notebook)
    html = page.filled(page.markdown())
    assert re.findall(r"<mn>(\d+)</mn>", html) == [str(number) for number in range(25)]


def test_outputs_are_kept_until_the_notebook_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package)
    outputs = docs_module("notebook_outputs")
    monkeypatch.setattr(outputs, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(outputs, "SCRIPTS", tmp_path)
    script = tmp_path / "one.py"
    text = "# %%\nimport os, sys\nsys.stderr.write('noise')\nprint(os.environ.get('CVXLAYERS_NOTEBOOKS'))\n"
    script.write_text(text, encoding="utf-8")
    assert outputs.stored(script) is None
    for short, said in ((True, "short\n"), (False, "None\n")):
        outputs.execute(script, short)
        found = outputs.stored(script)
        assert found["metadata"]["cvxlayers"]["short"] == short
        streams = [output for cell in found["cells"] for output in cell.get("outputs", [])]
        assert ["".join(stream["text"]) for stream in streams] == [said]
    script.write_text(text + "\nassert False\n", encoding="utf-8")
    assert outputs.stored(script) is None
    with contextlib.suppress(AssertionError), pytest.raises(Exception, match="AssertionError"):
        outputs.execute(script, short=True)
    assert outputs.stored(script) is None
    assert json.loads((tmp_path / "outputs" / "one.ipynb").read_text())["nbformat"] == 4
