"""The code in the documents runs, and so do the examples in the docstrings; what documents say of the code is so."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import markdown
import numpy as np
import pytest

import cvxlayers
from cvxlayers.cones import KINDS
from cvxlayers.solvers.options import COMMON
from cvxlayers.solvers.registry import SOLVERS
from tests.support.site import docs_module

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.rglob("*.md"))]
"""The pages, and the documents without code."""

PUBLIC = ["cvxlayers", *(f"cvxlayers.{name}" for name in ("torch", "tensorflow", "jax", "keras", "nodes", "errors"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT)).removeprefix("docs/")


def code_blocks() -> list[tuple[str, str]]:
    blocks = []
    for page in PAGES:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)):
            blocks.append((f"{name_of(page)}-{number}", code))
    return blocks


@pytest.mark.parametrize(("name", "code"), code_blocks(), ids=[name for name, _ in code_blocks()])
def test_python_blocks_of_the_documentation_run(
    name: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # some write files
    exec(compile(code, name, "exec"), {"__name__": "__documentation__"})


def modules() -> list[str]:
    found = pkgutil.walk_packages(cvxlayers.__path__, "cvxlayers.")
    return ["cvxlayers", *sorted(module.name for module in found if not module.name.endswith("__main__"))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_the_documented_names_are_the_exported_ones() -> None:
    for name in cvxlayers.__all__:
        assert hasattr(cvxlayers, name), name
    public = {name for name in dir(cvxlayers) if name.endswith("Error")}
    assert public <= set(cvxlayers.__all__)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def cells(row: str) -> list[str]:
    """What stands between the bars of a table's row; a bar after a backslash is none."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a document: rows of cells, the first of which is the header and the second the line below it."""
    blocks = re.findall(r"(?:^[ ]*\|.*\n?)+", without_code(text), flags=re.MULTILINE)
    return [[cells(row) for row in block.strip().splitlines()] for block in blocks]


def crooked(text: str) -> list[str]:
    """The rows that have other cells than the header of their table."""
    return [
        f"{len(row)} cells under a header of {len(table[0])}: | {' | '.join(row)} |"
        for table in tables(text)
        for row in table
        if len(row) != len(table[0])
    ]


@pytest.mark.parametrize("page", DOCUMENTS, ids=name_of)
def test_every_row_of_a_table_has_the_cells_of_its_header(page: Path) -> None:
    assert crooked(page.read_text(encoding="utf-8")) == []


def test_a_crooked_row_is_found() -> None:
    nested = "* of a list\n\n    | c |\n    |---|\n    | `x \\| y` |\n"
    text = "| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 2 | 3 |\n\n```\n| 1 |\n```\n" + nested
    assert crooked(text) == ["3 cells under a header of 2: | 1 | 2 | 3 |"]


def column(page: str, header: str, number: int = 0) -> list[str]:
    """A column of the table whose first heading is ``header``, without the marks of code."""
    found = [table for table in tables((DOCS / page).read_text(encoding="utf-8")) if table[0][0] == header]
    assert len(found) == 1, f"{page}: {len(found)} tables begin with the heading {header!r}"
    return [row[number].replace("`", "") for row in found[0][2:]]


def test_the_guide_lists_every_error() -> None:
    assert sorted(column("guides/failures.md", "error")) == sorted(cvxlayers.errors.__all__)


def test_the_guide_lists_the_statuses() -> None:
    from cvxlayers.program.solution import Status

    assert column("concepts/verified.md", "status") == [str(status) for status in Status]


def test_the_guide_lists_the_options_of_all_solvers() -> None:
    listed = [name for cell in column("guides/engines.md", "option") for name in cell.split(", ")]
    assert sorted(listed) == sorted(COMMON)


def test_the_table_of_engines_says_what_the_registry_knows() -> None:
    assert column("guides/engines.md", "name") == list(SOLVERS)
    cones, objectives, starts = (column("guides/engines.md", "name", number) for number in (1, 2, 3))
    for solver, kinds, objective, start in zip(SOLVERS.values(), cones, objectives, starts, strict=True):
        assert set(kinds.split(", ")) == {KINDS[kind].title for kind in solver.kinds}, solver.name
        assert (objective == "quadratic") == solver.quadratic, solver.name
        assert (start != "no") == solver.warm_starts, solver.name


def test_the_table_of_fields_is_that_of_the_kernels() -> None:
    layout = importlib.import_module("cvxlayers.ipm.kkt.layout")
    records = [value for value in vars(layout).values() if isinstance(value, np.dtype) and value.names]
    names = {name for record in records for name in record.names}
    listed = [
        name.replace("`", "").strip()
        for table in tables((DOCS / "internals/kernels.md").read_text(encoding="utf-8"))
        if table[0][0] == "field"
        for row in table[2:]
        for name in row[0].split(",")
    ]
    assert len(names) > 80
    assert sorted(listed) == sorted(names)


def milliseconds(cell: str) -> float:
    """Forward and backward together, "16.9 + 2.1", to two digits."""
    return float(f"{sum(map(float, cell.split('+'))):.2g}")


@pytest.mark.parametrize("page", ["README.md", "docs/guides/performance.md"])
def test_figures_are_those_of_the_benchmarks(page: str) -> None:
    measured = {row[0]: row for table in tables((DOCS / "benchmarks.md").read_text(encoding="utf-8")) for row in table}
    ours, _, peers, _, _, qpth, proxsuite = range(1, 8)
    (shown,) = [table for table in tables((ROOT / page).read_text(encoding="utf-8")) if table[0][1:2] == ["ours, ms"]]
    for family, *cells in shown[2:]:
        row = measured[family]
        assert [float(cells[0]), *cells[1:]] == [milliseconds(row[ours]), row[peers], row[qpth], row[proxsuite]], family


def test_the_extras_for_users_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    import setuptools

    caught: dict[str, dict[str, list[str]]] = {}
    monkeypatch.setattr(setuptools, "setup", caught.update)
    runpy.run_path(str(ROOT / "setup.py"))
    assert set(column("install.md", "extra")) == set(caught["extras_require"]) - {"dev", "docs", "bench"}


def on_api_pages() -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md"))]
    return [name for text in texts for name in re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_on_an_api_page(module: str) -> None:
    found = on_api_pages()
    assert len(found) == len(set(found))
    if module in found:  # the whole of it
        return
    names = {f"{module}.{name}" for name in importlib.import_module(module).__all__ if name != "__version__"}
    errors = {f"{module}.{name}" for name in cvxlayers.errors.__all__}
    assert names - errors <= set(found)


def hooks() -> ModuleType:
    return docs_module("hooks")


def test_the_site_takes_the_options_of_each_solver_from_the_code() -> None:
    filled = hooks().with_tables((DOCS / "guides/engines.md").read_text(encoding="utf-8"))
    assert "<!-- table:" not in filled
    assert crooked(filled) == []
    for solver in SOLVERS.values():
        section = filled.split(f"\n### {solver.name}\n", 1)[1].split("\n### ", 1)[0]
        listed = [row[0].strip("`") for table in tables(section) for row in table[2:]]
        assert listed == list(solver.options)


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError):
        hooks().with_tables("<!-- table: no-such -->")


def test_the_site_links_the_repository_s_own_documents() -> None:
    assert doctest.testmod(hooks()).failed == 0


def test_the_site_picks_up_notebooks(tmp_path: Path) -> None:
    (tmp_path / "a_name.py").write_text("# %%\n1\n", encoding="utf-8")
    (tmp_path / "b.py").write_text("# %% [markdown]\n# # A title\n# and more\n", encoding="utf-8")
    nav = [{"Start": ["index.md"]}, {"Examples": ["examples.md"]}]
    hooks().add_notebooks(nav, [tmp_path / "a_name.py", tmp_path / "b.py"])
    pages = ["examples.md", {"a name": "notebooks/a_name.md"}, {"A title": "notebooks/b.md"}]
    assert nav == [{"Start": ["index.md"]}, {"Examples": pages}]


def test_links_to_scripts_lead_to_their_pages() -> None:
    text = "[one](notebooks/sudoku.py), [other](other.py)"
    assert hooks().on_page_markdown(text, None, None, None) == "[one](notebooks/sudoku.md), [other](other.py)"


def test_notebooks_without_outputs_run_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, ran = hooks(), []
    monkeypatch.delenv("CVXLAYERS_NOTEBOOKS", raising=False)
    (tmp_path / "done.py").touch()
    (tmp_path / "new.py").touch()
    notebook = {"metadata": {}, "cells": [{"cell_type": "markdown", "source": "# Title"}]}
    known = {"done": notebook}

    def execute_all(paths: list[Path], short: bool) -> None:
        ran.append(([path.stem for path in paths], short))
        known.update({path.stem: notebook for path in paths})

    monkeypatch.setattr(site.notebook_outputs, "execute_all", execute_all)
    monkeypatch.setattr(site.notebook_outputs, "stored", lambda script: known.get(script.stem))
    files = site.notebook_files([tmp_path / "done.py", tmp_path / "new.py"])
    assert ran == [(["new"], False)]
    assert set(files) == {"notebooks/done.md", "notebooks/new.md"}
    del known["new"]
    monkeypatch.setenv("CVXLAYERS_NOTEBOOKS", "short")
    site.notebook_files([tmp_path / "new.py"])
    assert ran[1:] == [(["new"], True)]
    assert str(files["notebooks/new.md"]).startswith("# Title")


def test_no_text_of_the_site_is_taken_for_html() -> None:
    text = "The products <Jv, w> and <v, w>.\n\n<div>\n"
    page = markdown.markdown(text, extensions=[hooks().without_html()])
    assert page == "<p>The products &lt;Jv, w&gt; and &lt;v, w&gt;.</p>\n<p>&lt;div&gt;</p>"
