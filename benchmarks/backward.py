"""What the backward pass costs where solutions are degenerate: two layers of the kind that people train.

    python -m benchmarks.backward

The first is model predictive control whose bounds are weak: 6 states, 2 inputs, 15 steps, |u| <= 0.5, in batches of 64;
the start and the weights of the cost, of 1e-3 to 1e-1, are parameters, and many inputs are hardly at their bound. The
second denoises as OptNet's layer does (Amos and Kolter 2017, section 4.2): 60 points and 59 bounds of differences, 119
variables, in batches of 30; the signal and the dense matrix D of differences are parameters, and where the answer is
flat the ties are many. The backward pass may take half of the forward pass, both through PyTorch. Beside the times
stands how far the gradient is from differences in the worst element in which those of both sides agree, and how many
elements are flagged.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import cvxpy as cp
import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import machine, render
from benchmarks.contenders import Runner
from benchmarks.families import Family
from benchmarks.timing import call, summary, tensors, turn
from cvxlayers.torch import CvxpyLayer

__all__ = ["LAYERS", "Row", "denoising", "main", "measure", "weak_mpc"]

SHARE = 0.5
"""Of the forward pass: what the backward pass may take."""

GRADIENT, STEP, AGREED = 1e-4, 1e-4, 1e-4
"""How far a gradient may be off; the step of the differences, relative to the parameters; how well they agree."""


@dataclass(frozen=True)
class Row:
    """One layer: medians in seconds, the worst error among the elements that were compared, and what is flagged."""

    name: str
    forward: float
    backward: float
    error: float
    compared: int
    flagged: int
    batch: int

    @property
    def well(self) -> bool:
        """Whether it is fast and right."""
        return self.backward <= SHARE * self.forward and not self.error > GRADIENT


def weak_mpc(steps: int = 15, batch: int = 64, seed: int = 0) -> Family:
    """Model predictive control with bounds that hardly matter, as the cost is small."""
    rng = np.random.default_rng(seed)
    states, inputs = 6, 2
    A = 0.95 * np.linalg.qr(rng.standard_normal((states, states)))[0]
    B = rng.standard_normal((states, inputs))
    x, u = cp.Variable((states, steps + 1)), cp.Variable((inputs, steps))
    start, of_x, of_u = cp.Parameter(states), cp.Parameter(states, nonneg=True), cp.Parameter(inputs, nonneg=True)
    cost = cp.sum_squares(cp.multiply(of_x[:, None], x)) + cp.sum_squares(cp.multiply(of_u[:, None], u))
    rules = [x[:, 0] == start, x[:, 1:] == A @ x[:, :-1] + B @ u, cp.abs(u) <= 0.5]
    data = (rng.standard_normal((batch, states)), 10 ** rng.uniform(-3, -1, (batch, states)),
            10 ** rng.uniform(-3, -1, (batch, inputs)))  # fmt: skip
    size = f"{states} states, {inputs} inputs, {steps} steps, batch {batch}"
    return Family("weak MPC", size, cp.Problem(cp.Minimize(cost), rules), (start, of_x, of_u), (u,), data)


def denoising(points: int = 60, batch: int = 30, seed: int = 0) -> Family:
    """A signal with a learned matrix of differences, which is still what it is before training."""
    rng = np.random.default_rng(seed)
    z, y, D = cp.Variable(points), cp.Parameter(points), cp.Parameter((points - 1, points))
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(z - y) + cp.norm1(D @ z)))
    levels = np.repeat(rng.standard_normal((batch, -(-points // 10))), 10, axis=1)[:, :points]
    signal = 2 * levels + 0.3 * rng.standard_normal((batch, points))
    size = f"{2 * points - 1} variables, batch {batch}"
    return Family("denoising", size, problem, (y, D), (z,), (signal, np.diff(np.eye(points), axis=0)))


LAYERS: Mapping[str, Callable[..., Family]] = MappingProxyType({"weak MPC": weak_mpc, "denoising": denoising})


def measure(family: Family, repeats: int, seed: int = 0) -> Row:
    """The times of one layer, and its gradient beside differences."""
    layer = CvxpyLayer(family.problem, family.parameters, family.variables)
    leaves, weights = tensors(family, family.weights(seed))
    once = partial(call, Runner(layer), leaves, weights)
    once()
    timing = summary([turn(once, lambda one: one.total) for _ in range(repeats)])
    once()
    assert layer.info is not None and layer.info.derivative is not None
    flagged = int(layer.info.derivative.fallback.sum())
    errors = _errors(layer, family, [part.numpy() for part in weights], seed)
    known = errors[~np.isnan(errors)]
    worst = float(known.max(initial=0.0))
    return Row(family.name, timing.forward, timing.backward, worst, known.size, flagged, family.batch)


def _errors(layer: CvxpyLayer, family: Family, weights: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """For each element the gradient's error along a random direction, (B,); NaN where the two sides do not agree."""
    rng = np.random.default_rng([seed, 1])
    batch = family.batch
    parts = [torch.tensor(np.broadcast_to(part, (batch, *p.shape)).copy(), requires_grad=True)
             for part, p in zip(family.data, family.parameters, strict=True)]  # fmt: skip
    moves = [part.detach() * torch.tensor(rng.normal(size=part.shape)) for part in parts]

    def loss(step: float) -> torch.Tensor:
        outputs = layer(*(part + step * move for part, move in zip(parts, moves, strict=True)))
        terms = [(output * torch.tensor(w)).flatten(1).sum(1) for output, w in zip(outputs, weights, strict=True)]
        return sum(terms[1:], start=terms[0])

    at = loss(0.0)
    gradients = torch.autograd.grad(at.sum(), parts)
    ours = sum((g * m).flatten(1).sum(1) for g, m in zip(gradients, moves, strict=True)).numpy()  # type: ignore[union-attr]
    with torch.no_grad():
        slopes = np.stack([((loss(t) - at) / t).numpy() for t in (STEP, STEP / 2, -STEP, -STEP / 2)])
    sides = 2 * slopes[1::2] - slopes[::2]
    size = np.maximum(np.abs(sides).max(axis=0), 1.0)
    agree = np.abs(sides[0] - sides[1]) <= AGREED / 2 * size
    return np.where(agree, np.abs(ours - sides.mean(axis=0)) / size, np.nan)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Run the command with these arguments (default: those of the process)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backward", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15, help="how many turns (default: 15)")
    parser.add_argument("--threads", type=int, default=machine.cores(), help="(default: all cores)")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that all works")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(render.header(machine.facts(options.threads)))
    titles = "".join(f"{title:>11}" for title in ("fwd ms", "bwd ms", "share", "grad. err.", "compared", "flagged"))
    print(f"\n{'layer':11}{'size':44}{titles}")
    rows = []
    with threadpool_limits(options.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in LAYERS.values():
            family = make(8, 4) if options.quick else make()
            row = measure(family, options.repeats)
            rows.append(row)
            numbers = f"{1e3 * row.forward:11.2f}{1e3 * row.backward:11.2f}{row.backward / row.forward:11.2f}"
            compared = f"{row.compared} of {row.batch}"
            print(f"{row.name:11}{family.size:44}{numbers}{row.error:11.0e}{compared:>11}{row.flagged:11}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(not all(row.well for row in main()))
