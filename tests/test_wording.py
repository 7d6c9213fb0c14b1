"""The texts in the sources and documents: no line was broken in the middle of a sentence with room to spare."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cvxlayers", "benchmarks", "examples", "tests")
SOURCES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WIDTH, SPARE = 120, 40
Lines = list[tuple[int, str]]

# What ends a sentence, a formula or a list's head, so that the next line begins anew.
ENDS = tuple(".:;!?-=>")
# A line that is no running text: an example, an item, a table, a command, a heading, or the entry of a parameter.
OTHER = re.compile(r">>>|\.\.\.|[-*|#<$]|\d+\. |python |make |pip |.* : |.*\S {2,}\S|!|mean:|robust:")


def broken(lines: Lines) -> list[int]:
    """The lines after which the next word, in lower case, would have fitted with room to spare."""
    found = []
    for (at, line), (after, following) in pairwise(lines):
        if after == at + 1 and _goes_on(line, following) and _room(line) > len(following.split()[0]) + SPARE:
            found.append(at)
    return found


def _room(line: str) -> int:
    return WIDTH - len(line.rstrip())


def _goes_on(line: str, following: str) -> bool:
    text, rest = line.strip(), following.strip()
    return (
        bool(text)
        and rest[:1].islower()
        and not text.endswith(ENDS)
        and not OTHER.match(text)
        and not OTHER.match(rest)
        and _indent(line) == _indent(following)
    )


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def comments(text: str) -> Lines:
    """The comments that have a line to themselves, without their marks."""
    lines, tokens = text.splitlines(), tokenize.generate_tokens(io.StringIO(text).readline)
    alone = [token.start for token in tokens if token.type == tokenize.COMMENT]
    return [(row, " " * column + lines[row - 1][column:].lstrip("#")) for row, column in alone
            if not lines[row - 1][:column].strip()]  # fmt: skip


def docstrings(text: str) -> Iterator[Lines]:
    """Every text that stands as a statement; the first line without its quotes, at the indentation of the others."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            assert node.end_lineno is not None
            first = re.sub(r'^(\s*)r?"""', r"\1", lines[node.lineno - 1])
            yield [
                (node.lineno, first),
                *((row, lines[row - 1]) for row in range(node.lineno + 1, node.end_lineno + 1)),
            ]


def messages(text: str) -> Iterator[Lines]:
    """The parts of texts that are written one below the other, as Python joins them."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type != tokenize.NL]
    lines, part = text.splitlines(), []
    for token in tokens:
        if token.type == tokenize.STRING and re.fullmatch(r'[rf]?"[^"]*(?<!\\n)"', lines[token.start[0] - 1].strip()):
            part.append((token.start[0], re.sub(r'^(\s*)[rf]?"|"$', r"\1", lines[token.start[0] - 1])))
        else:
            yield part
            part = []
    yield part


def prose(text: str) -> Lines:
    """A page without its code."""
    inside, kept = False, []
    for row, line in enumerate(text.splitlines(), 1):
        fence = line.lstrip().startswith("```")
        if not inside and not fence and not line.startswith("    "):
            kept.append((row, line))
        inside ^= fence
    return kept


def texts_of(file: Path) -> list[Lines]:
    text = file.read_text(encoding="utf-8")
    return [prose(text)] if file.suffix == ".md" else [comments(text), *docstrings(text), *messages(text)]


def test_no_sentence_is_broken_with_room_to_spare() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{row}"
        for file in [*SOURCES, *PAGES]
        for lines in texts_of(file)
        for row in broken(lines)
    ]
    assert not wrong, "\n".join(["Fill these lines with the words of the next:", *wrong])


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('"""The point is\nfound by a search that goes on."""', [1]),
        ("# The point is\n# found by a search that goes on.", [1]),
        ('f("The point is "\n  "found by a search.")', []),
        ('f(\n    "The point is "\n    "found by a search."\n)', [2]),
        ('"""The point is found.\n\nx : float\n    the point\ny : float"""', []),
        ('"""One of these:\n\nfirst thing\n"""', []),
        ('"""Run it so.\n\n>>> f(\n... x)\narray"""', []),
        (f'"""{"word " * 20}\nfollows."""', []),
    ],
)
def test_a_broken_line_is_seen(tmp_path: Path, text: str, rows: list[int]) -> None:
    file = tmp_path / "a.py"
    file.write_text(text, encoding="utf-8")
    assert [row for lines in texts_of(file) for row in broken(lines)] == rows


def test_a_broken_line_of_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text("# Title\n\nThe point is\nfound.\n\n```python\nx\ny\n```\n", encoding="utf-8")
    assert [row for lines in texts_of(page) for row in broken(lines)] == [3]
