"""Notebooks with their outputs as pages of the site: Markdown, pictures, and pieces of HTML to be put in later."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from html import escape
from typing import Any

__all__ = ["NotebookPage"]

FORMULA = re.compile(r"\$\$(?P<block>.+?)\$\$|(?<![\\$])\$(?P<inline>[^$\n]+?)\$(?!\d)", re.DOTALL)
COLOURS = re.compile(r"\x1b\[[\d;]*m")


@dataclass
class NotebookPage:
    """The page of one notebook.

    Formulas and outputs stand as marks in the Markdown, which knows nothing of HTML; ``filled`` puts them in.
    """

    name: str
    notebook: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def markdown(self) -> str:
        """The whole page."""
        parts = []
        for cell in self.notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(FORMULA.sub(self._formula, source))
            elif cell["cell_type"] == "code":
                parts += [f"```python\n{source}\n```", *map(self._output, cell["outputs"])]
        short = self.notebook["metadata"].get("cvxlayers", {}).get("short")
        mode = "run in its short mode; `make notebooks` runs it in full" if short else "run in full"
        parts.append(f"*This page is `docs/notebooks/{self.name}.py`, {mode}.*")
        return "\n\n".join(part for part in parts if part)

    def filled(self, html: str) -> str:
        """The page's HTML with formulas and outputs."""
        for number, piece in enumerate(self.pieces):
            for form in (f"<p>{mark(number)}</p>", mark(number)):
                html = html.replace(form, piece)
        for number, picture in enumerate(self.pictures.values(), start=1):
            kind = "nb-figure nb-wide" if is_wide(picture) else "nb-figure"
            html = html.replace(f'<img alt="Figure {number} ', f'<img class="{kind}" alt="Figure {number} ')
        return html

    def _piece(self, html: str) -> str:
        self.pieces.append(html)
        return mark(len(self.pieces) - 1)

    def _formula(self, found: re.Match[str]) -> str:
        from latex2mathml.converter import convert

        if found["block"]:
            piece = f'<div class="nb-formula">{convert(found["block"].strip(), display="block")}</div>'
            return f"\n\n{self._piece(piece)}\n\n"
        return self._piece(convert(found["inline"].strip()))

    def _output(self, output: dict[str, Any]) -> str:
        if output["output_type"] == "stream":
            return self._text(output["text"])
        data = output.get("data", {})
        if "image/png" in data:
            picture = f"{self.name}-{len(self.pictures) + 1}.png"
            self.pictures[picture] = base64.b64decode("".join(data["image/png"]))
            return f"![Figure {len(self.pictures)} of the notebook]({picture})"
        if "text/html" in data:
            table = "".join(data["text/html"])
            return self._piece(f'<div class="nb-output">{table}</div>')
        return self._text(data["text/plain"]) if "text/plain" in data else ""

    def _text(self, lines: Any) -> str:
        text = COLOURS.sub("", "".join(lines)).rstrip()
        return self._piece(f'<pre class="nb-output"><code>{escape(text)}</code></pre>') if text else ""


def mark(number: int) -> str:
    """What stands for a piece in the Markdown: letters and digits, which no rule of Markdown touches."""
    return f"notebookpiece{number}ofthispage"


def is_wide(picture: bytes) -> bool:
    """Whether a PNG file shows several things side by side, which a narrow screen would make too small."""
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))  # big end first
    return width > 1.9 * height
