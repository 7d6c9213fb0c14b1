"""A log-log convex program as a layer: the largest box, and which limits its maker had in mind.

The box of height h, width w and depth d with the largest volume, when walls and floor may not exceed given areas and
the sides may not be too slanted:

    maximize  h w d   subject to  2 (h w + h d) <= walls,  w d <= floor,  low <= h / w <= high,  low <= d / w <= high

A geometric program: not convex in h, w, d, but convex in their logarithms (gp=True), with positive parameters.

A maker's boxes are observed, for known walls and floors and measured to 2 %, but the limit `high` on slenderness is
not. It is learned from the boxes, by gradient steps through the solution of the problem. Then the derivative says
what a little more wall, floor or slenderness would bring.

Source: Boyd, Kim, Vandenberghe, Hassibi, "A tutorial on geometric programming", 2007, section 2.4.

    python examples/geometric_program.py --out geometric_program.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from cvxlayers.torch import CvxpyLayer

__all__ = ["main", "problem"]

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
    """The error and the limit on the way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    (left, right) = figure.subplots(1, 2)
    left.semilogy(losses, color="tab:blue")
    left.set(xlabel="gradient step", ylabel="mean squared relative error", title="Fit of the observed boxes")
    right.plot(path_of_high, color="tab:blue", label="learned")
    right.axhline(TRUE_HIGH, color="tab:green", ls="--", label="true")
    right.set(xlabel="gradient step", ylabel="limit on h / w and d / w", title="The learned limit")
    right.legend()
    figure.savefig(path, dpi=120)


def learn(
    layer: CvxpyLayer, areas: tuple[torch.Tensor, torch.Tensor], observed: torch.Tensor, steps: int
) -> tuple[list[float], list[float]]:
    """The limit and the mean squared relative error, at the start and after each step: both (steps + 1,)."""
    log_high = torch.tensor(np.log(0.8), requires_grad=True)
    optimizer = torch.optim.Adam([log_high], lr=0.03)
    limits: list[float] = []
    losses: list[float] = []
    for step in track(range(steps + 1), description="learning the limit", console=Console(stderr=True)):
        boxes = torch.stack(layer(*areas, log_high.exp()), -1)
        loss = ((boxes / observed - 1) ** 2).mean()
        limits.append(log_high.exp().item())
        losses.append(loss.item())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return limits, losses


def elasticities(layer: CvxpyLayer, walls: float, floor: float, limit: float) -> list[float]:
    """By how many per cent the volume rises with one per cent more of walls, of floor, and of the limit."""
    given = torch.tensor([walls, floor, limit], dtype=torch.float64, requires_grad=True)
    volume = torch.stack(layer(*given)).prod()
    (gradient,) = torch.autograd.grad(volume, given)
    return (gradient * given / volume).tolist()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are the errors of the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=80, help="gradient steps (default 80)")
    parser.add_argument("--seed", type=int, default=0, help="of the boxes and their measurement (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the learned limit")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[walls, floor, high], variables=[h, w, d], gp=True)
    areas = torch.tensor(rng.uniform(50, 200, 24)), torch.tensor(rng.uniform(5, 40, 24))
    made = torch.stack(layer(*areas, torch.tensor(TRUE_HIGH)), -1)
    observed = made * torch.tensor(np.exp(0.02 * rng.standard_normal(made.shape)))

    limits, losses = learn(layer, areas, observed, options.steps)
    print(f"limit on h / w and d / w: {limits[0]:.3f} at the start, {limits[-1]:.3f} learned, {TRUE_HIGH} true")
    print(f"mean squared relative error of the boxes: {losses[0]:.2e} at the start, {losses[-1]:.2e} learned")
    for area in (5.0, 20.0):
        gains = zip(("walls", "floor", "the limit"), elasticities(layer, 60.0, area, limits[-1]), strict=True)
        said = ", ".join(f"{name} gives {value:+.2f} %" for name, value in gains)
        print(f"volume with 60 of walls and {area:.0f} of floor: one per cent more of {said}")
    if options.out:
        picture(options.out, losses, limits)
        print(f"picture: {options.out}")
    return {"start": abs(limits[0] - TRUE_HIGH), "learned": abs(limits[-1] - TRUE_HIGH)}


if __name__ == "__main__":
    main()
