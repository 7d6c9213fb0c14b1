"""The commands at tiny sizes: who is timed, in which turn, and what is printed. No time is asserted."""

from __future__ import annotations

import gc
import io
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import accuracy, adapters, around_diffcp, families, machine, profile_call, render, run, verify
from benchmarks.contenders import OURS, Contender, Runner, Setting, contenders
from benchmarks.families import TIMED, Family, make
from benchmarks.timing import PARTS, Call, call, interleave, summary, tensors


def softly_wrong(factor: float) -> Setting:
    """A layer whose solution is right and whose gradient is ``factor`` times the right one."""

    def build(family: Family) -> Runner:
        inner = contenders(1, ())[0].settings[0].make(family)

        def forward(*leaves: torch.Tensor) -> list[torch.Tensor]:
            outputs = inner.forward(*leaves)
            return [factor * output + (1 - factor) * output.detach() for output in outputs]

        return Runner(forward)

    return Setting(f"factor {factor}", build)


def failing() -> Setting:
    def build(family: Family) -> Runner:
        raise ValueError("this peer takes nothing")

    return Setting("defaults", build)


def test_wrong_and_failing_contenders_are_listed_and_not_timed() -> None:
    field = [*contenders(1, ()), Contender("wrong", (softly_wrong(0.5),)), Contender("failing", (failing(),))]
    rows = {row.contender: row for row in run.bench(families.simplex(5, 3), field[:1] + field[-2:], repeats=1)}
    assert rows[OURS].timing is not None
    assert rows[OURS].ratio == 1
    assert rows["wrong"].timing is None
    assert "gradient off by" in rows["wrong"].fault
    assert rows["failing"].timing is None
    assert rows["failing"].fault == "failed: ValueError: this peer takes nothing"


def test_a_correct_setting_is_chosen_before_a_wrong_one() -> None:
    ways = Contender("several", (softly_wrong(0.5), failing(), softly_wrong(1.0)))
    rows = run.bench(families.simplex(5, 3), [contenders(1, ())[0], ways], repeats=1)
    assert rows[1].setting == "factor 1.0"
    assert not rows[1].fault


def test_contenders_take_turns_without_the_garbage_collector() -> None:
    order: list[tuple[str, bool]] = []

    def recorded(name: str) -> Runner:
        def forward(x: torch.Tensor) -> Sequence[torch.Tensor]:
            order.append((name, gc.isenabled()))
            return [2 * x]

        return Runner(forward)

    x = torch.ones(2, 1, dtype=torch.float64, requires_grad=True)
    timings = interleave({"a": recorded("a"), "b": recorded("b")}, [x], [torch.ones_like(x)], repeats=3)
    assert [name for name, _ in itertools.groupby(name for name, _ in order)] == ["a", "b"] * 4
    assert len(order) > 8  # a turn of such short calls has many
    assert not any(enabled for _, enabled in order[2:])
    assert gc.isenabled()
    assert timings["a"].turns == 3


def test_shares_add_up_and_the_overhead_is_what_is_left() -> None:
    parts = {**dict.fromkeys(PARTS, 0.0), "solving": 4.0, "derivative": 4.0, "packing": 1.0}
    timing = summary([Call(6.0, 4.0, (), (), parts)] * 3)
    assert timing.shares is not None
    assert timing.shares["rest"] == pytest.approx(0.1)
    assert sum(timing.shares.values()) == pytest.approx(1)
    assert timing.derivative == pytest.approx(0.8)
    assert timing.overhead == pytest.approx(0.25)


def test_answers_do_not_depend_on_what_a_reference_left_in_the_problem() -> None:
    family = families.logistic(3, 10, 2)
    exact = verify.make_reference(family)
    family.parameters[0].value = np.ones(family.parameters[0].shape)
    family.variables[0].value = np.full(3, 1e3)
    runner = contenders(1, ())[0].settings[0].make(family)
    made = call(runner, *tensors(family, exact.weights))
    assert not verify.judge(exact, made.outputs, made.gradients).wrong


@pytest.mark.parametrize("name", list(TIMED))
def test_our_answer_is_right_on_every_family(name: str) -> None:
    family = make(name, quick=True)
    (row,) = run.bench(family, contenders(1, ())[:1], repeats=1)
    assert row.fault == ""
    assert row.timing is not None


def test_the_command_writes_the_table_and_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    chosen = ["--contenders", "cvxlayers DIFFCP", "--families", "small", "--quick", "--threads", "1", "--repeats", "1"]
    rows = run.main([*chosen, "--json", str(file)])
    assert [row.contender for row in rows] == [OURS, "cvxlayers DIFFCP"]
    told = json.loads(file.read_text(encoding="utf-8"))
    assert told["machine"]["threads"] == 1
    assert told["rows"][0]["timing"]["forward"] > 0
    text = capsys.readouterr().out
    assert "simplex, 10 variables, batch 1" in text
    assert "overh." in text


def test_the_peer_is_judged_where_it_is_installed() -> None:
    pytest.importorskip("cvxpylayers")
    field = [one for one in contenders(1) if one.name in (OURS, "cvxpylayers", "cvxpylayers, tuned")]
    rows = run.bench(families.simplex(5, 3), field, repeats=1)
    assert [row.contender for row in rows] == [OURS, "cvxpylayers", "cvxpylayers, tuned"]
    assert all(row.verdict is not None for row in rows)


def test_a_faulty_row_shows_its_fault_below_the_table() -> None:
    row = render.Row("SDP", "order 3", "peer", "", verify.Verdict(1e-9, 0.37), fault="wrong: gradient off by 37 %")
    text = io.StringIO()
    render.table([row], machine.facts(1), Console(file=text, width=render.WIDTH))
    assert "WRONG" in text.getvalue()
    assert "SDP, peer: wrong: gradient off by 37 %" in text.getvalue()


def test_the_page_of_accuracy_says_who_cannot_take_what(tmp_path: Path) -> None:
    text = accuracy.main(["--seeds", "1", "--families", "power", "--out", str(tmp_path / "accuracy.md")])
    (line,) = [line for line in text.splitlines() if line.startswith("| power")]
    cells = [cell.strip() for cell in line.split("|")[2:6]]
    assert cells[3] == "-"  # DIFFCP has no power cone
    assert float(cells[0].split(",")[1]) < 1e-4


def test_the_profile_names_the_parts() -> None:
    text = profile_call.report(["small", "--quick", "--calls", "1", "--lines", "3", "--threads", "1"])
    assert "solving" in text
    assert "function calls" in text
    with pytest.raises(SystemExit, match="no contender"):
        profile_call.report(["small", "--contender", "nobody"])


def test_the_adapters_answer_is_verified_and_their_overhead_is_shown() -> None:
    row = adapters.measure("torch", "CLARABEL", repeats=1, quick=True)
    assert not row.fault
    assert 0 < row.floor < row.adapter
    assert row.overhead == pytest.approx(row.adapter / row.core - 1)
    assert row.own == pytest.approx((row.adapter - row.core - row.floor) / row.core)
    text = io.StringIO()
    late = adapters.Overhead("late", "CLARABEL", 2.0, 0.4, 3.0, overhead=0.5, own=0.3, forward=0.4)
    adapters.table([late, adapters.Overhead("odd", "IPM", fault="wrong: off")], machine.facts(1), Console(file=text))
    assert re.search(r"1000\.00 *│ *50\.0 % .* 600\.00 *│ *30\.0 %", text.getvalue()), text.getvalue()
    assert "wrong: off" in text.getvalue()


@pytest.mark.parametrize("name", ["simplex", "sdp"])  # with Clarabel and a large PSD cone diffcp alone is wrong
def test_diffcp_alone_is_verified_and_timed_beside_the_layer(name: str) -> None:
    pytest.importorskip("diffcp")
    family = families.sdp(4, 3, 2) if name == "sdp" else families.make(name, quick=True)
    row = around_diffcp.measure(family, repeats=1, threads=1)
    assert row.way.startswith("SCS" if name == "sdp" else "CLARABEL")
    assert min(row.alone, row.layer, row.polished) > 0
    text = io.StringIO()
    around_diffcp.table([row], machine.facts(1), Console(file=text, width=140))
    assert row.way in text.getvalue()
