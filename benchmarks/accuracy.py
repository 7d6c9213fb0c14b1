"""The command that writes docs/accuracy.md: the worst errors of each engine on each family of problems.

python -m benchmarks.accuracy [--seeds N] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from benchmarks import families, machine, render, verify
from benchmarks.contenders import Runner, failures
from benchmarks.families import Family
from benchmarks.timing import call, tensors
from benchmarks.verify import Verdict
from cvxlayers.errors import EngineError, NotDPPError
from cvxlayers.torch import CvxpyLayer
from tests.contracts.table import case

__all__ = ["FAMILIES", "main", "measured", "page"]

ENGINES = ("IPM", "CLARABEL", "SCS", "ECOS", "DIFFCP")

ELEMENTS = 4
"""The batch of each seed."""


def _contract(name: str, seed: int) -> Family:
    """A row of the contract tests' table as a batch."""
    row = case(name)
    built = row.build()
    samples = [row.point(ELEMENTS * seed + element) for element in range(ELEMENTS)]
    data = tuple(np.stack([np.asarray(part, dtype=float) for part in column]) for column in zip(*samples, strict=True))
    shown = ", ".join("x".join(map(str, variable.shape)) or "scalar" for variable in built.variables)
    return Family(
        row.name, shown, built.problem, tuple(built.parameters), tuple(built.variables), data, row.gp,
        solution=row.closed_form,
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[[int], Family]] = MappingProxyType({
    "LP": functools.partial(_contract, "lp"),
    "QP": lambda seed: families.dense_qp(10, 10, ELEMENTS, seed),
    "SOCP": lambda seed: families.socp(6, 2, ELEMENTS, seed),
    "SDP": lambda seed: families.sdp(5, 4, ELEMENTS, seed),
    "logistic": lambda seed: families.logistic(4, 20, ELEMENTS, seed),
    "entropy": functools.partial(_contract, "entropy"),
    "power": functools.partial(_contract, "power"),
    "MPC": lambda seed: families.mpc(6, 4, 2, ELEMENTS, seed),
    "total variation": lambda seed: families.total_variation(40, ELEMENTS, seed),
    "portfolio with l1": lambda seed: families.portfolio(10, 4, ELEMENTS, seed),
    "DGP": functools.partial(_contract, "dgp_box"),
    "quad_form with P": functools.partial(_contract, "quad_form"),
})  # fmt: skip
"""The families of the table, by seed."""


def measured(family: Family, right: verify.Reference, engine: str) -> Verdict | str:
    """The errors of an engine at its default accuracy; "-" where it cannot take the family, or how it failed."""
    try:
        layer = CvxpyLayer(family.problem, family.parameters, family.variables, engine, family.gp)
    except (EngineError, NotDPPError):  # with a parameter P, NotDPPError: without a quadratic objective it is not DPP
        return "-"
    try:
        made = call(Runner(layer), *tensors(family, right.weights))
    except failures() as error:
        return f"failed ({type(error).__name__})"
    return verify.judge(right, made.outputs, made.gradients)


def page(found: Mapping[str, Mapping[str, Sequence[Verdict | str]]], seeds: int, facts: Mapping[str, object]) -> str:
    """The page in Markdown, from family -> engine -> the verdicts of all seeds."""
    lines = [
        "# Accuracy by engine and family",
        "",
        f"The worst relative errors over {seeds} seeds with {ELEMENTS} problems each, of the solution and of",
        "the gradient of a random linear function of it, at each engine's default accuracy; `-` where an engine",
        "cannot take the family. The references are closed forms, Newton's method on the optimality conditions, or",
        "Clarabel at the tightest tolerance it meets (1e-12 to 1e-9) with Richardson's differences of its solutions;",
        "[benchmarks.md](benchmarks.md) says how an error is measured. Written by `python -m benchmarks.accuracy`.",
        "",
        "Where the last column says differences, errors of the gradient below 1e-5 can be the reference's own.",
        "",
        "These are errors of the layer with its defaults, not of the engine alone: wherever a cone is not polyhedral",
        "(for ECOS and DIFFCP that includes every quadratic objective), the layer polishes points that are not",
        "complementary enough by Newton steps. Engines that agree to machine precision do so for that reason.",
        "",
        f"| family | {' | '.join(f'{engine}: solution, gradient' for engine in ENGINES)} | reference |",
        f"|---|{'---|' * (len(ENGINES) + 1)}",
    ]
    for name, row in found.items():
        kind = "exact" if FAMILIES[name](0).closed else "closed form, differences" if FAMILIES[name](0).solution else (
            "Clarabel, differences")  # fmt: skip
        lines.append(f"| {name} | {' | '.join(_cell(row[engine]) for engine in ENGINES)} | {kind} |")
    versions = facts["versions"]
    assert isinstance(versions, Mapping)
    lines += ["", ", ".join(f"{name} {version}" for name, version in versions.items()) + f"; {facts['system']}.", ""]
    return "\n".join(lines)


def _cell(verdicts: Sequence[Verdict | str]) -> str:
    faults = [verdict for verdict in verdicts if isinstance(verdict, str)]
    if faults:
        return faults[0]
    known = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    worst = Verdict(max(verdict.solution for verdict in known), max(verdict.gradient for verdict in known))
    return f"{worst.solution:.0e}, {worst.gradient:.0e}" + (" (wrong)" if worst.wrong else "")


def main(arguments: Sequence[str] | None = None) -> str:
    """Run the command; what it writes is returned, too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many seeds (default: 3)")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--out", default="docs/accuracy.md", metavar="FILE", help="default: docs/accuracy.md")
    options = parser.parse_args(arguments)
    found: dict[str, dict[str, list[Verdict | str]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # engines that stop early say so; here the errors do
        for name in options.families:
            render.progress(name)
            found[name] = {engine: [] for engine in ENGINES}
            for seed in range(options.seeds):
                family = FAMILIES[name](seed)
                right = verify.make_reference(family, seed, directions=2)
                for engine in ENGINES:
                    found[name][engine].append(measured(family, right, engine))
    text = page(found, options.seeds, machine.facts(machine.cores()))
    Path(options.out).write_text(text, encoding="utf-8")
    return text


if __name__ == "__main__":
    main()
