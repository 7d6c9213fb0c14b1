"""Total-variation denoising with a learned weight.

A piecewise constant signal is seen through noise, c = signal + noise. Denoising solves

    minimize  1/2 |x - c|^2 + weight * sum_i |x_{i+1} - x_i|

How much to smooth depends on the noise and on the jumps, so the weight is learned: gradient steps on the mean squared
error of training signals, through the solution of the problem; weight = softplus(raw) stays positive. A grid of fixed
weights shows where the best one lies on test signals.

Source: Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 1992, here in one
dimension.

    python examples/total_variation.py --out total_variation.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch.nn.functional import softplus

from cvxlayers.torch import CvxpyLayer

__all__ = ["main", "problem"]

LENGTH, NOISE = 100, 0.3

x = cp.Variable(LENGTH, name="x")
noisy = cp.Parameter(LENGTH, name="noisy")
weight = cp.Parameter(nonneg=True, name="weight")
problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - noisy) + weight * cp.norm1(cp.diff(x))))


def signals(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Signals (count, LENGTH) of a few constant pieces, and the same with noise."""
    jumps = rng.random((count, LENGTH)) < 5 / LENGTH
    clean = np.cumsum(jumps * rng.standard_normal((count, LENGTH)), axis=1)
    return torch.tensor(clean), torch.tensor(clean + NOISE * rng.standard_normal(clean.shape))


def error(denoised: torch.Tensor, clean: torch.Tensor) -> float:
    """Mean squared error."""
    return float(((denoised - clean) ** 2).mean())


def picture(path: str, signal: Sequence[torch.Tensor], curve: np.ndarray, learned: float) -> None:
    """A signal (true, noisy, denoised), and the error as a function of the weight."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    (left, right) = figure.subplots(1, 2, width_ratios=[3, 2])
    clean, seen, denoised = signal
    left.plot(seen, ".", color="0.7", label="noisy")
    left.plot(clean, color="tab:green", lw=2, label="true")
    left.plot(denoised, color="tab:blue", lw=1.5, label="denoised")
    left.set(xlabel="position", ylabel="signal", title="A test signal")
    left.legend(loc="best")
    right.loglog(*curve.T, "o-", color="0.4", ms=4, label="fixed weights")
    right.axvline(learned, color="tab:blue", label=f"learned: {learned:.2f}")
    right.set(xlabel="weight", ylabel="mean squared error", title="Error on the test signals")
    right.legend()
    figure.savefig(path, dpi=120)


def learn(layer: CvxpyLayer, clean: torch.Tensor, seen: torch.Tensor, raw: float, steps: int, seed: int) -> float:
    """The weight after stochastic gradient steps that begin at softplus(raw)."""
    free = torch.tensor(raw, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([free], lr=0.15)
    for _ in track(range(steps), description="learning the weight", console=Console(stderr=True)):
        batch = torch.randint(len(clean), (8,), generator=generator)
        optimizer.zero_grad()
        (denoised,) = layer(seen[batch], softplus(free))
        ((denoised - clean[batch]) ** 2).mean().backward()
        optimizer.step()
    return softplus(free).item()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are mean squared errors on test signals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="gradient steps (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the signals and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw a denoised signal")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[noisy, weight], variables=[x])
    (train, train_seen), (test, test_seen) = signals(64, rng), signals(32, rng)
    raw = -3.0
    start = softplus(torch.tensor(raw)).item()
    learned = learn(layer, train, train_seen, raw, options.steps, options.seed)

    grid = np.geomspace(0.02, 5, 13)
    denoised = {value: layer(test_seen, torch.tensor(value))[0] for value in (start, learned, *grid)}
    curve = np.array([(value, error(denoised[value], test)) for value in grid])
    scores = {
        "noisy": error(test_seen, test),
        "start": error(denoised[start], test),
        "learned": error(denoised[learned], test),
        "best": float(curve[:, 1].min()),
    }
    best = grid[curve[:, 1].argmin()]
    print(f"weight: {start:.3f} at the start, {learned:.3f} learned; the best of a grid is {best:.3f}")
    words = {"noisy": "noisy", "start": "at the start", "learned": "learned", "best": "best of the grid"}
    print("test error: " + ", ".join(f"{scores[name]:.4f} {word}" for name, word in words.items()))
    if options.out:
        picture(options.out, (test[0], test_seen[0], denoised[learned][0]), curve, learned)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
