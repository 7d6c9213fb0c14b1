"""How the tests of the command line call it, and where its small problem files are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cvxlayers.cli.app import app

FILES = Path(__file__).with_name("files")


@dataclass(frozen=True)
class Answer:
    """What a call of the command gave: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything, with line breaks and runs of blanks made single blanks."""
        return " ".join((self.out + " " + self.err).split())

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Answer]


@pytest.fixture
def run() -> Run:
    """Call the command with these arguments; names that end in .py or have .py: are files of the folder files/."""

    def call(*arguments: object) -> Answer:
        result = CliRunner().invoke(app, [_placed(str(argument)) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return call


def _placed(argument: str) -> str:
    is_ours = argument.partition(":")[0].endswith(".py") and "/" not in argument
    return str(FILES / argument) if is_ours else argument
