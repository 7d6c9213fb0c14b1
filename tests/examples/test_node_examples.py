"""The examples of declarative nodes in a short mode: what is learned beats the simple way, and leaves a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.examples import is_a_picture, load

Scores = dict[str, Any]


@pytest.fixture
def short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs an example for a few steps; its scores, after a look at the picture."""

    def run(name: str, steps: int) -> Scores:
        picture = tmp_path / f"{name}.png"
        scores = load(name).main(["--steps", str(steps), "--out", str(picture)])
        assert is_a_picture(picture)
        assert f"picture: {picture}" in capsys.readouterr().out
        return scores

    return run


def test_strips_are_put_in_order(short: Any) -> None:
    scores = short("permutation", 200)
    assert scores["learned"] > scores["start"] + 0.2
    assert scores["learned"] > 0.4


def test_the_order_of_strips_without_gaps_needs_no_learning() -> None:
    strips = load("permutation")
    land = torch.arange(60.0)[:, None] * 0.1 + torch.arange(60.0).square() * 0.01  # ever steeper: one order is smooth
    shuffled, place = strips.puzzles(land, 20, torch.Generator().manual_seed(0))
    assert strips.scored(strips.smoothest_order(shuffled), place)[1] == 1.0
    scores = torch.nn.functional.one_hot(place, strips.STRIPS).float()
    assert torch.equal(strips.best_order(scores), place)


def test_sequences_are_told_apart_by_rank_pooling_and_not_by_their_mean(short: Any) -> None:
    scores = short("rank_pooling", 100)
    assert scores["mean, end to end"] < 0.3
    assert scores["rank pooling, end to end"] > scores["rank pooling of frames"] + 0.3
    assert scores["generalized, end to end"] > 0.5


def test_generalized_rank_pooling_minimizes_what_it_says() -> None:
    """No other subspace has a smaller value of the problem in the example's words."""
    ranks = load("rank_pooling")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, ranks.FRAMES, 6, generator=generator, dtype=torch.float64)
    pool = ranks.GeneralizedRankPool(k=2, lam=0.8)

    def value(projector: torch.Tensor) -> torch.Tensor:
        seen = x[0] @ projector
        return ((x[0] - seen).square().sum() - 0.8 * (ranks.TIME * seen.square().sum(1)).sum()) / 2

    best = value(pool(x)[0].reshape(6, 6))
    for _ in range(100):
        U, _ = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))
        assert value(U @ U.mT) >= best


def test_robust_pooling_outlives_outliers(short: Any) -> None:
    table = short("point_cloud", 100)
    clean, some = 0, 3  # no outliers, 30 %
    chance = 1 / 6
    assert all(accuracies[clean] > 2 * chance for accuracies in table.values())
    lost = {pool: accuracies[clean] - accuracies[some] for pool, accuracies in table.items()}
    assert lost["welsch"] < 0.05
    assert min(lost["mean"], lost["max"]) > 0.3
    assert table["welsch"][some] > max(table["mean"][some], table["max"][some]) + 0.05


def test_weights_of_matches_are_learned_through_poses(short: Any) -> None:
    scores = short("weighted_pnp", 15)
    assert scores["learned"] < 0.7 * scores["equal"]
    assert scores["right only"] < scores["learned"]


def test_regularization_weights_are_learned_on_validation_samples(short: Any) -> None:
    scores = short("bilevel", 40)
    assert scores["by groups, learned"] < scores["elastic net, learned"] < scores["ridge, grid"]
    assert scores["by groups, learned"] < scores["lasso, grid"] < scores["least squares"]
