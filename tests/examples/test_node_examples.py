"""The examples of declarative nodes in a short mode: what is learned beats the simple way, and leaves a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest
import torch

from tests.support.differences import differentiate
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


def test_the_rules_of_sudoku_are_learned_by_clauses_and_not_by_a_dense_network(short: Any) -> None:
    scores = short("maxsat", 24)
    assert scores["MAXSAT"] > max(scores["dense"], scores["dense, wide"]) + 0.3
    assert scores["rules"] > 0.8  # by chance 56 of 120
    assert scores["certified"] > 0.9
    assert scores["residual"] < 1e-6


def relaxations(batch: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """C (batch, n, n) of few clauses and q (batch, n, k)."""
    generator = torch.Generator().manual_seed(0)
    S = torch.randn(batch, n // 2, n, generator=generator, dtype=torch.float64)
    C = S.mT @ S
    C = C - torch.diag_embed(C.diagonal(dim1=1, dim2=2))
    return C, 0.7 * torch.randn(batch, n, k, generator=generator, dtype=torch.float64)


def test_certified_solutions_of_the_mixing_method_have_the_value_of_the_semidefinite_program() -> None:
    """The program over X for v v' and v: minimize 1/2 <C, X> + <q, v> where [[X, v], [v', I]] is PSD, diag(X) = 1."""
    sat = load("maxsat")
    n, k = 6, 4
    C, q = relaxations(8, n, k)
    layer = sat.DeclarativeLayer(sat.Mixing(), polish=False)
    v = layer(C, q)
    certain = sat.certified(C, q, v)
    assert certain.sum() >= 6
    found = (v * (C @ v / 2 + q)).sum((1, 2))
    Z = cp.Variable((n + k, n + k), PSD=True)
    constraints = [Z[n:, n:] == np.eye(k), cp.diag(Z)[:n] == 1]
    for i in range(len(C)):
        value = cp.sum(cp.multiply(C[i].numpy() / 2, Z[:n, :n])) + cp.sum(cp.multiply(q[i].numpy(), Z[:n, n:]))
        bound = cp.Problem(cp.Minimize(value), constraints).solve(solver=cp.CLARABEL)
        assert float(found[i]) >= bound - 1e-6
        if certain[i]:
            assert float(found[i]) == pytest.approx(bound, abs=1e-6)


def test_the_mixing_layer_has_the_derivative_of_its_solutions() -> None:
    sat = load("maxsat")
    layer = sat.DeclarativeLayer(sat.Mixing(change=1e-12), polish=False, matrix_free=True)
    C, q = relaxations(1, 6, 4)
    D, e = relaxations(2, 6, 4)
    w = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(6, 4)

    def solutions(point: list[np.ndarray]) -> list[np.ndarray]:
        return [layer(*map(torch.as_tensor, point)).numpy()]

    differences = differentiate(solutions, [C[0].numpy(), q[0].numpy()], [(D[i].numpy(), e[i].numpy()) for i in (0, 1)])
    at = C.requires_grad_(), q.requires_grad_()
    dC, dq = torch.autograd.grad((layer(*at) * w).sum(), at)
    for i, difference in enumerate(differences):
        assert difference.agreement < 1e-8
        expected = float((difference.tangents[0] * w.numpy()).sum())
        assert float((dC[0] * D[i]).sum() + (dq[0] * e[i]).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_the_loss_of_a_maxsat_layer_has_its_derivative_in_the_clauses() -> None:
    sat = load("maxsat")
    generator = torch.Generator().manual_seed(0)
    every = torch.tensor(sat.boards())
    bits, hidden = sat.puzzles(every, every, 3, generator)
    torch.manual_seed(0)
    network = sat.MaxSat(clauses=20)
    network.layer = sat.DeclarativeLayer(sat.Mixing(change=1e-12), polish=False, matrix_free=True)
    start, true = 5 * network.S.detach(), (1 + bits.gather(1, hidden)) / 2
    direction = torch.randn(start.shape, generator=generator, dtype=torch.float64) / 10

    def loss(S: torch.Tensor) -> torch.Tensor:
        network.S.data = S
        return torch.nn.functional.binary_cross_entropy(network(bits, hidden), true)

    def losses(point: list[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [np.array([float(loss(torch.as_tensor(S))) for S in point[0]])]

    (difference,) = differentiate(losses, [start.numpy()], [[direction.numpy()]])
    loss(start).backward()
    assert difference.agreement < 1e-8
    assert float((network.S.grad * direction).sum()) == pytest.approx(float(difference.tangents[0]), rel=1e-6)
