"""Every example runs in a short mode, improves its score, leaves a picture, and uses public names only."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import cvxlayers

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.py"))
PUBLIC = {
    "cvxlayers": set(cvxlayers.__all__),
    **{f"cvxlayers.{name}": {"CvxpyLayer"} for name in ("torch", "jax", "keras")},
}


def load(name: str) -> ModuleType:
    """The example as a module, as ``python examples/NAME.py`` would see it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def is_a_picture(path: Path) -> bool:
    """A PNG file that is more than an empty page."""
    content = path.read_bytes()
    return content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 10_000


@pytest.mark.parametrize(
    ("name", "steps", "factor"),
    [("total_variation", 25, 0.5), ("geometric_program", 30, 0.3), ("learn_constraints", 25, 0.2)],
)
def test_what_is_learned_is_better_than_the_start(
    name: str, steps: int, factor: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    scores = load(name).main(["--steps", str(steps), "--out", str(picture)])
    assert scores["learned"] < factor * scores["start"]
    assert is_a_picture(picture)
    assert "learned" in capsys.readouterr().out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_import_public_names_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cvxlayers":
            names = {alias.name for alias in node.names}
            assert names <= PUBLIC.get(node.module, set()), f"{path.name}: {node.module} has no public {names}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_say_how_to_run_them(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"examples/{path.name}" in docstring
