"""Reports as tables for people, and as JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cvxlayers.cli.check import EngineChoice, Fault, Form, Leaf, Report
from cvxlayers.cli.doctor import Diagnosis, Warmth
from cvxlayers.cli.file_report import FileReport
from cvxlayers.cli.gradcheck import GradientReport
from cvxlayers.cli.memory import Memory
from cvxlayers.cli.solve import Results
from cvxlayers.cli.terminal import console
from cvxlayers.cones import KINDS, Kind
from cvxlayers.files.output import same_as

__all__ = [
    "as_json",
    "show_diagnosis",
    "show_file_report",
    "show_results",
    "show_warmth",
    "takes_stdout",
]


def takes_stdout(destination: str) -> bool:
    """Whether a file goes to stdout, which then has no room for words."""
    return same_as(destination, 1) and not same_as(os.devnull, 1)


def as_json(value: Any) -> str:
    """A report as JSON: properties of interest included, NaN and infinity as null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False)


def show_file_report(found: FileReport) -> None:
    """Print everything about the problems of a file."""
    out = console(stderr=any(map(takes_stdout, found.plots)))
    for report in found.problems:
        _show_report(report, found.file, out)
    if found.plots:
        out.print()
    for path in found.plots:
        out.print(Text(f"Drawn in {path}."))


def _show_report(report: Report, file: str, out: Console) -> None:
    verdict = Text("valid", style="bold green") if report.valid else Text("invalid", style="bold red")
    out.print()
    out.rule(Text.assemble((f"{file}:{report.name}", "bold"), "  ", verdict), align="left", style="dim")
    out.print(_summary(report))
    if report.fault:
        out.print(_fault(report.fault))
    out.print(_leaves("parameter", report.parameters))
    out.print(_leaves("variable", report.variables))
    if report.form:
        out.print(_cones(report.form))
        out.print(_entries(report.form))
    if report.engine:
        out.print(_engine(report.engine))
    if report.memory:
        out.print(_memory(report.memory))
    if report.gradients:
        out.print(_gradients(report.gradients))


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print the doctor's findings."""
    out = console()
    table = _table("package", "version", "to install")
    for package in diagnosis.packages:
        found = Text(package.version) if package.version else Text("absent", style="dim")
        table.add_row(package.name, found, "" if package.version else Text(package.pip))
    out.print(table)
    table = _table("solver", "installed", "takes", "quadratic objective")
    for solver in diagnosis.solvers:
        installed = _mark(True, "yes") if solver.installed else Text(solver.hindrance or solver.pip)
        table.add_row(solver.name, installed, ", ".join(solver.kinds), "yes" if solver.quadratic else "no")
    out.print(table)
    table = _table("self-test", "cone", "result", ">solution error", ">gradient error", "remark")
    for test in diagnosis.tests:
        result = Text("skipped", style="dim") if test.skipped else _mark(test.passed, "pass" if test.passed else "FAIL")
        errors = (_error(test.solution_error), _error(test.gradient_error))
        table.add_row(test.solver, test.kind, result, *errors, Text(test.remark))
    out.print(table)
    verdict = "Every installed solver passes." if diagnosis.healthy else "Some self-test failed."
    out.print(_mark(diagnosis.healthy, verdict))


def show_warmth(found: Warmth) -> None:
    """Print how the kernels came."""
    how = "compiled" if found.compiled else "loaded; an earlier process had compiled them"
    console().print(_mark(True, f"The kernels of IPM are ready: {how}, in {found.seconds:.1f} s."))


def show_results(results: Results, destination: str) -> None:
    """Print the summary of a solved file; on stderr where the file itself goes to stdout."""
    out = console(stderr=takes_stdout(destination))
    arrays = results.arrays
    table = _table("status", ">elements", ">worst residual", ">iterations", "engine")
    residuals = np.max([arrays[name] for name in arrays if name.startswith("residual_")], axis=0)
    for status in sorted(set(arrays["status"].ravel().tolist())):
        which = arrays["status"] == status
        measured = residuals[which][~np.isnan(residuals[which])]
        worst = f"{measured.max():.1e}" if measured.size else "-"
        engines = ", ".join(sorted({name for name in arrays["engine"][which].tolist() if name}))
        table.add_row(
            _mark(status == "optimal", status), str(which.sum()), worst, str(arrays["iterations"][which].max()), engines
        )
    out.print(table)
    table = _table("array", "shape", "dtype")
    for name, array in arrays.items():
        table.add_row(
            Text(name, style="bold" if name in results.variables else "dim"), _shape(array.shape), str(array.dtype)
        )
    out.print(table)
    out.print(Text(f"Written to {destination}."))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        judged = {name: getattr(value, name) for name in ("valid", "passed", "healthy") if hasattr(value, name)}
        return _plain(judged | fields)
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _table(*headings: str, title: str | None = None) -> Table:
    """A table without borders but a line under its headings; ``>`` before a heading aligns its column to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title=title, title_justify="left", title_style="bold")
    for heading in headings:
        right = heading.startswith(">")
        table.add_column(
            heading.lstrip(">"), justify="right" if right else "left", header_style="bold cyan", overflow="fold"
        )
    return table


def _mark(good: bool, text: str) -> Text:
    return Text(text, style="green" if good else "bold red")


def _error(value: float | None) -> str:
    return "-" if value is None else "NaN" if math.isnan(value) else f"{value:.1e}"


def _shape(shape: Iterable[int]) -> str:
    sizes = list(shape)
    return " x ".join(map(str, sizes)) if sizes else "scalar"


def _block(table: RenderableType) -> Padding:
    return Padding(table, (1, 0, 0, 2), expand=False)


def _summary(report: Report) -> Padding:
    def yes(fits: bool) -> Text:
        return Text("yes", style="green") if fits else Text("no", style="yellow")

    table = _table("sense", "treated as", "DCP", "DGP", "DQCP", "DPP")
    kind = "log-log convex (--gp)" if report.gp else "convex"
    table.add_row(report.sense, kind, yes(report.dcp), yes(report.dgp), yes(report.dqcp), yes(report.dpp))
    return _block(table)


def _fault(fault: Fault) -> Padding:
    body: RenderableType = Text(fault.summary)
    if fault.expression:
        body = Group(body, Text(), _offence(fault))
    return _block(Panel(body, title=fault.kind, border_style="red", title_align="left"))


def _offence(fault: Fault) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in (
        ("expression", fault.expression), ("stands in", fault.where), ("rule", fault.rule), ("rewrite", fault.rewrite),
    ):  # fmt: skip
        grid.add_row(label, Text(text))
    return grid


def _leaves(kind: str, leaves: Sequence[Leaf]) -> Padding:
    if not leaves:
        return _block(Text(f"no {kind}s", style="dim"))
    table = _table(kind, "shape", "attributes", ">entries")
    for leaf in leaves:
        table.add_row(
            Text(leaf.name), _shape(leaf.shape), ", ".join(leaf.attributes) or Text("-", style="dim"), str(leaf.entries)
        )
    return _block(table)


def _several(sizes: Sequence[float | tuple[float, ...]]) -> str:
    """Equal neighbours counted: "3 x 4, 5" for 4, 4, 4, 5."""
    runs: list[list[float | tuple[float, ...]]] = []
    for size in sizes:
        if runs and runs[-1][0] == size:
            runs[-1].append(size)
        else:
            runs.append([size])
    texts = [_number(run[0]) if len(run) == 1 else f"{len(run)} x {_number(run[0])}" for run in runs]
    return ", ".join(texts[:8]) + (f", ... ({len(sizes)} cones)" if len(texts) > 8 else "")


def _number(size: float | tuple[float, ...]) -> str:
    return f"({', '.join(f'{part:g}' for part in size)})" if isinstance(size, tuple) else f"{size:g}"


def _sizes(kind: Kind, held: Any) -> str:
    if kind.measure == "rows":
        return ""
    if kind.measure == "cones":
        return f"{held} cones"
    return f"{kind.measure.removesuffix('s')}s {_several(held)}"


def _cones(form: Form) -> Padding:
    table = _table("cone", ">rows", "sizes")
    for name, kind in KINDS.items():
        held = getattr(form.cones, name)
        if blocks := kind.listed(held):
            rows = sum(map(kind.rows, blocks))
            table.add_row(kind.title, f"{rows:,}", _sizes(kind, held))
    table.add_row(Text("all rows: m", style="bold"), Text(f"{form.m:,}", style="bold"), "")
    return _block(table)


def _entries(form: Form) -> Padding:
    table = _table("part", ">rows", ">columns", ">nonzeros", ">from parameters")
    parts = (
        ("P (upper triangle)", form.n, form.n, form.P), ("q", form.n, 1, form.q),
        ("A", form.m, form.n, form.A), ("b", form.m, 1, form.b),
    )  # fmt: skip
    for name, rows, columns, count in parts:
        table.add_row(name, f"{rows:,}", f"{columns:,}", f"{count.entries:,}", f"{count.parametrized:,}")
    return _block(table)


def _engine(engine: EngineChoice) -> Padding:
    table = _table("solver", "could run", "why")
    table.add_row(Text(engine.name, style="bold green"), "chosen", Text(engine.reason))
    for name, able, remark in engine.others:
        table.add_row(name, "yes" if able else "no", Text(remark))
    return _block(table)


def _memory(memory: Memory) -> Padding:
    table = _table("memory (estimate)", ">bytes")
    unknown = "too large to estimate quickly"
    factor = _size(memory.factorization) if memory.factorization is not None else unknown
    table.add_row("maps from the parameters, once", _size(memory.maps))
    table.add_row("per batch element: values of P, q, A, b", _size(memory.values))
    table.add_row("per batch element: solution x, y, s", _size(memory.solution))
    table.add_row("per batch element at work: factor of the KKT matrix", factor)
    return _block(table)


def _size(number: int) -> str:
    amount = float(number)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


def _gradients(report: GradientReport) -> Padding:
    samples = _table("gradient check at", "status", "remark")
    for sample in report.samples:
        remark = "the system of the derivative is singular: least squares" if sample.singular else ""
        samples.add_row(sample.label, _mark(sample.status == "optimal", sample.status), remark)
    errors = _table("parameter", ">compared", ">unsettled", ">Jv", ">J'w", ">adjoint", "result")
    for row in report.parameters:
        result = _mark(row.passed, "pass" if row.passed else "FAIL" if row.compared else "not compared")
        numbers = (_error(row.forward), _error(row.backward)) if row.compared else ("-", "-")
        errors.add_row(
            Text(row.name),
            f"{row.compared} of {row.directions}",
            str(row.unsettled),
            *numbers,
            _error(row.adjoint),
            result,
        )
    parts: list[RenderableType] = [samples, Text()]
    if report.solved and report.parameters:
        parts.append(errors)
    parts += [Text(note, style="dim") for note in _notes(report)]
    return _block(Group(*parts))


def _notes(report: GradientReport) -> Iterable[str]:
    if not report.solved:
        yield (
            "No sample has a solution, so nothing was compared: give values at which the problem is feasible and "
            "bounded, with --params P.npz or by setting the parameters' .value in the file."
        )
        return
    if not report.parameters:
        yield "The problem has no parameters, so there is no derivative to compare."
        return
    yield (
        f"Worst relative errors: Jv and <v, J'w> beside finite differences (at most {report.tolerance:g}), and <Jv, w> "
        f"beside <v, J'w> (at most {report.adjoint_tolerance:g})."
    )
    if any(row.unsettled for row in report.parameters):
        yield (
            "Unsettled: along these directions finite differences do not agree with each other as the step shrinks. "
            "There the solution has a kink, jumps, or is not unique, and has no derivative to compare with."
        )
