"""``cvxlayers solve``: files in, files out, and every way in which that can fail."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def values(tmp_path: Path) -> Path:
    path = tmp_path / "p.npz"
    random = np.random.default_rng(0)
    np.savez(path, A=random.standard_normal((5, 1, 4, 3)), b=random.standard_normal((7, 4)), weight=0.3)
    return path


def test_a_batch_is_solved_in_chunks(run, values: Path, tmp_path: Path) -> None:
    command = ("solve", "lasso.py", "--params", values, "--out", tmp_path / "x.npz", "--batch-size", "8")
    assert "would broadcast to (5, 7)" in run(*command).said
    answer = run(*command, "--broadcast")
    assert answer.code == 0
    assert "optimal 35" in answer.said and "x 5 x 7 x 3 float64" in answer.said
    found, given = read(tmp_path / "x.npz"), read(values)
    assert set(found) == {
        "x", "status", "objective", "engine", "iterations",
        "residual_primal", "residual_dual", "residual_gap", "residual_cone",
    }  # fmt: skip
    x = found["x"]
    assert x.shape == (5, 7, 3) and (found["status"] == "optimal").all()
    assert found["residual_primal"].max() < 1e-6
    # optimality of the lasso: 2 A'(Ax - b) + weight sign(x) = 0 where x is not 0, and at most the weight elsewhere
    A, b = given["A"], given["b"]
    error = np.einsum("...ij,...j->...i", A, x) - b
    gradient = 2 * np.einsum("...ij,...i->...j", A, error)
    active = np.abs(x) > 1e-6
    assert np.abs(gradient + 0.3 * np.sign(x))[active].max() < 1e-5
    assert np.abs(gradient[~active]).max() <= 0.3 + 1e-5
    objective = (error**2).sum(axis=-1) + 0.3 * np.abs(x).sum(axis=-1)
    np.testing.assert_allclose(found["objective"], objective, rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_without_a_batch_and_with_an_empty_one(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    np.savez(values, c=[2.0, 3.0])
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", out).code == 0
    np.testing.assert_allclose(read(out)["x"], [1.0, 1.0], atol=1e-6)
    assert read(out)["status"].shape == ()
    np.savez(values, c=np.zeros((0, 2)))
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", out).code == 0
    assert read(out)["x"].shape == (0, 2)


def test_names_that_collide_get_suffixes(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    with open(values, "wb") as handle:  # savez keeps the name "file" for itself
        np.savez(handle, file_2=[3.0, 4.0])
    missing = run("solve", "same_names.py", "--params", values, "--out", out)
    assert missing.code == 1 and "missing file of shape (..., 2)" in missing.said
    from cvxlayers.cli.npz import write_npz

    write_npz(values, {"file": np.array([1.0, 2.0]), "file_2": np.array([3.0, 4.0])})
    assert run("solve", "same_names.py", "--params", values, "--out", out).code == 0
    found = read(out)
    np.testing.assert_allclose(found["status_2"], [1.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(found["y"], [3.0, 4.0], atol=1e-6)
    assert found["y_2"].shape == () and str(found["status"]) == "optimal"


def test_a_geometric_program(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    np.savez(values, wall=[10.0, 20.0], floor=5.0)
    assert run("solve", "geometric.py", "--gp", "--params", values, "--out", out).code == 0
    found = read(out)
    np.testing.assert_allclose(found["objective"], found["h"] * found["w"] * found["d"], rtol=1e-6)


def test_failures_follow_the_policy(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    np.savez(values, c=[[[2.0, 2.0], [3.0, 3.0]], [[4.0, 4.0], [0.0, 2.0]]])
    command = ("solve", "infeasible.py:sometimes", "--params", values, "--out", out, "--batch-size", "1")
    answer = run(*command)
    assert answer.code == 1 and not out.exists()
    assert "element [1, 1] is infeasible" in answer.said and "Nothing was written" in answer.said
    assert run(*command, "--on-failure", "nan").code == 0
    found = read(out)
    assert found["status"].tolist() == [["optimal", "optimal"], ["optimal", "infeasible"]]
    assert np.isnan(found["x"][1, 1]).all() and np.isfinite(found["x"][0]).all()
    assert run(*command, "--on-failure", "zero_grad").code == 0
    assert np.isfinite(read(out)["x"]).all()


def test_values_that_are_not_finite(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    np.savez(values, c=[[2.0, 2.0], [np.nan, 2.0]])
    answer = run("solve", "infeasible.py:sometimes", "--params", values, "--out", out)
    assert answer.code == 1 and "parameter 'c': it has NaN or infinite entries" in answer.said
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", out, "--on-failure", "nan").code == 0
    assert read(out)["status"].tolist() == ["optimal", "failed"]


def test_values_that_break_an_attribute_follow_the_policy(run, tmp_path: Path) -> None:
    values, out = tmp_path / "p.npz", tmp_path / "x.npz"
    np.savez(values, A=np.eye(4, 3), b=np.full(4, 3.0), weight=[2.0, -0.5, 4.0])
    answer = run("solve", "lasso.py", "--params", values, "--out", out)
    assert answer.code == 1 and "parameter 'weight': it was declared nonneg" in answer.said and not out.exists()
    assert run("solve", "lasso.py", "--params", values, "--out", out, "--on-failure", "nan").code == 0
    found = read(out)
    assert found["status"].tolist() == ["optimal", "failed", "optimal"]
    np.testing.assert_allclose(found["x"], [[2.0] * 3, [np.nan] * 3, [1.0] * 3], atol=1e-6)
    np.savez(values, wall=[10.0, 20.0], floor=[5.0, -5.0])
    command = ("solve", "geometric.py", "--gp", "--params", values, "--out", out)
    answer = run(*command)
    assert answer.code == 1 and "parameter 'floor'" in answer.said and "positive" in answer.said
    assert run(*command, "--on-failure", "zero_grad").code == 0
    assert read(out)["status"].tolist() == ["optimal", "failed"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (
            {"A": np.ones((4, 3)), "b": np.ones((5, 4)), "weight": np.ones((5, 1))},
            "weight.squeeze(-1) (or the function squeeze of the framework, with axis=-1). If every combination is "
            "meant, pass --broadcast.",
        ),
        ({"A": np.ones((4, 3)), "b": np.ones(4)}, "missing weight of shape (...)"),
        ({"A": np.ones((4, 3)), "B": np.ones(4), "weight": 1.0}, "missing b of shape (..., 4)"),
        (
            {"A": np.ones((4, 3)), "b": np.ones(4), "weight": 1.0, "wieght": 1.0},
            "unknown wieght (did you mean weight?)",
        ),
        ({"A": np.ones((3, 4)), "b": np.ones(4), "weight": 1.0}, "shape (3, 4), expected (..., 4, 3)"),
        ({"A": np.ones((2, 4, 3)), "b": np.ones((3, 4)), "weight": 1.0}, "A has (2,), b has (3,), weight has ()"),
        ({"A": np.ones((4, 3)), "b": np.array(["a"] * 4), "weight": 1.0}, "expected real numbers, got the dtype <U1"),
        ({"A": np.ones((4, 3)), "b": np.ones(4), "weight": -1.0}, "parameter 'weight': it was declared nonneg"),
    ],
)
def test_values_that_do_not_fit(run, tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    answer = run("solve", "lasso.py", "--params", tmp_path / "p.npz", "--out", tmp_path / "x.npz")
    assert answer.code == 1
    assert words in answer.said
    assert not (tmp_path / "x.npz").exists()


def test_files_that_are_no_npz(run, tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    path.write_bytes(b"no archive")
    command = ("solve", "lasso.py", "--params", path, "--out", tmp_path / "x.npz")
    assert run(*command).code == 2 and "it is not an npz file" in run(*command).said
    np.savez(path, A=np.array([{}], dtype=object))
    assert run(*command).code == 2 and "it is not an npz file of plain arrays" in run(*command).said
    with open(path, "wb") as handle:
        np.save(handle, np.ones(3))
    assert run(*command).code == 2 and "a single array" in run(*command).said


def test_misuse(run, values: Path, tmp_path: Path) -> None:
    several = run("solve", "several.py", "--params", values, "--out", tmp_path / "x.npz")
    assert several.code == 2 and "takes one problem" in several.said
    folder = run("solve", "lasso.py", "--params", values, "--out", tmp_path)
    assert folder.code == 2 and "it is a folder" in folder.said
    nowhere = run("solve", "lasso.py", "--params", values, "--out", "/nowhere/at/all.npz")
    assert nowhere.code == 2 and "does not exist" in nowhere.said
    policy = run("solve", "lasso.py", "--params", values, "--out", tmp_path / "x.npz", "--on-failure", "ignore")
    assert policy.code == 2
    assert run("solve", "lasso.py", "--out", tmp_path / "x.npz").code == 2


def test_an_invalid_problem_is_an_error_of_one_message(run, values: Path, tmp_path: Path) -> None:
    answer = run("solve", "not_dpp.py", "--params", values, "--out", tmp_path / "x.npz")
    assert answer.code == 1
    assert "not disciplined in its parameters (DPP)" in answer.said and "Traceback" not in answer.said


def test_a_pipe_gets_the_results_and_stays(run, tmp_path: Path) -> None:
    values, pipe, got = tmp_path / "p.npz", tmp_path / "sink", []
    np.savez(values, c=[[2.0, 2.5], [3.0, 3.5], [4.0, 5.0]])
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", pipe).code == 0
    reader.join(10)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert np.load(io.BytesIO(got[0]))["x"].shape == (3, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.npz", "sink"]


def test_the_standard_output_gets_the_file_alone(tmp_path: Path) -> None:
    values, model = tmp_path / "p.npz", Path(__file__).with_name("files") / "infeasible.py"
    np.savez(values, c=[2.0, 2.5])
    command = [sys.executable, "-m", "cvxlayers", "solve", f"{model}:sometimes", "--params", str(values), "--out"]
    done = subprocess.run([*command, "/dev/stdout"], capture_output=True, check=False)
    assert done.returncode == 0 and b"Written to /dev/stdout" in done.stderr
    assert done.stdout.startswith(b"PK") and b"Written" not in done.stdout
    assert np.load(io.BytesIO(done.stdout))["x"].shape == (2,)


def test_a_link_and_the_permissions_stay(run, tmp_path: Path) -> None:
    values, target, link = tmp_path / "p.npz", tmp_path / "x.npz", tmp_path / "link.npz"
    np.savez(values, c=[2.0, 2.5])
    target.write_bytes(b"old")
    target.chmod(0o606)
    link.symlink_to("x.npz")
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", link).code == 0
    assert link.is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o606
    assert read(target)["x"].shape == (2,)


def test_a_device_stays(run, tmp_path: Path) -> None:
    values = tmp_path / "p.npz"
    np.savez(values, c=[2.0, 2.5])
    assert run("solve", "infeasible.py:sometimes", "--params", values, "--out", os.devnull).code == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8, 0.97])
def test_values_in_a_damaged_file(run, values: Path, tmp_path: Path, cut: float) -> None:
    content = bytearray(values.read_bytes())
    place = int(cut * len(content))
    for damaged in (content[:place], content[:place] + bytes(40) + content[place + 40 :]):
        values.write_bytes(damaged)
        answer = run("solve", "lasso.py", "--params", values, "--out", tmp_path / "x.npz")
        assert answer.code in (1, 2) and "Error:" in answer.said and not (tmp_path / "x.npz").exists()


def test_values_that_say_they_are_enormous(run, tmp_path: Path) -> None:
    import zipfile

    line = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000000000,), }\n"
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as zipped:
        zipped.writestr("c.npy", b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line)
    answer = run("solve", "infeasible.py:sometimes", "--params", tmp_path / "p.npz", "--out", tmp_path / "x.npz")
    assert answer.code == 2 and "it is not an npz file of plain arrays" in answer.said
