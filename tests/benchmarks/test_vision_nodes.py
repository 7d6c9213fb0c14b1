"""The benchmark of the vision nodes at tiny sizes: ours is right on each, and what is wrong is not timed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import vision_nodes
from benchmarks.vision_cases import CASES


@pytest.mark.parametrize("name", list(CASES))
def test_our_answer_and_gradient_are_right_on_every_node(name: str) -> None:
    rows = vision_nodes.bench(CASES[name](True), repeats=1)
    assert rows[0].ratio == 1
    assert not rows[0].fault
    assert len(rows) > 1, "nothing to compare with"


def test_a_wrong_contender_is_listed_and_not_timed() -> None:
    case = CASES["projection simplex"](True)
    wrong = replace(case, baselines={"wrong": lambda x, r: 0.5 * case.ours(x, r)})
    rows = vision_nodes.bench(wrong, repeats=1)
    assert rows[1].timing is None
    assert "wrong: answer off by" in rows[1].fault


def test_our_own_fault_stops_the_benchmark() -> None:
    case = CASES["projection simplex"](True)
    with pytest.raises(RuntimeError, match="our answer is off by"):
        vision_nodes.bench(replace(case, ours=lambda x, r: 0.5 * case.ours(x, r)), repeats=1)
    with pytest.raises(RuntimeError, match="our gradient by"):
        vision_nodes.bench(replace(case, ours=lambda x, r: case.ours(x, r.detach())), repeats=1)


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    rows = vision_nodes.main(["--only", "l2_ball fixed", "--quick", "--repeats", "1"])
    assert [row.contender for row in rows][:2] == ["cvxlayers", "autograd"]
    assert "projection l2_ball, fixed radius: 8 x 6" in capsys.readouterr().out
