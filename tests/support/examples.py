"""Examples as modules, and a look at the pictures they leave."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from matplotlib import image

__all__ = ["EXAMPLES", "is_a_picture", "load"]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    """The example as a module, as ``python examples/NAME.py`` would see it."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(EXAMPLES))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(EXAMPLES))
    return module


def is_a_picture(path: Path) -> bool:
    """A PNG file with something drawn in its left half and in its right half."""
    pixels = image.imread(path)[:, :, :3]
    halves = np.array_split(pixels, 2, axis=1)
    return all(len(np.unique((255 * half).astype(int).reshape(-1, 3), axis=0)) > 20 for half in halves)
