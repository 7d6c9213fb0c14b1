"""``cvxlayers doctor`` and the command as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import typer

from cvxlayers import __version__
from cvxlayers.cli import doctor
from cvxlayers.cli.app import app
from cvxlayers.ipm import entry
from cvxlayers.kernels import jit
from cvxlayers.layer.record import Record
from cvxlayers.solvers import registry

ROOT = Path(__file__).resolve().parents[2]


def test_every_installed_solver_passes_for_each_of_its_cones(run) -> None:
    answer = run("doctor", "--json")
    report = answer.json
    failed = [test for test in report["tests"] if not (test["passed"] or test["skipped"])]
    assert failed == []
    assert answer.code == 0 and report["healthy"]
    tested = {(test["solver"], test["kind"]) for test in report["tests"]}
    assert tested == {(s.name, kind) for s in registry.SOLVERS.values() if s.installed() for kind in s.kinds}
    versions = {package["name"]: package["version"] for package in report["packages"]}
    assert versions["cvxlayers"] == __version__ and versions["numpy"] == np.__version__


def test_absent_packages_come_with_what_to_install(run, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "jax":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.setattr(doctor, "PROBLEMS", {"nonneg": doctor.PROBLEMS["nonneg"]})
    said = run("doctor").said
    assert "jax absent pip install 'cvxlayers[jax]'" in said


def test_a_wrong_gradient_makes_the_doctor_unhappy(run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = Record.vjp
    monkeypatch.setattr(Record, "vjp", lambda self, w: tuple(1.1 * part for part in right(self, w)))
    monkeypatch.setattr(doctor, "PROBLEMS", {"nonneg": doctor.PROBLEMS["nonneg"]})
    answer = run("doctor")
    assert answer.code == 1
    assert "CLARABEL nonneg FAIL" in answer.said and "Some self-test failed." in answer.said


def test_the_version(run) -> None:
    answer = run("--version")
    assert (answer.code, answer.out) == (0, f"cvxlayers {__version__}\n")


@pytest.mark.parametrize("command", ["check", "solve", "doctor"])
def test_each_command_explains_itself(run, command: str) -> None:
    answer = run(command, "--help")
    assert answer.code == 0
    if command != "doctor":
        assert "runs the file" in answer.said.replace("│ │ ", "") and f"cvxlayers {command} model.py" in answer.said


def test_python_m_is_the_command() -> None:
    call = [sys.executable, "-m", "cvxlayers", "check", "tests/cli/files/not_dpp.py"]
    answer = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == 1
    assert "NotDPPError" in answer.stdout and answer.stderr == ""


def test_help_loads_neither_cvxpy_nor_a_solver() -> None:
    code = (
        "import sys\nfrom cvxlayers.cli import main\nsys.argv = ['cvxlayers', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'cvxpy', 'clarabel', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.stdout.splitlines()[-1] == "[]", answer.stderr


def test_the_documented_options_are_those_of_the_commands() -> None:
    text = (ROOT / "docs" / "guides" / "cli.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    options = {name for sub in command.commands.values() for parameter in sub.params for name in parameter.opts}
    real = {name for name in options if name.startswith("--")} | {"--help", "--version"}
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == real


def test_the_kernels_are_compiled_ahead_of_time(run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = run("doctor", "--warm", "--json")
    assert answer.code == 0 and answer.json["seconds"] >= 0 and isinstance(answer.json["compiled"], bool)
    assert "The kernels of IPM are ready" in run("doctor", "--warm").said
    monkeypatch.setattr(registry.SOLVERS["IPM"], "installed", classmethod(lambda cls: False))
    without = run("doctor", "--warm")
    assert without.code == 1 and "pip install 'cvxlayers[fast]'" in without.said


def test_no_kernel_of_the_solver_is_left_to_the_first_call() -> None:
    ahead = [name for module, name, _ in doctor._kernels() if module == entry.__name__]
    assert set(ahead) == set(entry.__all__)


def test_where_no_processes_can_be_had_this_one_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> object:
        raise OSError("no more processes")

    monkeypatch.setattr(doctor, "ProcessPoolExecutor", refuse)
    monkeypatch.setattr(doctor, "_loaded", lambda kernel: kernel[1] != "decompose")
    assert doctor.warm_up().compiled
    monkeypatch.setattr(doctor, "_loaded", lambda kernel: True)
    assert not doctor.warm_up().compiled


def test_a_numba_of_no_use_is_told_with_its_reason(run, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "Numba is installed but cannot be imported (ImportError: too old). Install another one."
    monkeypatch.setattr(jit, "hindrance", lambda: reason)
    for command in (("doctor", "--warm"), ("check", "lasso.py", "--solver", "IPM")):
        answer = run(*command)
        assert answer.code != 0 and reason in answer.said
    assert [found.hindrance for found in doctor.solvers() if found.name == "IPM"] == [reason]
    engines = run("check", "lasso.py", "--json").json["problems"][0]
    assert reason in str(engines) and run("check", "lasso.py").code == 0
