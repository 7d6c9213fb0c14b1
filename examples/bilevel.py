"""Bilevel learning of regularization weights: an elastic net tunes itself on validation data.

Eighty features come in four groups; a linear model has to be found from 50 samples, so it needs regularization:

    minimize  1/2 |X w - t|^2 / 50 + l2/2 |w|^2 + sum_g l1_g |w_g|_1

How much? The outer problem is the error on validation samples as a function of (l2, l1_1, ..., l1_4), and its gradient
comes through the solution w. One weight could be found on a grid; five weights, one for each group and the ridge, would
need a grid of thousands. The signal is in the first two groups: sparse in the first, small everywhere in the second.
For comparison, each tuned on the same validation samples: least squares of least norm; ridge regression and the lasso
with the best weight of a grid; the elastic net with one l1 for all groups, learned like the five weights.

Source: Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort, Salmon, "Implicit differentiation for fast
hyperparameter selection in non-smooth convex learning", JMLR 2022.

    python examples/bilevel.py --out bilevel.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cvxpy as cp
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from cvxlayers.nodes import least_squares
from cvxlayers.torch import CvxpyLayer

__all__ = ["main", "problem"]

GROUPS, SIZE, SAMPLES, NOISE = 4, 20, 50, 1.0
FEATURES = GROUPS * SIZE

w, residual = cp.Variable(FEATURES, name="w"), cp.Variable(SAMPLES, name="residual")
X = cp.Parameter((SAMPLES, FEATURES), name="X")
t = cp.Parameter(SAMPLES, name="t")
root = cp.Parameter(nonneg=True, name="root")
l1 = cp.Parameter(GROUPS, nonneg=True, name="l1")
norms = [l1[g] * cp.norm1(w[g * SIZE : (g + 1) * SIZE]) for g in range(GROUPS)]
problem = cp.Problem(
    cp.Minimize(cp.sum_squares(residual) / (2 * SAMPLES) + cp.sum_squares(root * w) / 2 + cp.sum(norms)),
    [residual == X @ w - t],
)


class Samples(NamedTuple):
    """Features (count, FEATURES) and targets (count,)."""

    X: Tensor
    t: Tensor

    def error(self, weights: Tensor) -> Tensor:
        """Mean squared error of a linear model (FEATURES,)."""
        return (self.X @ weights - self.t).square().mean()


def samples(seed: int) -> tuple[Tensor, dict[str, Samples]]:
    """The true weights, and samples for training, validation and test."""
    rng = np.random.default_rng(seed)
    true = np.zeros(FEATURES)
    true[rng.choice(SIZE, 4, replace=False)] = rng.choice([-2.0, 2.0], 4)
    true[SIZE : 2 * SIZE] = 0.4 * rng.standard_normal(SIZE)
    parts = {}
    for name, count in (("train", SAMPLES), ("validation", 100), ("test", 2000)):
        features = rng.standard_normal((count, FEATURES))
        targets = features @ true + NOISE * rng.standard_normal(count)
        parts[name] = Samples(torch.tensor(features), torch.tensor(targets))
    return torch.tensor(true), parts


def elastic_net(layer: CvxpyLayer, train: Samples, l2: Tensor, penalties: Tensor) -> Tensor:
    """The model (FEATURES,) for a ridge l2 and the penalties (GROUPS,)."""
    return layer(train.X, train.t, l2.sqrt(), penalties)[0]


def learn(
    layer: CvxpyLayer, parts: dict[str, Samples], penalties: int, steps: int, words: str
) -> tuple[Tensor, list[float]]:
    """The logarithms of (l2, l1) after gradient steps on the validation error, with one or GROUPS penalties."""
    log = torch.full((1 + penalties,), -3.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log], lr=0.15)
    history = []
    for _ in track(range(steps), description=words, console=Console(stderr=True)):
        optimizer.zero_grad()
        model = elastic_net(layer, parts["train"], log[0].exp(), log[1:].exp().expand(GROUPS))
        error = parts["validation"].error(model)
        error.backward()
        history.append(error.item())
        optimizer.step()
    return log.detach(), history


def best_of_grid(parts: dict[str, Samples], fit: Callable[[Tensor], Tensor]) -> Tensor:
    """The model with the best validation error among those for 17 weights."""
    models = [fit(weight) for weight in torch.logspace(-4, 1, 17, dtype=torch.float64)]
    return min(models, key=lambda model: float(parts["validation"].error(model)))


def ridge(train: Samples, weight: Tensor | float, least_norm: bool = False) -> Tensor:
    """Ridge regression by the node for it; without a weight, the solution of least norm."""
    return least_squares(train.X.mT, train.t[None], beta=SAMPLES * weight, bias=False, least_norm=least_norm)[0]


def picture(
    path: str, true: Tensor, model: Tensor, log: Tensor, histories: dict[str, list[float]], scores: dict[str, float]
) -> None:
    """The validation error over the steps, the model beside the truth, and the test errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=[3, 4, 3])
    for name, history in histories.items():
        left.plot(history, label=name)
    left.set(xlabel="gradient step", ylabel="validation error", title="Learning the weights")
    left.legend()
    middle.plot(true, "o", color="0.7", label="true")
    middle.plot(model, ".", color="tab:blue", label="learned weights")
    for g in range(GROUPS):
        middle.axvline(g * SIZE - 0.5, color="0.85", lw=1)
        middle.text(g * SIZE + 1, 2.35, f"l1 = {log[1 + g].exp():.3f}", fontsize=8)
    middle.set(xlabel="feature", ylabel="w", ylim=(-2.7, 2.7), title="The model, group by group")
    middle.legend(loc="lower right")
    right.barh(list(scores), list(scores.values()), color=["0.7", "0.7", "0.7", "tab:blue", "tab:blue"])
    right.axvline(NOISE**2, color="k", ls=":", label="noise")
    right.set(xlabel="test error", title="Test samples")
    right.invert_yaxis()
    right.legend()
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are mean squared errors on test samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="gradient steps (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the models and their errors")
    options = parser.parse_args(argv)

    layer = CvxpyLayer(problem, parameters=[X, t, root, l1], variables=[w])
    true, parts = samples(options.seed)
    train, none = parts["train"], torch.zeros((), dtype=torch.float64)
    one, one_history = learn(layer, parts, 1, options.steps, "one penalty")
    five, history = learn(layer, parts, GROUPS, options.steps, "a penalty for each group")
    models = {
        "least squares": ridge(train, 0.0, least_norm=True),
        "ridge, grid": best_of_grid(parts, lambda weight: ridge(train, weight)),
        "lasso, grid": best_of_grid(parts, lambda weight: elastic_net(layer, train, none, weight.expand(GROUPS))),
        "elastic net, learned": elastic_net(layer, train, one[0].exp(), one[1:].exp().expand(GROUPS)),
        "by groups, learned": elastic_net(layer, train, five[0].exp(), five[1:].exp()),
    }
    print(f"mean squared error          validation      test    (of the noise: {NOISE**2:.3f})")
    for name, model in models.items():
        print(f"{name:26}{parts['validation'].error(model):12.3f}{parts['test'].error(model):10.3f}")
    print(f"learned: l2 {five[0].exp():.4f}, l1 " + ", ".join(f"{value:.4f}" for value in five[1:].exp()))
    scores = {name: float(parts["test"].error(model)) for name, model in models.items()}
    if options.out:
        histories = {"one l1": one_history, "an l1 for each group": history}
        picture(options.out, true, models["by groups, learned"], five, histories, scores)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
