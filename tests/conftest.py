"""Settings of all tests: hypothesis draws the same examples in every run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded random numbers, anew for each test."""
    return np.random.default_rng(0)
