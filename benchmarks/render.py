"""The table, and the same results for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.timing import PARTS, Timing
from benchmarks.verify import Verdict

__all__ = ["Row", "as_json", "header", "progress", "table"]

WIDTH = 200
"""The table's width where the output is no terminal, or a narrow one."""

SHARES = (*PARTS, "rest")

TITLES = ("sol. err.", "grad. err.", "fwd ms", "bwd ms", "bwd/fwd", "ratio", *(name[:6] for name in SHARES), "der/fwd",
          "overh.")  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table: a contender on a family.

    ``fault`` says why there is no timing: what is wrong with the answer, or the error that was raised.
    """

    family: str
    size: str
    contender: str
    setting: str
    verdict: Verdict | None = None
    timing: Timing | None = None
    ratio: float | None = None
    fault: str = ""


def progress(name: str) -> None:
    """Say on the error stream which family is at work."""
    Console(stderr=True).print(f"{name} ...", style="dim")


def header(facts: Mapping[str, Any]) -> str:
    """The machine in one paragraph."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    plain = ", ".join(f"{name}: {value}" for name, value in facts.items() if name != "versions")
    return f"{plain}\n{versions}"


def table(rows: Sequence[Row], facts: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the header and one table of all rows."""
    console = console or Console()
    console = console if console.width >= WIDTH else Console(file=console.file, width=WIDTH)
    console.print(header(facts), highlight=False, markup=False)
    grid = Table(caption="errors are relative; ratio: total time relative to ours; shares of our total time in %\n"
                 "der/fwd: the derivative relative to the parts before it; "
                 "overh.: time outside solver and derivative relative to the time inside")  # fmt: skip
    grid.add_column("family, contender", no_wrap=True)
    for title in TITLES:
        grid.add_column(title, justify="right", no_wrap=True, min_width=min(len(title), 7))
    for number, row in enumerate(rows):
        if not number or rows[number - 1].family != row.family:
            grid.add_section()
            grid.add_row(f"[bold]{row.family}[/bold]: {row.size}")
        grid.add_row(*_cells(row))
    console.print(grid)
    for row in rows:
        if row.fault:
            console.print(f"{row.family}, {row.contender}: {row.fault}", highlight=False, markup=False, style="red")


def _cells(row: Row) -> list[str]:
    name = f"  {row.contender}" + (f" ({row.setting})" if row.setting else "")
    errors = [f"{row.verdict.solution:.0e}", f"{row.verdict.gradient:.0e}"] if row.verdict else ["", ""]
    if row.timing is None:
        return [name, *errors, row.fault.split(":")[0].upper()]
    timing = row.timing
    times = [f"{timing.forward * 1e3:.2f}", f"{timing.backward * 1e3:.2f}", f"{timing.backward / timing.forward:.2f}"]
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    if timing.shares is None or timing.derivative is None or timing.overhead is None:
        return [name, *errors, *times, ratio]
    shares = [f"{100 * timing.shares[part]:.0f}" for part in SHARES]
    return [name, *errors, *times, ratio, *shares, f"{timing.derivative:.2f}", f"{100 * timing.overhead:.0f} %"]


def as_json(rows: Sequence[Any], facts: Mapping[str, Any]) -> str:
    """The facts and the rows, dataclasses of any kind, as JSON text; times in seconds."""
    return json.dumps({"machine": dict(facts), "rows": [asdict(row) for row in rows]}, indent=1)
