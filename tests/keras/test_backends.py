"""Runs ``suite.py`` on each backend of Keras, in processes of their own: Keras reads KERAS_BACKEND at its import."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_suite_passes_on(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    settings = {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/keras/suite.py"]
    suite = subprocess.run(call, env={**os.environ, **settings}, cwd=ROOT, capture_output=True, text=True, check=False)
    assert suite.returncode == 0, suite.stdout + suite.stderr[-2000:]
