"""A compiled problem survives its file; a damaged or foreign file gets a clear error."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers.files import archive
from cvxlayers.layer import checks
from cvxlayers.program import description, parts
from cvxlayers.program.artefact import dumps, loads
from tests.contracts.table import CASES
from tests.support import fuzz, layers, mutations


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
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    replace(path, {f"{name}.npy": buffer.getvalue()})


def replace(path: Path, new: dict[str, bytes], how: int = zipfile.ZIP_STORED) -> None:
    """Replace members of the file, or add some."""
    with zipfile.ZipFile(path) as zipped:
        members = {member: zipped.read(member) for member in zipped.namelist()} | new
    with zipfile.ZipFile(path, "w", how) as zipped:
        for member, content in members.items():
            zipped.writestr(member, content)


def refused(path: Path, words: str) -> None:
    with pytest.raises(cvxlayers.ArtefactError, match=words) as caught:
        cvxlayers.load(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith("Write it again with save.")


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


@pytest.mark.parametrize("row", CASES, ids=str)
def test_every_family_is_the_same_after_loading(row: Any) -> None:
    before = layers.compiled(row)
    after = loads(dumps(before))
    assert description.describe(after) == description.describe(before)
    old, new = parts.arrays(before), parts.arrays(after)
    for name, array in old.items():
        np.testing.assert_array_equal(new[name], array, name)
    assert dumps(after) == dumps(before)


def test_the_known_attributes_are_those_that_are_checked() -> None:
    assert set(checks.BROKEN) == description.ATTRIBUTES


def test_a_changed_header_is_noticed(path: Path) -> None:
    arrays, header = mutations.take_apart(path.read_bytes())
    header["maximize"] = True
    path.write_bytes(mutations.build(arrays, header, digest=False))
    refused(path, "do not match their digest")


def test_a_file_of_the_first_version_is_read(compiled: cvxlayers.CompiledProblem, path: Path) -> None:
    arrays, header = mutations.take_apart(path.read_bytes())
    header["format"], header["digest"] = 1, cvxlayers.program.artefact._digest(arrays)
    path.write_bytes(mutations.build(arrays, header, digest=False))
    assert cvxlayers.load(path).outputs == compiled.outputs


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """The file of a problem all of whose P, q, A and b depend on parameters."""
    x, Q, q = cp.Variable(3, name="x"), cp.Parameter((3, 3), PSD=True, name="Q"), cp.Parameter(3, name="q")
    A, b = cp.Parameter((2, 3), name="A"), cp.Parameter(2, name="b")
    constraints = [A @ x <= b, cp.sum(x) == 0.7, cp.norm(x) <= 4]
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, Q) + q @ x), constraints)
    path = tmp_path / "varied.cvxl"
    cvxlayers.compile(problem, [Q, q, A, b], [x, constraints[0].dual_variables[0]]).save(path)
    return path


INDICES = [f"{name}_{part}" for name in ("pattern_P", "pattern_A", "P", "q", "A", "b", "primal", "dual")
           for part in ("indices", "indptr")]  # fmt: skip


@pytest.mark.parametrize("name", INDICES)
def test_indices_out_of_range_never_come_to_a_kernel(varied: Path, name: str) -> None:
    path = varied
    arrays, header = mutations.take_apart(path.read_bytes())
    good = arrays[name]
    assert good.size
    for value in (-1, good.max() + 10**4, 2**31 - 1, -(2**31)):
        for place in (0, good.size // 2, good.size - 1):
            arrays[name] = good.copy()
            arrays[name][place] = value
            path.write_bytes(mutations.build(arrays, header))
            refused(path, f"its array {name}")
    for wrong in (good[:-1], np.append(good, good[-1:]), good[:0], good.astype(float), good[:, None]):
        arrays[name] = wrong
        path.write_bytes(mutations.build(arrays, header))
        refused(path, f"{name}|{name.replace('indices', 'indptr')}")


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """A change of one array or one part of the header, by its name or by a.b.c."""

    def apply(arrays: dict[str, Any], header: dict[str, Any]) -> None:
        here: Any = arrays if name in arrays else header
        *path, last = [name] if name in arrays else [int(part) if part.isdigit() else part for part in name.split(".")]
        for part in path:
            here = here[part]
        here[last] = change(here[last])

    return apply


def at(place: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[place] = value
        return array

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("A_data", at(0, np.nan)), "A_data has NaN or infinite"),
        (edit("A_constant", at(-1, np.inf)), "A_constant has NaN or infinite"),
        (edit("b_constant", at(0, np.inf)), "b_constant has NaN or infinite"),  # a row of the zero cone
        (edit("P_constant", lambda a: a.astype("f4")), "no plain array"),
        (edit("P_constant", lambda a: a.astype(">f8")), "no plain array"),
        (edit("offset_constant", lambda a: a[:, None]), "no plain array of one dimension"),
        (edit("A_data", lambda a: a[:-1]), "A_data has .* entries, expected"),
        (edit("pattern_A_indices", lambda a: a[::-1]), "not in ascending order"),
        (edit("pattern_P_indptr", lambda a: np.minimum(a[::-1], a.max())), "does not rise"),
        (edit("pattern_P_indices", at(0, 5)), "below the diagonal"),
        (edit("n", lambda n: n + 1), "q_constant has"),
        (edit("n", str), "n is '"),
        (edit("n", float), "expected an integer"),
        (edit("n", lambda n: True), "n is True"),
        (edit("cones.exponential", lambda n: 10**9), "number of rows of the cones"),
        (edit("cones.exponential", lambda n: 2**29), "b_constant has"),
        (edit("cones.psd", lambda psd: [*psd, 10**6]), "number of rows of the cones"),
        (edit("cones.second_order", lambda d: [-d[0], *d[1:], 2 * d[0]]), "expected an integer from 1"),
        (edit("cones.power", lambda alphas: [1.5]), "exponent between 0 and 1"),
        (edit("cones.power", lambda alphas: [float("nan")]), "exponent between 0 and 1"),
        (edit("varying", lambda names: [name for name in names if name != "A"]), "varying is"),
        (edit("varying", lambda names: [*names, "x"]), "some of P, q, A and b"),
        (edit("gp", lambda gp: True), "exponential where gp is"),
        (edit("maximize", lambda maximize: 0), "type bool"),
        (edit("parameters.0.shape", lambda shape: [2, 3]), "square"),
        (edit("parameters.1.shape", lambda shape: [4]), "feature 0, rows|feature 1, rows"),
        (edit("parameters.1.shape", lambda shape: [2**16, 2**16]), "entries at most"),
        (edit("parameters.1.attributes", lambda _: ["friendly"]), "expected some of NSD, PSD"),
        (edit("parameters.1.attributes", lambda _: ["hermitian"]), "a real one has"),
        (edit("parameters.1.complex", lambda _: True), "one of real, imag"),
        (edit("parameters.1.sparsity", lambda _: [0, 3]), "places below 3"),
        (edit("parameters.1.bounds", lambda _: [[0.0, 0.0], [1.0, 1.0]]), "two lists of 3"),
        (edit("parameters.1.bounds", lambda _: [[0.0, 0.0, 2.0], [1.0] * 3]), "not above the upper"),
        (edit("parameters.1.name", lambda _: None), "type str"),
        (edit("features.0.parameter", lambda _: 2), "one of 2 parameters"),
        (edit("features.0.transform", lambda _: "cube"), "one of identity"),
        (edit("features.0.stop", lambda stop: stop - 1), "rows is"),
        (edit("features", lambda features: features[:1]), "features|_indices|rows|varying"),
        (edit("outputs.0.shape", lambda shape: [5]), "output 0, rows"),
        (edit("outputs.0.kind", lambda kind: "dual"), "primal_indices has entries for the dual variable 'X'"),
        (edit("outputs.1.start", lambda start: -1), "expected an integer from 0"),
        (edit("outputs.0", lambda output: {**output, "more": 1}), "with the fields"),
        (lambda arrays, header: arrays.pop("q_indptr"), "lacks some: q_indptr"),
        (lambda arrays, header: arrays.update(more=np.zeros(2)), "should not have.*more"),
        (lambda arrays, header: header.update(more=0), "with the fields"),
        (lambda arrays, header: header.pop("cones"), "with the fields"),
    ],
)
def test_what_is_not_consistent_is_refused(path: Path, change: Callable[..., object], words: str) -> None:
    arrays, header = mutations.take_apart(path.read_bytes())
    change(arrays, header)
    path.write_bytes(mutations.build(arrays, header))
    refused(path, words)


def test_a_bound_may_be_infinite(tmp_path: Path) -> None:
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x <= np.array([1.0, np.inf])])
    compiled = cvxlayers.compile(problem)
    np.testing.assert_array_equal(loads(dumps(compiled)).b.constant, compiled.b.constant)


@pytest.mark.parametrize(
    ("described", "data"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (400000000000,), }", b""),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999999999,), }", b""),
        ("{'descr': '<f8', 'fortran_order': True, 'shape': (1,), }", bytes(8)),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"cos\nsystem\n(S'false'\ntR."),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", bytes(9)),
        ("[" * 5000, b""),
    ],
)
def test_an_array_that_is_not_what_it_says(path: Path, described: str, data: bytes) -> None:
    line = described.encode() + b"\n"
    start = b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little")
    replace(path, {"offset_constant.npy": start + line + data})
    refused(path, r"member 'offset_constant\.npy'")


def test_archives_that_are_not_ours(path: Path) -> None:
    sound = path.read_bytes()
    member = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    description = "{'descr': '<f8', 'fortran_order': False, 'shape': (12000000,), }"
    bomb = member + (description.ljust(117) + "\n").encode() + bytes(8 * 12_000_000)
    replace(path, {"offset_constant.npy": bomb}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    refused(path, "expands to")
    path.write_bytes(sound)
    replace(path, {"readme.txt": b"read me"})
    refused(path, r"'readme\.txt' is no array")
    path.write_bytes(sound)
    replace(path, {}, zipfile.ZIP_BZIP2)
    refused(path, "compressed in a way that is not ours")
    path.write_bytes(sound)
    with zipfile.ZipFile(path, "a") as zipped, pytest.warns(UserWarning, match="Duplicate name"):
        zipped.writestr("q_constant.npy", zipped.read("q_constant.npy"))
    refused(path, "each of another name")
    at = sound.index(b"PK\x01\x02") + 24  # the size of the first member, in the table of contents
    path.write_bytes(sound[:at] + (2**31).to_bytes(4, "little") + sound[at + 4 :])
    refused(path, "larger than it can be|no sound archive|another size")


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(cvxlayers.ArtefactError, match=str(path)):
            cvxlayers.load(path)


def test_saving_follows_links_and_keeps_permissions(compiled: cvxlayers.CompiledProblem, path: Path) -> None:
    usual = path.parent / "usual"
    usual.write_bytes(b"")
    assert path.stat().st_mode == usual.stat().st_mode
    path.chmod(0o604)
    link = path.parent / "link.cvxl"
    link.symlink_to(path.name)
    before = path.stat().st_ino
    compiled.save(link)
    assert link.is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o604 and path.stat().st_ino != before
    assert cvxlayers.load(link).k == compiled.k


def test_mutated_files_are_refused_or_sound() -> None:
    """The larger run is ``python -m tests.support.fuzz``."""
    found = fuzz.run(100, seed=7, rows=("attributes", "quad_form"))
    assert found.bad == []
    assert sum(count for (_, outcome), count in found.counts.items() if outcome == "refused") > 40
    assert found.counts["array", "other"] > 0
