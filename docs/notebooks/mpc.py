# %% [markdown]
# # Control learned from demonstrations
#
# A cart is pushed to its place. Its driver plans ahead: for the state $x_0$ (position and speed) the driver finds the best
# pushes $u_0, \dots, u_{T-1}$ for the next $T$ steps, makes the first, and plans anew. That is model predictive control,
#
# $$\begin{array}{ll} \underset{x,\,u}{\text{minimize}} & \sum_{t=0}^{T-1} q_1 x_{t+1,1}^2 + q_2 x_{t+1,2}^2 + u_t^2 \\
# \text{subject to} & x_{t+1} = A x_t + B u_t,\quad |u_t| \le u_{\max} . \end{array}$$
#
# What matters to the driver, the prices $q_1$ and $q_2$ of being away and of being fast, and the strength $u_{\max}$, are not
# known. Known are demonstrations: states, and what the driver did. Since the plan is differentiable in $q$ and $u_{\max}$,
# both can be learned like the weights of a network, and the learned controller then keeps to its limit wherever it goes.

# %%
import os

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
T = 12
A, B = np.array([[1.0, 0.25], [0.0, 1.0]]), np.array([0.03, 0.25])

states, pushes = cp.Variable((T + 1, 2), name="states"), cp.Variable(T, name="pushes")
start, limit = cp.Parameter(2, name="start"), cp.Parameter(nonneg=True, name="limit")
prices = cp.Parameter(2, nonneg=True, name="prices")
constraints = [states[0] == start, pushes <= limit, pushes >= -limit]
constraints += [states[t + 1] == A @ states[t] + B * pushes[t] for t in range(T)]
cost = cp.sum(cp.square(states[1:]) @ prices) + cp.sum_squares(pushes)
layer = CvxpyLayer(
    cp.Problem(cp.Minimize(cost), constraints), [start, prices, limit], [pushes, states]
)
layer.compiled

# %% [markdown]
# ## Demonstrations
#
# Sixty-four states and the driver's first push in each; a hand is not perfectly steady.

# %%
true = {"prices": torch.tensor([4.0, 0.5]), "limit": torch.tensor(1.2)}
generator = torch.Generator().manual_seed(0)
seen = torch.randn(64, 2, generator=generator, dtype=torch.float64)
with torch.no_grad():
    plans, _ = layer(seen, true["prices"], true["limit"])
done = plans[:, 0] + 0.01 * torch.randn(64, generator=generator, dtype=torch.float64)
print(
    f"{(plans[:, 0].abs() > 1.199).double().mean():.0%} of the pushes are as strong as can be"
)

# %% [markdown]
# ## Learning
#
# Prices and limit are positive, so their logarithms are learned. One step is one batch of 64 plans, and its gradient.

# %%
logs = torch.zeros(3, dtype=torch.float64, requires_grad=True)  # all start at one
optimizer = torch.optim.Adam([logs], lr=0.08)
path, losses = [], []
for _ in range(100 if short else 300):
    plans, _ = layer(seen, logs[:2].exp(), logs[2].exp())
    loss = (plans[:, 0] - done).square().mean()
    path.append(logs.detach().exp().numpy().copy())
    losses.append(loss.item())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
found = logs.detach().exp()

# %% [markdown]
# ## Driving
#
# The learned controller in a closed loop, from a state that is farther away than all that was demonstrated, beside the
# driver.


# %%
def drive(given, steps=40):
    state, history, done = torch.tensor([4.0, 0.0], dtype=torch.float64), [], []
    for _ in range(steps):
        history.append(state)
        push = layer(state, *given)[0][0]
        done.append(push)
        state = torch.tensor(A) @ state + torch.tensor(B) * push
    return torch.stack(history), torch.stack(done)


driver, driven = drive((true["prices"], true["limit"]))
learner, pushed = drive((found[:2], found[2]))

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8))
left.plot(path, lw=2, label=["price of distance", "price of speed", "limit"])
for number, value in enumerate((*true["prices"], true["limit"])):
    left.axhline(value, color=f"C{number}", ls="--", lw=1)
left.set(xlabel="gradient step", title="Learned; dashed: true")
left.legend()
middle.plot(driver[:, 0], lw=4, color="0.8", label="driver")
middle.plot(learner[:, 0], label="learned")
middle.set(xlabel="step", ylabel="position", title="Driving")
middle.legend()
right.step(range(40), driven, lw=4, color="0.8", label="driver")
right.step(range(40), pushed, label="learned")
right.axhline(-true["limit"], color="k", ls=":", lw=1)
right.set(xlabel="step", ylabel="push", title="Never stronger than the limit")
right.legend()
plt.show()

# %%
print(f"prices {found[0]:.2f} and {found[1]:.2f} for 4 and 0.5, limit {found[2]:.3f} for 1.2")
print(f"largest difference on the way: {(driver - learner).abs().max():.3f}")

assert losses[-1] < 0.01 * losses[0]
assert abs(found[2] / 1.2 - 1) < 0.02
assert abs(found[0] / 4 - 1) < 0.25
assert (driver - learner).abs().max() < 0.1
assert pushed.abs().max() < found[2] + 1e-6
