# %% [markdown]
# # Portfolio with trading costs
#
# How should $n$ assets be held next month, when trading costs money? With expected returns $r$, a covariance $\Sigma$ of
# the returns, the present weights $w_0$ and a cost of $\kappa$ for each unit traded, Markowitz' answer is
#
# $$\begin{array}{ll} \underset{w,\,t}{\text{maximize}} & r^T w - \tfrac{g}{2}\, w^T \Sigma\, w - \kappa \|t\|_1 \\
# \text{subject to} & \mathbf{1}^T w = 1,\quad w \ge 0,\quad t = w - w_0 . \end{array}$$
#
# The risk aversion $g$ says how much a unit of variance is disliked. This is a quadratic program, and everything in it is a
# parameter: the forecast, the risk, the holdings and the cost. The file `examples/portfolio.py` declares it in CVXPY; the
# square root of $\frac g2 \Sigma$ is the parameter, and the trades $t$ are a variable of their own, so that the problem
# follows the rules of disciplined parametrized programming.

# %%
import os
import sys

import matplotlib.pyplot as plt
import numpy as np

import cvxlayers

sys.path.insert(0, "../../examples")
from portfolio import ASSETS, frontier, market, parameters, problem, variables

layer = cvxlayers.Layer.from_problem(problem, parameters, variables)
layer.compiled

# %% [markdown]
# ## The efficient frontier in one call
#
# The frontier is the set of best trade-offs between risk and return. A batch of roots, one for each risk aversion, goes in
# beside a forecast and holdings that all elements share.

# %%
count = 20 if os.environ.get("CVXLAYERS_NOTEBOOKS") == "short" else 120
mean, covariance = market(seed=0)
root = np.linalg.cholesky(covariance).T
aversion = np.geomspace(1, 100, count)
roots = np.sqrt(aversion / 2)[:, None, None] * root
weights, trades = layer(mean, roots, np.full(ASSETS, 1 / ASSETS), 0.002)
layer.info

# %%
free, costly = frontier(count, 0.0, seed=0), frontier(count, 0.002, seed=0)

figure, (left, right) = plt.subplots(1, 2)
for curve, label, style in [(free, "no costs", "--"), (costly, "costs of 0.2 %", "-")]:
    left.plot(100 * curve["risk"], 100 * curve["return"], style, lw=2, label=label)
left.scatter(
    100 * np.sqrt(np.diag(covariance)), 100 * mean, s=22, color="0.4", label="single assets"
)
left.set(
    xlabel="standard deviation, % per month",
    ylabel="expected return, % per month",
    title="Efficient frontier",
)
left.legend()
right.stackplot(aversion, 100 * weights.T)
right.set(
    xscale="log",
    xlabel="risk aversion g",
    ylabel="share of the portfolio, %",
    title="What is held, with costs",
)
right.set(ylim=(0, 100), xlim=(1, 100))
plt.show()

# %% [markdown]
# To the left the cautious, to the right the bold. Costs keep the portfolio near the equal weights from which it starts.
#
# ## What does a little more cost do?
#
# The solution is differentiable in all parameters. `record.vjp` pulls the derivative of the turnover $\|t\|_1$ back to the
# cost $\kappa$, for the whole frontier at once. The turnover is piecewise linear in the cost, so the slope is constant
# between kinks, at which one more asset is left alone.

# %%
costs = np.linspace(0, 0.006, 13 if count == 20 else 61)
turnover = [frontier(9, cost, seed=0) for cost in costs]

figure, (left, right) = plt.subplots(1, 2)
for element in (1, 4, 7):
    line = f"g = {turnover[0]['aversion'][element]:.0f}"
    left.plot(100 * costs, [100 * found["turnover"][element] for found in turnover], label=line)
    right.step(
        100 * costs, [found["slope"][element] for found in turnover], where="mid", label=line
    )
left.set(xlabel="cost, %", ylabel="turnover, % of the portfolio", title="Turnover")
right.set(
    xlabel="cost, %", ylabel="d turnover / d cost", title="Its derivative, from the layer"
)
for axes in (left, right):
    axes.legend()
plt.show()

# %% [markdown]
# The derivative against a difference quotient, and what the pictures claim:

# %%
step, cost = 1e-6, 0.002
higher, lower = (frontier(9, cost + sign * step, seed=0)["turnover"] for sign in (1, -1))
slope = frontier(9, cost, seed=0)["slope"]
error = np.abs(slope - (higher - lower) / (2 * step)).max()
print(f"largest slope {np.abs(slope).max():.0f}, largest error {error:.1e}")

assert set(layer.info.statuses) == {"optimal"}
assert error < 1e-3 * np.abs(slope).max()
assert (np.diff(costly["risk"]) < 1e-6).all()  # more aversion, less risk
assert costly["turnover"].mean() < 0.8 * free["turnover"].mean()
