"""Random parameter values inside of what their attributes allow, and directions in which they may move both ways."""

from __future__ import annotations

import cvxpy as cp
import numpy as np

__all__ = ["allowed_direction", "sample_value"]

BOUNDARY = 1e-6  # entries and eigenvalues this small, relative to the largest, count as lying on the boundary
SYMMETRIC = ("symmetric", "PSD", "NSD", "hermitian")


def sample_value(parameter: cp.Parameter, gp: bool, random: np.random.Generator) -> np.ndarray:
    """A value in the interior of the parameter's attributes; entries are of order one.

    Signed entries are standard normal, those of one sign between 0.1 and 2, positive in a log-log convex program.
    Bounds draw uniformly between them, and PSD values are a random Gram matrix plus a tenth of the identity.
    """
    attributes = parameter.attributes
    shape = tuple(parameter.shape)
    value: np.ndarray = random.standard_normal(shape)
    if gp or attributes["pos"] or attributes["nonneg"]:
        value = random.uniform(0.1, 2.0, shape)
    elif attributes["neg"] or attributes["nonpos"]:
        value = -random.uniform(0.1, 2.0, shape)
    elif attributes["boolean"]:
        value = random.integers(0, 2, shape).astype(float)
    elif attributes["integer"]:
        value = random.integers(-3, 4, shape).astype(float)
    if attributes["bounds"] is not None:
        lower, upper = attributes["bounds"]
        value = _between(lower, upper, value, random)
    if parameter.is_complex():
        value = 1j * value if attributes["imag"] else value + 1j * random.standard_normal(shape)
    return _structured(parameter, value, definite=True)


def allowed_direction(
    parameter: cp.Parameter, value: np.ndarray, gp: bool, reach: float, random: np.random.Generator
) -> np.ndarray:
    """A direction d such that value + t d is allowed for all |t| <= reach; its norm is at most that of the value.

    Entries on the boundary of their sign or their bounds stay where they are, and a singular PSD or NSD matrix moves
    inside its own range; the direction is zero where nothing can move. ``value`` is without batch dimensions.
    """
    attributes = parameter.attributes
    direction: np.ndarray = random.standard_normal(value.shape)
    if parameter.is_complex():
        direction = 1j * direction if attributes["imag"] else direction + 1j * random.standard_normal(value.shape)
    direction = _structured(parameter, direction, definite=False)
    below, above = _room(parameter, value, gp)
    tiny = BOUNDARY * (1.0 + np.abs(value).max(initial=0.0))
    direction = np.where((below <= tiny) | (above <= tiny), 0.0, direction)
    lengths = [float(np.linalg.norm(value)) or 1.0]
    if attributes["PSD"] or attributes["NSD"]:
        eigenvalues, vectors = np.linalg.eigh(value)
        inside = np.abs(eigenvalues) > BOUNDARY * np.abs(eigenvalues).max(initial=0.0)
        onto = vectors[:, inside] @ vectors[:, inside].conj().T
        direction = onto @ direction @ onto
        # value + t d stays definite on its range while |t| norm(d) is below the smallest eigenvalue there
        lengths += (np.abs(eigenvalues[inside]) / reach).tolist()
    norm = float(np.linalg.norm(direction))
    if norm == 0:
        return direction
    direction = direction / norm
    room = np.minimum(below, above)
    moving = direction != 0
    lengths += (np.broadcast_to(room, value.shape)[moving] / (np.abs(direction[moving]) * reach)).tolist()
    return direction * min(lengths[0], 0.9 * min(lengths[1:], default=np.inf))


def _room(parameter: cp.Parameter, value: np.ndarray, gp: bool) -> tuple[np.ndarray, np.ndarray]:
    """How far each entry may fall and rise before it breaks its sign or its bounds."""
    attributes = parameter.attributes
    below, above = np.full(value.shape, np.inf), np.full(value.shape, np.inf)
    if gp or attributes["pos"] or attributes["nonneg"]:
        below = np.minimum(below, value)
    if attributes["neg"] or attributes["nonpos"]:
        above = np.minimum(above, -value)
    if attributes["bounds"] is not None:
        lower, upper = attributes["bounds"]
        below, above = np.minimum(below, value - lower), np.minimum(above, upper - value)
    return below, above


def _between(lower: np.ndarray, upper: np.ndarray, value: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Uniform between finite bounds; beside a single finite bound, at the distance of a positive draw."""
    both = np.isfinite(lower) & np.isfinite(upper)
    low, high = np.where(both, lower, 0.0), np.where(both, upper, 0.0)
    away = np.abs(value) + 0.1
    one_sided = np.where(np.isfinite(lower), lower + away, np.where(np.isfinite(upper), upper - away, value))
    return np.where(both, low + (high - low) * random.uniform(0.1, 0.9, value.shape), one_sided)


def _structured(parameter: cp.Parameter, value: np.ndarray, definite: bool) -> np.ndarray:
    """Give the entries the symmetry, the diagonal or sparse pattern, and (where asked for) the definiteness."""
    attributes = parameter.attributes
    if definite and (attributes["PSD"] or attributes["NSD"]):
        order = value.shape[-1]
        gram = value @ value.conj().T / order + 0.1 * np.eye(order)
        return gram if attributes["PSD"] else -gram
    if any(attributes[name] for name in SYMMETRIC):
        value = (value + value.conj().T) / 2
    if attributes["diag"]:
        value = np.diag(np.diag(value))
    if attributes["sparsity"]:
        pattern = np.zeros(value.shape)
        pattern[parameter.sparse_idx] = 1.0
        value = value * pattern
    return value
