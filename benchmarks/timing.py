"""Timing in turn: each contender once, then each again, so that a busy moment of the machine falls on all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from benchmarks.contenders import Runner
from benchmarks.families import Array, Family
from cvxlayers.layer.report import Seconds

__all__ = ["PARTS", "Call", "Timing", "call", "interleave", "summary", "tensors", "turn"]

Timed = TypeVar("Timed")

PARTS = tuple(field.name for field in fields(Seconds))
"""The parts of a call that our own engines report."""

LEAST_TURNS = 3
"""Even a slow contender has so many turns."""

TURN = 0.02
"""Seconds that a turn takes at least."""


@dataclass(frozen=True)
class Call:
    """One forward and backward pass: seconds, the answers, and for our own engines the seconds of the parts."""

    forward: float
    backward: float
    outputs: tuple[Array, ...]
    gradients: tuple[Array, ...]
    parts: Mapping[str, float] | None = None

    @property
    def total(self) -> float:
        """Forward and backward together."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Timing:
    """Medians over the turns, in seconds; the parts are shares of the total (medians of shares).

    ``derivative`` is that part relative to those of the forward pass, and ``overhead`` what is spent outside solver and
    derivative, relative to what is spent inside.
    """

    forward: float
    backward: float
    total: float
    turns: int
    shares: Mapping[str, float] | None = None
    derivative: float | None = None
    overhead: float | None = None


def tensors(family: Family, weights: Sequence[Array]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The data as leaves that require a gradient, and the cotangents."""
    leaves = [torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in family.data]
    return leaves, [torch.tensor(part, dtype=torch.float64) for part in weights]


def call(runner: Runner, leaves: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor]) -> Call:
    """One forward pass, and one backward pass of the sum of cotangents times outputs."""
    start = perf_counter()
    outputs = tuple(runner.forward(*leaves))
    middle = perf_counter()
    gradients = torch.autograd.grad(outputs, leaves, list(cotangents))
    end = perf_counter()
    parts = {name: getattr(runner.parts(), name) for name in PARTS} if runner.parts else None
    return Call(
        middle - start, end - middle,
        tuple(output.detach().numpy() for output in outputs), tuple(part.numpy() for part in gradients), parts,
    )  # fmt: skip


def interleave(
    runners: Mapping[str, Runner],
    leaves: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor],
    repeats: int,
    budget: float = 60.0,
) -> dict[str, Timing]:
    """The medians of so many turns, after one call each that is not counted.

    A turn is one call, or as many as fit into ``TURN`` seconds where a call is short: then what the contender before
    has left in the processor's caches is not what is timed. The garbage collector runs before each turn and rests
    during it. A contender that has used up its budget (in seconds) and had three turns sits out the rest.
    """
    turns: dict[str, list[Call]] = {name: [] for name in runners}
    for runner in runners.values():
        call(runner, leaves, cotangents)
    for _ in range(repeats):
        for name, runner in runners.items():
            if len(turns[name]) >= LEAST_TURNS and sum(turn.total for turn in turns[name]) > budget:
                continue
            turns[name].append(turn(partial(call, runner, leaves, cotangents), lambda one: one.total))
    return {name: summary(calls) for name, calls in turns.items()}


def turn(once: Callable[[], Timed], seconds: Callable[[Timed], float]) -> Timed:
    """The median, by these seconds, of one call or of as many as fit into ``TURN``; the garbage collector rests."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        calls = [once()]
        while sum(map(seconds, calls)) < TURN:
            calls.append(once())
        return sorted(calls, key=seconds)[len(calls) // 2]
    finally:
        if enabled:
            gc.enable()


def summary(calls: Sequence[Call]) -> Timing:
    """The medians of some calls.

    The shares are those of the parts and of the rest, which is what the adapter and PyTorch take.
    """
    forward, backward, total = (
        float(np.median([getattr(turn, name) for turn in calls])) for name in ("forward", "backward", "total")
    )
    if calls[0].parts is None:
        return Timing(forward, backward, total, len(calls))
    parts, totals = [turn.parts for turn in calls if turn.parts], [turn.total for turn in calls]
    turns = list(zip(parts, totals, strict=True))
    shares = {name: float(np.median([part[name] / total for part, total in turns])) for name in PARTS}
    shares["rest"] = float(np.median([1 - sum(part.values()) / total for part, total in turns]))
    derivative = float(np.median([part["derivative"] / (sum(part.values()) - part["derivative"]) for part in parts]))
    overhead = float(np.median([total / (part["solving"] + part["derivative"]) - 1 for part, total in turns]))
    return Timing(forward, backward, total, len(calls), shares, derivative, overhead)
