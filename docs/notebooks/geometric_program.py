# %% [markdown]
# # A geometric program
#
# Which box of height $h$, width $w$ and depth $d$ has the largest volume, when there is only so much material for its walls
# and its floor, and its sides may not be too slanted?
#
# $$\begin{array}{ll} \underset{h,\,w,\,d}{\text{maximize}} & h\,w\,d \\
# \text{subject to} & 2(hw + hd) \le \text{walls},\quad wd \le \text{floor}, \\
# & 0.5 \le h/w \le \text{high},\quad 0.5 \le d/w \le \text{high} . \end{array}$$
#
# The problem is not convex in $h, w, d$. In their logarithms it is: monomials become linear, sums of monomials become
# logarithms of sums of exponentials. With `gp=True` the layer does that by itself; parameters and variables stay as they
# are. Problem and helpers are from `examples/geometric_program.py`.

# %%
import os
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer

sys.path.insert(0, "../../examples")
from geometric_program import d, elasticities, floor, h, high, problem, w, walls

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
layer = CvxpyLayer(problem, parameters=[walls, floor, high], variables=[h, w, d], gp=True)
layer.compiled

# %% [markdown]
# ## What a little more would bring
#
# In logarithms derivatives are *elasticities*: by how many per cent the volume rises with one per cent more of something.
# They also say what is scarce. With a small floor the floor and the slenderness limit the box; with a large floor the walls
# do, and in closed form the elasticity of the walls is then one, and that of the floor one half.

# %%
floors = np.linspace(3, 30, 10 if short else 40)
gains = np.array([elasticities(layer, 60.0, area, 1.6) for area in floors])

figure, axes = plt.subplots(figsize=(7, 3.8))
for name, values in zip(("walls", "floor", "limit on slenderness"), gains.T, strict=True):
    axes.plot(floors, values, lw=2, label=name)
axes.set(
    xlabel="area of the floor",
    ylabel="elasticity of the volume",
    title="What limits the box, with 60 of walls",
)
axes.legend()
plt.show()

# %% [markdown]
# ## Which limit did the maker have in mind?
#
# Somebody makes boxes, for known walls and floors, by a limit $\text{high}$ that we do not know. The boxes are measured to
# two per cent. The limit is found by gradient steps through the solution; its logarithm is learned, so that it stays
# positive.

# %%
true, random = 1.6, np.random.default_rng(0)
areas = torch.tensor(random.uniform(50, 200, 24)), torch.tensor(random.uniform(5, 40, 24))
made = torch.stack(layer(*areas, torch.tensor(true)), -1)  # (24, 3)
observed = made * torch.tensor(np.exp(0.02 * random.standard_normal(made.shape)))

log_high = torch.tensor(np.log(0.8), requires_grad=True)
optimizer = torch.optim.Adam([log_high], lr=0.05)
limits, losses = [], []
for _ in range(50 if short else 120):
    boxes = torch.stack(layer(*areas, log_high.exp()), -1)
    loss = (boxes / observed - 1).square().mean()
    limits.append(log_high.exp().item())
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

figure, (left, right) = plt.subplots(1, 2)
left.semilogy(losses)
left.axhline(0.02**2, color="0.5", ls=":", label="error of the measurement")
left.set(
    xlabel="gradient step",
    ylabel="mean squared relative error",
    title="Fit of the observed boxes",
)
left.legend()
right.plot(limits, label="learned")
right.axhline(true, color="tab:green", ls="--", label="true")
right.set(xlabel="gradient step", ylabel="limit on h / w and d / w", title="The limit")
right.legend()
plt.show()

# %%
print(f"limit: {limits[0]:.2f} at the start, {limits[-1]:.3f} learned, {true} true")

assert abs(limits[-1] - true) < 0.1
assert losses[-1] < 0.02 * losses[0]
small, large = elasticities(layer, 60.0, 5.0, true), elasticities(layer, 60.0, 20.0, true)
np.testing.assert_allclose(
    small, [0, 1.5, 1], atol=1e-5
)  # w = d = (floor / low) ** 0.5, h = high w
np.testing.assert_allclose(
    large, [1, 0.5, 0], atol=1e-5
)  # w = d = floor ** 0.5, h = walls / (4 w)
