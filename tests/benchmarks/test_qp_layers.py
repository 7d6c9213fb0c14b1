"""The benchmark of the QP layers at tiny sizes: the references, who is judged how, and what is printed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import qp_layers
from benchmarks.contenders import Runner
from tests.support.quadratic import known_qp
from tests.support.tolerance import assert_all_close


def test_the_reference_is_the_known_solution_with_its_gradients() -> None:
    known = known_qp(np.random.default_rng(0), 3, 4, 5, 1, 2)
    weights = np.random.default_rng(1).normal(size=(3, 4))
    data = {**known.data, "b": known.data["b"][0], "A": known.data["A"][0]}
    data["b"] = data["A"] @ known.x[0]
    first = {name: part[:1] if part.ndim > 1 + (name in "QGA") else part for name, part in data.items()}
    case = qp_layers.Case("known", "", 1, first, tuple(first))
    x, gradients = qp_layers.reference(case, weights[:1])
    right = {name: part[0] if name in "Ab" else part[:1] for name, part in known.gradients(weights).items()}
    assert_all_close([x, *gradients.values()], [known.x[:1], *(right[name] for name in gradients)], 1e-9, "reference")


def test_a_peer_that_is_wrong_or_fails_is_listed_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = qp_layers.contenders

    def failing(*leaves: torch.Tensor) -> list[torch.Tensor]:
        raise ValueError("this peer takes nothing")

    def field(case: qp_layers.Case) -> dict[str, list[Runner]]:
        ours = original(case)[qp_layers.OURS]
        mean = Runner(lambda *leaves: [x / 2 + x.detach() / 2 for x in ours[0].forward(*leaves)])
        return {qp_layers.OURS: ours, "several": [mean, ours[0]], "mean": [mean], "failing": [Runner(failing)]}

    monkeypatch.setattr(qp_layers, "contenders", field)
    rows = {row.contender: row for row in qp_layers.bench(qp_layers.random_case(5, 2), repeats=1)}
    assert rows[qp_layers.OURS].ratio == 1
    assert rows["several"].timing is not None
    assert "gradient by 5.0e-01" in rows["mean"].fault
    assert rows["failing"].fault == "failed: ValueError: this peer takes nothing"
    assert rows["mean"].timing is None is rows["failing"].timing


def test_our_own_fault_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    doubled = Runner(lambda *leaves: [2 * leaves[1] + sum(leaf.sum() for leaf in leaves)])
    monkeypatch.setattr(qp_layers, "contenders", lambda case: {qp_layers.OURS: [doubled]})
    with pytest.raises(RuntimeError, match="wrong: solution off by"):
        qp_layers.bench(qp_layers.random_case(5, 2), repeats=1)


def test_the_command_writes_the_table_and_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    rows = qp_layers.main(["--only", "Sudoku", "--quick", "--repeats", "1", "--threads", "1", "--json", str(file)])
    ours = [row for row in rows if row.contender.startswith(qp_layers.OURS)]
    assert len(ours) == 2
    assert all(row.timing and not row.fault for row in ours)
    assert json.loads(file.read_text())["rows"][0]["ratio"] == 1
    assert "64 variables, 40 equalities" in capsys.readouterr().out
