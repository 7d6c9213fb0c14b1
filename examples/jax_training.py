"""Train a network that ends in a convex problem, in JAX: one compiled step, with the layer inside.

The problem
-----------
Each day a shop's customers ask for amounts d (n,) of n goods, and it ships no more than what is in stock. Its rule is
unknown; seen are the features f (p,) of past days, and what was shipped. The model predicts the demand with a linear
map, and ships

    minimize over x    |x - (W f + w)|^2    subject to  0 <= x,  sum(x) <= stock

so that every prediction keeps to the stock. W (n, p), w (n,) and the stock itself, as log(stock), are fitted by
gradient descent. The whole step (forward, solve, gradient, update) is compiled, and the loop is a ``jax.lax.scan``.

On most days the stock is short, and then a demand that is higher by the same amount for all goods ships the same: the
shipments are learned, and the stock, but W and w only up to what can be seen.

    python examples/jax_training.py --steps 300

Source of the idea: Agrawal, Amos, Barratt, Boyd, Diamond, Kolter, "Differentiable convex optimization layers", 2019.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import cvxpy as cp
import jax
import jax.numpy as jnp

from cvxlayers.jax import CvxpyLayer

__all__ = ["allocation", "loss", "main", "sample", "start", "train"]

GOODS, FEATURES, STOCK = 5, 3, 4.0
Weights = dict[str, jax.Array]


def allocation() -> CvxpyLayer:
    """The layer: demand (..., n) and stock (...) -> shipped amounts (..., n)."""
    x, demand = cp.Variable(GOODS, name="shipped"), cp.Parameter(GOODS, name="demand")
    stock = cp.Parameter(pos=True, name="stock")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - demand)), [x >= 0, cp.sum(x) <= stock])
    return CvxpyLayer(problem, [demand, stock], [x])


def predict(layer: CvxpyLayer, weights: Weights, features: jax.Array) -> jax.Array:
    """Shipped amounts (B, n) for features (B, p); the stock is shared by the batch."""
    demand = features @ weights["W"].T + weights["w"]
    (shipped,) = layer(demand, jnp.exp(weights["log_stock"]))
    return shipped


def loss(layer: CvxpyLayer, weights: Weights, features: jax.Array, shipped: jax.Array) -> jax.Array:
    """Mean over the batch of the squared distance."""
    return ((predict(layer, weights, features) - shipped) ** 2).sum(axis=1).mean()


def sample(layer: CvxpyLayer, key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Features (count, p) and what a shop with weights of its own shipped, (count, n)."""
    one, two = jax.random.split(key)
    truth = {"W": jax.random.normal(one, (GOODS, FEATURES)), "w": jnp.full(GOODS, 1.2), "log_stock": jnp.log(STOCK)}
    features = jax.random.normal(two, (count, FEATURES))
    return features, predict(layer, truth, features)


def start() -> Weights:
    """No idea of the demand, and a stock of 1."""
    return {"W": jnp.zeros((GOODS, FEATURES)), "w": jnp.ones(GOODS), "log_stock": jnp.zeros(())}


def train(
    layer: CvxpyLayer, weights: Weights, features: jax.Array, shipped: jax.Array, steps: int, rate: float
) -> tuple[Weights, jax.Array]:
    """Gradient descent; the weights, and the loss before each step (steps,)."""

    def step(weights: Weights, _: None) -> tuple[Weights, jax.Array]:
        value, gradient = jax.value_and_grad(lambda given: loss(layer, given, features, shipped))(weights)
        return jax.tree.map(lambda w, g: w - rate * g, weights, gradient), value

    return jax.jit(lambda weights: jax.lax.scan(step, weights, None, length=steps))(weights)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=64, help="days to learn from")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rate", type=float, default=0.05, help="step size")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    layer = allocation()
    features, shipped = sample(layer, jax.random.key(options.seed), options.count)
    weights, losses = train(layer, start(), features, shipped, options.steps, options.rate)
    print(f"loss: {losses[0]:.4f} at first, {losses[-1]:.6f} after {options.steps} steps")
    print(f"stock: {jnp.exp(weights['log_stock']):.3f} learned, {STOCK:.3f} true")


if __name__ == "__main__":
    main()
