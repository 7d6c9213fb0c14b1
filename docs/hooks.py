"""What the site takes from elsewhere: pages from files of the repository, tables from the code, notebooks with their
outputs. MkDocs calls the functions ``on_...`` (mkdocs.yml names this file)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import notebook_outputs
from notebook_pages import NotebookPage

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = "notebooks"
EXAMPLES = "Examples"
"""The section of the navigation in which the notebooks stand."""

FROM_REPOSITORY: Mapping[str, str] = {
    "index.md": "README.md",
    "internals/contributing.md": "CONTRIBUTING.md",
    "internals/changelog.md": "CHANGELOG.md",
}
"""Pages of the site that are files at the repository's top."""

PAGES: dict[str, NotebookPage] = {}
"""The notebooks of this build, by the names of their pages."""


def on_config(config: Any) -> Any:
    """Put the notebooks into the navigation, and take no text for HTML."""
    add_notebooks(config["nav"], notebook_outputs.scripts())
    config["markdown_extensions"].append(without_html())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are files at the repository's top, and the notebooks.

    Those without outputs run first, where CVXLAYERS_NOTEBOOKS=short in their short mode.
    """
    from mkdocs.structure.files import File

    for page, source in FROM_REPOSITORY.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=relinked(text, page)))
    for name, content in notebook_files(notebook_outputs.scripts()).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in the tables that come from the code, ``<!-- table: NAME -->``; lead links to scripts to their pages."""
    return with_tables(re.sub(rf"\]\(({NOTEBOOKS}/\w+)\.py\)", r"](\1.md)", markdown))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Let names of the package lead to their place among the API pages; leave no dash before an empty description; put
    formulas and outputs into notebooks."""
    if page.file.src_uri in PAGES:
        html = PAGES[page.file.src_uri].filled(html)
    return re.sub(r'\s*–\s*<div class="doc-md-description">\s*</div>', "", linked(html))


def without_html() -> Any:
    """An extension of Markdown for texts, the docstrings' included, in which <Jv, w> is a product and no tag."""
    from markdown.extensions import Extension

    class WithoutHtml(Extension):
        def extendMarkdown(self, md: Any) -> None:
            md.preprocessors.deregister("html_block")
            md.inlinePatterns.deregister("html")

    return WithoutHtml()


def add_notebooks(nav: list[Any], scripts: Sequence[Path]) -> None:
    """Every notebook, by its title, at the end of the section of examples."""
    for section in nav:
        if EXAMPLES in section:
            section[EXAMPLES] += [{title(script): f"{NOTEBOOKS}/{script.stem}.md"} for script in scripts]


def title(script: Path) -> str:
    """The first heading of a notebook, or its name."""
    heading = re.search(r"^# # (.+)$", script.read_text(encoding="utf-8"), re.MULTILINE)
    return heading[1].strip() if heading else script.stem.replace("_", " ")


def notebook_files(scripts: Sequence[Path]) -> dict[str, str | bytes]:
    """The pages and the pictures of notebooks, by their places in the site."""
    missing = [script for script in scripts if notebook_outputs.stored(script) is None]
    notebook_outputs.execute_all(missing, notebook_outputs.SHORT.items() <= os.environ.items())
    found: dict[str, str | bytes] = {}
    for script in scripts:
        notebook = notebook_outputs.stored(script)
        assert notebook is not None
        place = f"{NOTEBOOKS}/{script.stem}.md"
        page = PAGES[place] = NotebookPage(script.stem, notebook)
        found[place] = page.markdown()
        found |= {f"{NOTEBOOKS}/{picture}": content for picture, content in page.pictures.items()}
    return found


def relinked(text: str, page: str) -> str:
    """The links of a file at the repository's top, as they are on a page of the site.

    >>> relinked("[QPs](docs/guides/qp.md#sparse), [rules](CONTRIBUTING.md)", "index.md")
    '[QPs](guides/qp.md#sparse), [rules](internals/contributing.md)'
    >>> relinked("[QPs](docs/guides/qp.md)", "internals/contributing.md")
    '[QPs](../guides/qp.md)'
    """
    up = "../" * page.count("/")
    pages = {source: target for target, source in FROM_REPOSITORY.items()}

    def place(link: re.Match[str]) -> str:
        target = link[1]
        if target.startswith("docs/"):
            return f"]({up}{target.removeprefix('docs/')}"
        return f"]({up}{pages[target]}" if target in pages else link[0]

    return re.sub(r"\]\(([^)#\s]+)", place, text)


def linked(html: str) -> str:
    """The text with references from names of the package in code, which mkdocstrings resolves where there is a page.

    >>> linked("<p>See <code>cvxlayers.Layer</code>.</p>")
    '<p>See <autoref optional identifier="cvxlayers.Layer"><code>cvxlayers.Layer</code></autoref>.</p>'
    """
    reference = r'<autoref optional identifier="\1"><code>\1</code></autoref>'
    return re.sub(r"(?<!<pre>)<code>(cvxlayers(?:\.\w+)+)</code>(?!</a>)", reference, html)


def with_tables(markdown: str) -> str:
    """The text with the tables that it asks for; KeyError where there is none of a name."""
    return re.sub(r"^<!-- table: ([\w-]+) -->$", lambda wanted: TABLES[wanted[1]](), markdown, flags=re.MULTILINE)


def engine_options() -> str:
    """For each solver its own options, with types and meanings, as the registry has them."""
    from cvxlayers.solvers.registry import SOLVERS

    parts = []
    for name, solver in SOLVERS.items():
        rows = [(f"`{option}`", solver.types[option].__name__, meaning) for option, meaning in solver.options.items()]
        parts.append(f"### {name}\n\n{table(('option', 'type', 'meaning'), rows)}")
    return "\n\n".join(parts)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines)


TABLES: Mapping[str, Callable[[], str]] = {"engine-options": engine_options}
