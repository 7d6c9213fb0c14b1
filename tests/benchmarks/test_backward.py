"""The benchmark of the backward pass at tiny sizes: what is compared, and that a wrong gradient is seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import backward
from cvxlayers.layer.record import Record


@pytest.mark.parametrize("name", list(backward.LAYERS))
def test_gradients_are_compared_with_differences(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family = backward.LAYERS[name](8, 4)
    row = backward.measure(family, repeats=1)
    assert row.batch == 4 and row.compared >= 3
    assert row.error <= 1e-5
    assert min(row.forward, row.backward) > 0
    vjp = Record.vjp
    monkeypatch.setattr(Record, "vjp", lambda self, given: tuple(1.01 * part for part in vjp(self, given)))
    assert backward.measure(family, repeats=1).error > 1e-3


def test_a_slow_or_wrong_layer_is_not_well(capsys: pytest.CaptureFixture[str]) -> None:
    row = backward.Row("", 2.0, 1.0, 1e-6, 4, 0, 4)
    assert row.well
    assert not replace(row, backward=1.1).well
    assert not replace(row, error=1e-3).well
    rows = backward.main(["--quick", "--repeats", "1", "--threads", "1"])
    assert [one.name for one in rows] == list(backward.LAYERS)
    assert "weak MPC" in capsys.readouterr().out
