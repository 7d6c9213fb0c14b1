"""Learning the constraint matrix of a quadratic program from its solutions.

An agent answers each target c with the solution of

    minimize  1/2 |x - c|^2   subject to  A x <= b

whose constraints are unknown. From pairs of targets and answers a matrix A and a vector b are learned by gradient
steps through the
solution of the problem, as in OptNet (Amos, Kolter 2017), and then predict the answers to new targets.

    python examples/learn_constraints.py --out learn_constraints.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import numpy as np
import torch
from rich.progress import track

from cvxlayers.torch import CvxpyLayer

N, ROWS = 2, 5

x = cp.Variable(N, name="x")
target = cp.Parameter(N, name="target")
A = cp.Parameter((ROWS, N), name="A")
b = cp.Parameter(ROWS, name="b")
problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(x - target)), [A @ x <= b])


def polygon(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A random polygon around the origin: unit normals all around, at distances between 0.6 and 1.2."""
    angle = np.sort(2 * np.pi * (np.arange(ROWS) + 0.5 * rng.random(ROWS)) / ROWS)
    return torch.tensor(np.stack([np.cos(angle), np.sin(angle)], -1)), torch.tensor(rng.uniform(0.6, 1.2, ROWS))


def boundary(A: torch.Tensor, b: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Where rays from the origin leave the polygon (infinite where they do not): (angles, 2)."""
    rays = torch.stack([angles.cos(), angles.sin()], -1)
    reach = b / (rays @ A.T)
    reach[reach <= 0] = torch.inf
    return rays * reach.min(-1, keepdim=True).values


def picture(path: str, sets: dict[str, tuple[torch.Tensor, torch.Tensor]], losses: list[float]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
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
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="gradient steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="file of the picture")
    options = parser.parse_args(argv)

    rng = np.random.default_rng(options.seed)
    layer = CvxpyLayer(problem, parameters=[target, A, b], variables=[x])
    truth = polygon(rng)
    seen, new = (torch.tensor(2 * rng.standard_normal((count, N))) for count in (128, 256))
    answers, new_answers = layer(seen, *truth)[0], layer(new, *truth)[0]

    guess = [part.clone().requires_grad_() for part in polygon(np.random.default_rng(options.seed + 100))]
    first = tuple(part.detach().clone() for part in guess)
    optimizer = torch.optim.Adam(guess, lr=0.03)
    losses: list[float] = []
    for _ in track(range(options.steps), description="learning A and b"):
        optimizer.zero_grad()
        loss = ((layer(seen, *guess)[0] - answers) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    learned = tuple(part.detach() for part in guess)
    scores = {
        name: float(((layer(new, *pair)[0] - new_answers) ** 2).mean())
        for name, pair in (("start", first), ("learned", learned))
    }
    print(f"mean squared error on new targets: {scores['start']:.2e} at the start, {scores['learned']:.2e} learned")
    unit = learned[0] / learned[0].norm(dim=1, keepdim=True)
    angle = torch.rad2deg((unit @ truth[0].T).amax(1).clamp(max=1).acos())
    print(
        "angle of each learned constraint to the nearest true one: "
        + ", ".join(f"{a:.1f}" for a in angle.tolist())
        + " degrees"
    )
    if options.out:
        picture(options.out, {"true": truth, "at the start": first, "learned": learned}, losses)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
