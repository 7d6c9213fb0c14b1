"""``cvxlayers check``: reports, exit codes, misuse."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import matplotlib.image
import pytest


def test_a_valid_problem(run) -> None:
    answer = run("check", "lasso.py")
    assert answer.code == 0
    assert "problem valid" in answer.said
    assert "minimize convex yes no yes yes" in answer.said
    assert "A 4 x 3 - 12" in answer.said
    assert "weight scalar nonneg 1" in answer.said
    assert "nonnegative 6" in answer.said
    assert "A 10 10 28 12" in answer.said  # rows, columns, nonzeros, those from parameters
    assert "IPM chosen the package's own solver" in answer.said


def test_every_problem_of_a_file_is_checked_once(run) -> None:
    answer = run("check", "several.py", "--json")
    assert answer.code == 0
    assert [problem["name"] for problem in answer.json["problems"]] == ["ball", "elliptope", "entropy"]
    ball, elliptope, entropy = answer.json["problems"]
    assert ball["form"]["cones"]["second_order"] == [5] and ball["form"]["b"]["parametrized"] == 1
    assert elliptope["form"]["cones"]["psd"] == [3] and elliptope["form"]["q"]["parametrized"] == 6
    assert entropy["form"]["cones"]["exponential"] == 4 and entropy["sense"] == "maximize"


def test_one_problem_by_name(run) -> None:
    answer = run("check", "several.py:elliptope")
    assert answer.code == 0
    assert "positive semidefinite 6 orders 3" in answer.said
    assert "exponential" not in answer.out.split("solver")[0]
    assert run("check", "several.py:second_name").code == 0
    assert run("check", "several.py:_private").code == 0


def test_json_is_all_there_is_on_stdout(run) -> None:
    answer = run("check", "same_names.py", "--json")
    assert json.loads(answer.out)["problems"][0]["valid"] is True
    assert "loaded" in answer.err  # what the file prints goes to stderr
    names = [leaf["name"] for leaf in answer.json["problems"][0]["parameters"]]
    assert names == ["file", "file_2"]


def test_not_dpp_names_the_expression_the_rule_and_a_rewrite(run) -> None:
    answer = run("check", "not_dpp.py")
    assert answer.code == 1
    assert "problem invalid" in answer.said and "NotDPPError" in answer.said
    assert "expression scale * weight" in answer.said
    assert "rule both factors, 'scale' and 'weight', depend on parameters" in answer.said
    assert "rewrite Replace the product by one new cvxpy.Parameter" in answer.said
    assert "scale scalar nonneg 1" in answer.said  # the leaves are listed all the same
    (report,) = run("check", "not_dpp.py", "--json").json["problems"]
    assert (report["dcp"], report["dpp"], report["valid"]) == (True, False, False)
    assert report["fault"]["expression"] == "scale * weight" and report["form"] is None


def test_one_invalid_problem_makes_the_file_invalid(run) -> None:
    answer = run("check", "nonconvex.py", "--json")
    assert answer.code == 1
    assert [problem["valid"] for problem in answer.json["problems"]] == [False, True]
    assert answer.json["problems"][0]["fault"]["kind"] == "NotConvexError"
    assert run("check", "nonconvex.py:fine").code == 0


def test_a_geometric_program_needs_gp(run) -> None:
    without = run("check", "geometric.py")
    assert without.code == 1
    assert "pass --gp" in without.said and "gp=True" not in without.said
    answer = run("check", "geometric.py", "--gp")
    assert answer.code == 0
    assert "maximize log-log convex (--gp) no yes" in answer.said


def test_a_solver_that_cannot_take_the_problem_is_a_fault(run) -> None:
    answer = run("check", "several.py:elliptope", "--solver", "ecos")
    assert answer.code == 1
    assert "EngineError" in answer.said and "psd" in answer.said


def test_a_chosen_solver_is_said_to_be_chosen(run) -> None:
    answer = run("check", "lasso.py", "--solver", "scs")
    assert answer.code == 0
    assert "SCS chosen asked for with --solver" in answer.said
    assert "CLARABEL yes takes it" in answer.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.py"], "there is no such file"),
        (["lasso.py:nothing"], "has no 'nothing'; its problems are problem"),
        (["several.py:elliptop"], "Did you mean elliptope?"),
        (["lasso.py:weight"], "is a Parameter, not a cvxpy.Problem"),
        (["lasso.py:not-a-name"], "a Python name was expected, got 'not-a-name'"),
        (["no_problem.py"], "defines no cvxpy.Problem at module level"),
        (["raises.py"], "in line 6 with NameError: name 'undefined' is not defined"),
        (["exits.py"], "with SystemExit: 3"),
        (["lasso.py", "--solver", "GUROBI"], "--solver GUROBI"),
        (["lasso.py", "--params", "p.npz"], "are for --gradcheck"),
        (["lasso.py", "--gradcheck", "--params", "p.npz"], "--params p.npz: there is no such file"),
        (["several.py", "--gradcheck", "--params", "p.npz"], "has several (ball, elliptope, entropy): name one"),
        (["lasso.py", "--gradcheck", "--samples", "0"], "--samples"),
        (["lasso.py", "--plot", "/nowhere/at/all.png"], "the picture cannot be written"),
        (["lasso.py", "--plot", "picture.strange"], "the picture cannot be written"),
        (["lasso.py", "--nonsense"], "No such option: --nonsense"),
        ([], "Missing argument"),
    ],
)
def test_misuse_is_told_in_one_message(run, arguments: list[str], words: str) -> None:
    answer = run("check", *arguments)
    assert answer.code == 2
    said = answer.said.replace("│ ", "")
    assert words in said
    assert "Traceback" not in said
    assert answer.out == ""


def test_a_folder_and_a_syntax_error_are_misuse(run, tmp_path: Path) -> None:
    assert "it cannot be read" in run("check", tmp_path).said
    broken = tmp_path / "broken.py"
    broken.write_text("import cvxpy\nx = (\n", encoding="utf-8")
    answer = run("check", broken)
    assert answer.code == 2 and "in line 2 with SyntaxError: '(' was never closed" in answer.said


def test_debug_shows_the_traceback(run) -> None:
    answer = run("check", "raises.py", "--debug")
    assert answer.code == 2
    assert "Traceback" in answer.err and "Error: Running" in answer.err


def test_a_file_imports_its_neighbours(run, tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_model.py").write_text("size = 3\n", encoding="utf-8")
    model = tmp_path / "model.py"
    model.write_text(
        "import cvxpy as cp\nfrom neighbour_of_model import size\nx = cp.Variable(size)\n"
        "problem = cp.Problem(cp.Minimize(cp.sum_squares(x - cp.Parameter(size))))\n",
        encoding="utf-8",
    )
    (report,) = run("check", model, "--json").json["problems"]
    assert report["variables"][0]["shape"] == [3]


def test_the_picture_shows_where_each_parameter_lands(run, tmp_path: Path) -> None:
    picture = tmp_path / "lasso.png"
    answer = run("check", "lasso.py", "--plot", picture)
    assert answer.code == 0 and "Drawn in" in answer.said
    pixels = matplotlib.image.imread(picture)[:, :, :3].reshape(-1, 3)
    for colour in ("#0072B2", "#D55E00", "#009E73", "#B4B8BD"):  # A, b, weight and constants
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels - rgb).max(axis=1) < 0.01).sum() > 500, colour


def test_several_problems_give_several_pictures(run, tmp_path: Path) -> None:
    assert run("check", "several.py", "--plot", tmp_path / "s.png").code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s-ball.png", "s-elliptope.png", "s-entropy.png"]


def test_a_missing_matplotlib_is_told_with_what_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else found(name, *a))
    answer = run("check", "lasso.py", "--plot", "x.png")
    assert answer.code == 2
    assert "pip install 'cvxlayers[plot]'" in answer.said


def test_loading_leaves_the_main_module_alone(run) -> None:
    main = sys.modules["__main__"]
    run("check", "lasso.py")
    assert sys.modules["__main__"] is main


def test_a_picture_follows_a_link_and_never_replaces_a_device(run, tmp_path: Path) -> None:
    link = tmp_path / "link.svg"
    link.symlink_to("picture")
    assert run("check", "lasso.py", "--plot", link).code == 0
    assert link.is_symlink() and b"<svg" in (tmp_path / "picture").read_bytes()
    assert run("check", "lasso.py", "--plot", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()
    several = run("check", "several.py", "--plot", "/dev/null")
    assert several.code == 2 and "several pictures" in several.said
    assert not list(Path("/dev").glob("null-*"))
