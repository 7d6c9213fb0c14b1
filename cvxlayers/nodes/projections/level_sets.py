"""Total-variation denoising in one dimension, exactly: divide and conquer over level sets.

min_y 1/2 |y - x|^2 + sum_i e_i |y_{i+1} - y_i| is solved block by block. At the mean mu of a block the level set
{i: y_i > mu} minimizes  sum_{i in S} w_i + sum of e over its boundary,  w = mu - x  (Chambolle, Darbon 2009; Hochbaum
2001). On a chain that is a dynamic program: with m_i the cost of i inside minus that of i outside,

    m_i = w_i + clip(m_{i-1}, -e_{i-1}, e_{i-1}),

then backwards i is inside if m_i < -e_i, outside if m_i > e_i, and goes with i + 1 between. Where the set is empty or
all, the block is constant. Else it is cut where the set ends; as it is known which side of a cut is higher, the term
e |y_{i+1} - y_i| becomes linear there and moves into x. All blocks of all signals are one array: a cut is an edge with
e = 0. Composed clips are clips, so the recursion is run in parallel pieces (Blelloch 1990).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["jump_signs"]

Array = NDArray[np.float64]

SMALL = 32
"""Recursions of this length are run one after another."""


def jump_signs(x: Array, e: Array) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The sign of y_{i+1} - y_i at the solution, (B, N - 1), for signals x (B, N) and weights e (B, N - 1).

    The second result is how often each signal was cut into more blocks, (B,).
    """
    batch, N = x.shape
    sign = np.zeros((batch, N), dtype=np.int8)
    rounds = np.zeros(batch, dtype=np.int64)
    if not x.size or N == 1:
        return sign[:, :-1], rounds
    flat = sign.reshape(-1)
    edges = np.concatenate([e, np.zeros((batch, 1))], 1).reshape(-1)
    values, places = x.astype(np.float64).reshape(-1).copy(), np.arange(batch * N)
    last = places % N == N - 1
    while places.size:
        first = np.concatenate([[True], last[:-1]])
        inside = _above_mean(values, edges, first, last)
        jump = np.zeros(len(places), dtype=np.int8)
        jump[:-1] = np.where(last[:-1], 0, inside[1:].astype(np.int8) - inside[:-1])
        block = np.cumsum(first) - 1
        cut = np.bincount(block, jump != 0, minlength=block[-1] + 1)[block] > 0
        flat[places] += jump
        rounds[np.unique(places[cut] // N)] += 1
        pull = edges * jump
        values += pull
        values[1:] -= pull[:-1]
        last = last | (jump != 0)
        edges = np.where(last, 0.0, edges)
        values, edges, places, last = values[cut], edges[cut], places[cut], last[cut]
    return sign[:, :-1], rounds


def _above_mean(x: Array, e: Array, first: NDArray[np.bool_], last: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which entries of each block lie above the block's mean at the solution."""
    starts = np.flatnonzero(first)
    lengths = np.diff(np.append(starts, len(x)))
    mean = np.add.reduceat(x, starts) / lengths
    m = _clipped_sums(np.repeat(mean, lengths) - x, np.where(last, 0.0, e))
    decided = last | (np.abs(m) > e)
    places = np.where(decided, np.arange(len(x)), len(x))
    following = np.minimum.accumulate(places[::-1])[::-1]
    return (m < 0)[following]


def _clipped_sums(w: Array, e: Array) -> Array:
    """m_0 = w_0, m_i = w_i + clip(m_{i-1}, -e_{i-1}, e_{i-1})."""
    bound = np.concatenate([[0.0], e[:-1]])
    return _run(w, w - bound, w + bound)


def _run(step: Array, low: Array, high: Array) -> Array:
    """The values m_i = clip(m_{i-1} + step_i, low_i, high_i) with m_{-1} = 0.

    In pieces side by side, each piece's maps are composed: clip(m + a, l, h) followed by another is again of that form.
    """
    size = len(step)
    if size <= SMALL:
        return _in_turn(step, low, high)
    pieces = int(np.ceil(np.sqrt(4 * size)))
    length = -(-size // pieces)
    step, low, high = (_columns(part, length, pieces) for part in (step, low, high))
    a, lower, upper = step.copy(), low.copy(), high.copy()
    for i in range(1, length):
        lower[i] = np.minimum(np.maximum(lower[i - 1] + step[i], low[i]), high[i])
        upper[i] = np.minimum(np.maximum(upper[i - 1] + step[i], low[i]), high[i])
        a[i] += a[i - 1]
    ends = _run(a[-1], lower[-1], upper[-1])
    m = np.minimum(np.maximum(a + np.concatenate([[0.0], ends[:-1]]), lower), upper)
    return np.ascontiguousarray(m.T).reshape(-1)[:size]


def _columns(part: Array, length: int, pieces: int) -> Array:
    """(length, pieces), each column one piece; filled up with zeros."""
    padded = np.concatenate([part, np.zeros(length * pieces - len(part))])
    return np.ascontiguousarray(padded.reshape(pieces, length).T)


def _in_turn(step: Array, low: Array, high: Array) -> Array:
    m, values = 0.0, []
    for s, lower, upper in zip(step.tolist(), low.tolist(), high.tolist(), strict=True):
        m = min(max(m + s, lower), upper)
        values.append(m)
    return np.array(values)
