"""The examples of the frameworks do what they say: the loss falls, and what is learned is near the truth."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(example: str, *arguments: str, **settings: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **settings}
    call = [sys.executable, str(ROOT / "examples" / example), *arguments]
    answer = subprocess.run(call, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, text
    return float(found[1])


def test_the_stock_is_learned_in_jax() -> None:
    pytest.importorskip("jax")
    text = run("jax_training.py")
    first, last = number(r"loss: ([\d.]+) at first", text), number(r"([\d.]+) after 300 steps", text)
    assert last < 0.03 * first
    assert abs(number(r"stock: ([\d.]+) learned", text) - 4.0) < 0.2


def test_the_price_is_learned_in_keras_and_the_model_saved(tmp_path: Path) -> None:
    pytest.importorskip("keras")
    pytest.importorskip("jax")
    text = run("keras_fit.py", "--save", str(tmp_path / "denoiser.keras"), KERAS_BACKEND="jax")
    assert "Keras on jax" in text
    before, after = number(r"fell from ([\d.]+)", text), number(r"fell from [\d.]+ to ([\d.]+)", text)
    assert after < 0.4 * before
    assert 0.15 < number(r"learned price ([\d.]+)", text) < 0.5
    assert (tmp_path / "denoiser.keras").stat().st_size > 0
    assert number(r"differ by at most ([\d.e+-]+)", text) < 1e-5
