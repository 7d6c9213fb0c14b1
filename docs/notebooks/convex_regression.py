# %% [markdown]
# # Convex regression
#
# Of a function we know nothing but that it is convex, and we see noisy values $y_i$ at the places $t_i$. The least-squares fit
# among all convex functions is a quadratic program in the values $f_i$ of the fit, whose slopes may not fall,
#
# $$\begin{array}{ll} \underset{f}{\text{minimize}} & \sum_i (f_i - y_i)^2 \\
# \text{subject to} & \dfrac{f_{i+1} - f_i}{t_{i+1} - t_i} \;\ge\; \dfrac{f_i - f_{i-1}}{t_i - t_{i-1}} . \end{array}$$
#
# There is nothing to be tuned, no width and no penalty. The answer is piecewise linear, with as many pieces as the data
# ask for. As a layer it is differentiable in the observations, and that tells something of statistics.

# %%
import os

import cvxpy as cp
import matplotlib.pyplot as plt
import numpy as np
import torch

from cvxlayers.torch import CvxpyLayer

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
N, SIGMA = 40, 0.15
random = np.random.default_rng(0)
t = np.sort(random.uniform(-1, 1, N))
true = torch.tensor(np.maximum(t**2, 0.8 * t) + 0.3 * np.abs(t + 0.4))

f, y = cp.Variable(N, name="f"), cp.Parameter(N, name="y")
slopes = cp.multiply(cp.diff(f), 1 / np.diff(t))
layer = CvxpyLayer(
    cp.Problem(cp.Minimize(cp.sum_squares(f - y)), [cp.diff(slopes) >= 0]), [y], [f]
)
layer.compiled

# %% [markdown]
# ## Degrees of freedom
#
# How flexible is such a fit? The degrees of freedom of an estimator are its divergence, the trace of its Jacobian,
#
# $$\operatorname{df}(y) = \sum_i \frac{\partial f_i}{\partial y_i} .$$
#
# Meyer and Woodroofe (2000) showed that for convex regression this is two more than the number of kinks, since between its
# kinks the fit is an ordinary linear regression. Automatic differentiation finds the same number from the solution alone.


# %%
def degrees(observed):
    jacobian = torch.func.jacrev(lambda given: layer(given)[0])(observed)
    return jacobian, torch.trace(jacobian).item()


observed = true + SIGMA * torch.tensor(random.standard_normal(N))
(fit,) = layer(observed)
jacobian, freedom = degrees(observed)
steps = np.diff(np.diff(fit.numpy()) / np.diff(t))
kinks = 1 + np.flatnonzero(steps > 1e-5)
print(f"{len(kinks)} kinks, {freedom:.4f} degrees of freedom")

# %%
figure, (left, right) = plt.subplots(1, 2, width_ratios=[3, 2])
left.plot(t, observed, ".", color="0.6", label="seen")
left.plot(t, true, color="tab:green", lw=2, label="true")
left.plot(t, fit, color="tab:blue", lw=1.5, label="convex fit")
left.plot(t[kinks], fit[kinks], "o", color="tab:blue", ms=5, label="kinks")
left.set(xlabel="t", ylabel="value", title="The best convex function")
left.legend()
image = right.imshow(jacobian.numpy(), cmap="RdBu_r", vmin=-0.6, vmax=0.6)
right.grid(False)
right.set(xlabel="observation", ylabel="value of the fit", title="The Jacobian")
figure.colorbar(image, label="d f / d y")
plt.show()

# %% [markdown]
# Each block of the Jacobian is a piece of the fit: an observation moves its own piece, and those beside it a little.
#
# ## The error, without the truth
#
# With the degrees of freedom Stein's unbiased risk estimate says how far the fit is from the truth, which it does not see:
#
# $$\operatorname{SURE} = \|f - y\|_2^2 - N \sigma^2 + 2\sigma^2 \operatorname{df}(y),
# \qquad \mathbb{E}[\operatorname{SURE}] = \mathbb{E}\, \|f - f_{\text{true}}\|_2^2 .$$
#
# On a batch of new observations it is right on average. The divergence needs no whole Jacobian: for a random $v$ of signs,
# $v^T J v$ has the trace as its mean, and that is one backward pass for the batch.

# %%
count = 200 if short else 4000
many = true + SIGMA * torch.tensor(random.standard_normal((count, N)))
many.requires_grad_()
(fits,) = layer(many)
signs = torch.tensor(random.choice([-1.0, 1.0], (count, N)))
(pulled,) = torch.autograd.grad(fits, many, signs)
divergence = (pulled * signs).sum(1)

fits, many = fits.detach(), many.detach()
sure = (fits - many).square().sum(1) - N * SIGMA**2 + 2 * SIGMA**2 * divergence
error = (fits - true).square().sum(1)

figure, axes = plt.subplots(figsize=(7, 3.8))
axes.hist(sure, 40, alpha=0.5, label=f"SURE, mean {sure.mean():.3f}", density=True)
axes.hist(error, 40, alpha=0.5, label=f"true error, mean {error.mean():.3f}", density=True)
axes.axvline(N * SIGMA**2, color="0.4", ls=":", label="error of the observations")
axes.set(
    xlabel="squared error of the fit", ylabel="density", title="Estimated without the truth"
)
axes.legend()
plt.show()

# %%
spread = (sure - error).std().item() / np.sqrt(count)
print(f"SURE {sure.mean():.3f}, true error {error.mean():.3f}, standard error {spread:.3f}")

assert abs(freedom - (len(kinks) + 2)) < 1e-4
assert (steps > -1e-6).all()  # it is convex
assert error.mean() < 0.4 * N * SIGMA**2
assert abs(sure.mean() - error.mean()) < 4 * spread
