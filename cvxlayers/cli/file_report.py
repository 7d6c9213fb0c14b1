"""``cvxlayers check``: the problems of a file, examined one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cvxlayers.cli.check import Report, check
from cvxlayers.cli.gradcheck import GradientReport, Sample, gradcheck, sampled_points
from cvxlayers.cli.load import MisuseError, NamedProblem, known_solver, load_problems, parse_target
from cvxlayers.cli.npz import read_parameters, refuse_unwritable
from cvxlayers.cli.terminal import progress
from cvxlayers.compiler.leaves import parameters_of
from cvxlayers.layer.layer import Layer

__all__ = ["FileReport", "GradientOptions", "examine_file"]

SAMPLES = 3


@dataclass(frozen=True)
class GradientOptions:
    """At which values gradients are checked: those of a file (all, or the first ``samples``), or random ones."""

    params: Path | None
    samples: int | None
    seed: int


@dataclass(frozen=True)
class FileReport:
    """The reports on a file's problems, and the pictures that were drawn."""

    file: str
    problems: tuple[Report, ...]
    plots: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        return all(report.valid for report in self.problems)


def examine_file(
    file: str, gp: bool, solver: str | None, gradients: GradientOptions | None, plot: Path | None
) -> FileReport:
    """Load and examine; the arguments are those of the command."""
    target, solver = parse_target(file), known_solver(solver)
    if plot is not None:
        _require_matplotlib()
        refuse_unwritable(plot, "--plot", "the picture")
    problems = load_problems(target)
    if len(problems) > 1 and gradients and gradients.params:
        names = ", ".join(named.name for named in problems)
        raise MisuseError(f"--params has values for one problem, and {target.path} has several ({names}): name one.")
    if plot is not None and len(problems) > 1 and plot.exists() and not plot.is_file():
        raise MisuseError(f"--plot {plot}: several pictures do not go into what is no ordinary file; name one problem.")
    reports, plots = [], []
    for named in problems:
        report, layer = check(named, gp, solver)
        if layer is not None and gradients is not None:
            report = replace(report, gradients=_gradients(named, report, layer, gradients))
        if layer is not None and plot is not None:
            path = plot if len(problems) == 1 else plot.with_stem(f"{plot.stem}-{named.name}")
            _draw(layer, report, path)
            plots.append(str(path))
        reports.append(report)
    return FileReport(str(target.path), tuple(reports), tuple(plots))


def _gradients(named: NamedProblem, report: Report, layer: Layer, options: GradientOptions) -> GradientReport:
    random = np.random.default_rng(options.seed)
    parameters = parameters_of(named.problem)
    points: Sequence[Sample]
    if options.params is None:
        points = list(sampled_points(parameters, report.gp, options.samples or SAMPLES, random))
    else:
        given = read_parameters(options.params, layer.compiled.parameters, broadcast=True)
        count = min(given.size, options.samples or given.size)
        points = [Sample(f"{options.params.name}[{i}]", given.element(i)) for i in range(count)]
    names = [leaf.name for leaf in report.parameters]
    with progress(f"gradients of {named.name}", len(points)) as advance:
        return gradcheck(layer, parameters, names, points, random, lambda: advance(1))


def _require_matplotlib() -> None:
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise MisuseError("--plot needs Matplotlib, which is not installed: pip install 'cvxlayers[plot]'.")


def _draw(layer: Layer, report: Report, path: Path) -> None:
    from cvxlayers.cli.plot import draw  # here, so that Matplotlib is loaded only for a picture

    try:
        draw(layer.compiled, report.name, [leaf.name for leaf in report.parameters], path)
    except (OSError, ValueError) as exc:
        raise MisuseError(f"--plot {path}: the picture cannot be written: {exc}") from exc
