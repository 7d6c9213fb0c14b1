"""Visual permutation learning: put the shuffled strips of a picture in order, through optimal transport.

Windows of a real elevation map (the Jacksboro fault, which ships with matplotlib) are cut into strips, three columns
of pixels are thrown away at each cut, and the strips are shuffled. A small network looks at all pairs of strips and
scores strip i at place j. The scores become a doubly stochastic matrix P by entropic optimal transport,

    minimize  -<P, scores> + KL(P, 1)    subject to  P 1 = 1, P' 1 = 1,

which is compared with the true permutation. The gradient of the plan trains the network. For comparison: the same
network, trained with a softmax for each strip alone, so that two strips may want the same place; and no learning at
all: of all orders, the one whose strips differ least where they meet. Everyone's answer is the best permutation for its
scores. The upper part of the map trains, the lower one tests.

Source: Santa Cruz, Fernando, Cherian, Gould, "DeepPermNet: visual permutation learning", CVPR 2017 (there with Sinkhorn
iterations on whole photographs).

    python examples/permutation.py --out permutation.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from cvxlayers.nodes import sinkhorn_weights

__all__ = ["StripNetwork", "main"]

STRIPS, HEIGHT, WIDTH, GAP = 5, 24, 4, 3
ORDERS = torch.tensor(list(permutations(range(STRIPS))))


def elevation() -> Tensor:
    """The map, with a mean of zero and a deviation of one: (344, 403)."""
    from matplotlib.cbook import get_sample_data

    heights = torch.tensor(np.asarray(get_sample_data("jacksboro_fault_dem.npz")["elevation"], dtype=np.float32))
    return (heights - heights.mean()) / heights.std()


def puzzles(land: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shuffled strips (count, STRIPS, HEIGHT, WIDTH), with a mean of zero, and the place of each: (count, STRIPS)."""
    step = WIDTH + GAP
    rows = torch.randint(land.shape[0] - HEIGHT, (count,), generator=generator)
    columns = torch.randint(land.shape[1] - STRIPS * step, (count,), generator=generator)
    window = land[
        rows[:, None, None, None] + torch.arange(HEIGHT)[:, None],
        columns[:, None, None, None] + step * torch.arange(STRIPS)[:, None, None] + torch.arange(WIDTH),
    ]
    window = window - window.mean((1, 2, 3), keepdim=True)
    window = window / window.std((1, 2, 3), keepdim=True)
    place = torch.rand(count, STRIPS, generator=generator).argsort(1)
    return window.gather(1, place[:, :, None, None].expand_as(window)), place


class StripNetwork(nn.Module):
    """Strips (B, S, HEIGHT, WIDTH) to scores (B, S, S) of strip i at place j, in whichever order the strips come."""

    def __init__(self, width: int = 32, rounds: int = 3) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, width), nn.Linear(WIDTH, width)
        self.pair = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.first = nn.Linear(2 * width, width)
        self.message = nn.Linear(2 * width, width)
        self.update = nn.Linear(3 * width, width)
        self.place = nn.Linear(width, STRIPS)
        self.rounds = rounds

    def forward(self, strips: Tensor) -> Tensor:
        B, S = strips.shape[:2]
        rows = torch.relu(self.left(strips)[:, :, None] + self.right(strips)[:, None])  # (B, S, S, HEIGHT, width)
        pairs = self.pair(rows.mean(3))  # i, j: does j follow i?
        state = torch.relu(self.first(torch.cat([pairs.amax(1), pairs.amax(2)], -1)))
        for _ in range(self.rounds):  # each strip hears from its neighbours
            sent = state[:, None].expand(B, S, S, -1)
            after = torch.relu(self.message(torch.cat([pairs, sent], -1))).amax(2)
            before = torch.relu(self.message(torch.cat([pairs, sent.transpose(1, 2)], -1))).amax(1)
            state = torch.relu(self.update(torch.cat([state, after, before], -1)))
        return self.place(state)


def best_order(scores: Tensor) -> Tensor:
    """The permutation of the highest total score: (B, S, S) to (B, S)."""
    totals = scores[:, torch.arange(STRIPS), ORDERS].sum(-1)
    return ORDERS[totals.argmax(1)]


def smoothest_order(strips: Tensor) -> Tensor:
    """Without learning: the place of each strip in the order whose neighbours differ least where they meet."""
    cost = (strips[:, :, None, :, -1] - strips[:, None, :, :, 0]).square().sum(-1)
    steps = cost[:, ORDERS[:, :-1], ORDERS[:, 1:]].sum(-1)
    return ORDERS[steps.argmin(1)].argsort(1)


def transport_loss(scores: Tensor, place: Tensor) -> Tensor:
    """Minus the mean logarithm of the plan at the true permutation."""
    plan = sinkhorn_weights(scores)
    return -plan.gather(2, place[:, :, None]).clamp(min=1e-12).log().mean()


def softmax_loss(scores: Tensor, place: Tensor) -> Tensor:
    """The same for strips that choose alone."""
    return nn.functional.cross_entropy(scores.mT, place)


def train(loss: Callable[[Tensor, Tensor], Tensor], land: Tensor, steps: int, seed: int, words: str) -> StripNetwork:
    """A network trained on the land with one of the losses."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = StripNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=max(steps, 2))
    for _ in track(range(steps), description=words, console=Console(stderr=True)):
        strips, place = puzzles(land, 32, generator)
        optimizer.zero_grad()
        loss(network(strips), place).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def scored(found: Tensor, place: Tensor) -> tuple[float, float]:
    """The share of strips at their place, and the share of puzzles solved."""
    right = found == place
    return right.float().mean().item(), right.all(1).float().mean().item()


def picture(path: str, strips: Tensor, plan: Tensor, table: dict[str, tuple[float, float]]) -> None:
    """Puzzles as they come and as they are put in order, with their plans; and the scores."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, 4, width_ratios=[3, 3, 1.6, 4])
    for row in range(3):
        shown = best_order(plan)[row]
        ordered = strips[row][shown.argsort()]
        for column, (title, parts) in enumerate((("shuffled", strips[row]), ("put in order", ordered))):
            axes = figure.add_subplot(grid[row, column])
            blank = torch.full((HEIGHT, 1), torch.nan)
            axes.imshow(torch.cat([piece for part in parts for piece in (part, blank)], 1)[:, :-1], cmap="terrain")
            axes.set(xticks=[], yticks=[], title=title if row == 0 else "")
        axes = figure.add_subplot(grid[row, 2])
        axes.imshow(plan[row], cmap="Blues", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], xlabel="place", ylabel="strip", title="plan P" if row == 0 else "")
    axes = figure.add_subplot(grid[:, 3])
    height = np.arange(len(table))
    values = 100 * np.array(list(table.values()))
    axes.barh(height - 0.2, values[:, 0], 0.36, color="tab:blue", label="strips at their place")
    axes.barh(height + 0.2, values[:, 1], 0.36, color="tab:orange", label="puzzles solved")
    axes.set(xlabel="percent", yticks=height, yticklabels=list(table), xlim=(0, 100), title="Unseen part of the map")
    axes.invert_yaxis()
    figure.legend(loc="outside lower right", ncols=2)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are shares of strips at their place, in puzzles of the unseen part of the map."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the puzzles and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw puzzles and scores")
    options = parser.parse_args(argv)

    land = elevation()
    upper, lower = land[:220], land[220:]
    strips, place = puzzles(lower, 1000, torch.Generator().manual_seed(options.seed + 1000))
    torch.manual_seed(options.seed)
    alone = train(softmax_loss, upper, options.steps, options.seed, "softmax alone")
    together = train(transport_loss, upper, options.steps, options.seed, "optimal transport")
    with torch.no_grad():
        scores = {"untrained": StripNetwork()(strips), "softmax": alone(strips), "learned": together(strips)}
        plan = sinkhorn_weights(scores["learned"])
        found = {name: best_order(score) for name, score in scores.items()}
    table = {
        "untrained network": scored(found["untrained"], place),
        "smoothest order": scored(smoothest_order(strips), place),
        "softmax of each strip": scored(found["softmax"], place),
        "optimal transport": scored(found["learned"], place),
    }
    print(f"{'1000 puzzles of the unseen part of the map':45}strips at their place   puzzles solved")
    for name, (share, solved) in table.items():
        print(f"{name:45}{100 * share:19.1f} %{100 * solved:15.1f} %")
    if options.out:
        picture(options.out, strips, plan, table)
        print(f"picture: {options.out}")
    return dict(zip(("start", "smoothest", "softmax", "learned"), (share for share, _ in table.values()), strict=True))


if __name__ == "__main__":
    main()
