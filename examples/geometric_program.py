"""A log-log convex program as a layer: the largest box, and which limits its maker had in mind.

The box of height h, width w and depth d with the largest volume, when walls and floor may not exceed given areas and
the sides may not be too slanted (Boyd, Kim, Vandenberghe, Hassibi 2007, section 2.4):

    maximize  h w d   subject to  2 (h w + h d) <= walls,  w d <= floor,  low <= h / w <= high,  low <= d / w <= high

A maker's boxes are observed, for known walls and floors, but the limit `high` on slenderness is not. It is learned
from the boxes,
by gradient steps through the solution of the problem.

    python examples/geometric_program.py --out geometric_program.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from rich.progress import track

from cvxlayers.torch import CvxpyLayer

LOW, TRUE_HIGH = 0.5, 1.6

h, w, d = (cp.Variable(pos=True, name=name) for name in "hwd")
walls = cp.Parameter(pos=True, name="walls")
floor = cp.Parameter(pos=True, name="floor")
high = cp.Parameter(pos=True, name="high")
problem = cp.Problem(
    cp.Maximize(h * w * d),
    [2 * (h * w + h * d) <= walls, w * d <= floor, h / w >= LOW, h / w <= high, d / w >= LOW, d / w <= high],
)


def picture(path: str, losses: list[float], path_of_high: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.semilogy(losses, color="tab:blue")
    left.set(xlabel="gradient step", ylabel="mean squared relative error", title="Fit of the observed boxes")
    right.plot(path_of_high, color="tab:blue", label="learned")
    right.axhline(TRUE_HIGH, color="tab:green", ls="--", label="true")
    right.set(xlabel="gradient step", ylabel="limit on h / w and d / w", title="The learned limit")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="gradient steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file of the picture")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[walls, floor, high], variables=[h, w, d], gp=True)
    areas = torch.tensor(rng.uniform(50, 200, 24)), torch.tensor(rng.uniform(5, 40, 24))
    observed = torch.stack(layer(*areas, torch.tensor(TRUE_HIGH)), -1)
    observed = observed * torch.tensor(np.exp(0.02 * rng.standard_normal(observed.shape)))  # measured to 2 %

    log_high = torch.tensor(np.log(0.8), requires_grad=True)
    optimizer = torch.optim.Adam([log_high], lr=0.03)
    losses: list[float] = []
    limits: list[float] = []
    for _ in track(range(options.steps), description="learning the limit"):
        optimizer.zero_grad()
        boxes = torch.stack(layer(*areas, log_high.exp()), -1)
        loss = ((boxes / observed - 1) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        limits.append(log_high.exp().item())
    sides = torch.tensor([60.0, 20.0, limits[-1]], dtype=torch.float64, requires_grad=True)
    volume = torch.stack(layer(*sides)).prod()
    volume.backward()
    assert sides.grad is not None
    elasticity = (sides.grad * sides.detach() / volume.detach()).tolist()

    print(f"limit on h / w and d / w: {limits[0]:.3f} at the start, {limits[-1]:.3f} learned, {TRUE_HIGH} true")
    print(f"mean squared relative error of the boxes: {losses[0]:.2e} at the start, {losses[-1]:.2e} learned")
    changes = zip(("walls", "floor", "the limit"), elasticity, strict=True)
    shown = ", ".join(f"{name} gives {value:+.2f} %" for name, value in changes)
    print(f"volume of a box with 60 of walls and 20 of floor: one per cent more of {shown}")
    if options.out:
        picture(options.out, losses, limits)
        print(f"picture: {options.out}")
    return {"start": abs(limits[0] - TRUE_HIGH), "learned": abs(limits[-1] - TRUE_HIGH)}


if __name__ == "__main__":
    main()
