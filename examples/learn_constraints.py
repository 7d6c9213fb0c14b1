"""Learning the constraint matrix of a quadratic program from its solutions.

An agent answers each target c with the solution of

    minimize  1/2 |x - c|^2   subject to  A x <= b

whose constraints are unknown. A matrix A and a vector b are learned from pairs of targets and answers, by gradient
steps through the solution of the problem (inverse optimization); they then predict the answers to new targets. Only
the constraints' directions and distances can be learned, since A x <= b says the same as 2 A x <= 2 b.

Source: Amos, Kolter, "OptNet: differentiable optimization as a layer in neural networks", ICML 2017.

    python examples/learn_constraints.py --out learn_constraints.png
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

N, ROWS = 2, 5
Constraints = tuple[torch.Tensor, torch.Tensor]  # A (ROWS, N) and b (ROWS,)

x = cp.Variable(N, name="x")
target = cp.Parameter(N, name="target")
A = cp.Parameter((ROWS, N), name="A")
b = cp.Parameter(ROWS, name="b")
problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - target)), [A @ x <= b])


def polygon(rng: np.random.Generator) -> Constraints:
    """A random polygon around the origin: unit normals all around, at distances between 0.6 and 1.2."""
    angle = np.sort(2 * np.pi * (np.arange(ROWS) + 0.5 * rng.random(ROWS)) / ROWS)
    return torch.tensor(np.stack([np.cos(angle), np.sin(angle)], -1)), torch.tensor(rng.uniform(0.6, 1.2, ROWS))


def boundary(A: torch.Tensor, b: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Where rays from the origin leave the polygon (infinite where they do not): (angles, 2)."""
    rays = torch.stack([angles.cos(), angles.sin()], -1)
    reach = b / (rays @ A.T)
    reach[reach <= 0] = torch.inf
    return rays * reach.min(-1, keepdim=True).values


def picture(path: str, sets: dict[str, Constraints], losses: list[float]) -> None:
    """The true, the first and the learned feasible set, and the error on the way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    (left, right) = figure.subplots(1, 2)
    angles = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.float64)
    styles = {"true": ("tab:green", "-"), "at the start": ("0.6", ":"), "learned": ("tab:blue", "--")}
    for name, (matrix, vector) in sets.items():
        colour, line = styles[name]
        left.plot(*boundary(matrix, vector, angles).T, color=colour, ls=line, lw=2, label=name)
    left.set(xlabel="x1", ylabel="x2", title="The feasible set", aspect="equal", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    left.legend(loc="upper right")
    right.semilogy(losses, color="tab:blue")
    right.set(xlabel="gradient step", ylabel="mean squared error of the answers", title="Fit of the training answers")
    figure.savefig(path, dpi=120)


def learn(
    layer: CvxpyLayer, targets: torch.Tensor, answers: torch.Tensor, guess: Constraints, steps: int
) -> tuple[Constraints, list[float]]:
    """Constraints that explain the answers, and the mean squared error at each step on the way."""
    parts = [part.clone().requires_grad_() for part in guess]
    optimizer = torch.optim.Adam(parts, lr=0.03)
    losses: list[float] = []
    for _ in track(range(steps), description="learning A and b", console=Console(stderr=True)):
        optimizer.zero_grad()
        loss = ((layer(targets, *parts)[0] - answers) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return (parts[0].detach(), parts[1].detach()), losses


def degrees_off(learned: Constraints, truth: Constraints) -> list[float]:
    """Angle of each learned constraint's normal to the nearest true one."""
    unit = learned[0] / learned[0].norm(dim=1, keepdim=True)
    return torch.rad2deg((unit @ truth[0].T).amax(1).clamp(max=1).acos()).tolist()


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are mean squared errors on new targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="gradient steps (default 250)")
    parser.add_argument("--seed", type=int, default=0, help="of the constraints and the targets (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the feasible sets")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[target, A, b], variables=[x])
    truth = polygon(rng)
    seen, new = (torch.tensor(2 * rng.standard_normal((count, N))) for count in (128, 256))
    answers, new_answers = layer(seen, *truth)[0], layer(new, *truth)[0]

    start = polygon(np.random.default_rng(options.seed + 100))
    learned, losses = learn(layer, seen, answers, start, options.steps)
    scores = {
        name: float(((layer(new, *guess)[0] - new_answers) ** 2).mean())
        for name, guess in (("start", start), ("learned", learned))
    }
    print(f"mean squared error on new targets: {scores['start']:.2e} at the start, {scores['learned']:.2e} learned")
    angles = ", ".join(f"{angle:.1f}" for angle in degrees_off(learned, truth))
    print(f"angle of each learned constraint to the nearest true one: {angles} degrees")
    if options.out:
        picture(options.out, {"true": truth, "at the start": start, "learned": learned}, losses)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
