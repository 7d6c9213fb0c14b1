"""Consoles, errors as one message with an exit code, and progress on stderr."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["INVALID", "MISUSE", "console", "errors", "progress"]

INVALID, MISUSE = 1, 2
"""Exit codes: the problem or its values are at fault; the command line is."""

PIPE_WIDTH = 120
"""Columns where the output is no terminal."""


def console(stderr: bool = False) -> Console:
    """A console on today's stdout or stderr; into a pipe it writes lines of a fixed width, without colours."""
    from rich.console import Console  # here, so that --help answers without loading it

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, emoji=False)


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Show an error of cvxlayers as one message on stderr and exit with its code; with ``debug`` its traceback too."""
    from cvxlayers.errors import CvxlayersError  # here, so that --help answers without loading the package

    try:
        yield
    except CvxlayersError as exc:
        from cvxlayers.cli.load import MisuseError

        if debug:
            typer.echo("".join(traceback.format_exception(exc)), err=True)
        typer.echo(f"{typer.style('Error:', fg='red', bold=True)} {exc}", err=True)
        raise typer.Exit(MISUSE if isinstance(exc, MisuseError) else INVALID) from exc


@contextmanager
def progress(label: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr where that is a terminal; yields the function that is told how much more is done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
