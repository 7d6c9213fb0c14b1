"""Learn how much to smooth: total-variation denoising as the last layer of a Keras model, its price a weight.

The problem
-----------
A piecewise constant signal y (n,) is seen with noise, s = y + noise. The layer returns

    minimize over x    |x - s|^2 / 2 + price * sum_i |x[i + 1] - x[i]|

whose solution is piecewise constant; ``price`` >= 0 decides how much of a jump counts as noise. The price is a weight
of the layer, fitted to pairs of noisy and clean signals with the mean squared error as the loss.

    python examples/keras_fit.py --epochs 12 --save denoiser.keras

The backend is the one that KERAS_BACKEND names: tensorflow, jax or torch.

Source: Rudin, Osher, Fatemi, "Nonlinear total variation based noise removal algorithms", Physica D 1992.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cvxpy as cp
import keras
import numpy as np

from cvxlayers.keras import CvxpyLayer

__all__ = ["denoiser", "fit", "main", "signals"]

LENGTH = 32


def denoiser(price: float) -> keras.Model:
    """A model (batch, LENGTH) -> (batch, LENGTH) with one weight, which starts at ``price``."""
    x, signal = cp.Variable(LENGTH, name="x"), cp.Parameter(LENGTH, name="signal")
    cost = cp.Parameter(nonneg=True, name="price")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - signal) / 2 + cost * cp.norm1(cp.diff(x))))
    learned = {"initializer": price, "constraint": keras.constraints.NonNeg()}
    layer = CvxpyLayer(problem, [signal, cost], [x], weights={cost: learned}, name="total_variation")
    return keras.Sequential([keras.Input((LENGTH,)), layer])


def signals(count: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy signals and clean ones, (count, LENGTH) each: four levels, each for 4 to 12 places."""
    random = np.random.default_rng(seed)
    clean = np.empty((count, LENGTH))
    for row in clean:
        lengths = random.integers(4, 13, 4)
        row[:] = np.resize(np.repeat(random.normal(size=4), lengths), LENGTH)
    return (clean + noise * random.normal(size=clean.shape)).astype("float32"), clean.astype("float32")


def fit(model: keras.Model, noisy: np.ndarray, clean: np.ndarray, epochs: int) -> list[float]:
    """Fit the price; the mean squared error after each epoch."""
    model.compile(keras.optimizers.Adam(0.05), "mse")
    return [float(loss) for loss in model.fit(noisy, clean, epochs=epochs, batch_size=32, verbose=0).history["loss"]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=128, help="signals to fit to")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--noise", type=float, default=0.3, help="standard deviation of the noise")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="where to write the model (.keras)")
    options = parser.parse_args(arguments)
    keras.utils.set_random_seed(options.seed)
    model = denoiser(price=0.05)
    losses = fit(model, *signals(options.count, options.noise, options.seed), options.epochs)
    noisy, clean = signals(64, options.noise, options.seed + 1)
    denoised = model.predict(noisy, verbose=0)
    error = float(np.mean((denoised - clean) ** 2))
    price = float(keras.ops.convert_to_numpy(model.weights[0]))
    before = float(np.mean((noisy - clean) ** 2))
    print(f"Keras on {keras.backend.backend()}; loss of each epoch: {', '.join(f'{loss:.4f}' for loss in losses)}")
    print(f"learned price {price:.3f}; on new signals the mean squared error fell from {before:.4f} to {error:.4f}")
    if options.save:
        model.save(options.save)
        again = keras.models.load_model(options.save)  # reads the compiled problem: nothing above runs, nor does CVXPY
        change = float(np.abs(again.predict(noisy, verbose=0) - denoised).max())
        print(f"saved to {options.save}, loaded again: predictions of the two models differ by at most {change:.1e}")


if __name__ == "__main__":
    main()
