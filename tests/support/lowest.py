"""The oldest versions that setup.py admits, as constraints for pip: python tests/support/lowest.py ecos jax > FILE.

A requirement without a version of its own in setup.py (what others bring along) is left to pip. PyTorch is not lowered:
its old builds for a plain processor are not where pip finds packages, and the others are several gigabytes each.
"""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import setuptools

ROOT = Path(__file__).resolve().parents[2]
KEPT = {"torch"}  # at the tested version
# Likewise: they are no part of the package.
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "packaging", "threadpoolctl")


def metadata() -> dict[str, Any]:
    """The keywords that setup.py hands to setuptools."""
    caught: dict[str, Any] = {}
    right, setuptools.setup = setuptools.setup, caught.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = right
    return caught


def pin(name: str, pins: str) -> str:
    found = re.search(rf"^{re.escape(name)}==(.+)$", pins, re.MULTILINE)
    if found is None:
        raise ValueError(f"constraints.txt does not pin {name}, which is used at that version only: pin it there.")
    return found[1]


def lowest(texts: list[str], pins: str) -> list[str]:
    """One line NAME==VERSION for each requirement, in their order.

    Examples
    --------
    >>> lowest(["numpy>=2.0", "torch>=2.5", "mkdocstrings[python]>=1.0"], "torch==2.13.0")
    ['numpy==2.0', 'torch==2.13.0', 'mkdocstrings==1.0']
    """
    found = {}
    for text in texts:
        match = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", text)
        if match is None:
            raise ValueError(f"The requirement {text!r} of setup.py has no lower bound: write it as NAME>=VERSION.")
        name, version = match.groups()
        if name in KEPT:
            version = pin(name, pins)
        found[name] = f"{name}=={version}"
    return list(found.values())


if __name__ == "__main__":
    known = metadata()
    wanted = [text for extra in sys.argv[1:] for text in known["extras_require"][extra]]
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = lowest([*known["install_requires"], *wanted], pinned)
    lines += [f"{name}=={pin(name, pinned)}" for name in TOOLS]
    sys.stdout.write("\n".join(lines) + "\n")
