"""Meta-learning: a network that is trained so that a classifier can be found from a few examples.

Each task has classes of its own, and only a few labelled examples of each. A network maps examples to features, shared
by all tasks; a head then fits a linear classifier to the features of the task's own examples, and is judged on further
ones. The head is a convex problem, so that the network is trained through its solution. Two heads:

    svm     the dual of a support vector machine of several classes (Crammer and Singer 2001): with F the features
            (examples, d), Y the labels as 0 and 1 (examples, classes),

                minimize over alpha (examples, classes)  1/2 |F'alpha|^2 - <alpha, Y>
                subject to                               alpha <= C Y,  each row of alpha sums to zero

            and the classifier F'alpha. Its matrix is singular as soon as there are more examples than features.
    ridge   minimize over W (d, classes)  1/2 |FW - Y|^2 + weight/2 |W|^2, which has no constraints at all

Here what distinguishes the classes lies in a few directions among others that vary much more. Source: Lee, Maji,
Ravichandran, Soatto, "Meta-learning with differentiable convex optimization" (MetaOptNet), CVPR 2019; for the ridge
head Bertinetto, Henriques, Torr, Vedaldi, "Meta-learning with differentiable closed-form solvers", ICLR 2019.

    python examples/meta_learning.py --out meta_learning.png
    python examples/meta_learning.py --head ridge
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track

from cvxlayers.torch import QPLayer

__all__ = ["main"]

CLASSES, SHOTS, QUERIES = 4, 3, 8
INFORMATIVE, NUISANCE, FEATURES = 3, 13, 8

Head = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Tasks(NamedTuple):
    """Some tasks: inputs (tasks, classes, examples, inputs), the first SHOTS examples of a class being the labelled."""

    inputs: torch.Tensor

    def parts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the labelled and of the other examples: (tasks, classes * examples, d) each."""
        return features[:, :, :SHOTS].flatten(1, 2), features[:, :, SHOTS:].flatten(1, 2)


def labels(examples: int) -> torch.Tensor:
    """The classes of so many examples each, in order: (classes * examples,)."""
    return torch.arange(CLASSES).repeat_interleave(examples)


def make_tasks(count: int, mixing: torch.Tensor, generator: torch.Generator) -> Tasks:
    """Classes around random centers in a few directions, everything else in the others, mixed by a rotation."""
    shape = (count, CLASSES, SHOTS + QUERIES)
    centers = torch.randn(count, CLASSES, 1, INFORMATIVE, generator=generator)
    informative = centers + 0.25 * torch.randn(*shape, INFORMATIVE, generator=generator)
    nuisance = 3 * torch.randn(*shape, NUISANCE, generator=generator)
    return Tasks(torch.cat([informative, nuisance], -1) @ mixing)


def svm_head(C: float = 0.5) -> Head:
    """Features (tasks, examples, d) of the labelled examples, labels (examples,) -> classifiers (tasks, d, classes)."""
    layer = QPLayer()

    def solve(features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        n, eye = len(classes), torch.eye(CLASSES)
        Y = torch.nn.functional.one_hot(classes, CLASSES).to(features.dtype)
        Q = torch.kron(features @ features.mT, eye)  # alpha is stretched out example by example
        A = torch.kron(torch.eye(n), torch.ones(1, CLASSES))
        alpha = layer(Q, -Y.flatten(), torch.eye(n * CLASSES), C * Y.flatten(), A, torch.zeros(n))
        return features.mT @ alpha.unflatten(-1, (n, CLASSES))

    return solve


def ridge_head(weight: float = 1.0) -> Head:
    """The same by ridge regression: one program for each task and class, with the matrix of the task."""
    layer = QPLayer()

    def solve(features: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        Y = torch.nn.functional.one_hot(classes, CLASSES).to(features.dtype)
        Q = features.mT @ features + weight * torch.eye(features.shape[-1])
        W: torch.Tensor = layer(Q[:, None], -(features.mT @ Y).mT)  # (tasks, classes, d)
        return W.mT

    return solve


HEADS: dict[str, Callable[[], Head]] = {"svm": svm_head, "ridge": ridge_head}


def logits(network: torch.nn.Module, head: Head, tasks: Tasks) -> torch.Tensor:
    """The scores of the examples without labels, (tasks, examples, classes)."""
    known, asked = tasks.parts(network(tasks.inputs))
    return asked @ head(known, labels(SHOTS))


def accuracy(network: torch.nn.Module, head: Head, tasks: Tasks) -> float:
    """Share of the examples without labels that get their class."""
    with torch.no_grad():
        return float((logits(network, head, tasks).argmax(-1) == labels(QUERIES)).double().mean())


def train(
    network: torch.nn.Module, head: Head, mixing: torch.Tensor, steps: int, test: Tasks, seed: int
) -> list[tuple[int, float]]:
    """Train the network; the accuracy on test tasks on the way."""
    generator = torch.Generator().manual_seed(seed + 1)
    scale = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.Adam([*network.parameters(), scale], lr=0.01)
    curve = [(0, accuracy(network, head, test))]
    for step in track(range(1, steps + 1), description="training the network", console=Console(stderr=True)):
        tasks = make_tasks(8, mixing, generator)
        scores = scale * logits(network, head, tasks)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels(QUERIES).repeat(len(scores)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0 or step == steps:
            curve.append((step, accuracy(network, head, test)))
    return curve


def picture(path: str, curve: Sequence[tuple[int, float]], raw: float, views: Sequence[torch.Tensor]) -> None:
    """The accuracy on the way, and a task's examples by their two main directions, as inputs and as features."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].plot(*zip(*curve, strict=True), "o-", color="tab:blue", ms=4, label="through the head")
    axes[0].axhline(raw, color="0.5", ls=":", label="head on the inputs themselves")
    axes[0].set(xlabel="gradient step", ylabel="accuracy on new tasks", title="Learning to learn")
    axes[0].legend(loc="lower right")
    for axis, view, title in zip(axes[1:], views, ("A new task: inputs", "the same: features"), strict=True):
        flat = view.flatten(0, 1)
        plane = (flat - flat.mean(0)) @ torch.linalg.svd(flat - flat.mean(0))[2][:2].T
        for number, cloud in enumerate(plane.unflatten(0, view.shape[:2])):
            axis.plot(*cloud[:SHOTS].T, "s", color=f"C{number}", ms=7, mec="black")
            axis.plot(*cloud[SHOTS:].T, ".", color=f"C{number}", ms=7)
        axis.set(title=title, xticks=[], yticks=[], xlabel="squares: labelled")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are accuracies on new tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=list(HEADS), default="svm", help="(default svm)")
    parser.add_argument("--steps", type=int, default=200, help="gradient steps (default 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the accuracy and a task")
    options = parser.parse_args(argv)

    generator = torch.Generator().manual_seed(options.seed)
    inputs = INFORMATIVE + NUISANCE
    mixing = torch.linalg.qr(torch.randn(inputs, inputs, generator=generator))[0]
    test = make_tasks(60, mixing, generator)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        network = torch.nn.Sequential(
            torch.nn.Linear(inputs, 32), torch.nn.Tanh(), torch.nn.Linear(32, FEATURES), torch.nn.Tanh()
        )
    head = HEADS[options.head]()
    raw = accuracy(torch.nn.Identity(), head, test)
    curve = train(network, head, mixing, options.steps, test, options.seed)
    scores = {"chance": 1 / CLASSES, "raw": raw, "start": curve[0][1], "learned": curve[-1][1]}
    words = {"chance": "by chance", "raw": "on the inputs", "start": "at the start", "learned": "learned"}
    print("accuracy on new tasks: " + ", ".join(f"{scores[name]:.3f} {word}" for name, word in words.items()))
    if options.out:
        with torch.no_grad():
            picture(options.out, curve, raw, (test.inputs[0], network(test.inputs[0])))
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
