"""``check --plot``: the sparsity of P | q and A | b, coloured by parameter, the rows banded by cone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from cvxlayers.cli.sources import CONSTANT, SEVERAL, Entries, sources
from cvxlayers.cones import KINDS, Cones
from cvxlayers.files.output import replacing
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["draw"]

# First those of Okabe and Ito (2008), distinguishable with every common kind of colour vision, then darker ones. The
# last is shared by all further parameters.
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8B5A2B", "#2F4B7C", "#6B8E23",
    "#A63D57", "#8FA0D8",
)  # fmt: skip
GREY, BLACK, INK = "#B4B8BD", "#1A1A1A", "#333B45"
TINTS = ("#EEF1F5", "#F6F1E7", "#E9F3EE", "#F4EAF1", "#E8F0F8", "#F8ECE6", "#ECEFE0")  # of the kinds of cone, in turn
MOST_CELLS = 300  # cells along an axis; a larger matrix is drawn coarser, each cell standing for a patch of it


@dataclass(frozen=True)
class Band:
    """Neighbouring rows of cones of one kind."""

    kind: str
    start: int
    stop: int
    count: int

    @property
    def label(self) -> str:
        title = KINDS[self.kind].title
        return title if self.count == 1 else f"{self.count} {title}"

    @property
    def tint(self) -> str:
        """The colour behind it."""
        return TINTS[list(KINDS).index(self.kind) % len(TINTS)]


def draw(compiled: CompiledProblem, title: str, names: Sequence[str], path: Path) -> None:
    """Draw the picture into a file; its suffix (.png, .pdf, .svg) tells the format, which is png without one.

    ``names`` are those of the parameters, in the order of ``compiled.parameters``.
    """
    parts = sources(compiled)
    colours = _colours(len(names))
    with mpl.rc_context({"font.size": 9, "font.family": "DejaVu Sans", "text.color": INK, "axes.labelcolor": INK}):
        figure, left, right = _canvas(compiled.structure.n, compiled.structure.m)
        _panel(left, parts["P"], parts["q"], colours)
        _panel(right, parts["A"], parts["b"], colours)
        _bands(right, bands(compiled.structure.cones))
        _headings(figure, left, right, parts, title)
        used = {int(s) for part in parts.values() for s in np.unique(part.source)}
        _legend(figure, left[0], used, names, colours)
        kind = path.suffix.removeprefix(".") or "png"
        with replacing(path) as file:
            figure.savefig(file, format=kind, dpi=160, facecolor="white", bbox_inches="tight", pad_inches=0.25)


def bands(cones: Cones) -> list[Band]:
    """The rows, grouped by kind of cone, in order.

    >>> [(band.label, band.start, band.stop) for band in bands(Cones(zero=2, second_order=(3, 4)))]
    [('zero', 0, 2), ('2 second-order', 2, 9)]
    """
    found: list[Band] = []
    for block in cones.blocks:
        if found and found[-1].kind == block.kind:
            last = found.pop()
            found.append(Band(block.kind, last.start, block.stop, last.count + 1))
        else:
            found.append(Band(block.kind, block.start, block.stop, 1))
    return found


def _canvas(n: int, m: int) -> tuple[Figure, tuple[Axes, Axes], tuple[Axes, Axes]]:
    """Four axes: P and q to the left, A and b to the right; their heights show the rows, within reason."""
    ratio = float(np.clip(m / max(n, 1), 0.45, 1.8))
    height = 4.4 * max(1.0, ratio)
    figure = Figure(figsize=(11.0, height))
    FigureCanvasAgg(figure)
    strip, gap = 0.022, 0.012
    tall = 0.82 / max(1.0, ratio)

    def place(x: float, relative: float) -> tuple[Axes, Axes]:
        h = tall * relative
        matrix = figure.add_axes((x, 0.9 - h, 0.36, h))
        return matrix, figure.add_axes((x + 0.36 + gap, 0.9 - h, strip, h))

    return figure, place(0.05, 1.0), place(0.53, ratio)


def _colours(count: int) -> list[str]:
    """A colour for each parameter."""
    return [PALETTE[min(i, len(PALETTE) - 1)] for i in range(count)]


def _image(part: Entries, colours: Sequence[str]) -> NDArray[np.float64]:
    """The part as an RGBA picture, transparent where there is no entry; in a coarse cell parameters cover constants."""
    shape = tuple(min(size, MOST_CELLS) for size in part.shape)
    image = np.zeros((*shape, 4))
    row = part.rows.astype(np.int64) * shape[0] // max(part.shape[0], 1)
    column = part.columns.astype(np.int64) * shape[1] // max(part.shape[1], 1)
    for source in sorted(set(part.source.tolist()), key=lambda s: (s != CONSTANT, s != SEVERAL, s)):
        here = part.source == source
        image[row[here], column[here], :3] = to_rgb(_colour(source, colours))
        image[row[here], column[here], 3] = 1.0
    return image


def _colour(source: int, colours: Sequence[str]) -> str:
    return {CONSTANT: GREY, SEVERAL: BLACK}.get(source) or colours[source]


def _panel(axes: tuple[Axes, Axes], matrix: Entries, vector: Entries, colours: Sequence[str]) -> None:
    for ax, part in zip(axes, (matrix, vector), strict=True):
        rows, columns = part.shape
        if rows and columns:
            extent = (0.0, float(columns), float(rows), 0.0)
            ax.imshow(_image(part, colours), extent=extent, aspect="auto", interpolation="nearest", zorder=2)
        ax.set(xlim=(0, max(columns, 1)), ylim=(max(rows, 1), 0))
        ax.tick_params(length=0, labelsize=7, colors="#7B848F")
        if max(rows, columns) <= 60:
            for line in range(1, rows):
                ax.axhline(line, color="white", linewidth=0.6, zorder=3)
            for line in range(1, columns):
                ax.axvline(line, color="white", linewidth=0.6, zorder=3)
        for spine in ax.spines.values():
            spine.set(color="#C9CED4", linewidth=0.8, zorder=5)
    axes[0].set_xticks(_ticks(matrix.shape[1]))
    axes[0].set_yticks(_ticks(matrix.shape[0]))
    axes[1].set_xticks([])
    axes[1].set_yticks([])


def _ticks(size: int) -> list[int]:
    """Round numbers up to size, about five of them, without the end where it would crowd the last one."""
    located = mpl.ticker.MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]).tick_values(0, max(size, 1))
    return [int(tick) for tick in located if 0 <= tick <= size]


def _bands(axes: tuple[Axes, Axes], found: Sequence[Band]) -> None:
    """Tint the rows by cone behind the entries, and name the bands at the right edge, without overlaps."""
    total = max((band.stop for band in found), default=1)
    labelled = _spread([(band.start + band.stop) / 2 / total for band in found], 0.045)
    for band, at in zip(found, labelled, strict=True):
        for ax in axes:
            ax.axhspan(band.start, band.stop, color=band.tint, linewidth=0, zorder=0)
            if band.start:
                ax.axhline(band.start, color="#8E97A2", linewidth=0.8, zorder=4)
        middle = 1 - (band.start + band.stop) / 2 / total
        axes[1].annotate(
            f"{band.label}  ({band.stop - band.start:,})",
            xy=(1.0, middle), xycoords="axes fraction", xytext=(1.9, 1 - at), textcoords="axes fraction",
            va="center", ha="left", fontsize=8, color=INK, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#8E97A2", "linewidth": 0.6, "shrinkA": 2, "shrinkB": 0},
        )  # fmt: skip


def _spread(places: Sequence[float], apart: float) -> list[float]:
    """The places, pushed down where they are closer than ``apart``."""
    spread: list[float] = []
    for place in places:
        spread.append(max(place, spread[-1] + apart) if spread else place)
    return spread


def _headings(
    figure: Figure, left: tuple[Axes, Axes], right: tuple[Axes, Axes], parts: dict[str, Entries], title: str
) -> None:
    top = max(ax.get_position().y1 for ax in (*left, *right))
    lift = 0.45 / figure.get_figheight()  # inches
    figure.text(0.05, top + lift, title, fontsize=13, fontweight="bold", ha="left", va="bottom")
    for axes, matrix, vector in ((left, "P", "q"), (right, "A", "b")):
        part = parts[matrix]
        size = f"{part.shape[0]:,} × {part.shape[1]:,},  {part.rows.size:,} nonzeros"
        axes[0].set_title(f"{matrix}", loc="left", fontsize=11, fontweight="bold", pad=6)
        axes[0].set_title(size, loc="right", fontsize=8, color="#7B848F", pad=6)
        axes[1].set_title(vector, fontsize=11, fontweight="bold", pad=6)
        if not part.rows.size:
            word = "no quadratic term" if matrix == "P" else "no constraints"
            axes[0].text(0.5, 0.5, word, transform=axes[0].transAxes, ha="center", va="center", color="#7B848F")


def _legend(figure: Figure, left: Axes, used: set[int], names: Sequence[str], colours: Sequence[str]) -> None:
    entries: list[tuple[str, str]] = []
    parameters = sorted(source for source in used if source >= 0)
    alone = parameters if len(names) <= len(PALETTE) else [s for s in parameters if s < len(PALETTE) - 1]
    entries += [(names[source], colours[source]) for source in alone]
    if len(alone) < len(parameters):
        entries.append((f"{len(parameters) - len(alone)} further parameters", PALETTE[-1]))
    if SEVERAL in used:
        entries.append(("several parameters", BLACK))
    if CONSTANT in used:
        entries.append(("constant", GREY))
    handles = [
        Line2D([], [], marker="s", markersize=7, linestyle="none", color=colour, label=f"{name}")
        for name, colour in entries
    ]
    # Below P, where there is room whenever A is the taller one; else the picture grows downwards.
    bottom = left.get_position().y0 - 0.35 / figure.get_figheight()
    columns = 1 if len(handles) <= 4 else 2 if len(handles) <= 8 else 3
    figure.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0.04, bottom), ncols=columns, frameon=False, fontsize=9,
        handletextpad=0.3, columnspacing=1.6, title="each entry comes from", title_fontsize=8, alignment="left",
    )  # fmt: skip
