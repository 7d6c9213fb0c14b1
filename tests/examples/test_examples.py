"""Every example runs in a short mode, improves its score, leaves a picture, and uses public names only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import cvxlayers
import cvxlayers.nodes
import cvxlayers.torch
from tests.support.examples import EXAMPLES, is_a_picture, load

FILES = sorted(EXAMPLES.glob("*.py"))
PUBLIC = {
    "cvxlayers": set(cvxlayers.__all__),
    **{f"cvxlayers.{name}": {"CvxpyLayer"} for name in ("jax", "keras")},
    "cvxlayers.torch": set(cvxlayers.torch.__all__),
    "cvxlayers.nodes": set(cvxlayers.nodes.__all__),
}


@pytest.mark.parametrize(
    ("name", "steps", "factor"),
    [
        ("total_variation", 25, 0.5),
        ("geometric_program", 30, 0.3),
        ("learn_constraints", 25, 0.2),
        ("sudoku", 30, 0.15),
    ],
)
def test_what_is_learned_is_better_than_the_start(
    name: str, steps: int, factor: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    scores = load(name).main(["--steps", str(steps), "--out", str(picture)])
    assert scores["learned"] < factor * scores["start"]
    assert is_a_picture(picture)
    assert "learned" in capsys.readouterr().out


@pytest.mark.parametrize("head", ["svm", "ridge"])
def test_tasks_are_learned_from_tasks(head: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    scores = load("meta_learning").main(["--head", head, "--steps", "25", "--out", str(picture)])
    assert scores["learned"] > scores["raw"] + 0.15 > scores["chance"] + 0.15
    assert is_a_picture(picture)
    assert f"{scores['learned']:.3f} learned" in capsys.readouterr().out


def test_the_heads_are_what_they_say() -> None:
    """The ridge head in closed form; the machine's weights meet their constraints and beat feasible neighbours."""
    heads = load("meta_learning")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 12, 5, generator=generator, dtype=torch.float64)
    classes = heads.labels(3)
    Y = torch.nn.functional.one_hot(classes, 4).double()
    W = heads.ridge_head(0.5)(features, classes)
    gram = features.mT @ features + 0.5 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(W, torch.linalg.solve(gram, features.mT @ Y), atol=1e-6, rtol=1e-6)
    # With many more features than examples, each example's own class has the largest score.
    wide = torch.randn(2, 12, 60, generator=generator, dtype=torch.float64)
    scores = wide @ heads.svm_head(10.0)(wide, classes)
    assert (scores.argmax(-1) == classes).all()
    own = scores.gather(-1, classes.expand(2, -1)[..., None])
    others = scores.masked_fill(Y.bool(), -torch.inf).amax(-1, keepdim=True)
    torch.testing.assert_close(own - others, torch.ones_like(own), atol=1e-5, rtol=0)  # all lie on the margin


def test_the_rules_of_sudoku_solve_every_board() -> None:
    sudoku = load("sudoku")
    every, A = sudoku.boards(), sudoku.rules()
    assert (every.shape, A.shape) == ((288, 16), (40, 64))
    solver = sudoku.Solver(A, torch.full((64,), 0.25, dtype=torch.float64).log())
    assert sudoku.score(solver, sudoku.puzzles(every, every, 200, np.random.default_rng(0)))[0] == 1.0


def test_training_through_the_portfolio_regains_a_part_of_what_forecasting_errors_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    scores = load("train_portfolio").main(["--steps", "15", "--out", str(picture)])
    lost = scores["true mean"] - scores["two-stage"]
    assert scores["end to end"] - scores["two-stage"] > 0.1 * lost > 0
    assert scores["two-stage"] > scores["equal weights"]
    assert is_a_picture(picture)
    assert f"end to end {scores['end to end']:.2f}" in capsys.readouterr().out


def test_costs_cut_the_turnover_of_the_portfolio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "picture.png"
    load("portfolio").main(["--steps", "20", "--out", str(picture)])
    found = re.search(r"mean turnover: ([\d.]+) % without costs, ([\d.]+) % with", capsys.readouterr().out)
    assert found is not None
    free, costly = (float(value) for value in found.groups())
    assert 0 < costly < 0.8 * free
    assert is_a_picture(picture)


def test_the_slope_of_the_turnover_is_its_derivative_in_the_cost() -> None:
    frontier = load("portfolio").frontier
    step, cost = 1e-6, 0.002
    higher, lower = (frontier(12, cost + sign * step, 0)["turnover"] for sign in (1, -1))
    slope = frontier(12, cost, 0)["slope"]
    # The turnover is piecewise linear in the cost; solutions known to 1e-9 give a quotient known to 1e-3.
    np.testing.assert_allclose(slope, (higher - lower) / (2 * step), rtol=1e-3, atol=1e-3)
    assert (slope < -1).sum() >= 6


def test_the_portfolio_is_imported_without_a_framework() -> None:
    code = "import sys, portfolio; print(sorted({'torch', 'matplotlib', 'rich', 'cvxlayers'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# With little floor, walls are to spare: w = sqrt(floor / low), d = low w and h = high w, a volume of
# floor^1.5 high / sqrt(low). With much floor, w = d = sqrt(floor) and h = walls / (4 w): walls sqrt(floor) / 4.
@pytest.mark.parametrize(("floor", "expected"), [(5.0, [0.0, 1.5, 1.0]), (20.0, [1.0, 0.5, 0.0])])
def test_the_elasticities_of_the_box_have_the_closed_form(floor: float, expected: list[float]) -> None:
    box = load("geometric_program")
    layer = box.CvxpyLayer(
        box.problem, parameters=[box.walls, box.floor, box.high], variables=[box.h, box.w, box.d], gp=True
    )
    np.testing.assert_allclose(box.elasticities(layer, 60.0, floor, box.TRUE_HIGH), expected, atol=1e-6)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_import_public_names_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cvxlayers":
            names = {alias.name for alias in node.names}
            assert names <= PUBLIC.get(node.module, set()), f"{path.name}: {node.module} has no public {names}"
        if isinstance(node, ast.Import):
            modules = {alias.name for alias in node.names if alias.name.split(".")[0] == "cvxlayers"}
            assert modules <= set(PUBLIC), f"{path.name}: not all of {modules} are public modules"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_examples_say_how_to_run_them(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert f"examples/{path.name}" in docstring
