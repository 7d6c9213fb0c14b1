"""What a Keras layer's configuration holds in JSON: the compiled problem, and the weights among its parameters."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import keras
import numpy as np

from cvxlayers.errors import ArtefactError, OptionError
from cvxlayers.program.artefact import dumps, loads
from cvxlayers.program.compiled import CompiledProblem

__all__ = ["Weight", "decode", "encode"]


def encode(compiled: CompiledProblem) -> str:
    """The file that ``compiled.save`` writes, in base64."""
    return base64.b64encode(dumps(compiled)).decode("ascii")


def decode(text: str) -> CompiledProblem:
    """The problem that ``encode`` took; CVXPY is not needed.

    Raises
    ------
    ArtefactError
        The text is damaged, or holds no compiled problem.
    """
    try:
        content = base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as exc:
        raise ArtefactError(
            f"problem: expected a compiled problem in base64, as get_config gives it, got {text!r:.40} ({exc}); save "
            "the model again."
        ) from exc
    return loads(content)


@dataclass(frozen=True)
class Weight:
    """How a parameter that the layer owns starts and is kept; Keras objects, or what Keras makes them of.

    Attributes
    ----------
    initializer : keras initializer, its name, or an array or number
    constraint, regularizer : Keras objects, their names, or None
    trainable : bool
    """

    initializer: Any = "zeros"
    constraint: Any = None
    regularizer: Any = None
    trainable: bool = True

    @classmethod
    def of(cls, given: Any, name: str) -> Weight:
        """From an initializer alone, or a mapping of the attributes' names."""
        known = {field.name for field in fields(cls)}
        if not isinstance(given, Mapping) or "class_name" in given:  # Keras's own form of a saved object has one
            given = {"initializer": given}
        if unknown := sorted(set(given) - known):
            raise OptionError(
                f"weights['{name}']: got {', '.join(map(repr, unknown))}, expected an initializer or a mapping with "
                f"some of {', '.join(sorted(known))}."
            )
        options = dict(given)
        start = options.get("initializer", cls.initializer)
        if isinstance(start, int | float | list | tuple | np.ndarray):
            start = keras.initializers.Constant(start if np.ndim(start) == 0 else np.asarray(start))
        options["initializer"] = keras.initializers.get(start)
        options["constraint"] = keras.constraints.get(options.get("constraint"))
        options["regularizer"] = keras.regularizers.get(options.get("regularizer"))
        return cls(**options)

    def config(self) -> dict[str, Any]:
        """In a form that JSON takes and ``of`` reads."""
        return {
            "initializer": keras.initializers.serialize(self.initializer),
            "constraint": keras.constraints.serialize(self.constraint),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "trainable": self.trainable,
        }
