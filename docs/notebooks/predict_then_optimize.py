# %% [markdown]
# # Predict, then optimize, robustly
#
# A model predicts the returns of $n$ assets, and an optimizer picks the best mix. The trouble has a name, the optimizer's
# curse: what looks best is often what was overestimated. A robust optimizer looks at the worst returns of a whole ellipsoid
# around the prediction $\hat r$, with a half-axis $\rho_i$ for each asset,
#
# $$\underset{w}{\text{maximize}}\quad \min_{\|u\|_2 \le 1} \sum_i (\hat r_i + \rho_i u_i)\, w_i
# \;=\; \hat r^T w - \|\rho \circ w\|_2 \qquad\text{subject to}\quad \mathbf{1}^T w = 1,\quad w \ge 0,$$
#
# a second-order cone program. But how large is the ellipsoid? Here it is *learned from the decisions*, and after that the
# prediction is, too: the loss is what the chosen mix really earned, and its gradient comes through the solution.

# %%
import os

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
n, p = 8, 8
w = cp.Variable(n, name="w")
predicted = cp.Parameter(n, name="predicted")
radius = cp.Parameter(n, nonneg=True, name="radius")
worst = predicted @ w - cp.norm2(cp.multiply(radius, w))
layer = CvxpyLayer(
    cp.Problem(cp.Maximize(worst), [cp.sum(w) == 1, w >= 0]), [predicted, radius], [w]
)
layer.compiled

# %% [markdown]
# ## A market in which some assets can be predicted and others hardly
#
# Returns are a linear function of $p$ features, and noise: little for the first four assets, much for the others. A linear
# model is fitted by least squares to only thirty days, so its errors are small for the former and large for the latter.

# %%
random = np.random.default_rng(0)
noise = np.repeat([0.4, 4.0], n // 2)
true = torch.tensor(random.normal(size=(p, n)) / np.sqrt(p))


def days(count):
    features = torch.tensor(random.normal(size=(count, p)))
    expected = features @ true
    return features, expected, expected + torch.tensor(noise * random.normal(size=(count, n)))


features, _, returns = days(30)
fitted = torch.linalg.lstsq(features, returns).solution  # (p, n)
seen, _, earned = days(3000)  # to learn how to decide
new, expected, _ = days(500 if short else 2000)  # to compare

# %% [markdown]
# ## Learning the radii, then everything
#
# First $\rho$ alone is learned, with the model of the first stage as it is, then $\rho$ and the model together. Neither sees
# the expected returns, only what the assets earned on each day.


# %%
def decide(model, log_radius, given):
    return layer(given @ model, log_radius.exp())[0]


def learn(model, log_radius, steps, free, rate):
    optimizer = torch.optim.Adam(free, lr=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        batch = torch.randint(len(seen), (64 if short else 256,), generator=generator)
        loss = -(decide(model, log_radius, seen[batch]) * earned[batch]).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


steps = 30 if short else 200
log_radius = torch.zeros(n, dtype=torch.float64, requires_grad=True)
learn(fitted, log_radius, steps, [log_radius], rate=0.1)
alone = log_radius.detach().clone()
model = fitted.clone().requires_grad_()
learn(model, log_radius, steps, [log_radius, model], rate=0.01)

# %% [markdown]
# ## New days
#
# Trusting the prediction means to put everything on the asset that looks best.


# %%
def best(values):
    return torch.nn.functional.one_hot(values.argmax(1), n).double()


with torch.no_grad():
    choices = {
        "equal": torch.full((len(new), n), 1 / n, dtype=torch.float64),
        "trusting": best(new @ fitted),
        "robust": decide(fitted, alone, new),
        "end to end": decide(model, log_radius, new),
        "all-knowing": best(expected),
    }
gains = {name: (chosen * expected).sum(1).mean().item() for name, chosen in choices.items()}
wrong = (new @ fitted - expected).square().mean(0).sqrt()  # of the predictions, for each asset

figure, (left, right) = plt.subplots(1, 2)
left.bar(
    list(gains),
    list(gains.values()),
    color=["0.7", "tab:orange", "tab:blue", "tab:blue", "0.7"],
)
left.set(ylabel="expected return of the choice", title="New days")
left.tick_params(axis="x", rotation=20)
place = np.arange(n)
right.bar(place - 0.2, wrong.numpy(), width=0.4, color="0.7", label="error of the prediction")
right.bar(place + 0.2, alone.exp().numpy(), width=0.4, label="learned radius")
right.set(xlabel="asset", title="Who is not to be trusted")
right.legend()
plt.show()

# %% [markdown]
# The radii were learned without a look at the errors of the predictions, and yet the assets that are predicted badly have
# the large ones.

# %%
print(", ".join(f"{name} {value:.3f}" for name, value in gains.items()))
small, large = alone.exp()[: n // 2].mean(), alone.exp()[n // 2 :].mean()
print(f"mean radius: {small:.2f} where predictions are good, {large:.2f} where they are bad")

assert gains["robust"] > 1.3 * gains["trusting"]
assert gains["end to end"] > (1.3 if short else 1.6) * gains["trusting"]
assert max(gains.values()) == gains["all-knowing"]
assert large > 4 * small
