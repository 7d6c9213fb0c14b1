"""A Markowitz portfolio with transaction costs: the problem, its parameters, and its efficient frontier.

The problem
-----------
Choose weights w of n assets, long only and fully invested, for the next month:

    maximize    r'w - |S w|^2 - kappa |t|_1
    subject to  1'w = 1,  w >= 0,  t = w - w0

with the parameters

    forecast   r      (n,)     expected return of each asset, as a fraction per month
    risk_root  S      (n, n)   square root of the risk with the risk aversion g folded in: S'S = (g/2) Sigma, so that
                               |S w|^2 = (g/2) w'Sigma w; Sigma is the covariance of the returns
    previous   w0     (n,)     weights held before the trade
    cost       kappa  ()       price of trading, as a fraction of the amount traded

The problem is DPP, a quadratic program in w. Two things make it so: the risk aversion is folded into S, and the
trades t are a variable, since the product of kappa with |w - w0|_1 would be a product of two parameters.

Used by other files as a module (importing it needs CVXPY alone), by the command line as a problem file:

    cvxlayers check examples/portfolio.py:problem

and as a script, which solves for a whole range of risk aversions in one batched call, with and without costs, and
differentiates the solution: by how much does the turnover rise when trading gets cheaper?

    python examples/portfolio.py --out frontier.png

Sources: Markowitz, "Portfolio selection", Journal of Finance 1952; Boyd et al., "Multi-period trading via convex
optimization", Foundations and Trends in Optimization 2017, section 4 (single-period problem, costs proportional to |w
- w0|).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cvxpy as cp
import numpy as np

__all__ = ["ASSETS", "parameters", "problem", "variables"]

ASSETS = 10

forecast = cp.Parameter(ASSETS, name="forecast")
risk_root = cp.Parameter((ASSETS, ASSETS), name="risk_root")
previous = cp.Parameter(ASSETS, name="previous")
cost = cp.Parameter(nonneg=True, name="cost")
weights = cp.Variable(ASSETS, name="weights")
trades = cp.Variable(ASSETS, name="trades")

problem = cp.Problem(
    cp.Maximize(forecast @ weights - cp.sum_squares(risk_root @ weights) - cost * cp.norm1(trades)),
    [cp.sum(weights) == 1, weights >= 0, trades == weights - previous],
)
parameters = [forecast, risk_root, previous, cost]
variables = [weights, trades]


def market(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Expected monthly returns (n,) and their covariance (n, n): two factors and each asset's own risk."""
    random = np.random.default_rng(seed)
    exposures = np.column_stack([random.uniform(0.5, 1.5, ASSETS), random.standard_normal(ASSETS)])
    own = random.uniform(0.02, 0.07, ASSETS)
    covariance = exposures @ np.diag([0.04**2, 0.02**2]) @ exposures.T + np.diag(own**2)
    premium = 0.006 * exposures[:, 0] + 0.06 * own + 0.002 * random.standard_normal(ASSETS)
    return premium, covariance


def frontier(count: int, kappa: float, seed: int) -> dict[str, np.ndarray]:
    """Risk and return of `count` optimal portfolios of rising risk aversion, starting from equal weights."""
    from cvxlayers import Layer

    mean, covariance = market(seed)
    aversion = np.geomspace(1.0, 100.0, count)
    root = np.linalg.cholesky(covariance).T
    roots = np.sqrt(aversion / 2)[:, None, None] * root  # (count, n, n): a batch; the other parameters are shared
    equal = np.full(ASSETS, 1 / ASSETS)
    layer = Layer.from_problem(problem, parameters, variables)
    record = layer.solve([mean, roots, equal, np.full(count, kappa)])
    chosen, traded = record.outputs
    # |t|_1 has the derivative sign(t) in t; an asset that is not traded stays untraded when the cost changes a little.
    direction = np.where(np.abs(traded) > 1e-6, np.sign(traded), 0.0)
    _, _, _, slope = record.vjp([None, direction])
    return {
        "aversion": aversion,
        "return": chosen @ mean,
        "risk": np.linalg.norm(chosen @ root.T, axis=1),
        "turnover": np.abs(traded).sum(axis=1),
        "slope": slope,
    }


def plot(path: Path, free: dict[str, np.ndarray], costly: dict[str, np.ndarray], kappa: float, seed: int) -> None:
    """The two frontiers, and what is traded to reach them."""
    from matplotlib.figure import Figure

    mean, covariance = market(seed)
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    left, right = figure.subplots(1, 2)
    curves = [(free, "no costs", "tab:gray", "--"), (costly, f"costs {kappa:.1%}", "tab:blue", "-")]
    for curve, label, colour, style in curves:
        left.plot(100 * curve["risk"], 100 * curve["return"], style, color=colour, label=label, lw=2)
        right.semilogx(curve["aversion"], 100 * curve["turnover"], style, color=colour, label=label, lw=2)
    left.scatter(100 * np.sqrt(np.diag(covariance)), 100 * mean, s=22, color="tab:orange", label="single assets")
    left.set(xlabel="risk: standard deviation (% per month)", ylabel="expected return before costs (% per month)")
    left.set_title("Efficient frontier")
    right.set(xlabel="risk aversion g", ylabel="turnover (% of the portfolio)")
    right.set_title("Bought plus sold, from equal weights")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Efficient frontier of a portfolio with transaction costs.")
    parser.add_argument("--steps", type=int, default=60, help="risk aversions between 1 and 100 (default 60)")
    parser.add_argument("--cost", type=float, default=0.002, help="cost of trading, a fraction (default 0.002)")
    parser.add_argument("--seed", type=int, default=0, help="of the market (default 0)")
    parser.add_argument("--out", type=Path, metavar="PICTURE.png", help="where to draw the frontiers")
    args = parser.parse_args(argv)

    free, costly = (frontier(args.steps, kappa, args.seed) for kappa in (0.0, args.cost))
    print(f"{args.steps} portfolios of {ASSETS} assets in one batch, trading at {args.cost:.2%}")
    print("risk aversion   return %/month   risk %/month   turnover %   turnover % per 0.01 % of cost")
    for i in np.linspace(0, args.steps - 1, min(6, args.steps)).astype(int):
        row = [costly[key][i] for key in ("aversion", "return", "risk", "turnover", "slope")]
        g, mean, risk, turnover, slope = row
        print(f"{g:13.1f} {100 * mean:16.3f} {100 * risk:14.3f} {100 * turnover:12.1f} {100 * slope * 1e-4:31.2f}")
    before, after = (100 * curve["turnover"].mean() for curve in (free, costly))
    print(f"mean turnover: {before:.1f} % without costs, {after:.1f} % with")
    if args.out:
        plot(args.out, free, costly, args.cost, args.seed)
        print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
