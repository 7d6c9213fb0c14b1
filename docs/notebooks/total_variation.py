# %% [markdown]
# # Total-variation denoising
#
# A piecewise constant signal is seen through noise. Denoising by its total variation looks for a signal near the one that
# was seen, $c$, with few and small jumps:
#
# $$x^\star(c, \lambda) = \underset{x}{\operatorname{argmin}}\quad \tfrac12 \|x - c\|_2^2 + \lambda \sum_i |x_{i+1} - x_i| .$$
#
# The absolute values make most jumps exactly zero, so that the answer is piecewise constant as well. How large $\lambda$
# should be depends on the noise and on the jumps. Here it is *learned*: by gradient steps through the solution of the
# problem, on signals of which the truth is known. The problem and the signals are those of
# `examples/total_variation.py`.

# %%
import os
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch.nn.functional import softplus

from cvxlayers.torch import CvxpyLayer

sys.path.insert(0, "../../examples")
from total_variation import error, noisy, problem, signals, weight, x

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
layer = CvxpyLayer(problem, parameters=[noisy, weight], variables=[x])
layer

# %% [markdown]
# ## Learning the weight
#
# The weight has to be positive, so $\lambda = \log(1 + e^u)$ with a free $u$. Each step solves a batch of eight problems that
# share $\lambda$; its gradient is the sum over the batch.

# %%
random = np.random.default_rng(0)
(clean, seen), (new, new_seen) = signals(64, random), signals(32, random)

u = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
optimizer = torch.optim.Adam([u], lr=0.15)
generator = torch.Generator().manual_seed(0)
path = []
for _ in range(25 if short else 80):
    batch = torch.randint(len(clean), (8,), generator=generator)
    (denoised,) = layer(seen[batch], softplus(u))
    loss = (denoised - clean[batch]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    path.append((softplus(u).item(), loss.item()))
learned = softplus(u).detach()
print(f"weight: {path[0][0]:.3f} after the first step, {learned:.3f} learned")

# %% [markdown]
# ## Is it the best?
#
# On new signals, the error as a function of the weight. The layer answers for all weights and all signals in one call: the
# batch dimensions (13, 1) and (32,) broadcast together, which has to be asked for.

# %%
grid = torch.tensor(np.geomspace(0.02, 5, 13))
everything = CvxpyLayer(problem, parameters=[noisy, weight], variables=[x], broadcast=True)
(answers,) = everything(new_seen, grid[:, None])  # (13, 32, 100)
errors = (answers - new).square().mean((1, 2))

(best_answers,) = layer(new_seen, learned)
figure, (left, middle, right) = plt.subplots(1, 3, width_ratios=[3, 2, 2], figsize=(11, 3.8))
left.plot(new_seen[0], ".", color="0.7", label="seen")
left.plot(new[0], color="tab:green", lw=2, label="true")
left.plot(best_answers[0], color="tab:blue", lw=1.5, label="denoised")
left.set(xlabel="position", ylabel="signal", title="A new signal")
left.legend()
middle.plot([value for value, _ in path])
middle.set(xlabel="gradient step", ylabel="weight", title="The weight while it is learned")
right.loglog(grid, errors, "o-", color="0.4", ms=4, label="fixed weights")
right.axvline(learned, label=f"learned: {learned:.2f}")
right.set(xlabel="weight", ylabel="mean squared error", title="Error on new signals")
right.legend()
plt.show()

# %%
before, after = error(new_seen, new), error(best_answers, new)
jumps = (best_answers.diff(dim=1).abs() > 1e-6).double().mean()
print(
    f"mean squared error: {before:.4f} with the noise, {after:.4f} denoised, {errors.min():.4f} the best of the grid"
)
print(f"{100 * jumps:.0f} % of the neighbours differ")

assert after < 0.3 * before
assert after < (1.5 if short else 1.05) * errors.min()
assert jumps < 0.5
