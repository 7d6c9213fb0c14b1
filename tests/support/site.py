"""The files in docs/ that make the site, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["docs_module"]

DOCS = Path(__file__).resolve().parents[2] / "docs"


def docs_module(name: str) -> ModuleType:
    """One of them, anew; they find each other, as MkDocs lets them."""
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[name] = found  # where its dataclasses look for it
        spec.loader.exec_module(found)
        return found
    finally:
        sys.path.remove(str(DOCS))
