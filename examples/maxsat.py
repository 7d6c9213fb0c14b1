"""A MAXSAT layer learns the rules of 4x4 Sudoku from fifty boards.

A board is 64 bits, one for each cell and number, 1 for true and -1 for false. The network sees the bits of eight of its
cells and fills in the others; nobody tells it the rules. The layer is the low-rank semidefinite relaxation of MAXSAT:
each bit is a unit vector in R^k, "true" is e_1, and with clauses S (clauses x bits, and a column for "true")

    minimize  1/2 |sum_i S_i v_i' + S_true e_1'|^2 + temperature sum_i w_i'v_i    subject to  |v_i| = 1

over the vectors of the hidden bits, the others being plus or minus e_1. With C = S'S, whose diagonal does not matter,
this is 1/2 <C, V V'> + <q, V> and a constant. The mixing method solves it: one v_i after the other is put opposite to
what pulls at it. The gradient in S is that of the solution, by ``cvxlayers.nodes.DeclarativeLayer``, which verifies
that each solution is stationary. That need not be a minimum; but most often it comes with a certificate that no other V
is better (see ``certified``), and the share that does is printed.

The last term, fixed unit vectors w_i orthogonal to e_1, is not in the paper. Without it the solutions soon are plus or
minus e_1 exactly, where the gradient is zero, and all vectors may turn about e_1 together; with it the probability
(1 + e_1'v_i) / 2 of a bit answers smoothly, and the solution stands still.

For comparison: two dense networks, one with about as many weights, one with six times as many, on the same puzzles.
Tested are puzzles from boards that were not among the fifty; each has one solution.

Source: Wang, Donti, Wilder, Kolter, "SATNet: bridging deep learning and logical reasoning using a differentiable
satisfiability solver", ICML 2019; Wang, Chang, Kolter, "The mixing method", 2017, also for the certificate.

    python examples/maxsat.py --out maxsat.png
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from rich.progress import track
from sudoku import boards
from torch import Tensor, nn

from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode

__all__ = ["MaxSat", "Mixing", "certified", "main"]

NUMBERS, CELLS, HIDDEN, EXAMPLES, TESTED, ROUND = 4, 16, 8, 50, 500, 32
BITS, BEYOND = CELLS * NUMBERS, 1 / 3
Puzzles = tuple[Tensor, Tensor]
"""All bits (count, BITS), and the places of the hidden ones (count, HIDDEN * NUMBERS)."""


class Mixing(DeclarativeNode):
    """Unit vectors v (B, n, k) that minimize 1/2 <C, v v'> + <q, v>; C (B, n, n) has a zero diagonal, q is (B, n, k).

    The unknown is any y with v = y / |y|; the second term of the objective is least where |y_i| = 1. So there are no
    constraints, and the Hessian at a minimum is positive definite: conjugate gradients suffice for the derivative.
    """

    def __init__(self, sweeps: int = 2000, change: float = 1e-7) -> None:
        self.sweeps, self.change = sweeps, change

    def objective(self, C: Tensor, q: Tensor, y: Tensor) -> Tensor:
        v = y / torch.linalg.vector_norm(y, dim=2, keepdim=True)
        return (v * (C @ v / 2 + q)).sum((1, 2)) + (y.square().sum(2) - 1).square().sum(1)

    def solve(self, C: Tensor, q: Tensor) -> Tensor:
        """Coordinate descent over the bits, all elements of the batch at once, with steps half as long again.

        The objective is linear in v_i and least opposite to its pull p_i, at -p_i / |p_i|. The step goes beyond that,
        by at most half of the angle, so the objective falls all the same; about a third of the sweeps is enough.
        """
        v = -nn.functional.normalize(q, dim=2)
        moving = torch.arange(len(v))
        for _ in range(self.sweeps):
            before, part, opposite, start = v[moving], v[moving], -C[moving], -q[moving]
            for i in range(v.shape[1]):
                pull = torch.baddbmm(start[:, i, None], opposite[:, i, None], part)
                size = torch.linalg.vector_norm(pull, dim=2, keepdim=True)
                pull = torch.addcmul(pull, size, part[:, i, None], value=-BEYOND)
                torch.div(pull, torch.linalg.vector_norm(pull, dim=2, keepdim=True), out=part[:, i, None])
            v[moving] = part
            moving = moving[(part - before).abs().amax((1, 2)) >= self.change]
            if not len(moving):
                break
        return v


def certified(C: Tensor, q: Tensor, v: Tensor) -> Tensor:
    """Which solutions v of ``Mixing`` are certainly global minima, (B,).

    With the pulls p = C v + q and v_i = -p_i / |p_i|, v is a stationary point of the Lagrangian with multipliers |p_i|,

        1/2 <C, v v'> + <q, v> + 1/2 sum_i |p_i| (|v_i|^2 - 1),

    which is convex in v, so that v minimizes it, if C + diag(|p_i|) has no negative eigenvalue.
    """
    pulls = (C @ v + q).norm(dim=2)
    eigenvalues = torch.linalg.eigvalsh(C + torch.diag_embed(pulls))
    return eigenvalues[:, 0] >= -1e-9 * eigenvalues[:, -1]


class MaxSat(nn.Module):
    """Bits (B, BITS) and the places of the hidden ones (B, h), to the probability that each of these is true (B, h)."""

    def __init__(self, clauses: int = 64, k: int = 6, temperature: float = 0.3) -> None:
        super().__init__()
        self.S = nn.Parameter(0.04 * torch.randn(clauses, BITS + 1, dtype=torch.float64))
        self.layer = DeclarativeLayer(Mixing(), polish=False, matrix_free=True)
        aside = torch.randn(BITS, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        aside[:, 0] = 0
        self.register_buffer("aside", temperature * nn.functional.normalize(aside, dim=1))

    def problem(self, bits: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """C (B, h, h) and q (B, h, k) of the hidden bits."""
        C = self.S.mT @ self.S
        C = C - torch.diag(C.diagonal())
        seen = nn.functional.pad(bits.scatter(1, hidden, 0.0), (0, 1), value=1.0)
        pull = (seen @ C).gather(1, hidden)
        q = self.aside[hidden] + nn.functional.pad(pull[:, :, None], (0, self.aside.shape[1] - 1))
        return C[hidden[:, :, None], hidden[:, None]], q

    def forward(self, bits: Tensor, hidden: Tensor) -> Tensor:
        v = self.layer(*self.problem(bits, hidden))
        return (1 + v[:, :, 0]) / 2


class Dense(nn.Module):
    """The same map by a dense network."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        sizes, parts = (BITS, *widths), []
        for size, width in zip(sizes, widths, strict=False):
            parts += [nn.Linear(size, width), nn.ReLU()]
        self.layers = nn.Sequential(*parts, nn.Linear(sizes[-1], BITS), nn.Sigmoid()).double()

    def forward(self, bits: Tensor, hidden: Tensor) -> Tensor:
        return self.layers(bits.scatter(1, hidden, 0.0)).gather(1, hidden)


def puzzles(some: Tensor, every: Tensor, count: int, generator: torch.Generator) -> Puzzles:
    """So many puzzles with one solution, made of some of the boards (., CELLS) by hiding cells."""
    found: list[Tensor] = []
    cells: list[Tensor] = []
    while sum(len(part) for part in found) < count:
        board = some[torch.randint(len(some), (count,), generator=generator)]
        places = torch.rand(count, CELLS, generator=generator).argsort(1)[:, :HIDDEN]
        hidden = torch.zeros(count, CELLS, dtype=torch.bool).scatter(1, places, True)
        single = ((board[:, None] == every) | hidden[:, None]).all(2).sum(1) == 1
        found.append(board[single])
        cells.append(places[single])
    bits = 2.0 * nn.functional.one_hot(torch.cat(found)[:count], NUMBERS).flatten(1).double() - 1
    return bits, (NUMBERS * torch.cat(cells)[:count, :, None] + torch.arange(NUMBERS)).flatten(1)


def train(make: Callable[[], nn.Module], data: Puzzles, steps: int, rate: float, seed: int, words: str) -> nn.Module:
    """A network trained to fill in the hidden bits."""
    torch.manual_seed(seed)
    network, generator = make(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in track(range(steps), description=words, console=Console(stderr=True)):
        batch = torch.randint(len(data[0]), (ROUND,), generator=generator)
        bits, hidden = (part[batch] for part in data)
        optimizer.zero_grad()
        true = (1 + bits.gather(1, hidden)) / 2
        nn.functional.binary_cross_entropy(network(bits, hidden).clamp(1e-4, 1 - 1e-4), true).backward()
        optimizer.step()
    return network


def solved(network: nn.Module, data: Puzzles) -> float:
    """The share of puzzles in which each hidden cell gets its number, by the most probable number of each."""
    true = data[0].gather(1, data[1])
    with torch.no_grad():
        guess, numbers = (part.unflatten(1, (HIDDEN, NUMBERS)).argmax(2) for part in (network(*data), true))
    return (guess == numbers).all(1).double().mean().item()


def certificates(network: MaxSat, data: Puzzles) -> tuple[float, float]:
    """The share of puzzles whose solution is certainly a global minimum, and the largest residual of stationarity."""
    with torch.no_grad():
        C, q = network.problem(*data)
        share = certified(C, q, network.layer(C, q)).double().mean().item()
    return share, float(network.layer.info.residuals.worst.max())


def conflicts(network: MaxSat) -> Tensor:
    """How much more the learned C objects to equal numbers in two cells than to different ones: (CELLS, CELLS)."""
    with torch.no_grad():
        blocks = (network.S.mT @ network.S)[:BITS, :BITS].reshape(CELLS, NUMBERS, CELLS, NUMBERS)
    same = blocks.diagonal(dim1=1, dim2=3).mean(-1)
    other = (blocks.sum((1, 3)) - NUMBERS * same) / (NUMBERS * (NUMBERS - 1))
    return (same - other).fill_diagonal_(0)


def neighbours() -> Tensor:
    """Which cells share a row, a column or a block, and so may not have the same number: (CELLS, CELLS)."""
    row, column = torch.arange(CELLS) // 4, torch.arange(CELLS) % 4
    groups = (row, column, 2 * (row // 2) + column // 2)
    return torch.stack([group[:, None] == group for group in groups]).any(0) & ~torch.eye(CELLS, dtype=torch.bool)


def rules_found(strength: Tensor) -> tuple[int, int]:
    """How many pairs of cells are neighbours, and how many of as many strongest conflicts are among them."""
    i, j = torch.triu_indices(CELLS, CELLS, 1)
    rule = neighbours()[i, j]
    pairs = int(rule.sum())
    return pairs, int(rule[strength[i, j].topk(pairs).indices].sum())


def picture(path: str, strength: Tensor, scores: dict[str, float]) -> None:
    """The learned conflicts beside the rules, and the scores."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[5, 4])
    largest = float(strength.abs().max())
    image = left.imshow(strength.numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
    left.scatter(*neighbours().nonzero().mT.numpy(), marker="s", s=150, facecolor="none", edgecolor="k")
    left.set(title="Learned conflicts of cells (red); squares: the rules", xlabel="cell", ylabel="cell")
    figure.colorbar(image, ax=left, label="cost of equal numbers, beside different ones")
    bars = right.bar(list(scores), [100 * score for score in scores.values()], color=["0.75", "0.6", "tab:blue"])
    right.bar_label(bars, fmt="%.1f")
    right.set(ylim=(0, 105), ylabel="percent solved", title="Puzzles from boards that were not seen")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are shares of unseen puzzles that are solved, of rules found, and of certificates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64, help="gradient steps of the layer (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the boards and the training (default 0)")
    parser.add_argument("--out", metavar="PICTURE.png", help="where to draw the rules and the scores")
    options = parser.parse_args(argv)

    generator = torch.Generator().manual_seed(options.seed)
    every = torch.tensor(boards())
    every = every[torch.randperm(len(every), generator=generator)]
    seen, unseen = every[:EXAMPLES], every[EXAMPLES:]
    data, test = puzzles(seen, every, 2000, generator), puzzles(unseen, every, TESTED, generator)
    print(f"{EXAMPLES} boards to learn from; {TESTED} puzzles of the other {len(unseen)}, {HIDDEN} of 16 cells hidden")
    makers: dict[str, tuple[Callable[[], nn.Module], int, float]] = {
        "dense": (lambda: Dense(32), 20 * options.steps, 3e-3),
        "dense, wide": (lambda: Dense(128, 96), 20 * options.steps, 3e-3),
        "MAXSAT": (MaxSat, options.steps, 3e-2),
    }
    scores: dict[str, float] = {}
    for name, (make, steps, rate) in makers.items():
        network = train(make, data, steps, rate, options.seed, name)
        scores[name] = solved(network, test)
        weights = sum(part.numel() for part in network.parameters())
        trained = solved(network, (data[0][:TESTED], data[1][:TESTED]))
        print(f"{name:12}{weights:7} weights  {100 * trained:5.1f} % of seen and {100 * scores[name]:5.1f} % of unseen")
    assert isinstance(network, MaxSat)
    strength = conflicts(network)
    pairs, found = rules_found(strength)
    print(f"of the {pairs} strongest conflicts learned, {found} are pairs of cells in a row, column or block")
    share, residual = certificates(network, test)
    print(f"certainly global minima: {share:.1%} of the solutions; largest residual {residual:.0e}")
    if options.out:
        picture(options.out, strength, scores)
        print(f"picture: {options.out}")
    return {**scores, "rules": found / pairs, "certified": share, "residual": residual}


if __name__ == "__main__":
    main()
