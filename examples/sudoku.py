"""Learning the rules of 4x4 Sudoku from solved boards.

A board is a 0-1 array of 4 x 4 cells by 4 numbers, 64 in all, and a puzzle is the same with some cells left empty. The
layer answers a puzzle p with

    minimize  1/2 * 0.1 z'z - p'z   subject to  A z = b,  z >= 0

and knows nothing of the rules. The matrix A is learned from puzzles and their solutions, beginning with random numbers,
by gradient steps through the solution of the problem; b = A exp(free) keeps it feasible. The rules themselves are such
an A: each cell has one number, each number occurs once in each row, column and block. Rows that follow from others are
left out, 40 are left, and with these the layer solves every puzzle; that is printed besides.

Source: Amos, Kolter, "OptNet: differentiable optimization as a layer in neural networks", ICML 2017, section 4.4.

    python examples/sudoku.py --out sudoku.png
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from cvxlayers.torch import QPLayer

__all__ = ["boards", "main", "rules"]

NUMBERS, CELLS, SIZE, ROWS = 4, 16, 64, 40
ROUNDS = 32  # puzzles in a step


class Puzzles(NamedTuple):
    """Puzzles and their solutions, (count, 64) each."""

    given: torch.Tensor
    solution: torch.Tensor


class Solver(torch.nn.Module):
    """Puzzles (..., 64) -> the layer's answers, for the equalities ``A`` (ROWS, 64) and ``free`` (64,)."""

    def __init__(self, A: torch.Tensor, free: torch.Tensor) -> None:
        super().__init__()
        self.A, self.free = torch.nn.Parameter(A), torch.nn.Parameter(free)
        eye = torch.eye(SIZE, dtype=A.dtype)
        self.layer = QPLayer(patterns={"Q": eye, "G": eye})
        self.Q, self.G, self.h = 0.1 * eye, -eye, torch.zeros(SIZE, dtype=A.dtype)

    def forward(self, puzzles: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.layer(self.Q, -puzzles, self.G, self.h, self.A, self.A @ self.free.exp())
        return answers


def boards() -> np.ndarray:
    """All 288 boards, (288, 16) numbers from 0 to 3."""
    orders = [np.array(order) for order in itertools.permutations(range(NUMBERS))]
    halves = [  # two rows whose blocks are right
        np.stack(pair)
        for pair in itertools.product(orders, orders)
        if all(len(set(np.stack(pair)[:, j : j + 2].ravel())) == NUMBERS for j in (0, 2))
    ]
    whole = (np.concatenate(pair) for pair in itertools.product(halves, halves))
    return np.array([board.ravel() for board in whole if all(len(set(column)) == NUMBERS for column in board.T)])


def puzzles(solutions: np.ndarray, every: np.ndarray, count: int, rng: np.random.Generator) -> Puzzles:
    """Puzzles with one solution, made of some boards by taking numbers away."""
    given, answers = [], []
    while len(given) < count:
        board = solutions[rng.integers(len(solutions))]
        kept = rng.random(CELLS) < rng.uniform(0.3, 0.6)
        if ((every == board) | ~kept).all(axis=1).sum() == 1:
            encoded = np.eye(NUMBERS)[board]
            given.append((encoded * kept[:, None]).ravel())
            answers.append(encoded.ravel())
    return Puzzles(torch.tensor(np.array(given)), torch.tensor(np.array(answers)))


def rules() -> torch.Tensor:
    """The rules of the game as rows of A that do not depend on each other, (ROWS, 64)."""
    index = np.arange(SIZE).reshape(NUMBERS, NUMBERS, NUMBERS)
    groups = [*index.reshape(CELLS, NUMBERS)]
    for number in range(NUMBERS):
        groups += [*index[:, :, number], *index[:, :, number].T]
        groups += [index[i : i + 2, j : j + 2, number].ravel() for i in (0, 2) for j in (0, 2)]
    rows = [np.isin(np.arange(SIZE), group).astype(float) for group in groups]
    kept: list[np.ndarray] = []
    for row in rows:
        if np.linalg.matrix_rank(np.array([*kept, row])) > len(kept):
            kept.append(row)
    return torch.tensor(np.array(kept))


def read(answers: torch.Tensor) -> torch.Tensor:
    """The number in each cell, (..., 16): the one with the largest entry."""
    return answers.unflatten(-1, (CELLS, NUMBERS)).argmax(-1)


def score(solver: Solver, test: Puzzles) -> tuple[float, float]:
    """The share of puzzles that are solved after rounding, and the squared error before it."""
    with torch.no_grad():
        answers = solver(test.given)
    solved = (read(answers) == read(test.solution)).all(-1)
    return float(solved.double().mean()), float(((answers - test.solution) ** 2).sum(-1).mean())


def learn(solver: Solver, train: Puzzles, test: Puzzles, steps: int, seed: int) -> list[tuple[int, float, float]]:
    """Learn from the puzzles; (step, share solved, error) of test puzzles on the way."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(solver.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    curve = [(0, *score(solver, test))]
    for step in track(range(1, steps + 1), description="learning the rules", console=Console(stderr=True)):
        batch = torch.randint(len(train.given), (ROUNDS,), generator=generator)
        loss = ((solver(train.given[batch]) - train.solution[batch]) ** 2).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps:
            curve.append((step, *score(solver, test)))
    return curve


def picture(path: str, curve: Sequence[tuple[int, float, float]], solver: Solver, test: Puzzles) -> None:
    """The share of solved puzzles on the way, and a puzzle with the layer's answer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps, solved, errors = zip(*curve, strict=True)
    left.plot(steps, solved, "o-", color="tab:blue", ms=4)
    left.set(
        xlabel="gradient step", ylabel="share of new puzzles solved", ylim=(-0.03, 1.03), title="Learning the rules"
    )
    other = left.twinx()
    other.semilogy(steps, errors, color="tab:orange")
    other.set_ylabel("squared error", color="tab:orange")
    with torch.no_grad():
        answer = solver(test.given[0]).reshape(NUMBERS, NUMBERS, NUMBERS)
    given, sure = test.given[0].reshape(NUMBERS, NUMBERS, NUMBERS).sum(-1), answer.max(-1).values
    right.imshow(sure, cmap="Blues", vmin=0, vmax=1.6)
    for i, j in itertools.product(range(NUMBERS), repeat=2):
        weight, colour = ("bold", "black") if given[i, j] else ("normal", "tab:red")
        text = str(int(answer[i, j].argmax()) + 1)
        right.text(j, i, text, ha="center", va="center", fontsize=22, weight=weight, color=colour)
    for line in (0.5, 1.5, 2.5):
        right.axhline(line, color="black", lw=3 if line == 1.5 else 0.8)
        right.axvline(line, color="black", lw=3 if line == 1.5 else 0.8)
    right.set(xticks=[], yticks=[], title="A new puzzle: given black, answered red; dark: sure")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are those of puzzles made of boards that were not learned from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="gradient steps (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the puzzles and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the learning and a puzzle")
    options = parser.parse_args(argv)

    rng, every = np.random.default_rng(options.seed), boards()
    order = rng.permutation(len(every))
    train = puzzles(every[order[:200]], every, 2000, rng)
    test = puzzles(every[order[200:]], every, 100, rng)

    A = torch.tensor(rng.random((ROWS, SIZE)))
    solver = Solver(A, torch.zeros(SIZE, dtype=A.dtype))
    curve = learn(solver, train, test, options.steps, options.seed)
    known = Solver(rules(), torch.full((SIZE,), 1 / NUMBERS, dtype=A.dtype).log())
    scores = {
        "start": curve[0][2], "learned": curve[-1][2],
        "solved at the start": curve[0][1], "solved": curve[-1][1], "solved with the rules": score(known, test)[0],
    }  # fmt: skip
    print(f"squared error on new puzzles: {scores['start']:.2f} at the start, {scores['learned']:.2f} learned")
    shares = f"{scores['solved at the start']:.0%} at the start, {scores['solved']:.0%} learned"
    print(f"new puzzles solved: {shares}, {scores['solved with the rules']:.0%} with the rules of the game")
    if options.out:
        picture(options.out, curve, solver, test)
        print(f"picture: {options.out}")
    return scores


if __name__ == "__main__":
    main()
