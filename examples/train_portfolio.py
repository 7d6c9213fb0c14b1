"""Train a forecast of returns through the portfolio problem that uses it, and compare with training it for accuracy.

The problem
-----------
Each month a network sees features of ten stocks and forecasts their returns r; the portfolio problem of portfolio.py
turns the forecast into weights w = w*(r). What counts is the utility of w, not the error of r. Two ways to train the
same network:

    two-stage     minimize   mean of |forecast - return|^2, then optimize with whatever it forecasts
    end to end    maximize   mean over months of   w'r_real - (g/2) w'Sigma w - kappa |w - w0|_1,   w = w*(forecast)

The second needs the derivative of the solution w* in its parameters: the forecast r, and also the holdings w0, since
a trade of this month is the starting point of the next: several months are chained, each month's weights, after their
drift with the returns, being the next problem's parameter w0.

The market is generated: returns are a forecastable part plus three factors plus each stock's own noise. The
forecastable part has a level common to all stocks, driven by the state of the economy (strong, not linear), and
differences between stocks, driven by a slow feature ("value") and by one that vanishes within the month ("reversal").
A fully invested portfolio gains from the differences alone. Squared error spends a small network on the level; the
utility does not, and it notices what trading costs.

What to expect, held out, in percent per year, for seeds 0 to 4: two-stage -0.1, 3.1, 6.0, 6.0, -6.5; end to end 0.6,
4.7, 6.9, 6.7, -6.6. (The true expected returns as the forecast: 2.2, 9.6, 7.9, 8.5, -5.1.) A network that is large
enough to forecast everything leaves little to be gained: with --hidden 16 end to end differs by -0.1, 0.5, -0.1 from
two-stage for seeds 0 to 2.

Scores are utilities on later months and freshly drawn sets of stocks, with the expected in place of the realised
returns (the generator knows them), which leaves luck out; training sees realised returns only. The pictured wealth is
a realised one.

    python examples/train_portfolio.py --out portfolio.png           # --steps 15 for a quick look

Sources: Donti, Amos, Kolter, "Task-based end-to-end model learning in stochastic optimization", NeurIPS 2017;
Elmachtoub, Grigas, "Smart predict, then optimize", Management Science 2022; Garleanu, Pedersen, "Dynamic trading with
predictable returns and transaction costs", Journal of Finance 2013 (slow signals deserve more trading than fast
ones).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from portfolio import ASSETS, parameters, problem, variables
from rich.console import Console
from rich.progress import track
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cvxlayers.torch import CvxpyLayer

__all__ = ["main"]

MONTHS, FIRST_HELD_OUT, STOCKS = 360, 240, 200
AVERSION = 6.0  # g: a portfolio of 5 % monthly risk costs (6/2) 0.05^2 = 0.75 % a month
COST = 0.005  # kappa: half a percent of what is traded
UNIT = 0.01  # networks forecast in percent per month
COLOURS = {"end to end": "tab:blue", "two-stage": "tab:orange"}
YEAR = 1200  # from a fraction per month to percent per year


@dataclass(frozen=True)
class Market:
    """A history of all stocks; T months, U stocks, F features, 3 factors. Returns are fractions per month."""

    features: torch.Tensor  # (T, U, F)
    returns: torch.Tensor  # (T, U) realised in the month after the features are seen
    expected: torch.Tensor  # (T, U)
    loadings: torch.Tensor  # (U, 3) in units of the factors' standard deviations
    own_risk: torch.Tensor  # (U,)

    def draw(self, batch: int, months: int, first: int, end: int, random: np.random.Generator) -> Episodes:
        """Random sets of stocks over random spans of consecutive months inside of [first, end)."""
        stocks = torch.tensor(np.stack([random.permutation(STOCKS)[:ASSETS] for _ in range(batch)]))
        start = random.integers(first, end - months + 1, batch)
        span = torch.tensor(start + np.arange(months)[:, None])[:, :, None]
        loadings = self.loadings[stocks]
        covariance = loadings @ loadings.mT + torch.diag_embed(self.own_risk[stocks] ** 2)
        root = torch.linalg.cholesky((AVERSION / 2) * covariance).mT
        return Episodes(self.features[span, stocks], self.returns[span, stocks], self.expected[span, stocks], root)


@dataclass(frozen=True)
class Episodes:
    """L consecutive months of B portfolios of n stocks."""

    features: torch.Tensor  # (L, B, n, F)
    returns: torch.Tensor  # (L, B, n)
    expected: torch.Tensor  # (L, B, n)
    risk_root: torch.Tensor  # (B, n, n), S with S'S = (g/2) Sigma


@dataclass(frozen=True)
class Outcome:
    """What became of B portfolios over L months; fractions per month, each (L, B)."""

    utility: torch.Tensor
    growth: torch.Tensor  # realised return after costs
    turnover: torch.Tensor


def generate(seed: int) -> Market:
    """A market of STOCKS stocks over MONTHS months."""
    random = np.random.default_rng(seed)

    def persistent(memory: float, stocks: int) -> np.ndarray:
        """Autoregressive, of variance one: (MONTHS, stocks)."""
        shocks = random.standard_normal((MONTHS, stocks))
        path = shocks.copy()
        for month in range(1, MONTHS):
            path[month] = memory * path[month - 1] + np.sqrt(1 - memory**2) * shocks[month]
        return path

    beta = random.uniform(0.7, 1.3, STOCKS)
    styles = random.standard_normal((STOCKS, 2))
    loadings = np.column_stack([beta, styles]) * np.array([0.04, 0.015, 0.015])
    own_risk = random.uniform(0.03, 0.07, STOCKS)
    value, reversal = persistent(0.95, STOCKS), persistent(0.0, STOCKS)
    rates, credit = persistent(0.9, 1), persistent(0.9, 1)
    level = 0.006 + 0.02 * (rates * credit + (rates**2 - 1) / 2)
    expected = beta * level + 0.008 * value + 0.005 * reversal
    factors = random.standard_normal((MONTHS, 3))
    returns = expected + factors @ loadings.T + own_risk * random.standard_normal((MONTHS, STOCKS))
    features = np.stack(np.broadcast_arrays(value, reversal, rates, credit), axis=-1)
    return Market(*(torch.tensor(part) for part in (features, returns, expected, loadings, own_risk)))


class Forecaster(torch.nn.Module):
    """One small network for every stock: features (..., F) in, forecasts (...) in percent per month out."""

    def __init__(self, hidden: int, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 1)).double()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.net(features).squeeze(-1)


def invest(layer: CvxpyLayer, forecasts: torch.Tensor, episodes: Episodes, rewards: torch.Tensor) -> Outcome:
    """Invest by the forecasts month after month, from equal weights; the utility counts `rewards` as the returns."""
    held = torch.full_like(episodes.returns[0], 1 / ASSETS)
    cost = held.new_tensor(COST)
    utility, growth, turnover = [], [], []
    for forecast, reward, realised in zip(forecasts, rewards, episodes.returns, strict=True):
        weights, trades = layer(UNIT * forecast, episodes.risk_root, held, cost)
        traded = trades.abs().sum(-1)
        risk = (episodes.risk_root @ weights.unsqueeze(-1)).square().sum((-2, -1))
        utility.append((weights * reward).sum(-1) - risk - COST * traded)
        growth.append((weights * realised).sum(-1) - COST * traded)
        turnover.append(traded)
        drifted = weights * (1 + realised)
        held = drifted / drifted.sum(-1, keepdim=True)
    return Outcome(torch.stack(utility), torch.stack(growth), torch.stack(turnover))


@torch.no_grad()
def evaluate(layer: CvxpyLayer, model: torch.nn.Module, episodes: Episodes) -> Outcome:
    """The outcome with expected returns in the utility."""
    return invest(layer, model(episodes.features), episodes, episodes.expected)


def hold_equal(episodes: Episodes) -> Outcome:
    """Equal weights, restored every month (free of cost)."""
    weights = torch.full_like(episodes.returns, 1 / ASSETS)
    risk = (episodes.risk_root @ weights.unsqueeze(-1)).square().sum((-2, -1))
    growth = (weights * episodes.returns).sum(-1)
    return Outcome((weights * episodes.expected).sum(-1) - risk, growth, torch.zeros_like(risk))


def train_for_accuracy(model: Forecaster, market: Market, random: np.random.Generator, steps: int = 800) -> None:
    """The first of the two stages: least squares on all stocks and months before the held-out ones."""
    features = market.features[:FIRST_HELD_OUT].flatten(0, 1)
    returns = market.returns[:FIRST_HELD_OUT].flatten()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in track(range(steps), "training for accuracy", console=Console(stderr=True)):
        sample = torch.tensor(random.integers(0, len(returns), 4096))
        optimizer.zero_grad()
        (model(features[sample]) - returns[sample] / UNIT).square().mean().backward()
        optimizer.step()


def train_for_utility(
    layer: CvxpyLayer, model: Forecaster, market: Market, random: np.random.Generator, steps: int, held_out: Episodes
) -> tuple[torch.nn.Module, dict[int, float]]:
    """Stochastic gradients of the utility over three months; the average over the last steps, and its held-out utility.

    The start is the network as it came: where it forecasts nothing, nothing is traded, and no trade has a derivative.
    """
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.04)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    curve = {0: YEAR * evaluate(layer, model, held_out).utility.mean().item()}
    for step in track(range(1, steps + 1), "training end to end  ", console=Console(stderr=True)):
        episodes = market.draw(48, 3, 0, FIRST_HELD_OUT, random)
        outcome = invest(layer, model(episodes.features), episodes, episodes.returns)
        optimizer.zero_grad()
        (-outcome.utility.mean() / UNIT).backward()
        optimizer.step()
        decay.step()
        average.update_parameters(model)
        if step % 15 == 0 or step == steps:
            curve[step] = YEAR * evaluate(layer, average, held_out).utility.mean().item()
    return average, curve


def correlation(model: torch.nn.Module, episodes: Episodes) -> tuple[float, float]:
    """Correlations of forecasts with expected returns: of all together, and of the differences between stocks."""
    with torch.no_grad():
        pair = torch.stack([model(episodes.features), episodes.expected])
    differences = pair - pair.mean(-1, keepdim=True)
    return tuple(torch.corrcoef(part.flatten(1))[0, 1].item() for part in (pair, differences))


def plot(path: Path, curve: dict[int, float], outcomes: dict[str, Outcome]) -> None:
    """Utility over the training, and realised wealth beside that of equal weights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(list(curve), list(curve.values()), "o-", color=COLOURS["end to end"], ms=4, lw=2, label="end to end")
    left.axhline(curve[0], ls="--", color=COLOURS["two-stage"], lw=2, label="two-stage")
    left.set(xlabel="training step", ylabel="utility (% per year)", title="Held-out utility")
    equal = (1 + outcomes["equal weights"].growth).cumprod(0)
    for name in ("end to end", "two-stage"):
        relative = 100 * ((1 + outcomes[name].growth).cumprod(0) / equal - 1)
        months = np.arange(len(relative) + 1)
        middle, error = relative.mean(1), relative.std(1) / np.sqrt(relative.shape[1])
        middle, error = (np.concatenate([[0.0], part]) for part in (middle, error))
        right.plot(months, middle, color=COLOURS[name], lw=2, label=name)
        right.fill_between(months, middle - error, middle + error, color=COLOURS[name], alpha=0.2, lw=0)
    right.set(
        xlabel="months since the start",
        ylabel="wealth ahead of equal weights (%)",
        title="Held-out realised wealth (mean, standard error)",
    )
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="upper left" if axes is right else "center right")
    figure.savefig(path, dpi=130)


def report(outcomes: dict[str, Outcome], forecasters: dict[str, torch.nn.Module], held_out: Episodes) -> None:
    """The table that is printed: a line for each way to invest."""
    print("held out           utility   turnover   correlation of forecast and expected return")
    print("                  %/year    %/month     all      between stocks")
    for name, outcome in outcomes.items():
        line = f"{name:<15} {YEAR * outcome.utility.mean():8.2f} {100 * outcome.turnover.mean():10.1f}"
        if name in forecasters:
            line += "{:9.2f}{:14.2f}".format(*correlation(forecasters[name], held_out))
        print(line)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Command line; the scores are held-out utilities in percent per year."""
    parser = argparse.ArgumentParser(description="A forecast trained for accuracy, then through the portfolio problem.")
    parser.add_argument("--steps", type=int, default=60, help="steps of the end-to-end training (default 60)")
    parser.add_argument("--hidden", type=int, default=2, help="hidden units of the network (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the market and of the training (default 0)")
    parser.add_argument("--out", type=Path, metavar="PICTURE.png", help="where to draw utility and wealth")
    args = parser.parse_args(argv)

    started = time.perf_counter()
    random = np.random.default_rng(args.seed)
    market = generate(args.seed)
    held_out = market.draw(24, 48, FIRST_HELD_OUT, MONTHS, random)
    layer = CvxpyLayer(problem, parameters, variables)

    two_stage, trained = Forecaster(args.hidden, args.seed), Forecaster(args.hidden, args.seed)
    train_for_accuracy(two_stage, market, random)
    trained.load_state_dict(two_stage.state_dict())
    end_to_end, curve = train_for_utility(layer, trained, market, random, args.steps, held_out)

    forecasters = {"two-stage": two_stage, "end to end": end_to_end}
    outcomes = {"equal weights": hold_equal(held_out)}
    outcomes |= {name: evaluate(layer, model, held_out) for name, model in forecasters.items()}
    outcomes["true mean"] = invest(layer, held_out.expected / UNIT, held_out, held_out.expected)
    report(outcomes, forecasters, held_out)
    scores = {name: YEAR * outcome.utility.mean().item() for name, outcome in outcomes.items()}
    print(f"utility: two-stage {scores['two-stage']:.2f}, end to end {scores['end to end']:.2f} % per year")
    if args.out:
        plot(args.out, curve, outcomes)
        print(f"picture: {args.out}")
    print(f"{time.perf_counter() - started:.1f} s")
    return scores


if __name__ == "__main__":
    torch.set_num_threads(1)  # the network is small: threads would cost more than they do
    main()
