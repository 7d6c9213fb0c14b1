# %% [markdown]
# # JAX: a whole training in one scan
#
# A shop's customers ask each day for amounts $d$ of five goods, and the shop ships what its stock allows:
#
# $$x^\star(d, s) = \underset{x}{\operatorname{argmin}}\; \|x - d\|_2^2 \qquad\text{subject to}\quad
# x \ge 0,\quad \mathbf{1}^T x \le s .$$
#
# Its rule is unknown. Seen are features $\phi$ of past days, and what was shipped. The model predicts the demand
# $d = W\phi + w$ and ends in the problem, so whatever it predicts, it ships no more than the stock, and the stock $s$ is
# learned as well. Layer and data are those of `examples/jax_training.py`.

# %%
import os
import sys

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, "../../examples")
from jax_training import STOCK, allocation, loss, predict, sample, start

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
layer = allocation()
features, shipped = sample(layer, jax.random.key(0), 64)
layer

# %% [markdown]
# ## One compiled loop
#
# A step is the forward pass, the batch of 64 solutions, their gradient, and the update. `jax.lax.scan` repeats it, and `jit`
# compiles the loop as one; the solver is called back on the host.

# %%
steps = 60 if short else 300


def train(rate):
    def step(weights, _):
        value, gradient = jax.value_and_grad(
            lambda given: loss(layer, given, features, shipped)
        )(weights)
        return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), (
            value,
            weights["log_stock"],
        )

    return jax.lax.scan(step, start(), None, length=steps)


weights, (losses, logs) = jax.jit(train)(0.05)
print(f"loss {losses[0]:.3f} at first, {losses[-1]:.5f} after {steps} steps")

# %% [markdown]
# ## Several trainings at once
#
# `vmap` of the whole training runs it for several step sizes. Inside, each step is then *one* batched solve of all
# trainings together, 4 times 64 problems.

# %%
rates = jnp.array([0.005, 0.015, 0.05, 0.1])
every, (curves, stocks) = jax.jit(jax.vmap(train))(rates)

figure, (left, right) = plt.subplots(1, 2)
for rate, curve, stock in zip(rates, curves, stocks, strict=True):
    left.semilogy(curve, label=f"step size {rate:.3f}")
    right.plot(jnp.exp(stock))
left.set(
    xlabel="gradient step", ylabel="mean squared distance", title="Four trainings in one scan"
)
left.legend()
right.axhline(STOCK, color="k", ls=":", label="true")
right.set(xlabel="gradient step", ylabel="stock", title="The stock is learned, too")
right.legend()
plt.show()

# %% [markdown]
# ## New days
#
# What the learned shop ships on days that it has not seen. The gradient of what is shipped in the stock says who gets more
# when there is more: the goods that are shipped at all share equally.

# %%
new, truly = (part[64:] for part in sample(layer, jax.random.key(0), 400))  # the same shop
answers = predict(layer, weights, new)

asked = jnp.array([3.0, 2.5, 0.5, 0.2, -1.0])
(few,) = layer(asked, 2.0)
share = jax.jacobian(lambda stock: layer(asked, stock)[0])(2.0)
print("shipped", np.asarray(few).round(3), "and of one more", np.asarray(share).round(3))

figure, axes = plt.subplots(figsize=(4.6, 4.2))
axes.plot(truly.ravel(), answers.ravel(), ".", ms=3, alpha=0.4)
axes.plot([0, STOCK], [0, STOCK], color="k", lw=1)
axes.set(xlabel="shipped by the shop", ylabel="by the model", title="New days", aspect="equal")
plt.show()

# %%
error = float(jnp.mean((answers - truly) ** 2) / jnp.var(truly))
print(f"stock {jnp.exp(logs[-1]):.3f} for {STOCK}; relative error on new days {error:.4f}")

assert losses[-1] < (0.1 if short else 0.02) * losses[0]
assert float(answers.sum(1).max()) < float(jnp.exp(weights["log_stock"])) + 1e-3
np.testing.assert_allclose(every["W"][2], weights["W"], atol=1e-3)  # vmap is the same training
assert error < 0.15
