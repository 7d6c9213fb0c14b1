"""The command that shows where the time of one family's calls goes, for developers.

python -m benchmarks.profile_call FAMILY [--contender NAME] [--calls N] [--lines N] [--sort tottime|cumtime] [--quick]
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
from collections.abc import Sequence

import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.contenders import OURS, contenders
from benchmarks.families import TIMED, make
from benchmarks.timing import call, interleave, tensors

__all__ = ["main", "report"]


def report(arguments: Sequence[str] | None = None) -> str:
    """Time and profile the calls; the text that the command prints."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    field = {one.name: one for one in contenders(options.threads, ["SCS", "ECOS", "DIFFCP"])}
    if options.contender not in field:
        raise SystemExit(f"There is no contender {options.contender!r}; those here: {', '.join(field)}.")
    family = make(options.family, options.quick)
    runner = field[options.contender].settings[0].make(family)
    inputs = tensors(family, family.weights())
    timing = interleave({OURS: runner}, *inputs, repeats=options.calls)[OURS]
    profile = cProfile.Profile()
    with profile:
        for _ in range(options.calls):
            call(runner, *inputs)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats(options.sort).print_stats(options.lines)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in (timing.shares or {}).items())
    times = f"forward {timing.forward * 1e3:.2f} ms, backward {timing.backward * 1e3:.2f} ms"
    head = (
        f"{family.name} ({family.size}), {options.contender}, medians of {timing.turns} calls without the profiler:\n"
        f"{times}{'; ' if shares else ''}{shares}\n"
        f"{options.calls} calls with the profiler, this thread only:\n"
    )
    return head + text.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with these arguments (default: those of the process)."""
    Console(soft_wrap=True).print(report(arguments), highlight=False, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile_call", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("family", choices=list(TIMED), metavar="FAMILY", help=", ".join(TIMED))
    parser.add_argument("--contender", default=OURS, help=f"whose calls (default: {OURS})")
    parser.add_argument("--calls", type=int, default=5, help="how many (default: 5)")
    parser.add_argument("--lines", type=int, default=25, help="how many functions are shown (default: 25)")
    parser.add_argument("--sort", choices=["tottime", "cumtime"], default="tottime", help="(default: tottime)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="threads (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="the small size")
    return parser


if __name__ == "__main__":
    main()
