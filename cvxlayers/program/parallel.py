"""Work on the elements of a batch by several threads that live as long as the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["parallel_for"]


def parallel_for(task: Callable[[int], None], indices: list[int], threads: int) -> None:
    """Call ``task`` for every index, in this thread and up to ``threads - 1`` others.

    The threads live as long as the call: nothing is shared between calls, and a fork at any time is safe.
    """
    remaining = iter(indices)  # each thread takes the next one as soon as it is free
    helpers = min(threads, len(indices)) - 1
    if helpers < 1:
        return _drain(task, remaining)
    with ThreadPoolExecutor(helpers) as pool:
        futures = [pool.submit(_drain, task, remaining) for _ in range(helpers)]
        _drain(task, remaining)
    for future in futures:
        future.result()


def _drain(task: Callable[[int], None], remaining: Iterable[int]) -> None:
    try:
        for i in remaining:
            task(i)
    finally:
        for _ in remaining:  # after an interrupt, let the other threads end as well
            pass
