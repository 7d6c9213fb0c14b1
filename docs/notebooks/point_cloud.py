# %% [markdown]
# # Robust pooling of point clouds
#
# A network looks at each point of a cloud by itself, and *pools* the features $x_1, \dots, x_k$ of all points to a single
# vector, by which the shape is classified. Pooling by the mean is an optimization problem, and so is what is more robust:
#
# $$\text{mean:}\;\; \underset{y}{\operatorname{argmin}} \sum_i \|y - x_i\|_2^2, \qquad
# \text{robust:}\;\; \underset{y}{\operatorname{argmin}} \sum_i \phi_\alpha\!\left(\|y - x_i\|_2\right) .$$
#
# Welsch's penalty $\phi_\alpha(z) = 1 - e^{-z^2 / 2\alpha^2}$ levels off: a point that is far from all others is ignored. The
# usual choice, the maximum of each feature, is at the mercy of a single stray point. All networks below are trained on clean
# clouds, and tested on clouds with outliers that they have never seen. Shapes and network are from
# `examples/point_cloud.py`; the pooling is `cvxlayers.nodes.robust_vector_pool`, whose scale $\alpha$ is learned.

# %%
import os
import sys

import matplotlib.pyplot as plt
import torch

sys.path.insert(0, "../../examples")
from point_cloud import POINTS, SHAPES, PointNetwork, accuracy, clouds

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
shares = (0.0, 0.3) if short else (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
tests = {
    share: clouds(200 if short else 600, share, torch.Generator().manual_seed(7))
    for share in shares
}

figure = plt.figure(figsize=(10, 4.4))
for row, share in enumerate((0.0, 0.3)):
    points, kinds = tests[share]
    for column in range(5):
        axes = figure.add_subplot(2, 5, 5 * row + column + 1, projection="3d")
        bad = round(share * POINTS)
        axes.scatter(*points[column, bad:].mT, s=5, color="tab:blue")
        axes.scatter(*points[column, :bad].mT, s=5, color="tab:red")
        axes.set(xticklabels=[], yticklabels=[], zticklabels=[], title=SHAPES[kinds[column]])
plt.show()

# %% [markdown]
# ## Training, on clean clouds
#
# Robust pooling is a node: its solution, an iteratively weighted mean, is found for the whole batch, verified, and
# differentiated implicitly, so that nothing of the iteration is kept for the backward pass.


# %%
def train(pool, steps):
    torch.manual_seed(0)
    network, generator = PointNetwork(pool), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        points, kinds = clouds(32, 0.0, generator)
        loss = torch.nn.functional.cross_entropy(network(points), kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return network.eval(), losses


steps = 120 if short else 400
trained = {pool: train(pool, steps) for pool in ("max", "mean", "welsch")}
table = {
    pool: [100 * accuracy(network, test) for test in tests.values()]
    for pool, (network, _) in trained.items()
}

# %%
figure, (left, right) = plt.subplots(1, 2)
for pool, (_, losses) in trained.items():
    smooth = torch.tensor(losses).unfold(0, 10, 1).mean(1)
    left.plot(smooth, label=pool)
    right.plot([100 * share for share in shares], table[pool], "o-", label=pool)
left.set(xlabel="training step", ylabel="cross entropy", title="Training")
right.axhline(100 / len(SHAPES), color="k", ls=":", label="chance")
right.set(xlabel="outliers, % of the points", ylabel="accuracy, %", ylim=(0, 102), title="Test")
right.legend(title="pooling")
plt.show()

# %% [markdown]
# Without outliers the maximum is best: it sees the outline of a shape. With unexpected ones it is little better than chance,
# while robust pooling goes on. Where outliers can be had for training, a maximum that is trained with them is the simpler
# way ([examples](../examples.md#what-to-expect)).

# %%
place = shares.index(0.3)
for pool, row in table.items():
    print(f"{pool:7} {row[0]:4.0f} % clean, {row[place]:3.0f} % with outliers")

assert table["max"][0] > 80
assert table["welsch"][place] > table["max"][place] + 5
assert table["welsch"][0] > 2 * 100 / len(SHAPES)
