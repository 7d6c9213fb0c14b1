"""``cvxlayers check --gradcheck``: right gradients pass, wrong ones do not, and nothing is hidden."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cvxlayers.layer.record import Record


def gradients(answer) -> list[dict]:
    return [problem["gradients"] for problem in answer.json["problems"]]


@pytest.mark.parametrize("file", ["lasso.py", "several.py", "matrices.py"])
def test_the_gradients_of_these_problems_are_right(run, file: str) -> None:
    answer = run("check", file, "--gradcheck", "--samples", "2", "--json")
    for report in gradients(answer):
        assert [sample["status"] for sample in report["samples"]] == ["optimal", "optimal"]
        for row in report["parameters"]:
            assert row["unsettled"] < row["directions"]
            assert row["forward"] <= 1e-4 and row["backward"] <= 1e-4 and row["adjoint"] <= 1e-6, row
    assert answer.code == 0


def test_the_gradients_of_a_geometric_program_are_right(run) -> None:
    answer = run("check", "geometric.py", "--gp", "--gradcheck")
    assert answer.code == 0
    assert "wall 6 of 6 0" in answer.said


def test_a_wrong_gradient_fails(run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Record.vjp
    monkeypatch.setattr(Record, "vjp", lambda self, w: tuple(1.001 * part for part in right(self, w)))
    answer = run("check", "lasso.py", "--gradcheck", "--json")
    assert answer.code == 1
    (report,) = gradients(answer)
    assert not report["passed"] and not any(row["passed"] for row in report["parameters"])
    assert "FAIL" in run("check", "lasso.py", "--gradcheck").said


def test_a_gradient_that_is_not_a_number_fails(run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Record.jvp
    monkeypatch.setattr(Record, "jvp", lambda self, v: tuple(np.nan * part for part in right(self, v)))
    answer = run("check", "lasso.py", "--gradcheck")
    assert answer.code == 1
    assert "NaN" in answer.said


def test_samples_without_a_solution_are_reported_and_advice_is_given(run) -> None:
    answer = run("check", "infeasible.py:never", "--gradcheck")
    assert answer.code == 1
    assert "sample 1 infeasible" in answer.said and "sample 3 infeasible" in answer.said
    assert "No sample has a solution" in answer.said and "--params P.npz" in answer.said


def test_given_values_are_used(run, tmp_path: Path) -> None:
    values = tmp_path / "p.npz"
    np.savez(values, c=[[2.0, 3.0], [0.0, 2.0], [1.5, 1.5]])
    answer = run("check", "infeasible.py:sometimes", "--gradcheck", "--params", values)
    assert answer.code == 0
    assert "p.npz[0] optimal" in answer.said and "p.npz[1] infeasible" in answer.said
    first = run("check", "infeasible.py:sometimes", "--gradcheck", "--params", values, "--samples", "1", "--json")
    assert len(gradients(first)[0]["samples"]) == 1


def test_values_that_break_an_attribute_are_reported(run, tmp_path: Path) -> None:
    values = tmp_path / "p.npz"
    np.savez(values, A=np.ones((4, 3)), b=np.ones(4), weight=-1.0)
    answer = run("check", "lasso.py", "--gradcheck", "--params", values)
    assert answer.code == 1
    assert "not allowed: parameter 'weight'" in answer.said


def test_the_seed_decides_the_samples(run) -> None:
    answers = [run("check", "lasso.py", "--gradcheck", "--seed", seed, "--json") for seed in (1, 1, 2)]
    first, second, other = ([s["margin"] for s in gradients(answer)[0]["samples"]] for answer in answers)
    assert first == pytest.approx(second, rel=1e-4)
    assert first != pytest.approx(other, rel=1e-2)


def test_a_kink_is_called_unsettled_and_does_not_pass(run) -> None:
    answer = run("check", "kink.py", "--gradcheck", "--samples", "1", "--json")
    ((row,),) = [report["parameters"] for report in gradients(answer)]
    assert row["unsettled"] == row["directions"] > 0
    assert answer.code == 1
    said = run("check", "kink.py", "--gradcheck", "--samples", "1").said
    assert "the file's values optimal" in said and "not compared" in said and "has a kink" in said
