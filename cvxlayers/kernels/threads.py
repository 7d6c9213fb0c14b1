"""Threads that wait for work between calls: to wake one takes a third of the time that it takes to start one."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["WORTH_A_THREAD", "parallel_for"]

Found = TypeVar("Found")

WORTH_A_THREAD = 2e-4
"""Seconds of work for which another thread is woken."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def parallel_for(work_on: Callable[[int, int], Found], groups: int, seconds: float, threads: int) -> list[Found]:
    """Share groups 0, ..., groups - 1 among threads, of which this one works as well; what became of each part.

    Parameters
    ----------
    work_on : callable
        Takes the first group of a part and the one after its last.
    groups : int
    seconds : float
        About how long one group takes.
    threads : int
        How many may work at most.
    """
    if groups == 1:
        return [work_on(0, 1)]
    count = min(threads, groups, 1 + int(groups * seconds / WORTH_A_THREAD))
    if count < 2:
        return [work_on(0, groups)] if groups else []
    bounds = [groups * k // count for k in range(count + 1)]
    others = [_workers().submit(work_on, bounds[k], bounds[k + 1]) for k in range(1, count)]
    try:
        own = work_on(0, bounds[1])
    finally:
        found = [other.result() for other in others]
    return [own, *found]


def _workers() -> ThreadPoolExecutor:
    """The threads of this process; work that finds all of them busy waits for one."""
    global _pool  # one for the process: threads are what all calls share
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="cvxlayers")
        return _pool


def _forget() -> None:
    """A forked process has none of its parent's threads, and the lock may have been held by one of them."""
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
