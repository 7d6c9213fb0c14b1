"""Total-variation denoising with a learned weight.

A piecewise constant signal is seen through noise, c = signal + noise. Denoising solves

    minimize  1/2 |x - c|^2 + weight * sum_i |x_{i+1} - x_i|

(Rudin, Osher, Fatemi 1992, in one dimension). How much to smooth depends on the noise, so the weight is learned:
gradient
steps on the mean squared error of training signals, through the solution of the problem. A fixed grid of weights
shows where the
best one lies.

    python examples/total_variation.py --out total_variation.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from rich.progress import track

from cvxlayers.torch import CvxpyLayer

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
    return float(((denoised - clean) ** 2).mean())


def picture(path: str, signal: Sequence[torch.Tensor], curve: np.ndarray, learned: float) -> None:
    """A signal (true, noisy, denoised), and the error as a function of the weight."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[3, 2], layout="constrained")
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
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="gradient steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file of the picture")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[noisy, weight], variables=[x])
    (train, train_seen), (test, test_seen) = signals(64, rng), signals(32, rng)
    raw = torch.tensor(
        -3.0, dtype=torch.float64, requires_grad=True
    )  # weight = softplus(raw), so that it stays positive
    start = torch.nn.functional.softplus(raw).item()
    optimizer = torch.optim.Adam([raw], lr=0.15)
    for _ in track(range(options.steps), description="learning the weight"):
        batch = torch.randint(len(train), (8,), generator=torch.Generator().manual_seed(int(rng.integers(2**31))))
        optimizer.zero_grad()
        (denoised,) = layer(train_seen[batch], torch.nn.functional.softplus(raw))
        ((denoised - train[batch]) ** 2).mean().backward()
        optimizer.step()

    learned = torch.nn.functional.softplus(raw).item()
    with torch.no_grad():
        grid = np.geomspace(0.02, 5, 13)
        curve = np.array([(w, error(layer(test_seen, torch.tensor(w))[0], test)) for w in grid])
        (before,), (after,) = layer(test_seen, torch.tensor(start)), layer(test_seen, torch.tensor(learned))
    scores = {
        "noisy": error(test_seen, test),
        "start": error(before, test),
        "learned": error(after, test),
        "best of the grid": curve[:, 1].min(),
    }
    print(
        f"weight: {start:.3f} at the start, {learned:.3f} learned; the best of a grid is "
        f"{grid[curve[:, 1].argmin()]:.3f}"
    )
    print("test error: " + ", ".join(f"{value:.4f} {name}" for name, value in scores.items()))
    if options.out:
        picture(options.out, (test[0], test_seen[0], after[0]), curve, learned)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
