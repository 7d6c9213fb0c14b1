"""Robust pooling of point clouds: a classifier that never saw an outlier, and then does.

Points on the surface of one of six shapes, turned about the vertical axis, go one by one through a small network
(PointNet's idea); pooling over the points makes one feature vector, which is classified. Three networks differ in
the pooling alone, the minimizer y of a sum of penalties of the distances from the points' features x_i,

    mean:   minimize sum_i |y - x_i|^2
    robust: minimize sum_i phi(|y - x_i|; alpha), pseudo-Huber or Welsch, ``cvxlayers.nodes.robust_vector_pool``

with a learned alpha, or PointNet's own, the maximum of each feature. All are trained on clean clouds. Then a growing
share of the points is replaced by points anywhere in a box around. What robust pooling is for are outliers that nobody
had expected: where they can be had for training, the maximum learns to do without them, as one more network shows that
was trained with 10 % of them.

Sources: Gould, Hartley, Campbell, "Deep declarative networks: a new hope", 2019, section 5.1; Qi, Su, Mo, Guibas,
"PointNet: deep learning on point sets for 3D classification and segmentation", CVPR 2017.

    python examples/point_cloud.py --out point_cloud.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from cvxlayers.nodes import robust_vector_pool

__all__ = ["PointNetwork", "main"]

POINTS, FEATURES, JITTER, BOX = 64, 24, 0.03, 2.0
SHAPES = ("sphere", "cube", "cylinder", "cone", "torus", "helix")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
POOLS = ("max", "mean", "pseudo-huber", "welsch")


def surface(kind: int, u: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Points (..., 3) on a shape for three random numbers each, uniform in [0, 1]."""
    turn, one = 2 * torch.pi * u, torch.ones_like(u)
    ring = torch.stack([turn.cos(), turn.sin(), 0 * one], -1)
    up = torch.tensor([0.0, 0.0, 1.0])
    z = (2 * v - 1)[..., None]
    if SHAPES[kind] == "sphere":
        return (1 - z**2).sqrt() * ring + z * up
    if SHAPES[kind] == "cube":
        side = torch.stack([one, 2 * u - 1, 2 * v - 1], -1) * torch.where(w < 0.5, -1.0, 1.0)[..., None]
        axis = (torch.arange(3) + (6 * w).long()[..., None] % 3) % 3
        return 0.8 * side.gather(-1, axis)
    if SHAPES[kind] == "cylinder":
        return 0.7 * ring + z * up
    if SHAPES[kind] == "cone":
        radius = v.sqrt()[..., None]
        return radius * ring + (1 - 2 * radius) * up
    if SHAPES[kind] == "torus":
        tube = 2 * torch.pi * v[..., None]
        return (0.75 + 0.3 * tube.cos()) * ring + 0.3 * tube.sin() * up
    return 0.8 * torch.stack([(2 * turn).cos(), (2 * turn).sin(), 2 * u - 1], -1)


def clouds(count: int, outliers: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Clouds (count, POINTS, 3), a share of their points anywhere in a box, and their shapes (count,)."""
    kind = torch.randint(len(SHAPES), (count,), generator=generator)
    u, v, w = torch.rand(3, count, POINTS, generator=generator)
    points = torch.stack([surface(k, u, v, w) for k in range(len(SHAPES))])[kind, torch.arange(count)]
    angle = 2 * torch.pi * torch.rand(count, generator=generator)
    zero, one = torch.zeros(count), torch.ones(count)
    turn = torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero, zero, zero, one], -1)
    size = 0.8 + 0.4 * torch.rand(count, 1, 1, generator=generator)
    points = size * points @ turn.reshape(-1, 3, 3) + JITTER * torch.randn(points.shape, generator=generator)
    anywhere = BOX * (2 * torch.rand(points.shape, generator=generator) - 1)
    points[:, : round(outliers * POINTS)] = anywhere[:, : round(outliers * POINTS)]
    return points, kind


class PointNetwork(nn.Module):
    """(B, POINTS, 3) to (B, 6): a network for each point, pooling, and a linear classifier."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.encoder = nn.Sequential(nn.Linear(3, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, FEATURES))
        self.classifier = nn.Sequential(nn.Linear(FEATURES, 48), nn.ReLU(), nn.Linear(48, len(SHAPES)))
        self.log_alpha = nn.Parameter(torch.tensor(0.0))

    def pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return x.amax(1)
        if self.pool == "mean":
            return x.mean(1)
        return robust_vector_pool(x.mT, self.pool, self.log_alpha.exp())

    def forward(self, points: Tensor) -> Tensor:
        return self.classifier(self.pooled(self.encoder(points)))


def train(pool: str, steps: int, seed: int, outliers: float = 0.0) -> PointNetwork:
    """A network trained on clouds with that share of outliers."""
    torch.manual_seed(seed)
    network = PointNetwork(pool)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=max(steps, 2))
    for _ in track(range(steps), description=f"pooling by {pool}", console=Console(stderr=True)):
        points, kind = clouds(32, outliers, generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(points), kind).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def accuracy(network: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    """The share of clouds whose shape is found."""
    with torch.no_grad():
        return (network(data[0]).argmax(1) == data[1]).float().mean().item()


def picture(path: str, tests: Sequence[tuple[Tensor, Tensor]], table: dict[str, list[float]]) -> None:
    """Clouds without and with outliers, and the accuracy against the share of outliers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=[1, 1, 1, 2.2])
    for row, (points, kind) in enumerate((tests[0], tests[3])):
        for column in range(3):
            axes = figure.add_subplot(grid[row, column], projection="3d")
            bad = round(SHARES[3 * row] * POINTS)
            axes.scatter(*points[column, bad:].mT, s=8, color="tab:blue")
            axes.scatter(*points[column, :bad].mT, s=8, color="tab:red")
            name = SHAPES[kind[column]]
            axes.set(xticks=[], yticks=[], zticks=[], title=name if row == 0 else f"{name}, 30 % outliers")
    axes = figure.add_subplot(grid[:, 3])
    for pool, values in table.items():
        axes.plot([100 * share for share in SHARES], [100 * value for value in values], "o-", label=pool)
    axes.axhline(100 / len(SHAPES), color="k", ls=":", label="chance")
    axes.set(
        xlabel="outliers, percent of the points",
        ylabel="accuracy, percent",
        title='Trained without outliers (but for "10 % seen")',
    )
    axes.set_ylim(0, 102)
    axes.legend(title="pooling")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Command line; the scores are accuracies on test clouds, for each share of outliers in SHARES."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="gradient steps for each network (default 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the clouds and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw clouds and accuracies")
    options = parser.parse_args(argv)

    tests = [clouds(600, share, torch.Generator().manual_seed(options.seed + 1000)) for share in SHARES]
    table = {}
    for pool in POOLS:
        network = train(pool, options.steps, options.seed)
        table[pool] = [accuracy(network, test) for test in tests]
    network = train("max", options.steps, options.seed, outliers=0.1)
    table["max, 10 % seen"] = [accuracy(network, test) for test in tests]
    print("accuracy in percent on 600 test clouds, by the share of outliers")
    print(f"{'pooling':18}" + "".join(f"{100 * share:6.0f} %" for share in SHARES))
    for pool, values in table.items():
        print(f"{pool:18}" + "".join(f"{100 * value:8.1f}" for value in values))
    if options.out:
        picture(options.out, tests, table)
        print(f"picture: {options.out}")
    return table


if __name__ == "__main__":
    main()
