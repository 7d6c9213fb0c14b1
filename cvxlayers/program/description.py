"""What a saved problem says of itself in JSON, beside its arrays: written, and read with every field checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from cvxlayers.cones import KINDS, Cones, Kind
from cvxlayers.errors import ArtefactError
from cvxlayers.program.compiled import CompiledProblem, Feature, OutputSpec, ParameterSpec

__all__ = ["ATTRIBUTES", "Description", "describe", "parse_json", "read"]

LARGEST = 2**31 - 1
"""The largest size or index; kernels count in 32 bits."""

DIMENSIONS = 32

ROUNDING = 1e-12
"""By how much the exponents of a power cone may miss their sum."""

SIGNS = frozenset({"nonneg", "nonpos", "pos", "neg", "boolean", "integer"})
SQUARES = frozenset({"symmetric", "PSD", "NSD", "diag", "hermitian", "PSD in its symmetric part"})
COMPLEX = frozenset({"hermitian", "imag"})
ATTRIBUTES = SIGNS | SQUARES | COMPLEX
"""All attributes of parameters: those of real ones alone, of square ones alone, of complex ones alone."""


@dataclass(frozen=True)
class Description:
    """All of a compiled problem but its arrays; ``n`` and ``m`` are the numbers of columns and rows of A."""

    n: int
    m: int
    cones: Cones
    varying: frozenset[str]
    parameters: tuple[ParameterSpec, ...]
    outputs: tuple[OutputSpec, ...]
    features: tuple[Feature, ...]
    maximize: bool
    gp: bool

    @property
    def k(self) -> int:
        """The number of rows of theta."""
        return self.features[-1].stop if self.features else 0

    @property
    def rows(self) -> int:
        """The number of rows of all outputs."""
        return self.outputs[-1].stop if self.outputs else 0


def describe(compiled: CompiledProblem) -> dict[str, Any]:
    """The description as JSON gives it back, and as ``read`` reads it."""
    structure = compiled.structure
    found = {
        "n": int(structure.n),
        "cones": asdict(structure.cones),
        "varying": sorted(structure.varying),
        "parameters": [{**asdict(spec), "attributes": sorted(spec.attributes)} for spec in compiled.parameters],
        "outputs": [asdict(spec) for spec in compiled.outputs],
        "features": [asdict(feature) for feature in compiled.features],
        "maximize": compiled.maximize,
        "gp": compiled.gp,
    }
    return dict(json.loads(json.dumps(found)))


def parse_json(text: bytes) -> dict[str, Any]:
    """A JSON object, in none of whose objects a name stands twice.

    Raises
    ------
    ArtefactError
        It is none.
    """
    try:
        found = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as exc:
        raise ArtefactError(f"its header is no JSON ({exc})") from exc
    if type(found) is not dict:
        raise ArtefactError(f"its header is {found!r:.60}, expected an object")
    return found


def read(header: Mapping[str, Any]) -> Description:
    """The description, each field of the right type and range, and consistent with the others.

    Raises
    ------
    ArtefactError
        It is not.

    Examples
    --------
    >>> import cvxpy as cp, cvxlayers
    >>> x = cp.Variable(3, name="x")
    >>> found = read(describe(cvxlayers.compile(cp.Problem(cp.Minimize(cp.sum(x)), [x >= 1]))))
    >>> found.n, found.m, found.cones.nonneg, found.outputs[0].name
    (3, 3, 3, 'x')
    """
    names = ("n", "cones", "varying", "parameters", "outputs", "features", "maximize", "gp")
    header = _record(header, names, "its header")
    gp = _exactly(bool, header["gp"], "gp")
    cones, m = _cones(header["cones"])
    listed = [_exactly(list, header[name], name) for name in ("parameters", "outputs", "features")]
    parameters = tuple(_parameter(spec, f"parameter {i}") for i, spec in enumerate(listed[0]))
    return Description(
        _count(header["n"], "n", 1),
        m,
        cones,
        _varying(header["varying"]),
        parameters,
        _outputs(listed[1], gp),
        _features(listed[2], parameters, gp),
        _exactly(bool, header["maximize"], "maximize"),
        gp,
    )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _wrong(where: str, value: Any, expected: str) -> ArtefactError:
    return ArtefactError(f"{where} is {value!r:.60}, expected {expected}")


def _exactly(kind: type, value: Any, where: str) -> Any:
    """A value of this type, of which Python's bool is no int and its int no float."""
    if type(value) is not kind:
        raise _wrong(where, value, f"a value of the type {kind.__name__}")
    return value


def _record(value: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    """An object with these fields, and no others."""
    if type(value) is not dict or set(value) != set(names):
        got = sorted(value) if type(value) is dict else value
        raise _wrong(where, got, f"an object with the fields {', '.join(names)}")
    return value


def _count(value: Any, where: str, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= LARGEST:
        raise _wrong(where, value, f"an integer from {least} to {LARGEST}")
    return value


def _counts(values: Any, where: str, least: int = 0) -> tuple[int, ...]:
    return tuple(_count(value, where, least) for value in _exactly(list, values, where))


def _cones(given: Any) -> tuple[Cones, int]:
    """The cones and their number of rows, which is counted here: to list the blocks of a wrong number takes forever."""
    record = _record(given, list(KINDS), "cones")
    cones = Cones(**{name: _held(kind, record[name], f"cones.{name}") for name, kind in KINDS.items()})
    return cones, _count(cones.count_rows(), "the number of rows of the cones")


def _held(kind: Kind, given: Any, where: str) -> Any:
    """What the field of ``Cones`` holds for this kind."""
    if kind.measure in ("rows", "cones"):
        return _count(given, where)
    if kind.measure in ("dimension", "order"):
        return _counts(given, where, 1)
    if kind.measure == "exponent":
        return tuple(_exponent(alpha, where) for alpha in _exactly(list, given, where))
    return tuple(_exponents(cone, where) for cone in _exactly(list, given, where))


def _exponent(given: Any, where: str) -> float:
    alpha: float = _exactly(float, given, where)
    if not 0.0 < alpha < 1.0:
        raise _wrong(where, alpha, "an exponent between 0 and 1")
    return alpha


def _exponents(given: Any, where: str) -> tuple[float, ...]:
    alpha = tuple(_exponent(part, where) for part in _exactly(list, given, where))
    if len(alpha) < 2 or abs(math.fsum(alpha) - 1.0) > ROUNDING:
        raise _wrong(where, alpha, "two exponents or more that add up to 1")
    return alpha


def _varying(given: Any) -> frozenset[str]:
    names = [_exactly(str, name, "varying") for name in _exactly(list, given, "varying")]
    if len(set(names)) < len(names) or not set(names) <= set("PqAb"):
        raise _wrong("varying", names, "some of P, q, A and b, each once")
    return frozenset(names)


def _shape(given: Any, where: str) -> tuple[int, ...]:
    shape = _counts(given, where)
    if len(shape) > DIMENSIONS or math.prod(max(size, 1) for size in shape) > LARGEST:
        raise _wrong(where, shape, f"{DIMENSIONS} dimensions and {LARGEST} entries at most")
    return shape


def _parameter(given: Any, where: str) -> ParameterSpec:
    record = _record(given, [field.name for field in fields(ParameterSpec)], where)
    shape, size = _shape(record["shape"], f"{where}, shape"), math.prod(record["shape"])
    attributes = [_exactly(str, name, f"{where}, attributes") for name in _exactly(list, record["attributes"], where)]
    if len(set(attributes)) < len(attributes) or not set(attributes) <= ATTRIBUTES:
        raise _wrong(f"{where}, attributes", attributes, f"some of {', '.join(sorted(ATTRIBUTES))}, each once")
    is_complex = _exactly(bool, record["complex"], f"{where}, complex")
    if set(attributes) & (SIGNS if is_complex else COMPLEX) or (is_complex and record["bounds"] is not None):
        raise _wrong(f"{where}, attributes", attributes, f"some that a {'complex' if is_complex else 'real'} one has")
    if set(attributes) & SQUARES and not (len(shape) >= 2 and shape[-1] == shape[-2]):
        raise _wrong(f"{where}, shape", shape, f"a square one, as the parameter is {', '.join(attributes)}")
    sparsity = record["sparsity"]
    if sparsity is not None:
        sparsity = _counts(sparsity, f"{where}, sparsity")
        if len(set(sparsity)) < len(sparsity) or max(sparsity, default=-1) >= size:
            raise _wrong(f"{where}, sparsity", sparsity, f"places below {size}, each once")
    name = _exactly(str, record["name"], f"{where}, name")
    return ParameterSpec(
        name, shape, frozenset(attributes), is_complex, _bounds(record["bounds"], size, where), sparsity
    )


def _bounds(given: Any, size: int, where: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if given is None:
        return None
    where = f"{where}, bounds"
    sides = [tuple(_exactly(float, bound, where) for bound in _exactly(list, side, where))
             for side in _exactly(list, given, where)]  # fmt: skip
    if [len(side) for side in sides] != [size, size]:
        raise _wrong(where, [len(side) for side in sides], f"two lists of {size} numbers each")
    if not all(lower <= upper for lower, upper in zip(*sides, strict=True)):
        raise _wrong(where, given, "lower bounds that are not above the upper ones, and no NaN")
    return sides[0], sides[1]


def _outputs(given: list[Any], gp: bool) -> tuple[OutputSpec, ...]:
    outputs: list[OutputSpec] = []
    start = 0
    for i, record in enumerate(given):
        where = f"output {i}"
        record = _record(record, [field.name for field in fields(OutputSpec)], where)
        name, kind = (_exactly(str, record[field], f"{where}, {field}") for field in ("name", "kind"))
        flags = [_exactly(bool, record[field], f"{where}, {field}") for field in ("exponential", "complex")]
        if kind not in ("primal", "dual") or flags[0] != (gp and kind == "primal") or (gp and flags[1]):
            raise _wrong(where, record, "a primal or dual variable, exponential where gp is and it is primal")
        shape = _shape(record["shape"], f"{where}, shape")
        start, stop = _next(record, start, math.prod(shape) * (2 if flags[1] else 1), where)
        outputs.append(OutputSpec(name, shape, kind, start, stop, *flags))
        start = stop
    return tuple(outputs)


def _features(given: list[Any], parameters: Sequence[ParameterSpec], gp: bool) -> tuple[Feature, ...]:
    features: list[Feature] = []
    start = 0
    for i, record in enumerate(given):
        where = f"feature {i}"
        record = _record(record, [field.name for field in fields(Feature)], where)
        number, transform = record["parameter"], record["transform"]
        if _count(number, f"{where}, parameter") >= len(parameters):
            raise _wrong(f"{where}, parameter", number, f"one of {len(parameters)} parameters")
        spec = parameters[number]
        able = ("log",) if gp else ("real", "imag") if spec.complex else ("identity",)
        if transform not in able or any((number, transform) == (f.parameter, f.transform) for f in features):
            raise _wrong(f"{where}, transform", transform, f"one of {', '.join(able)}, once for each parameter")
        start, stop = _next(record, start, spec.size, where)
        features.append(Feature(number, transform, start, stop))
        start = stop
    return tuple(features)


def _next(record: Mapping[str, Any], start: int, size: int, where: str) -> tuple[int, int]:
    """Rows that begin where those before them end."""
    stop = start + size
    if (_count(record["start"], where), _count(record["stop"], where)) != (start, stop):
        raise _wrong(f"{where}, rows", (record["start"], record["stop"]), f"{start} to {stop}")
    return start, stop
