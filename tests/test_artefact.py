"""A compiled problem survives its file; a damaged or foreign file gets a clear error."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers import archive


@pytest.fixture
def compiled() -> cvxlayers.CompiledProblem:
    x, S = cp.Variable(3, name="x"), cp.Parameter((3, 3), symmetric=True, name="S")
    X, c = cp.Variable((2, 2), PSD=True, name="X"), cp.Parameter(3, name="c")
    constraint = cp.norm(x - c) <= 5
    objective = cp.sum_squares(S @ x) + cp.trace(X) + cp.sum(cp.exp(x)) + cp.inv_prod(x + 5)
    problem = cp.Problem(cp.Minimize(objective), [constraint, X >> 1, x[0] == 0.1])
    return cvxlayers.compile(problem, [S, c], [X, x, constraint.dual_variables[0]])


@pytest.fixture
def path(compiled: cvxlayers.CompiledProblem, tmp_path: Path) -> Path:
    target = tmp_path / "layer.cvxl"
    compiled.save(target)
    return target


def values() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    half = rng.standard_normal((4, 3, 3))
    return [half + half.transpose(0, 2, 1), rng.standard_normal((4, 3))]


def test_outputs_and_gradients_are_the_same_after_loading(compiled: cvxlayers.CompiledProblem, path: Path) -> None:
    before = cvxlayers.Layer(compiled).solve(values())
    after = cvxlayers.Layer(cvxlayers.load(path)).solve(values())
    cotangents = [np.ones_like(output) for output in before.outputs]
    for one, other in zip(before.outputs + before.vjp(cotangents), after.outputs + after.vjp(cotangents), strict=True):
        np.testing.assert_array_equal(one, other)


def test_everything_described_is_kept(compiled: cvxlayers.CompiledProblem, path: Path) -> None:
    loaded = cvxlayers.load(path)
    assert (loaded.parameters, loaded.outputs, loaded.features) == (
        compiled.parameters,
        compiled.outputs,
        compiled.features,
    )
    assert loaded.structure.cones == compiled.structure.cones
    assert loaded.structure.varying == compiled.structure.varying


def test_loading_and_solving_need_no_cvxpy(path: Path) -> None:
    code = (
        "import sys; sys.modules['cvxpy'] = None\n"
        "import cvxlayers, numpy as np\n"
        f"layer = cvxlayers.Layer(cvxlayers.load({str(path)!r}))\n"
        "record = layer.solve([np.eye(3), np.zeros(3)])\n"
        "record.vjp([np.ones_like(o) for o in record.outputs])\n"
        "print(layer.info.statuses)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "optimal" in done.stdout


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        cvxlayers.load(tmp_path / "absent.cvxl")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    target = tmp_path / "torn.cvxl"
    target.write_bytes(content)
    with pytest.raises(cvxlayers.ArtefactError, match=r"torn\.cvxl"):
        cvxlayers.load(target)


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_truncated_file(path: Path, cut: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(cvxlayers.ArtefactError, match="damaged"):
        cvxlayers.load(path)


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    target = tmp_path / "other.npz"
    np.savez(target, a=np.zeros(3))
    with pytest.raises(cvxlayers.ArtefactError, match="no compiled problem"):
        cvxlayers.load(target)


def test_pickled_content_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "pickle.npz"
    np.savez(target, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(cvxlayers.ArtefactError):
        cvxlayers.load(target)


def rewrite(path: Path, name: str, array: np.ndarray) -> None:
    """Replace one array inside the file."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    members[f"{name}.npy"] = buffer.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def test_a_changed_number_is_noticed(path: Path) -> None:
    with np.load(path) as archive:
        data = archive["q_constant"].copy()
    data[0] += 1
    rewrite(path, "q_constant", data)
    with pytest.raises(cvxlayers.ArtefactError, match="digest"):
        cvxlayers.load(path)


def test_another_version_is_named(path: Path) -> None:
    with np.load(path) as archive:
        header = json.loads(archive["header"].tobytes())
    header["format"] = 99
    rewrite(path, "header", np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
    with pytest.raises(cvxlayers.ArtefactError, match="version 99"):
        cvxlayers.load(path)


def test_a_failed_write_leaves_the_old_file(
    compiled: cvxlayers.CompiledProblem, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(archive, "write", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        compiled.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["layer.cvxl"]
