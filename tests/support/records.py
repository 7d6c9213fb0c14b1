"""Which solved calls a test made."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from cvxlayers.layer.layer import Layer
from cvxlayers.layer.record import Record

__all__ = ["watch"]


def watch(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[weakref.ref[Record]]]:
    """The records that are solved from here on ("solve") and those that are restored ("restore"), held weakly."""
    made: dict[str, list[weakref.ref[Record]]] = {"solve": [], "restore": []}
    originals = {name: getattr(Layer, name) for name in made}
    for name, original in originals.items():

        def watched(self: Layer, *given: Any, original: Any = original, name: str = name, **options: Any) -> Record:
            record: Record = original(self, *given, **options)
            made[name].append(weakref.ref(record))
            return record

        monkeypatch.setattr(Layer, name, watched)
    return made
