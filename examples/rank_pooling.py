"""Rank pooling: sequences are told apart by the order in which things happen, through the solution of a problem.

Every sequence shows the same three events, one after the other, each for a random time; the class is the order, one of
six. A frame is its event's pattern times a random contrast of either sign, and noise. What is pooled over time must
keep the order:

* rank pooling: the direction u along which time grows, min_u 1/2 sum_t (x_t'u + u0 - t)^2 + beta/2 |u|^2,
  ``cvxlayers.nodes.LeastSquares``;
* generalized rank pooling: the subspace in which the sequence has more and more energy. Of all U with U'U = I,
  the one that minimizes 1/2 sum_t |x_t - U U'x_t|^2 - lam/2 sum_t tau_t |U'x_t|^2 with a time tau_t from -1 to 1:
  eigenvectors of sum_t (1 + lam tau_t) x_t x_t', ``cvxlayers.nodes.Eigendecomposition``. (The source has a hinge on
  consecutive frames in place of the second sum.) What is classified is U U', which does not depend on the basis.

Each is tried on the frames as they are, and on features of an encoder, frame by frame, that is trained end to end,
through the problem. For comparison: the mean and the largest of each feature over time, end to end.

Sources: Fernando, Gavves, Oramas, Ghodrati, Tuytelaars, "Rank pooling for action recognition", TPAMI 2016; Fernando,
Gould, "Learning end-to-end video classification with rank-pooling", ICML 2016; Cherian, Fernando, Harandi, Gould,
"Generalized rank pooling for activity recognition", CVPR 2017.

    python examples/rank_pooling.py --out rank_pooling.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import permutations

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from cvxlayers.nodes import Eigendecomposition, LeastSquares

__all__ = ["GeneralizedRankPool", "RankPool", "main"]

FRAMES, CHANNELS, FEATURES, NOISE = 24, 12, 12, 0.25
ORDERS = torch.tensor(list(permutations(range(3))))
TIME = torch.linspace(-1, 1, FRAMES)


def sequences(count: int, patterns: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences (count, FRAMES, CHANNELS) and the number of their order (count,)."""
    kind = torch.randint(len(ORDERS), (count,), generator=generator)
    # At least four frames for each event; how the others are shared out says nothing about the order.
    cuts = torch.randint(FRAMES - 11, (count, 2), generator=generator).sort(1).values + torch.tensor([4, 8])
    event = (torch.arange(FRAMES) >= cuts[:, :, None]).sum(1)
    shown = patterns[ORDERS[kind].gather(1, event)]
    contrast = torch.randn(count, FRAMES, 1, generator=generator).sign() * (
        0.7 + 0.6 * torch.rand(count, FRAMES, 1, generator=generator)
    )
    return contrast * shown + NOISE * torch.randn(shown.shape, generator=generator), kind


class RankPool(nn.Module):
    """(B, T, C) to (B, C): the direction along which time grows."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = LeastSquares(beta=1.0)

    def forward(self, x: Tensor) -> Tensor:
        direction, _ = self.fit(x.mT, TIME.expand(1, 1, -1))
        return nn.functional.normalize(direction)


class GeneralizedRankPool(nn.Module):
    """(B, T, C) to (B, C C): the projector onto the subspace of dimension k in which energy grows."""

    def __init__(self, k: int = 2, lam: float = 2.0) -> None:
        super().__init__()
        self.lam, self.eigen = lam, Eigendecomposition(k)

    def forward(self, x: Tensor) -> Tensor:
        _, U = self.eigen(torch.einsum("t,btc,btd->bcd", 1 + self.lam * TIME, x, x) / FRAMES)
        return (U @ U.mT).flatten(1)


class Pool(nn.Module):
    """(B, T, C) to (B, C): the mean or the largest over time."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if self.name == "mean" else x.amax(1)


def classifier(pool: nn.Module, length: int, encoded: bool) -> nn.Sequential:
    """Frames, with or without an encoder, are pooled over time and classified linearly."""
    width = 32
    encoder = [nn.Linear(CHANNELS, width), nn.ReLU(), nn.Linear(width, FEATURES), nn.ReLU()] if encoded else []
    return nn.Sequential(*encoder, pool, nn.BatchNorm1d(length), nn.Linear(length, len(ORDERS)))


MODELS = {
    "mean, end to end": lambda: classifier(Pool("mean"), FEATURES, True),
    "max, end to end": lambda: classifier(Pool("max"), FEATURES, True),
    "rank pooling of frames": lambda: classifier(RankPool(), CHANNELS, False),
    "rank pooling, end to end": lambda: classifier(RankPool(), FEATURES, True),
    "generalized, of frames": lambda: classifier(GeneralizedRankPool(), CHANNELS**2, False),
    "generalized, end to end": lambda: classifier(GeneralizedRankPool(), FEATURES**2, True),
}


def train(name: str, data: tuple[Tensor, Tensor], steps: int, seed: int) -> nn.Sequential:
    """The classifier of that name, trained by gradient steps on the cross entropy."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=max(steps, 2))
    x, kind = data
    for _ in track(range(steps), description=name, console=Console(stderr=True)):
        batch = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), kind[batch]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The share of sequences whose order is found."""
    with torch.no_grad():
        return (model(data[0]).argmax(1) == data[1]).float().mean().item()


def picture(path: str, data: tuple[Tensor, Tensor], patterns: Tensor, scores: dict[str, float]) -> None:
    """Two sequences, their energy along the three patterns, and the accuracies."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=[3, 3, 3.2])
    for row, kind in enumerate((0, len(ORDERS) - 1)):
        x, order = data[0][data[1] == kind][0], ORDERS[kind]
        axes[row, 0].imshow(x.mT, cmap="RdBu", aspect="auto", vmin=-1, vmax=1)
        axes[row, 0].set(xlabel="time", ylabel="channel", title="order: " + ", ".join("ABC"[i] for i in order))
        for i, seen in enumerate((x @ patterns.mT).square().mT / patterns.square().sum(1)[:, None] ** 2):
            axes[row, 1].plot(seen, label=f"event {'ABC'[i]}")
        axes[row, 1].set(xlabel="time", ylabel="energy along the pattern")
        axes[row, 1].legend(fontsize=8)
        axes[row, 2].remove()
    bars = figure.add_subplot(axes[0, 2].get_gridspec()[:, 2])
    bars.barh(list(scores), [100 * score for score in scores.values()], color=["0.7", "0.7", *["tab:blue"] * 4])
    bars.axvline(100 / len(ORDERS), color="k", ls=":", label="chance")
    bars.set(xlim=(0, 100), xlabel="percent", title="Accuracy on test sequences")
    bars.invert_yaxis()
    bars.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are accuracies on test sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="gradient steps for each model (default 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the sequences and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw sequences and accuracies")
    options = parser.parse_args(argv)

    generator = torch.Generator().manual_seed(options.seed)
    patterns = torch.randn(3, CHANNELS, generator=generator) / 2
    data, test = (sequences(count, patterns, generator) for count in (1000, 1000))
    scores = {name: accuracy(train(name, data, options.steps, options.seed), test) for name in MODELS}
    print(f"accuracy on {len(test[0])} test sequences, of {len(ORDERS)} orders of three events")
    for name, score in scores.items():
        print(f"{name:28}{100 * score:6.1f} %")
    if options.out:
        picture(options.out, test, patterns, scores)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
