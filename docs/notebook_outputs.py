"""Runs the notebooks: each script of docs/notebooks becomes a notebook with its outputs, in out/notebooks.

    python docs/notebook_outputs.py                  # all of them, in full (make notebooks)
    python docs/notebook_outputs.py --short sudoku   # one, in seconds

The scripts are in jupytext's percent format: `# %%` begins a cell, `# %% [markdown]` one of text. In the short mode,
CVXLAYERS_NOTEBOOKS=short, they take fewer steps and smaller samples.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["OUTPUTS", "SCRIPTS", "SHORT", "digest", "execute", "scripts", "stored"]

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "docs" / "notebooks"
OUTPUTS = ROOT / "out" / "notebooks"
SHORT = {"CVXLAYERS_NOTEBOOKS": "short"}
"""The environment in which a notebook takes seconds."""

AT_ONCE = min(4, os.cpu_count() or 1)
SECONDS = 1800
"""How long one cell may take."""

Notebook = dict[str, Any]


def scripts() -> list[Path]:
    """All notebooks, by name."""
    return sorted(SCRIPTS.glob("*.py"))


def digest(script: Path) -> str:
    """What tells one state of a notebook, and of the examples that it may import, from another."""
    found = hashlib.sha256()
    for path in (script, *sorted((ROOT / "examples").glob("*.py"))):
        found.update(path.read_bytes())
    return found.hexdigest()


def stored(script: Path) -> Notebook | None:
    """The notebook with its outputs, where it was run since it was last changed."""
    path = OUTPUTS / f"{script.stem}.ipynb"
    if not path.is_file():
        return None
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook if notebook["metadata"].get("cvxlayers", {}).get("digest") == digest(script) else None


def execute(script: Path, short: bool) -> None:
    """Run a notebook and keep its outputs; what goes to stderr is none of them.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        A cell raised an error: its assertion failed, say.
    """
    import jupytext
    import nbformat
    from nbclient import NotebookClient

    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": SCRIPTS}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in (*SHORT, "MPLBACKEND")}
    environment |= {**(SHORT if short else {}), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    client.execute(env=environment, stderr=subprocess.DEVNULL)  # where libraries of other languages write
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata["cvxlayers"] = {"digest": digest(script), "short": short}
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, OUTPUTS / f"{script.stem}.ipynb")


def execute_all(paths: Sequence[Path], short: bool) -> None:
    """Several of them side by side."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(partial(execute, short=short), paths))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which notebooks (default: all)")
    parser.add_argument("--short", action="store_true", help="fewer steps and smaller samples")
    options = parser.parse_args(arguments)
    names = options.names or [script.stem for script in scripts()]
    execute_all([SCRIPTS / f"{name}.py" for name in names], options.short)
    sys.stdout.write(f"{len(names)} notebooks in {OUTPUTS}; make docs shows them.\n")


if __name__ == "__main__":
    main()
