"""The package as a whole: its metadata, the direction of its imports, and the sizes of its files."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cvxlayers.cones import KINDS
from tests.support import lowest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cvxlayers"
FILES = sorted(PACKAGE.rglob("*.py"))
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
OWN = ("cvxlayers", "benchmarks")
LONGEST_FILE = 450

# The rooms of the house from the ground up, and the rooms that each may import beside itself: all of them stand above
# it in this list, so no arrow points upward and none closes a circle. Whatever is not used is not allowed either.
TOP = {"__init__", "__main__", "_version", "errors"}
ROOMS: dict[str, set[str]] = {
    "_version": set(),
    "errors": set(),
    "files": {"errors"},
    "kernels": set(),
    "ldl": {"kernels"},
    "cones": {"errors", "kernels"},
    "program": {"errors", "files", "cones"},
    "verify": {"cones", "program"},
    "ipm": {"kernels", "ldl", "cones", "program", "verify"},
    "compiler": {"errors", "cones", "program"},
    "solvers": {"errors", "kernels", "cones", "program", "verify", "ipm"},
    "derivative": {"errors", "kernels", "cones", "program", "ipm"},
    "layer": {"errors", "cones", "program", "verify", "compiler", "solvers", "derivative"},
    "adapters": {"errors", "program", "layer"},
    "torch": {"errors", "program", "layer", "adapters"},
    "tensorflow": {"errors", "program", "layer", "adapters"},
    "jax": {"errors", "layer", "adapters"},
    "keras": {"errors", "program", "layer", "adapters", "torch", "tensorflow", "jax"},
    "nodes": {"errors", "kernels", "program", "derivative", "layer"},
    "__init__": {"_version", "errors", "program", "compiler", "solvers", "layer"},
    "cli": {"_version", "errors", "files", "cones", "program", "compiler", "solvers", "derivative", "layer"},
    "__main__": {"cli"},
    "benchmarks": {"errors", "cones", "program", "verify", "solvers", "layer", "torch", "tensorflow", "jax", "keras",
                   "nodes", "__init__"},
}  # fmt: skip

# The folders inside a room, and what of the same room each may import: other folders, or the room's own files.
INNER: dict[str, set[str]] = {
    "cones/kernels": {"cones"},
    "ipm/cones": set(),
    "ipm/kkt": {"ipm/cones"},
    "ipm/adjoint": {"ipm/cones", "ipm/kkt"},
    "derivative/system": set(),
    "derivative/factor": {"derivative/system"},
    "derivative/diffcp": {"derivative", "derivative/factor"},
    "nodes/rules": set(),
    "nodes/declarative": {"nodes/rules"},
    "nodes/linear": {"nodes/rules"},
    "nodes/projections": {"nodes/rules"},
    "nodes/robust": {"nodes/rules"},
    "nodes/transport": {"nodes/rules"},
    "nodes/pose": {"nodes/rules", "nodes/declarative"},
    "nodes/signal": {"nodes/rules", "nodes/projections"},
    "nodes/attention": {"nodes/rules", "nodes/projections", "nodes/robust", "nodes/transport"},
    "benchmarks/vision_cases": set(),
}

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
    "numba": {"kernels", "cones", "ipm"},
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
    if parent.split(".")[0] not in OWN:
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


def folder_of_file(file: Path) -> str:
    """The folder in which a file stands, from its room on; a module beside the rooms is a room of its own name."""
    parts = file.relative_to(ROOT).parts
    if parts[0] == "benchmarks":
        return "/".join(parts[:-1])
    return "/".join(parts[1:-1]) or file.stem


def folder_of_module(dotted: str) -> str:
    """Likewise for a module of ours: a package is its own folder."""
    parts = dotted.split(".")
    path = ROOT.joinpath(*parts)
    if not path.is_dir():
        return folder_of_file(path.with_suffix(".py"))
    return dotted.replace(".", "/") if parts[0] == "benchmarks" else "/".join(parts[1:]) or "__init__"


def room(folder: str) -> str:
    return folder.split("/")[0]


def may_import(folder: str, other: str) -> bool:
    if room(folder) != room(other):
        return room(other) in ROOMS[room(folder)]
    return folder == other or "/" not in folder or other in INNER[folder]


def inside(found: Import) -> bool:
    return found.module.split(".")[0] in OWN


def wrong_way(found: Import) -> bool:
    return inside(found) and not may_import(folder_of_file(found.file), folder_of_module(found.module))


def trespasses(found: Import) -> bool:
    allowed = CONFINED.get(found.module.split(".")[0])
    return allowed is not None and not found.for_types and room(folder_of_file(found.file)) not in allowed


@lru_cache(maxsize=1)
def own_imports() -> list[Import]:
    return [found for file in [*FILES, *BENCHMARKS] for found in imports(file) if inside(found)]


def test_beside_the_rooms_stand_four_modules_at_most() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} <= TOP


def test_every_room_is_on_the_list() -> None:
    folders = {folder_of_file(file) for file in [*FILES, *BENCHMARKS]}
    missing = "give each new folder its place in ROOMS, or in INNER, and in CONTRIBUTING.md."
    assert {room(folder) for folder in folders} == set(ROOMS), missing
    assert {folder for folder in folders if "/" in folder} == set(INNER), missing


def test_no_allowed_arrow_points_upward() -> None:
    above = list(ROOMS)
    assert [(name, sorted(low - set(above[: above.index(name)]))) for name, low in ROOMS.items()] == [
        (name, []) for name in ROOMS
    ]
    inner = {folder: {other for other in low if "/" in other} for folder, low in INNER.items()}
    assert set(TopologicalSorter(inner).static_order()) == set(INNER)  # a circle raises an error


def test_imports_point_one_way() -> None:
    wrong = [str(found) for found in own_imports() if wrong_way(found)]
    assert not wrong, "\n".join(wrong)


def test_every_allowed_arrow_is_used() -> None:
    arrows = {(folder_of_file(found.file), folder_of_module(found.module)) for found in own_imports()}
    used: dict[str, set[str]] = {name: set() for name in [*ROOMS, *INNER]}
    for folder, other in arrows:
        if room(folder) != room(other):
            used[room(folder)].add(room(other))
        elif folder != other and "/" in folder:
            used[folder].add(other)
    assert used == {**ROOMS, **INNER}


def test_no_files_import_each_other_in_a_circle() -> None:
    def file_of(dotted: str) -> Path:
        path = ROOT.joinpath(*dotted.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    arrows: dict[Path, set[Path]] = {}
    for found in own_imports():
        arrows.setdefault(found.file, set()).add(file_of(found.module))
    order = list(TopologicalSorter(arrows).static_order())  # a circle raises an error
    assert order.index(PACKAGE / "errors.py") < order.index(PACKAGE / "layer" / "layer.py")


@lru_cache(maxsize=1)
def cone_classes() -> set[str]:
    files = sorted((PACKAGE / "cones").rglob("*.py"))
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def words(node: ast.AST) -> set[str]:
    """The names, attributes and texts in an expression."""
    inner = list(ast.walk(node))
    names = {part.id for part in inner if isinstance(part, ast.Name)}
    names |= {part.attr for part in inner if isinstance(part, ast.Attribute)}
    return names | {part.value for part in inner if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def asks_for_a_cone(text: str) -> list[int]:
    """The lines that ask of which class, or of which kind by name, a cone is. CVXPY's attribute "nonneg" is no cone."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            asks = bool(words(node.args[1]) & cone_classes())
        else:
            asks = isinstance(node, ast.Compare) and bool(words(node) & set(KINDS) and words(node) & {"kind", "kinds"})
        if asks:
            found.append(node.lineno)
    return found


def test_no_code_outside_the_cones_asks_which_cone_it_has() -> None:
    homes = (PACKAGE / "cones", PACKAGE / "ipm" / "cones")
    others = [file for file in [*FILES, *BENCHMARKS] if not any(home in file.parents for home in homes)]
    asking = {str(file.relative_to(ROOT)): asks_for_a_cone(file.read_text(encoding="utf-8")) for file in others}
    assert {file: lines for file, lines in asking.items() if lines} == {}


@pytest.mark.parametrize(
    "text",
    [
        'block.kind == "psd"',
        'group.kind in ("exponential", "power")',
        '"second_order" not in solver.kinds',
        "isinstance(part, PsdDerivative | EigenBlocks)",
    ],
)
def test_the_rule_for_cones_sees_each_form(text: str) -> None:
    assert asks_for_a_cone(text) == [1]


def test_every_room_is_described() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("## The rooms of the house", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    described = {name for row in rows for name in re.findall(r"`(\w+)/`", row)}
    assert described == set(ROOMS) - TOP - {"benchmarks"}


def test_other_libraries_are_imported_only_in_their_rooms() -> None:
    wrong = [str(found) for file in FILES for found in imports(file) if trespasses(found)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("place", "statement", "wrong"),
    [
        ("cones/psd.py", "from cvxlayers.program.structure import Values", True),
        ("cones/psd.py", "from cvxlayers import program", True),
        ("cones/psd.py", "from ..program.structure import Values", True),
        ("cones/psd.py", "from benchmarks import run", True),
        ("solvers/scs.py", "from cvxlayers.derivative.base import Derivative", True),
        ("derivative/base.py", "def f():\n    import cvxlayers.compiler", True),
        ("layer/layer.py", "import cvxlayers", True),
        ("jax/layer.py", "from cvxlayers.torch import CvxpyLayer", True),
        ("derivative/system/units.py", "from cvxlayers.derivative import base", True),
        ("derivative/system/units.py", "from .. import base", True),
        ("derivative/factor/part.py", "from cvxlayers.derivative.system import units", False),
        ("derivative/base.py", "from cvxlayers.derivative.system import units", False),
        ("solvers/scs.py", "from . import base", False),
        ("solvers/scs.py", "from cvxlayers.program.solution import Solution", False),
        ("torch/layer.py", "from cvxlayers.layer.layer import Layer", False),
        ("torch/layer.py", "from cvxlayers.nodes import DeclarativeNode", True),
        ("nodes/transport/transport.py", "from cvxlayers.layer.report import Info", False),
        ("cli/check.py", "from cvxlayers import compile", True),
    ],
)
def test_the_import_rule_sees_each_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, statement: str, wrong: bool
) -> None:
    package = tmp_path / "cvxlayers"
    for module in ("program/structure.py", "layer/layer.py", "solvers/base.py", "derivative/base.py",
                   "derivative/system/units.py", "compiler/rules.py", "torch/qp.py",
                   "nodes/rules/outcome.py"):  # fmt: skip
        (package / module).parent.mkdir(parents=True, exist_ok=True)
        (package / module).touch()
    file = package / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(statement, encoding="utf-8")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    monkeypatch.setitem(globals(), "PACKAGE", package)
    assert [wrong_way(found) for found in imports(file)] == [wrong]


@pytest.mark.parametrize(
    ("place", "text", "wrong"),
    [
        ("layer/layer.py", "import cvxpy as cp", [True]),
        ("torch/layer.py", "def f():\n    from cvxpy.atoms import norm", [True]),
        ("jax/layer.py", "import torch.nn", [True]),
        ("torch/layer.py", "import torch", [False]),
        ("layer/layer.py", "if TYPE_CHECKING:\n    import cvxpy as cp\nelse:\n    import cvxpy", [False, True]),
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
    return lowest.metadata()


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


def test_the_oldest_versions_are_those_of_the_bounds(metadata: dict[str, Any]) -> None:
    """All but PyTorch's, which stays as it is pinned."""
    texts = [*metadata["install_requires"], *metadata["extras_require"]["dev"]]
    tested = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = lowest.lowest([text.split(";")[0] for text in texts], tested)
    bounds = {Requirement(text).name: Requirement(text).specifier for text in texts}
    assert len(found) == len(bounds)
    for line in found:
        name, version = line.split("==")
        assert bounds[name].contains(version)
        assert str(bounds[name]) == f">={version}" or (name == "torch" and version == pins()["torch"])


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
    assert all("-c constraints.txt" in line or "-c .venv-lowest/lowest.txt" in line for line in calls)


def test_the_site_is_built_strictly_and_in_ci() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (build,) = re.findall(r"^\t\$\(MKDOCS\) (build .*)$", text, re.MULTILINE)
    assert "--strict" in build
    assert "--quiet" not in build  # which would hide the warnings that --strict is to count
    assert re.search(r"^make .*\bdocs$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
