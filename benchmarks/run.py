"""The command: verify every contender on every family, time those that are right, in turn, and print one table.

python -m benchmarks.run [--families simplex sdp ...] [--repeats N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import machine, render, verify
from benchmarks.contenders import OURS, Contender, Runner, Setting, contenders, failures
from benchmarks.families import TIMED, Family, make
from benchmarks.render import Row
from benchmarks.timing import Timing, call, interleave, tensors
from benchmarks.verify import Reference

__all__ = ["bench", "main"]

FIRST_LOOK = 8
"""How many elements the settings of a contender are compared on before one is chosen."""

HOPELESS = 5.0
"""A setting is dropped when its first call on one element takes so many times as long as the best one's on all."""


def bench(family: Family, field: Sequence[Contender], repeats: int, seed: int = 0) -> list[Row]:
    """Judge all contenders on one family, time those that are right, and return their rows, ours first."""
    right = verify.make_reference(family, seed)
    rows: dict[str, Row] = {}
    ready: dict[str, Runner] = {}
    for contender in field:
        if not contender.takes(family):
            continue
        row, runner = _judged(contender, family, right)
        rows[contender.name] = row
        if runner and not row.fault:
            ready[contender.name] = runner
    timings = interleave(ready, *tensors(family, right.weights), repeats)
    ours = timings.get(OURS)
    return [_timed(row, timings.get(name), ours) for name, row in rows.items()]


def _timed(row: Row, timing: Timing | None, ours: Timing | None) -> Row:
    ratio = timing.total / ours.total if timing and ours else None
    return Row(row.family, row.size, row.contender, row.setting, row.verdict, timing, ratio, row.fault)


def _judged(contender: Contender, family: Family, right: Reference) -> tuple[Row, Runner | None]:
    """Choose a contender's setting, and judge its answer on the whole batch."""
    setting = _chosen(contender, family, right) if len(contender.settings) > 1 else contender.settings[0]
    label = setting.label if len(contender.settings) > 1 or setting.label != "defaults" else ""
    try:
        runner = setting.make(family)
        made = call(runner, *tensors(family, right.weights))
    except failures() as error:
        return Row(family.name, family.size, contender.name, label, fault=_told(error)), None
    verdict = verify.judge(right, made.outputs, made.gradients)
    return Row(family.name, family.size, contender.name, label, verdict, fault=verdict.wrong), runner


def _chosen(contender: Contender, family: Family, right: Reference) -> Setting:
    """The fastest correct setting on a few elements; the one with the smallest error where none is correct."""
    elements = right.elements if right.gradients is None else np.arange(min(FIRST_LOOK, family.batch))
    few, answers = family.select(elements), right.select(elements)
    one = family.select(elements[:1])
    alone, inputs = tensors(one, one.weights()), tensors(few, answers.weights)
    best, fastest = contender.settings[0], math.inf
    nearest = math.inf
    for setting in contender.settings:
        try:
            if call(setting.make(one), *alone).total > HOPELESS * fastest:
                continue
            runner = setting.make(few)
            first = call(runner, *inputs)
        except failures():
            continue
        verdict = verify.judge(answers, first.outputs, first.gradients)
        if not verdict.wrong:
            seconds = min(first.total, *(call(runner, *inputs).total for _ in range(2)))
            if seconds < fastest:
                best, fastest = setting, seconds
        elif fastest == math.inf and verdict.worst < nearest:
            best, nearest = setting, verdict.worst
    return best


def _told(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"failed: {type(error).__name__}: {lines[0][:120] if lines else 'without a message'}"


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command with these arguments (default: those of the process)."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    facts = machine.facts(options.threads)
    field = contenders(options.threads, options.engines)
    if options.contenders:
        field = [one for one in field if one.name == OURS or one.name in options.contenders]
    repeats = options.repeats or (3 if options.quick else 9)
    rows: list[Row] = []
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a contender has to say is in its answer
        for name in options.families:
            render.progress(name)
            rows += bench(make(name, options.quick, options.seed), field, repeats, options.seed)
            facts["load at the end"] = machine.load()
            if options.json:  # after each family: what was measured outlives a run that is cut short
                Path(options.json).write_text(render.as_json(rows, facts), encoding="utf-8")
    render.table(rows, facts)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=list(TIMED), default=list(TIMED), metavar="NAME",
                        help=f"which families (default: all): {', '.join(TIMED)}")  # fmt: skip
    parser.add_argument(
        "--contenders", nargs="+", metavar="NAME", help="only these beside ours (default: all installed)"
    )
    parser.add_argument("--engines", nargs="*", default=["DIFFCP"], metavar="NAME",
                        help="our engines that run beside the default one (default: DIFFCP)")  # fmt: skip
    parser.add_argument("--repeats", type=int, help="how many turns each has (default: 9, with --quick 3)")
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="threads for everyone (default: all cores)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few turns: to see that all works")
    parser.add_argument("--seed", type=int, default=0, help="of the data (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    return parser


if __name__ == "__main__":
    main()
