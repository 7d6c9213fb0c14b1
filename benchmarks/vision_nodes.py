"""The vision nodes: each answer and gradient verified first, then forward plus backward timed beside the standard ways.

    python -m benchmarks.vision_nodes                       # all nodes
    python -m benchmarks.vision_nodes --only projection     # those with this word in their name
    python -m benchmarks.vision_nodes --quick               # small sizes, to see that all works

Each node's answer is measured by its own optimality conditions or by an independent solution, and its gradient, of a
random linear function of the output along a random direction, by central differences of that verified answer. A
contender, a standard technique in a few lines of our own, or the package ``ddn`` where it can be imported, is judged by
the same measure and by our gradient; what is wrong is listed and not timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import machine, render
from benchmarks.contenders import Runner
from benchmarks.timing import Timing, interleave
from benchmarks.vision_cases import CASES
from benchmarks.vision_cases.case import Case, Forward, outputs_of

__all__ = ["Row", "bench", "main"]

OURS = "cvxlayers"

ANSWER, GRADIENT = 1e-6, 1e-5
"""What ours must meet: optimality or distance, relative, and the derivative against differences."""

LOOSE = 1e-2
"""What a contender must meet to be timed: many of the standard techniques stop early."""


@dataclass(frozen=True)
class Row:
    """One contender on one node: its errors, and its times or its fault."""

    node: str
    size: str
    contender: str
    answer: float
    gradient: float
    timing: Timing | None
    ratio: float | None
    fault: str = ""


def bench(case: Case, repeats: int, seed: int = 0, budget: float = 30.0) -> list[Row]:
    """Verify ours, judge the contenders, time all who are right in turn.

    Raises
    ------
    RuntimeError
        Our own answer or gradient is wrong: there is nothing to compare with.
    """
    weights = _weights(case, seed)
    answer, gradient = case.check(outputs_of(case.ours, case.inputs)), _against_differences(case, weights, seed)
    if not (answer <= ANSWER and gradient <= GRADIENT):
        raise RuntimeError(f"{case.name}: our answer is off by {answer:.1e}, our gradient by {gradient:.1e}.")
    ours = _gradients(case.ours, case, weights)
    errors, faults = {OURS: (answer, gradient)}, {}
    for name, forward in case.contenders().items():
        try:
            pair = case.check(outputs_of(forward, case.inputs)), _distance(_gradients(forward, case, weights), ours)
        except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as exc:
            pair, faults[name] = (float("nan"), float("nan")), f"failed: {type(exc).__name__}: {exc}".splitlines()[0]
        else:
            if not max(pair) <= LOOSE:
                faults[name] = f"wrong: answer off by {pair[0]:.1e}, gradient by {pair[1]:.1e}"
        errors[name] = pair
    forwards = {OURS: case.ours, **case.contenders()}
    right = {name: Runner(forward) for name, forward in forwards.items() if name not in faults}
    leaves = [x.clone().requires_grad_() for x in case.inputs]
    timings = interleave({n: Runner(_tupled(r.forward)) for n, r in right.items()}, leaves, weights, repeats, budget)
    base = timings[OURS].total
    return [
        Row(case.name, case.size, name, *errors[name], timings.get(name),
            timings[name].total / base if name in timings else None, faults.get(name, ""))
        for name in forwards
    ]  # fmt: skip


def _tupled(forward: Forward) -> Forward:
    return lambda *inputs: outputs_of(forward, inputs, graph=True)


def _weights(case: Case, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed + 1000)
    outputs = outputs_of(case.ours, case.inputs)
    return [torch.randn(y.shape, generator=generator, dtype=y.dtype) for y in outputs]


def _gradients(forward: Forward, case: Case, weights: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in case.inputs]
    outputs = outputs_of(forward, leaves, graph=True)
    return list(torch.autograd.grad(outputs, leaves, weights, allow_unused=True, materialize_grads=True))


def _against_differences(case: Case, weights: Sequence[Tensor], seed: int) -> float:
    """The derivative along a random direction against central differences of step h and 2h, extrapolated."""
    generator = torch.Generator().manual_seed(seed + 2000)
    direction = [torch.randn(x.shape, generator=generator, dtype=x.dtype) * x.abs().mean() for x in case.inputs]

    def value(step: float) -> Tensor:
        outputs = outputs_of(case.ours, [x + step * d for x, d in zip(case.inputs, direction, strict=True)])
        return torch.stack([(w * y).sum() for w, y in zip(weights, outputs, strict=True)]).sum()

    near, far = ((value(h) - value(-h)) / (2 * h) for h in (case.step, 2 * case.step))
    expected = float((4 * near - far) / 3)
    found = sum(float((g * d).sum()) for g, d in zip(_gradients(case.ours, case, weights), direction, strict=True))
    return abs(found - expected) / max(abs(expected), 1e-3)


def _distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative distance of a gradient, in the Euclidean norm."""
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(found, expected, strict=True))


def table(rows: Sequence[Row], facts: dict[str, object], console: Console | None = None) -> None:
    """Print the machine and one table of all rows."""
    console = console or Console(width=140)
    console.print(render.header(facts), highlight=False, markup=False)
    grid = Table(caption="errors are relative; ratio: forward plus backward relative to ours; above 1 ours is faster")
    grid.add_column("node, contender", no_wrap=True)
    for title in ("answer", "gradient", "fwd ms", "bwd ms", "ratio"):
        grid.add_column(title, justify="right", no_wrap=True)
    for number, row in enumerate(rows):
        if not number or rows[number - 1].node != row.node:
            grid.add_section()
            grid.add_row(f"[bold]{row.node}[/bold]: {row.size}")
        times = ["", "", row.fault.split(":")[0].upper()]
        if row.timing is not None:
            times = [f"{row.timing.forward * 1e3:.2f}", f"{row.timing.backward * 1e3:.2f}", f"{row.ratio:.2f}"]
        grid.add_row(f"  {row.contender}", f"{row.answer:.0e}", f"{row.gradient:.0e}", *times)
    console.print(grid)
    for row in rows:
        if row.fault:
            console.print(f"{row.node}, {row.contender}: {row.fault}", highlight=False, markup=False, style="red")


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run what the command line asks for, and return the rows."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = machine.facts(options.threads)
    rows: list[Row] = []
    for name, make in CASES.items():
        if options.only and not any(word in name for word in options.only):
            continue
        render.progress(name)
        rows += bench(make(options.quick), options.repeats or (2 if options.quick else 9))
    facts["load at the end"] = machine.load()
    if options.json:
        told = {"machine": facts, "rows": [asdict(row) for row in rows]}
        Path(options.json).write_text(json.dumps(told, indent=1), encoding="utf-8")
    table(rows, facts)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vision_nodes", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only nodes with one of these words in their name")
    parser.add_argument("--repeats", type=int, help="how many turns each has (default: 9, with --quick 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads for everyone (default: 1)")
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    return parser


if __name__ == "__main__":
    main()
