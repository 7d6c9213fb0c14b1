"""``cvxlayers compile``: the file that it writes gives the same answers, and misuse is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

import cvxlayers
from cvxlayers.cli.app import app

PROBLEM = """
import cvxpy as cp
x = cp.Variable(3, name="x")
c = cp.Parameter(3, name="c")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [cp.sum(x) == 1, x >= 0])
"""


def test_a_compiled_file_is_loaded_and_solved_without_cvxpy(tmp_path: Path) -> None:
    source, target = tmp_path / "model.py", tmp_path / "layer.cvxl"
    source.write_text(PROBLEM)
    result = CliRunner().invoke(app, ["compile", f"{source}:problem", "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "c [3] -> x [3]" in result.output
    (x,) = cvxlayers.Layer(cvxlayers.load(target))(np.array([2.0, 0.0, 0.0]))
    np.testing.assert_allclose(x, [1.0, 0.0, 0.0], atol=1e-7)
    code = f"import sys; sys.modules['cvxpy'] = None; import cvxlayers; print(cvxlayers.load({str(target)!r}).k)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3", done.stderr


def test_a_folder_that_does_not_exist_is_misuse(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text(PROBLEM)
    result = CliRunner().invoke(app, ["compile", str(source), "-o", str(tmp_path / "absent" / "layer.cvxl")])
    assert result.exit_code == 2
    assert "absent" in result.output


def test_a_problem_that_is_not_convex_is_invalid(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text(PROBLEM.replace("Minimize", "Maximize"))
    result = CliRunner().invoke(app, ["compile", str(source), "-o", str(tmp_path / "layer.cvxl")])
    assert result.exit_code == 1
    assert not (tmp_path / "layer.cvxl").exists()


def test_a_link_stays_and_a_folder_is_misuse(tmp_path: Path) -> None:
    source, link = tmp_path / "model.py", tmp_path / "link.cvxl"
    source.write_text(PROBLEM)
    link.symlink_to("layer.cvxl")
    assert CliRunner().invoke(app, ["compile", str(source), "-o", str(link)]).exit_code == 0
    assert link.is_symlink() and cvxlayers.load(tmp_path / "layer.cvxl").k == 3
    result = CliRunner().invoke(app, ["compile", str(source), "-o", str(tmp_path)])
    assert result.exit_code == 2 and "it is a folder" in result.output
