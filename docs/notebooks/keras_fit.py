# %% [markdown]
# # Keras: fit, save and load
#
# A convex problem as the last layer of a Keras model, trained by `model.fit` like any other. The layer denoises a signal $s$
# by its total variation,
#
# $$\underset{x}{\text{minimize}}\quad \tfrac12 \|x - s\|_2^2 + \text{price} \cdot \sum_i |x_{i+1} - x_i| ,$$
#
# and the price of a jump is a weight of the layer. The model is that of `examples/keras_fit.py`. Keras runs on the backend
# that `KERAS_BACKEND` names, and so does the layer: TensorFlow, JAX or PyTorch.

# %%
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, "../../examples")
from keras_fit import denoiser, signals

short = os.environ.get("CVXLAYERS_NOTEBOOKS") == "short"
keras.utils.set_random_seed(0)
model = denoiser(price=0.05)
layer = model.layers[-1]
layer

# %% [markdown]
# In `denoiser` the price is declared a weight, with a start and a constraint, and the signal stays an input:
#
# ```python
# learned = {"initializer": 0.05, "constraint": keras.constraints.NonNeg()}
# CvxpyLayer(problem, [signal, price], [x], weights={price: learned})
# ```
#
# ## Fit

# %%
noisy, clean = signals(64 if short else 256, noise=0.3, seed=0)
model.compile(keras.optimizers.Adam(0.03), "mse")
prices = [float(keras.ops.convert_to_numpy(model.weights[0]))]
remember = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: prices.append(
        float(keras.ops.convert_to_numpy(model.weights[0]))
    )
)
history = model.fit(
    noisy, clean, epochs=20 if short else 40, batch_size=32, verbose=0, callbacks=[remember]
).history["loss"]
print(
    f"on {keras.backend.backend()}: loss {history[0]:.4f} in the first epoch, {history[-1]:.4f} in the last"
)

# %%
new, truth = signals(64, noise=0.3, seed=1)
denoised = model.predict(new, verbose=0)

figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.8), width_ratios=[2, 2, 3])
left.plot(range(1, len(history) + 1), history, "o-", ms=4)
left.set(xlabel="epoch", ylabel="mean squared error", title="Fit")
middle.plot(prices, "o-", ms=4)
middle.set(xlabel="epoch", ylabel="price of a jump", title="The weight of the layer")
right.plot(new[0], ".", color="0.6", label="seen")
right.step(range(len(truth[0])), truth[0], where="mid", color="tab:green", lw=2, label="true")
right.step(range(len(truth[0])), denoised[0], where="mid", color="tab:blue", label="denoised")
right.set(xlabel="position", ylabel="signal", title="A new signal")
right.legend()
plt.show()

# %% [markdown]
# ## Save and load
#
# The file holds the compiled problem. Loading it runs no code of the model's author and needs no CVXPY, only
# `import cvxlayers.keras`.

# %%
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "denoiser.keras")
    again = keras.models.load_model(Path(folder) / "denoiser.keras")
change = float(np.abs(again.predict(new, verbose=0) - denoised).max())

before, after = float(np.mean((new - truth) ** 2)), float(np.mean((denoised - truth) ** 2))
print(f"mean squared error on new signals: {before:.4f} seen, {after:.4f} denoised")
print(
    f"price {prices[-1]:.3f}; after saving and loading the answers differ by at most {change:.1e}"
)

assert after < 0.4 * before
assert 0.15 < prices[-1] < 0.6
assert change < 1e-5
