"""The program over files of quadratic programs, on files made here: what is read, what is compared, what fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from benchmarks import maros_meszaros
from benchmarks.program import Direction, Program, slope, solve

FOUR = np.array([2.0, -3.0, 1.0, 0.5])


def write(folder: Path, name: str = "BOX") -> Path:
    """min 1/2 |x|^2 - c'x + 7  s.t.  x1 + x2 = 1,  x3 + x4 <= 1,  -1 <= x1 <= 4,  x2 free,  x3 >= 0,  x4 <= 1e20."""
    A = np.vstack([[1.0, 1, 0, 0], [0, 0, 1.0, 1], np.eye(4)])
    low = np.array([1.0, -1e20, -1, -1e20, 0, -1e20])
    high = np.array([1.0, 1.0, 4, 1e20, 9.999999999999998e19, 1e20])
    file = folder / f"{name}.mat"
    scipy.io.savemat(file, {"P": sp.csc_matrix(np.eye(4)), "q": -FOUR[:, None], "r": 7, "A": sp.csc_matrix(A),
                            "l": low[:, None], "u": high[:, None], "n": 4, "m": 6})  # fmt: skip
    return file


X = np.array([3.0, -2.0, 0.75, 0.25])
"""Its solution: (c1 - c2 +- 1) / 2, and (c3, c4) shifted onto their sum of one."""


def test_a_file_is_read_and_its_program_solved(tmp_path: Path) -> None:
    program = maros_meszaros.read(write(tmp_path))
    assert program.equal.tolist() == [True, False, False, False, False, False]
    found = solve(program)
    np.testing.assert_allclose(found.x, X, atol=1e-9)
    assert found.objective == pytest.approx(0.5 * X @ X - FOUR @ X + 7)
    assert program.violation(X) <= 1e-15
    assert program.violation(X + np.array([0, 0, 0.1, 0])) == pytest.approx(
        0.1 / 3.85
    )  # x3 and x4 count as the median, 1.425


def test_differences_tell_a_derivative_from_a_kink(tmp_path: Path) -> None:
    program = maros_meszaros.read(write(tmp_path))
    w, still = np.array([1.0, 0, 2.0, 0]), np.zeros(6)
    move = Direction(np.array([1.0, 0.5, -1.0, 0.25]), still, still)
    found = slope(program, solve(program), move, w)
    assert found.exists
    assert found.value == pytest.approx(-0.25 + 2 * 0.625, rel=1e-5)
    kink = replace(program, q=-np.array([2.0, -3.0, 0.0, 0.5]))  # x3 is at its bound, with a multiplier of zero
    assert not slope(kink, solve(kink), move, w).exists


@pytest.mark.parametrize("way", list(maros_meszaros.WAYS))
def test_the_command_compares_with_clarabel_and_with_differences(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "ONE")
    write(tmp_path, "OTHER")
    chosen = ["--only", "ONE", "--way", way, "--repeats", "1", "--json", str(tmp_path / "rows.json")]
    (row,), _ = maros_meszaros.main([str(tmp_path), *chosen])
    assert (row.name, row.status) == ("ONE", "optimal")
    assert row.apart <= 1e-9 and row.violation <= 1e-9
    assert [one.error <= 1e-5 for one in row.gradients] == [True, True]
    assert min(row.forward, row.backward, row.clarabel) > 0
    assert "optimal: 1 of 1" in capsys.readouterr().out
    assert '"gradients"' in (tmp_path / "rows.json").read_text(encoding="utf-8")


def test_what_is_wrong_fails(tmp_path: Path) -> None:
    program = maros_meszaros.read(write(tmp_path))
    row = maros_meszaros.Row(program.name, "", "optimal", "IPM", 1.0, 1.0, 0.0, 1.0, 0.1, 1.0)
    assert maros_meszaros.closing([row])[1]
    wrong = [
        replace(row, status="failed"), replace(row, objective=1 + 1e-5), replace(row, violation=1e-5),
        replace(row, gradients=(maros_meszaros.Gradient(1e-3, 1e-9),)), replace(row, forward=0.1, backward=0.2),
        replace(row, fault="SolveError"), replace(row, objective=np.nan),
    ]  # fmt: skip
    for one in wrong:
        assert one.faults and not maros_meszaros.closing([one])[1], one
    assert not replace(wrong[3], flagged=True).faults
    assert not maros_meszaros.closing([replace(row, backward=0.3)])[1]  # more than a fifth in the sum


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        maros_meszaros.main([str(tmp_path)])


def test_an_infeasible_program_is_a_fault(tmp_path: Path) -> None:
    program: Program = maros_meszaros.read(write(tmp_path))
    low = program.low.copy()
    low[1:3] = 0.0, 2.0
    high = np.minimum(program.high, 1.0)
    row = maros_meszaros.measure(replace(program, low=low, high=high), "cvxpy", repeats=1, on_failure="zero_grad")
    assert row.status == "infeasible" and row.faults
