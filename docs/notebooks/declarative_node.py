# %% [markdown]
# # A declarative node
#
# Not every problem is convex. A *declarative node* is any smooth problem, written in PyTorch as a batched function of its
# inputs and of the unknown $y$; the layer finds a local minimum, verifies it to second order, and differentiates it by the
# implicit function theorem. Here it fits circles to points $p_1, \dots, p_k$, some of which belong to no circle at all:
#
# $$y = (c, r) \in \underset{c,\, r}{\operatorname{argmin}}\; \sum_i \phi\!\left( \frac{\|p_i - c\|_2 - r}{s} \right),
# \qquad \phi(z) = \log(1 + z^2) .$$
#
# With $\phi$, Cauchy's penalty, what is far away hardly matters. The scale $s$ says what is far. It is an input of the node,
# and so it can be learned.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from cvxlayers.nodes import DeclarativeLayer, DeclarativeNode

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"


class Circle(DeclarativeNode):
    """The circle (center, radius) near most of the points: (B, k, 2) and (B,) give (B, 3)."""

    def objective(self, points, scale, y):
        distance = (points - y[:, None, :2]).norm(dim=-1) - y[:, 2:]
        return (1 + (distance / scale[:, None]) ** 2).log().sum(-1)

    def initial(self, points, scale):
        center = points.median(dim=1).values
        radius = (points - center[:, None]).norm(dim=-1).median(dim=1).values
        return torch.cat([center, radius[:, None]], -1)


layer = DeclarativeLayer(Circle())
layer

# %% [markdown]
# ## Points
#
# Forty points for each circle, with a little noise; a quarter of them lies anywhere.

# %%
random = np.random.default_rng(1)


def circles(count, k=40, noise=0.03):
    truth = np.column_stack(
        [random.uniform(-0.5, 0.5, (count, 2)), random.uniform(0.6, 1.2, count)]
    )
    angle = random.uniform(0, 2 * np.pi, (count, k))
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    points = truth[:, None, :2] + truth[:, None, 2:] * direction
    points += noise * random.standard_normal(points.shape)
    points[:, : k // 4] = random.uniform(-2, 2, (count, k // 4, 2))
    return torch.tensor(truth), torch.tensor(points)


truth, points = circles(1)
points.requires_grad_()
y = layer(points, torch.tensor([0.1]))
(influence,) = torch.autograd.grad(y[0, 2], points)
layer.info

# %% [markdown]
# ## Which points decide?
#
# The derivative of the radius in each point: those on the circle pull it outward, and those far away have no say. An ordinary
# least-squares circle for comparison.

# %%
seen, size = points[0].detach(), influence[0].norm(dim=-1)
system = torch.column_stack([2 * seen, torch.ones(len(seen))])
plain = torch.linalg.lstsq(system, seen.square().sum(1, keepdim=True)).solution[:, 0]
plain = torch.stack([plain[0], plain[1], (plain[2] + plain[0] ** 2 + plain[1] ** 2).sqrt()])

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
turn = np.linspace(0, 2 * np.pi, 200)
for circle, style, label in [
    (truth[0], "tab:green", "true"),
    (y[0].detach(), "tab:blue", "node"),
    (plain, "0.6", "least squares"),
]:
    cx, cy, r = circle.tolist()
    left.plot(cx + r * np.cos(turn), cy + r * np.sin(turn), color=style, label=label)
dots = left.scatter(*seen.T, c=size, cmap="magma_r", s=25, zorder=3, edgecolors="0.5", lw=0.4)
left.set(
    aspect="equal",
    xlabel="first coordinate",
    ylabel="second coordinate",
    title="A circle",
)
left.legend(loc="upper left", fontsize=8)
figure.colorbar(dots, label="influence on the radius", location="bottom", shrink=0.8)
far = ((seen - truth[0, :2]).norm(dim=-1) - truth[0, 2]).abs()
right.loglog(far, size, "o", ms=4)
right.set(
    xlabel="distance from the true circle",
    ylabel="influence on the radius",
    title="Who decides",
)
plt.show()

# %% [markdown]
# ## Learning the scale
#
# From circles that are known: gradient steps on the error of the fits, through the node.

# %%
truths, batch = circles(24 if short else 100)
log_scale = torch.tensor(np.log(1.5), requires_grad=True)
optimizer = torch.optim.Adam([log_scale], lr=0.2)
path = []
for _ in range(20 if short else 60):
    loss = (layer(batch, log_scale.exp().expand(len(batch))) - truths).square().sum(1).mean()
    path.append((log_scale.exp().item(), loss.item()))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
scales, losses = np.array(path).T

figure, axes = plt.subplots(figsize=(7, 3.8))
axes.loglog(scales, losses, "o-", ms=4)
axes.annotate("start", (scales[0], losses[0]), xytext=(6, -4), textcoords="offset points")
axes.set(
    xlabel="scale s", ylabel="mean squared error of the circle", title="The way of the scale"
)
plt.show()

# %%
step, place = 1e-6, int(size.argmax())
moved = seen.repeat(2, 1, 1)
moved[:, place, 0] += torch.tensor([step, -step])
quotient = layer(moved, torch.tensor([0.1]))[:, 2].diff().item() / (-2 * step)
print(
    f"influence of a point: {influence[0, place, 0]:.6f}, by a difference quotient {quotient:.6f}"
)
print(
    f"error of the circles: {losses[0]:.2e} with a scale of {scales[0]:.2f}, {losses[-1]:.2e} with {scales[-1]:.3f}"
)

assert abs(influence[0, place, 0] - quotient) < 1e-5 * abs(quotient)
assert (y[0].detach() - truth[0]).abs().max() < 0.05 < (plain - truth[0]).abs().max()
assert losses[-1] < 0.2 * losses[0]
