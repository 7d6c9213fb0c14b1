"""The README's code runs, and so do the examples in the docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cvxlayers

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_blocks() -> list[tuple[str, str]]:
    blocks = []
    for page in PAGES:
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)):
            blocks.append((f"{page.name}-{number}", code))
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
