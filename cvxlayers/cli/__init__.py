"""The command ``cvxlayers``; see ``cvxlayers --help`` and docs/guides/cli.md."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code: 0 valid, 1 invalid, 2 misuse."""
    from cvxlayers.cli.app import app  # here, so that importing this package does not load Typer

    app(prog_name="cvxlayers")
