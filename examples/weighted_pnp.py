"""Perspective-n-point with learned weights: which of the matches between points and pixels are to be believed?

Each of 20 points is matched to a place in the image, and 30 % of the matches are wrong: the place is anywhere. A
match comes with a similarity and a distinctiveness, which are higher for right matches, on the average. From these, the
place and the point, a small network that also sees the other matches makes a weight for each, and the pose solves

    minimize  sum_i w_i |project(R p_i + t) - u_i|^2    over R and t,    ``cvxlayers.nodes.PerspectiveNPoint``.

The loss is the error of the pose, and its gradient reaches the network through the solution: nobody says which matches
are right. For comparison: equal weights; Huber's penalty in place of the square; similarities as weights; and, out of
reach, a weight of one for the right matches and zero for the others.

Sources: Campbell, Liu, Gould, "Solving the blind perspective-n-point problem end-to-end with robust differentiable
geometric optimization", ECCV 2020 (there the matches are sought, too); Yi et al., "Learning to find good
correspondences", CVPR 2018 (the network).

    python examples/weighted_pnp.py --out weighted_pnp.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from cvxlayers.nodes import PerspectiveNPoint

__all__ = ["MatchNetwork", "main"]

POINTS, WRONG, NOISE = 20, 0.3, 0.005


class Scene(NamedTuple):
    """Matches of B scenes: p2d (B, n, 2), p3d (B, n, 3), clues (B, n, 2), which are right (B, n), the pose (B, 6)."""

    p2d: Tensor
    p3d: Tensor
    clues: Tensor
    right: Tensor
    pose: Tensor


def rotation(theta: Tensor) -> Tensor:
    """Axis-angle (B, 3) to matrices (B, 3, 3)."""
    x, y, z = theta.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3)))


def project(pose: Tensor, p3d: Tensor) -> Tensor:
    """Where a camera of that pose sees the points: (B, n, 2)."""
    q = p3d @ rotation(pose[:, :3]).mT + pose[:, None, 3:]
    return q[..., :2] / q[..., 2:]


def scenes(count: int, generator: torch.Generator) -> Scene:
    """Random scenes, seen from about five units away."""
    p3d = 2 * torch.rand(count, POINTS, 3, generator=generator, dtype=torch.float64) - 1
    pose = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    pose = pose * torch.tensor([0.4, 0.4, 0.4, 0.3, 0.3, 0.3]) + torch.tensor([0.0, 0, 0, 0, 0, 5])
    p2d = project(pose, p3d)
    p2d = p2d + NOISE * torch.randn(p2d.shape, generator=generator, dtype=torch.float64)
    right = torch.rand(count, POINTS, generator=generator) > WRONG
    anywhere = 0.6 * torch.rand(p2d.shape, generator=generator, dtype=torch.float64) - 0.3
    clues = torch.randn(count, POINTS, 2, generator=generator, dtype=torch.float64) + right[..., None]
    return Scene(torch.where(right[..., None], p2d, anywhere), p3d, clues, right, pose)


class MatchNetwork(nn.Module):
    """A scene to weights (B, n) with a mean of one; every match hears of the others through means over all of them."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        sizes = (7, width, width, width)
        self.layers = nn.ModuleList(nn.Linear(2 * a, b) for a, b in pairwise(sizes))
        self.last = nn.Linear(width, 1)
        self.double()

    def forward(self, scene: Scene) -> Tensor:
        x = torch.cat([5 * scene.p2d, scene.p3d, scene.clues], -1)
        for layer in self.layers:
            x = layer(torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], -1))
            x = torch.relu((x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-3))
        w = 1e-3 + torch.sigmoid(self.last(x)[..., 0])
        return w / w.mean(1, keepdim=True)


def pose_error(found: Tensor, true: Tensor) -> Tensor:
    """How far the two poses move a cube around the origin apart, as a share of its size: (B,)."""
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 3)
    moved = [corners @ rotation(pose[:, :3]).mT + pose[:, None, 3:] for pose in (found, true)]
    return (moved[0] - moved[1]).norm(dim=-1).mean(-1) / 2


def train(steps: int, seed: int) -> MatchNetwork:
    """A network trained by the errors of the poses, cut off at half the size of the cube."""
    torch.manual_seed(seed)
    network, node = MatchNetwork(), PerspectiveNPoint(on_failure="zero_grad")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in track(range(steps), description="learning weights", console=Console(stderr=True)):
        scene = scenes(32, generator)
        optimizer.zero_grad()
        error = pose_error(node(scene.p2d, scene.p3d, network(scene)), scene.pose)
        (error / (0.5 + error)).mean().backward()
        optimizer.step()
    return network


def errors(network: MatchNetwork, scene: Scene) -> tuple[dict[str, Tensor], Tensor]:
    """The errors of the poses by each method, and the learned weights."""
    square = PerspectiveNPoint(on_failure="zero_grad")
    huber = PerspectiveNPoint("huber", delta=2 * NOISE, on_failure="zero_grad")
    with torch.no_grad():
        learned = network(scene)
        poses = {
            "equal": square(scene.p2d, scene.p3d),
            "similarity": square(scene.p2d, scene.p3d, torch.sigmoid(2 * scene.clues.sum(-1) - 2)),
            "huber": huber(scene.p2d, scene.p3d),
            "learned": square(scene.p2d, scene.p3d, learned),
            "learned, huber": huber(scene.p2d, scene.p3d, learned),
            "right only": square(scene.p2d, scene.p3d, scene.right.double()),
        }
    return {name: pose_error(pose, scene.pose) for name, pose in poses.items()}, learned


def picture(path: str, scene: Scene, weights: Tensor, found: dict[str, Tensor], words: dict[str, str]) -> None:
    """The matches of a scene with their weights, the weights of all, and the errors of the poses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    true = project(scene.pose[:1], scene.p3d[:1])[0]
    for good, colour in ((True, "tab:blue"), (False, "tab:red")):
        of = scene.right[0] == good
        left.scatter(*scene.p2d[0, of].mT, s=60 * weights[0, of] + 4, color=colour, alpha=0.8)
        for a, b in zip(scene.p2d[0, of], true[of], strict=True):
            left.plot(*torch.stack([a, b]).mT, color=colour, lw=0.5)
        label = "right matches" if good else "wrong matches"
        middle.hist(weights[scene.right == good], bins=torch.linspace(0, 2, 30), color=colour, alpha=0.6, label=label)
    left.set(title="matches (size: weight), lines to the truth", xlabel="image x", ylabel="image y")
    middle.set(title="learned weights", xlabel="weight", ylabel="matches")
    middle.legend()
    for name, error in found.items():
        right.semilogx(error.sort().values, torch.linspace(0, 100, len(error)), label=words[name])
    right.set(title="test scenes with less error", xlabel="error of the pose", ylabel="percent of scenes")
    right.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are median errors of the poses of test scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="gradient steps (default 120)")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw matches and errors")
    options = parser.parse_args(argv)

    network = train(options.steps, options.seed)
    scene = scenes(200, torch.Generator().manual_seed(options.seed + 1000))
    found, weights = errors(network, scene)
    words = {
        "equal": "equal weights",
        "similarity": "similarities as weights",
        "huber": "Huber's penalty",
        "learned": "learned weights",
        "learned, huber": "learned, and Huber's",
        "right only": "right matches only",
    }
    print(f"{len(scene.pose)} test scenes      median error      90 % quantile")
    for name, error in found.items():
        print(f"{words[name]:24}{100 * error.median():10.2f} %{100 * error.quantile(0.9):17.2f} %")
    if options.out:
        picture(options.out, scene, weights, found, words)
        print(f"picture: {options.out}")
    return {name: error.median().item() for name, error in found.items()}


if __name__ == "__main__":
    main()
