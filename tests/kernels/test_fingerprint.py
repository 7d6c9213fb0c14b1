"""Kernels on disk are loaded only while all that they are made of is as it was, and lies where it lay."""

from __future__ import annotations

import ast
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cvxlayers.kernels import jit

PACKAGE = Path(jit.__file__).parents[1]
DECORATORS = {"kernel", "part", "kernel_where"}
ENTRIES = sorted(file for file in PACKAGE.rglob("*.py") if "jit.fingerprint(" in file.read_text(encoding="utf-8"))


def places(entry: Path) -> list[str]:
    """What the call of ``fingerprint`` in a file names."""
    calls = [node for node in ast.walk(ast.parse(entry.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    (call,) = [call for call in calls if ast.unparse(call.func) == "jit.fingerprint"]
    return [ast.literal_eval(argument) for argument in call.args]


def kernels(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """The functions of a file that become kernels, or parts of one: decorated ones, and closures over a fingerprint."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if any(ast.unparse(mark).split("(")[0] in DECORATORS for mark in node.decorator_list):
                yield node
            elif "fingerprint" in {argument.arg for argument in node.args.args}:
                yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


def origins(tree: ast.Module) -> dict[str, Path]:
    """Where the names that a file imports from the package are defined."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cvxlayers":
            folder = PACKAGE.joinpath(*node.module.split(".")[1:])
            for alias in node.names:
                module = folder / f"{alias.name}.py"
                found[alias.asname or alias.name] = module if module.is_file() else folder.with_suffix(".py")
    return found


def used(file: Path) -> set[Path]:
    """The files of the package from which a file's kernels take something."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    where = origins(tree)
    names = {node.id for kernel in kernels(tree) for node in ast.walk(kernel) if isinstance(node, ast.Name)}
    return {where[name] for name in names & set(where)}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_the_fingerprint_covers_all_that_kernels_are_made_of(entry: Path) -> None:
    covered = set(jit.fingerprinted(*places(entry)))
    assert entry in covered
    assert {file: used(file) - covered for file in covered if used(file) - covered} == {}


def test_no_kernel_is_without_a_fingerprint() -> None:
    covered = {file for entry in ENTRIES for file in jit.fingerprinted(*places(entry))}
    having = {file for file in PACKAGE.rglob("*.py") if any(kernels(ast.parse(file.read_text(encoding="utf-8"))))}
    assert {PACKAGE / "ldl" / "factor.py", PACKAGE / "cones" / "kernels" / "power.py"} < having <= covered


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources, of which fingerprints are taken."""
    shutil.copytree(PACKAGE, tmp_path / "cvxlayers", ignore=lambda _, names: {"__pycache__"} & set(names))
    monkeypatch.setattr(jit, "_PACKAGE", tmp_path / "cvxlayers")
    return tmp_path / "cvxlayers"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_change_in_any_folder_of_kernels_changes_the_fingerprint(entry: Path, copy: Path) -> None:
    own = places(entry)
    before = jit.fingerprint(*own)
    last = {file.parent: file for file in jit.fingerprinted(*own)}  # one of each folder
    for file in last.values():
        text = file.read_text(encoding="utf-8")
        file.write_text(text + "# changed\n", encoding="utf-8")
        assert jit.fingerprint(*own) != before
        file.write_text(text, encoding="utf-8")
        assert jit.fingerprint(*own) == before
    assert jit.fingerprinted("ipm") and all(file.is_relative_to(copy) for file in jit.fingerprinted("ipm"))


def test_a_file_that_has_moved_changes_the_fingerprint(copy: Path) -> None:
    before = jit.fingerprint("ipm")
    (copy / "ipm" / "inner").mkdir()
    shutil.move(copy / "ipm" / "batch.py", copy / "ipm" / "inner" / "batch.py")
    assert jit.fingerprint("ipm") != before


MODULE = """
import numba
from cvxlayers.kernels import jit

def make(fingerprint):
    def double(x):
        if fingerprint < 0:
            return 0.0
        return 2.0 * x
    return jit.compiled(numba.float64(numba.float64), double, {})
"""


def test_kernels_of_an_older_layout_are_not_loaded(tmp_path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that was written before a file moved is there, its own file is as it was, and yet it does not serve."""
    file = tmp_path / "entry.py"
    file.write_text(MODULE, encoding="utf-8")

    def hits() -> int:
        spec = importlib.util.spec_from_file_location("kept_entry", file)
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "kept_entry", module)  # where Numba looks for it when it loads a kernel
        spec.loader.exec_module(module)
        made = module.make(jit.fingerprint("ipm"))
        assert made(1.5) == 3.0
        return sum(made.stats.cache_hits.values())

    assert [hits(), hits()] == [0, 1]
    (copy / "ldl").mkdir(exist_ok=True)
    shutil.move(copy / "ipm" / "batch.py", copy / "ldl" / "batch.py")
    assert [hits(), hits()] == [0, 1]
    shutil.move(copy / "ldl" / "batch.py", copy / "ipm" / "batch.py")
    assert hits() == 1
