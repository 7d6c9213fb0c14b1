"""Summaries for people: a title over rows of a name and a value, as text and as HTML from the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from textwrap import indent

import numpy as np
from numpy.typing import NDArray

__all__ = ["Rows", "Summarized", "as_html", "as_text", "counted", "span", "tally"]

Rows = Sequence[tuple[str, str]]


def as_text(rows: Rows) -> str:
    """Each row on a line of its own, the values below each other.

    >>> print(as_text([("width", "2"), ("colour", "red")]))
    width   2
    colour  red
    """
    widest = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:{widest}}  {value}" for name, value in rows)


def as_html(title: str, rows: Rows) -> str:
    """The same as a small table under a title; nothing in it is taken for HTML.

    >>> as_html("Box", [("name", "<b>")])
    '<table><caption>Box</caption><tbody><tr><th>name</th><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    body = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table><caption>{escape(title)}</caption><tbody>{body}</tbody></table>"


class Summarized:
    """What is shown by its rows, on a terminal and in a notebook.

    Examples
    --------
    >>> class Box(Summarized):
    ...     def summary_rows(self):
    ...         return [("width", "2")]
    >>> Box()
    Box
      width  2
    """

    def summary_rows(self) -> Rows:
        """What is to be said, in order."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n{indent(as_text(self.summary_rows()), '  ')}"

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.summary_rows())


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(0, "row")
    ('1 row', '0 rows')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def tally(names: Iterable[str] | NDArray[np.str_], order: Sequence[str] = ()) -> str:
    """How many there are of each name: those of ``order`` first, in its order, the others by the alphabet.

    >>> tally(["lost", "found", "lost"], order=["found"])
    '1 found, 2 lost'
    """
    found, counts = np.unique(np.asarray(names, dtype=str), return_counts=True)
    many = dict(zip(found.tolist(), counts.tolist(), strict=True))
    listed = [name for name in order if name in many]
    return ", ".join(f"{many[name]} {name}" for name in [*listed, *sorted(set(many) - set(listed))])


def span(numbers: NDArray[np.number], form: str) -> str:
    """From the least to the greatest of some numbers, those that are none left out; empty where no number is left.

    >>> span(np.array([3.0, np.nan, 1.0]), ".1f"), span(np.array([7, 7]), "d"), span(np.array([]), "d")
    ('1.0 to 3.0', '7', '')
    """
    numbers = numbers[~np.isnan(numbers)]
    if not numbers.size:
        return ""
    least, greatest = (format(end.item(), form) for end in (numbers.min(), numbers.max()))
    return least if least == greatest else f"{least} to {greatest}"
