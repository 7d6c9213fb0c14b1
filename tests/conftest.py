"""Settings of all tests: hypothesis draws the same examples in every run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from cvxlayers.layer.layer import Layer

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers, anew for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def solves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes of all solves of the test."""
    seen: list[int] = []
    original = Layer.solve

    def counted(self: Layer, *args: Any, **options: Any) -> Any:
        record = original(self, *args, **options)
        seen.append(record.solution.batch)
        return record

    monkeypatch.setattr(Layer, "solve", counted)
    return seen
