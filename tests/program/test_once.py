"""What is computed once for each object, and keeps no other object waiting."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from cvxlayers.program.once import once


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    @once
    def value(self) -> int:
        """How often this has been computed."""
        self.calls += 1
        return self.calls


def test_it_is_computed_once_and_goes_with_copies() -> None:
    counted = Counted()
    assert (counted.value, counted.value, counted.calls) == (1, 1, 1)
    assert pickle.loads(pickle.dumps(counted)).value == 1
    assert Counted.value.__doc__ == "How often this has been computed."


def test_threads_compute_for_different_objects_at_the_same_time() -> None:
    both = Barrier(2, timeout=10)

    class Meeting:
        @once
        def met(self) -> bool:
            both.wait()  # an error if no other thread gets here
            return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.met, [Meeting(), Meeting()])) == [True, True]
