"""The tests themselves: each can fail, none measures time, and none reaches for a private name of the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
FILES = sorted(TESTS.rglob("*.py"))

# What tells whether something holds, by its name. The text of a page is run by exec, and fails where a line raises.
TELLS = re.compile(r"assert|^raises$|^warns$|^fail$|^exec$")
# Clocks of Python. A test counts calls, iterations or bytes; how long something takes is for benchmarks/.
CLOCKS = re.compile(r"\b(perf_counter|monotonic|process_time|thread_time)(_ns)?\b|\btime\.time\b")

PUBLIC = {"_replace", "_asdict", "_fields", "_version"}  # of named tuples, and a file that the packaging reads

# What may be the name of something in a text, as monkeypatch.setattr takes it.
NAME = re.compile(r"cvxlayers(\.\w+)+|_[A-Za-z]\w+")

# Private names of the package that tests do use, and why no public one would do.
PRIVATE = {
    (
        "ipm/test_few.py",
        "_pays_one_by_one",
    ): "the choice between lanes and one by one, for sizes that are not solved here",
    ("ipm/test_few.py", "_layout"): "what that choice is made from",
    ("ipm/test_choice.py", "_layout"): "that no work space for eight was made",
    ("derivative/test_kernel_path.py", "_places"): "what a kernel finds in its work space is to be spoilt",
    ("layer/test_summaries.py", "_repr_html_"): "IPython's own name for it",
    ("kernels/test_fingerprint.py", "_PACKAGE"): "the sources are a copy that the test changes",
    ("program/test_artefact.py", "_digest"): "a file that is wrong in one place needs a right digest",
    ("support/mutations.py", "_digest"): "likewise",
    ("support/mutations.py", "_encoded"): "likewise",
    ("cli/test_doctor.py", "_kernels"): "what is compiled ahead, by name",
    ("cones/test_kernels.py", "_cone"): "which functions serve a cone: the answers are the same",
    ("support/fuzz.py", "_cone"): "likewise, for one process that draws problems with and without kernels",
    ("solvers/test_diffcp.py", "_dense"): "that no dense factors were made: the answers are the same",
    ("tensorflow/test_handles.py", "_RECORDS"): "that nothing is left there",
    ("torch/test_transforms.py", "_POINTS"): "that nothing is left there",
    ("torch/test_qp.py", "_local"): "how many entries of a sparse tensor the layer of the last call has",
    ("cli/test_doctor.py", "_loaded"): "kernels that the other process compiled, or did not",
    ("torch/test_compile.py", "_handle"): "what the registered operations take",
    ("torch/test_compile.py", "_dynamo"): "PyTorch's own name",
    ("torch/test_ways_of_use.py", "_handle"): "a copy has an entry of its own among those operations",
    ("solvers/test_diffcp.py", "_diffcp"): "diffcp's own name: what ours is compared with",
    ("cones/test_derivative.py", "_diffcp"): "likewise",
    ("contracts/test_solutions.py", "_value"): "CVXPY's own name: its public one warns of sparse values",
}


@lru_cache(maxsize=1)
def trees() -> dict[str, ast.Module]:
    return {str(file.relative_to(TESTS)): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def calls(function: ast.AST) -> set[str]:
    """The last part of the name of whatever is called, or handed on by its name alone to be called."""
    made = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    handed = {one.id for call in made for one in call.args if isinstance(one, ast.Name)}
    return handed | {ast.unparse(call.func).rsplit(".", 1)[-1] for call in made}


def tells(function: ast.AST, helpers: set[str]) -> bool:
    if any(isinstance(node, ast.Assert) and not isinstance(node.test, ast.Constant) for node in ast.walk(function)):
        return True
    return any(TELLS.search(name) or name in helpers for name in calls(function))


def telling(found: dict[str, ast.Module]) -> set[str]:
    """The helpers that tell, those included that call one that does."""
    helpers: set[str] = set()
    while True:
        more = {f.name for tree in found.values() for f in functions(tree) if tells(f, helpers)} - helpers
        if not more:
            return helpers
        helpers |= more


def cannot_fail(found: dict[str, ast.Module]) -> list[str]:
    helpers = telling(found)
    return [
        f"{name}:{function.lineno} {function.name}"
        for name, tree in found.items()
        for function in functions(tree)
        if function.name.startswith("test_") and not tells(function, helpers)
    ]


def swallowed(found: dict[str, ast.Module]) -> list[str]:
    """Errors that are caught and dropped; contextlib.suppress says by its name what it drops."""
    return [
        f"{name}:{node.lineno}"
        for name, tree in found.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and all(isinstance(step, ast.Pass) for step in node.body)
    ]


def own(node: ast.expr) -> bool:
    """Whether the name before the dot is the object itself, or its class."""
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def private(tree: ast.Module) -> Iterator[str]:
    """The private names that a file takes from elsewhere: attributes, imports, and what a monkeypatch is told."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not own(node.value):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            yield node.value.rsplit(".", 1)[-1]


def reached(found: dict[str, ast.Module]) -> set[tuple[str, str]]:
    return {
        (name, word)
        for name, tree in found.items()
        if name != Path(__file__).name
        for word in private(tree)
        if word.startswith("_") and not word.startswith("__") and word not in PUBLIC
    }


def test_every_test_can_fail() -> None:
    wrong = cannot_fail(trees())
    assert not wrong, "\n".join(["A test without an assertion:", *wrong])


def test_no_error_is_dropped() -> None:
    assert swallowed(trees()) == []


def test_no_test_measures_time() -> None:
    found = [name for name, file in zip(trees(), FILES, strict=True) if CLOCKS.search(file.read_text(encoding="utf-8"))]
    assert found in ([], [Path(__file__).name]), "count calls, iterations or bytes, or measure in benchmarks/."


def test_private_names_are_those_on_the_list() -> None:
    new = "take what is public (a report, a status, an argument such as prefer=), or give the reason in PRIVATE."
    assert reached(trees()) == set(PRIVATE), new


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("def test_a():\n    f()", ["a.py:1 test_a"]),
        ("def test_a():\n    assert True", ["a.py:1 test_a"]),
        ("def f():\n    g()\ndef g():\n    pass\ndef test_a():\n    f()", ["a.py:5 test_a"]),
        ("def f():\n    g()\ndef g():\n    assert x\ndef test_a():\n    f()", []),
        ("def test_a():\n    with pytest.raises(E):\n        f()", []),
        ("def test_a():\n    np.testing.assert_array_equal(a, b)", []),
    ],
)
def test_a_test_without_an_assertion_is_seen(text: str, names: list[str]) -> None:
    assert cannot_fail({"a.py": ast.parse(text)}) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("x._inner.y", {"_inner"}),
        ("from cvxlayers.layer.polish import _steps", {"_steps"}),
        ("patch.setattr('cvxlayers.layer.polish._steps', f)", {"_steps"}),
        ("patch.setattr(polish, '_steps', f)", {"_steps"}),
        ("self._inner", set()),
        ("values._replace(q=q).__class__", set()),
    ],
)
def test_a_private_name_is_seen(text: str, names: set[str]) -> None:
    assert {word for _, word in reached({"a.py": ast.parse(text)})} == names


def test_a_dropped_error_is_seen() -> None:
    assert swallowed({"a.py": ast.parse("try:\n    f()\nexcept E:\n    pass")}) == ["a.py:3"]
