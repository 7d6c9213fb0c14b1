"""The package as a whole: its metadata, the direction of its imports, and the sizes of its files."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cvxlayers"
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST_FILE = 450

# The rooms of the package from the ground up: a room may import itself and the rooms of smaller number. Rooms of equal
# number know nothing of each other, save those that ONE_ROOM names together.
ROOMS = {
    "_version": 0,
    "errors": 0,
    "once": 0,
    "jit": 0,
    "output": 0,
    "archive": 1,
    "cones": 1,
    "glance": 1,
    "linear": 1,
    "stack": 1,
    "affine": 2,
    "program": 2,
    "solution": 2,
    "scales": 2,
    "measure": 2,
    "certificate": 2,
    "bounds": 3,
    "compiled": 2,
    "description": 2,
    "parts": 2,
    "artefact": 2,
    "ipm": 3,
    "compiler": 4,
    "solvers": 4,
    "derivative": 4,
    "definiteness": 3,
    "checks": 5,
    "packing": 5,
    "report": 5,
    "verification": 5,
    "engine": 5,
    "polish": 5,
    "facial": 2,
    "attainment": 5,
    "answer": 5,
    "record": 5,
    "layer": 5,
    "qp": 6,
    "adapter": 6,
    "mapped": 6,
    "torch": 7,
    "tensorflow": 7,
    "jax": 7,
    "keras": 8,
    "nodes": 8,
    "__init__": 9,
    "cli": 10,
    "__main__": 11,
}
ONE_ROOM = [
    {
        "affine",
        "program",
        "solution",
        "scales",
        "measure",
        "certificate",
        "facial",
        "compiled",
        "description",
        "parts",
        "artefact",
    },
    {"checks", "packing", "report", "verification", "engine", "polish", "attainment", "answer", "record", "layer"},
]

# Who may import what from outside, at any place in a file but under `if TYPE_CHECKING:`, which loads nothing.
CONFINED = {
    "cvxpy": {"compiler", "cli"},
    "clarabel": {"solvers"},
    "ecos": {"solvers"},
    "scs": {"solvers"},
    "diffcp": {"solvers", "derivative"},
    "torch": {"torch", "nodes", "keras"},
    "tensorflow": {"tensorflow", "keras"},
    "keras": {"keras"},
    "jax": {"jax", "keras"},
    "numba": {"ipm", "cones", "jit"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"cli"},
}


@dataclass(frozen=True)
class Import:
    """One imported module: where the statement stands, the full dotted name, and whether only type checkers read it."""

    file: Path
    line: int
    module: str
    for_types: bool = False

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def module_exists(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def for_type_checkers(tree: ast.Module) -> set[ast.AST]:
    """The nodes in the bodies of `if TYPE_CHECKING:`."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}


def imported(node: ast.Import | ast.ImportFrom, folder: list[str]) -> list[str]:
    """The modules that one statement imports; `from package import module` names the module."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = folder[: len(folder) - node.level + 1] if node.level else []
    parent = ".".join([*base, *(node.module.split(".") if node.module else [])])
    children = [f"{parent}.{alias.name}" for alias in node.names]
    if parent.split(".")[0] != "cvxlayers":
        return [parent]
    return list(dict.fromkeys(child if module_exists(child) else parent for child in children))


def imports(file: Path) -> Iterator[Import]:
    """Every import in the file, also those inside functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    guarded = for_type_checkers(tree)
    folder = list(file.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for module in imported(node, folder):
                yield Import(file, node.lineno, module, node in guarded)


def room_of_file(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def room_of_module(dotted: str) -> str:
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def may_import(room: str, other: str) -> bool:
    if room == other or any({room, other} <= shared for shared in ONE_ROOM):
        return True
    return ROOMS[other] < ROOMS[room]


def wrong_way(found: Import) -> bool:
    inside = found.module.split(".")[0] == "cvxlayers"
    return inside and not may_import(room_of_file(found.file), room_of_module(found.module))


def trespasses(found: Import) -> bool:
    allowed = CONFINED.get(found.module.split(".")[0])
    return allowed is not None and not found.for_types and room_of_file(found.file) not in allowed


def test_every_room_is_on_the_list() -> None:
    unknown = {room_of_file(file) for file in FILES} - set(ROOMS)
    assert not unknown, f"{sorted(unknown)}: give each new room its place in ROOMS (tests/test_packaging.py)."


def test_imports_point_one_way() -> None:
    wrong = [str(found) for file in FILES for found in imports(file) if wrong_way(found)]
    assert not wrong, "\n".join(wrong)


def test_other_libraries_are_imported_only_in_their_rooms() -> None:
    wrong = [str(found) for file in FILES for found in imports(file) if trespasses(found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("place", "statement", "wrong"),
    [
        ("cones/psd.py", "from cvxlayers.program import Values", True),
        ("cones/psd.py", "from cvxlayers import program", True),
        ("cones/psd.py", "from ..program import Values", True),
        ("solvers/scs.py", "from cvxlayers.derivative.base import Derivative", True),
        ("derivative/base.py", "def f():\n    import cvxlayers.compiler", True),
        ("layer.py", "import cvxlayers", True),
        ("jax/layer.py", "from cvxlayers.torch import CvxpyLayer", True),
        ("solvers/scs.py", "from . import base", False),
        ("solvers/scs.py", "from cvxlayers.solution import Solution", False),
        ("torch/layer.py", "from cvxlayers.layer import Layer", False),
        ("cli/check.py", "from cvxlayers import compile", False),
        ("torch/layer.py", "from cvxlayers.nodes import DeclarativeNode", True),
        ("nodes/transport.py", "from cvxlayers.report import Info", False),
    ],
)
def test_the_import_rule_sees_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, statement: str, wrong: bool
) -> None:
    package = tmp_path / "cvxlayers"
    for room in ("program.py", "layer.py", "solvers/base.py", "derivative/base.py"):
        (package / room).parent.mkdir(parents=True, exist_ok=True)
        (package / room).touch()
    file = package / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(statement, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", package)
    assert [wrong_way(found) for found in imports(file)] == [wrong]


@pytest.mark.parametrize(
    ("place", "text", "wrong"),
    [
        ("layer.py", "import cvxpy as cp", [True]),
        ("torch/layer.py", "def f():\n    from cvxpy.atoms import norm", [True]),
        ("jax/layer.py", "import torch.nn", [True]),
        ("torch/layer.py", "import torch", [False]),
        ("layer.py", "if TYPE_CHECKING:\n    import cvxpy as cp\nelse:\n    import cvxpy", [False, True]),
    ],
)
def test_the_rule_for_other_libraries_sees_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, text: str, wrong: list[bool]
) -> None:
    file = tmp_path / "cvxlayers" / place
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "cvxlayers")
    assert [trespasses(found) for found in sorted(imports(file), key=lambda found: found.line)] == wrong


def test_importing_the_package_loads_no_framework() -> None:
    frameworks = {"torch", "tensorflow", "keras", "jax", "matplotlib", "typer"}
    code = f"import sys, cvxlayers; print(sorted({frameworks!r} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"


def test_no_file_is_too_long() -> None:
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {str(f.relative_to(ROOT)): n for f, n in lines.items() if n > LONGEST_FILE} == {}


def test_every_folder_with_code_is_a_package() -> None:
    assert [str(f.parent.relative_to(ROOT)) for f in FILES if not (f.parent / "__init__.py").is_file()] == []


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    """The keywords that setup.py hands to setuptools."""
    caught: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", caught.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return caught


def requirements(metadata: dict[str, Any]) -> list[Requirement]:
    lists = [metadata["install_requires"], *metadata["extras_require"].values()]
    return [Requirement(text) for texts in lists for text in texts]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matched = [re.fullmatch(r"([\w.-]+)==([\w.+]+)", line) for line in lines if line and not line.startswith("#")]
    assert all(matched), "Each line of constraints.txt is a comment or NAME==VERSION."
    return {canonicalize_name(found[1]): found[2] for found in matched if found}


def test_the_version_stands_in_one_place(metadata: dict[str, Any]) -> None:
    version = runpy.run_path(str(PACKAGE / "_version.py"))["__version__"]
    assert metadata["version"] == version
    places = [*FILES, ROOT / "setup.py", ROOT / "pyproject.toml"]
    stating = [f.name for f in places if re.search(rf"[\"']{re.escape(version)}[\"']", f.read_text(encoding="utf-8"))]
    assert stating == ["_version.py"]


def test_the_changelog_is_open_for_the_next_version() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"


def test_the_extras_are_the_documented_ones(metadata: dict[str, Any]) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## Extras", 1)[1].split("\n## ", 1)[0]
    documented = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    assert documented == list(metadata["extras_require"])


def test_the_gpl_solver_comes_only_by_name(metadata: dict[str, Any]) -> None:
    names = {"": metadata["install_requires"], **metadata["extras_require"]}
    having = {extra for extra, texts in names.items() if "ecos" in {Requirement(text).name for text in texts}}
    assert having == {"ecos", "dev"}


def test_every_requirement_is_pinned_to_a_version_that_it_admits(metadata: dict[str, Any]) -> None:
    tested = pins()
    for requirement in requirements(metadata):
        pin = tested.get(canonicalize_name(requirement.name))
        assert pin is not None, f"constraints.txt does not pin {requirement.name}."
        assert requirement.specifier, f"{requirement.name} has no lower bound in setup.py."
        assert requirement.specifier.contains(pin), f"{requirement} does not admit the tested version {pin}."


def test_setup_finds_every_room_and_ships_the_types_marker(metadata: dict[str, Any]) -> None:
    folders = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in FILES}
    assert set(metadata["packages"]) == folders
    assert "py.typed" in metadata["package_data"]["cvxlayers"]
    assert (PACKAGE / "py.typed").is_file()


def test_the_command_exists(metadata: dict[str, Any]) -> None:
    assert metadata["entry_points"] == {"console_scripts": ["cvxlayers = cvxlayers.cli:main"]}
    code = "from cvxlayers.cli import main; assert callable(main)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 0, answer.stderr


def test_every_pip_call_of_the_makefile_is_held_to_the_tested_versions() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    calls = [line for line in lines if re.search(r"\bpip install\b", line) and not line.lstrip().startswith("#")]
    assert calls
    assert all("-c constraints.txt" in line for line in calls)


def test_the_site_is_built_strictly_and_in_ci() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (build,) = re.findall(r"^\t\$\(MKDOCS\) (build .*)$", text, re.MULTILINE)
    assert "--strict" in build
    assert "--quiet" not in build  # which would hide the warnings that --strict is to count
    assert re.search(r"^make .*\bdocs$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
