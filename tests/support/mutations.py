"""Files of compiled problems, mutated: their arrays and headers with the digest made anew, and the zip file itself."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from cvxlayers.files import archive
from cvxlayers.program import artefact

__all__ = ["KINDS", "Header", "build", "mutate", "take_apart"]

Arrays = dict[str, Any]
Header = dict[str, Any]
Rng = np.random.Generator

KINDS = ("array", "array", "array", "header", "both", "zip")

WHOLE = (-1, 0, 1, 2, 3, 7, 255, 10**6, 2**31 - 1, -(2**31), 2**31, 2**32, 2**62, -(2**63))
REAL = (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-300, 1e300, -1e308, 1e20, 3.0)
ODD = (
    -1, 0, 1, 2, 3, 2**31 - 1, 2**31, 2**63, 10**30, -0.5, 0.5, 1.0, 1e999, float("nan"), None, True, False, "", "P",
    "log", "identity", "primal", "dual", "PSD", "nonneg", [], [0], [1, 1], {}, {"a": 1}, [2**31 - 1, 2**31 - 1],
)  # fmt: skip


def take_apart(content: bytes) -> tuple[Arrays, Header]:
    """The arrays and the header of a sound file."""
    arrays: Arrays = dict(archive.read(io.BytesIO(content), len(content)))
    return arrays, json.loads(arrays.pop("header").tobytes())


def build(arrays: Arrays, header: Header, digest: bool = True, level: int = 6) -> bytes:
    """A file of them, with the digest made anew if it can be."""
    if digest:
        header = {name: value for name, value in header.items() if name != "digest"}
        try:
            header["digest"] = artefact._digest({**arrays, "header": artefact._encoded(header)})
        except (TypeError, ValueError):
            header["digest"] = ""
    members = {**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as zipped:
        for name, array in members.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=True)
            zipped.writestr(f"{name}.npy", entry.getvalue())
    return file.getvalue()


def mutate(content: bytes, kind: str, rng: Rng) -> tuple[bytes, str]:
    """A mutation of a sound file, and words for it."""
    if kind == "zip":
        change = ZIP[rng.integers(len(ZIP))]
        return change(content, rng), change.__name__
    arrays, header = take_apart(content)
    said = []
    if rng.random() < 0.2:
        said.append(_grow(arrays, header, rng) if rng.random() < 0.5 else _regroup(header["cones"], rng))
    if kind in ("array", "both") and (not said or rng.random() < 0.5):
        said += [_change_array(arrays, rng) for _ in range(1 + (rng.random() < 0.3))]
    if kind in ("header", "both"):
        said += [_change_header(header, rng) for _ in range(1 + (rng.random() < 0.3))]
    return build(arrays, header), "; ".join(said)


def _change_array(arrays: Arrays, rng: Rng) -> str:
    name = sorted(arrays)[rng.integers(len(arrays))]
    array = np.atleast_1d(np.array(arrays[name]))
    whole = array.dtype.kind in "iu"
    choice = int(rng.integers(16))
    if choice < 7 and array.size and array.ndim == 1:
        place = int(rng.integers(array.size))
        value = _number(array, whole, rng)
        info = np.iinfo(array.dtype) if whole else None
        if info is not None and not info.min <= value <= info.max:
            array = array.astype(np.int64)
            value = min(max(value, -(2**63)), 2**63 - 1)
        array[place] = value
        said = f"[{place}] = {value}"
    elif choice == 7 and array.size > 1:
        i, j = rng.integers(array.size, size=2)
        array.flat[[i, j]] = array.flat[[j, i]]
        said = f"{i} and {j} change places"
    elif choice == 8:
        array, said = rng.permutation(array), "shuffled"
    elif choice == 9:
        array, said = array[: array.shape[0] - int(rng.integers(1, 4))], "shorter"
    elif choice == 10:
        array, said = np.append(array, array.flat[-1:] if array.size else [0]).astype(array.dtype), "longer"
    elif choice == 11:
        array, said = array[:0], "empty"
    elif choice == 12:
        kinds = ("<f8", "<i8", "<i4", ">i4", ">f8", "<f4", "<u4", "|b1", "<c16", "<U4", "|O", "<M8[s]")
        dtype = kinds[rng.integers(len(kinds))]
        with np.errstate(all="ignore"):
            array, said = array.astype(np.int64).astype(dtype) if dtype[1] == "M" else array.astype(dtype), dtype
    elif choice == 13:
        shapes = ((1, -1), (-1, 1), (), (0, 3))
        shape = shapes[rng.integers(len(shapes))]
        array = np.zeros(shape, array.dtype) if shape in ((), (0, 3)) else np.asfortranarray(array.reshape(shape))
        said = f"of shape {array.shape}"
    elif choice == 14:
        array, said = np.sort(array)[::-1], "falling"
    else:
        array, said = array * 0, "zero"
    arrays[name] = array
    return f"{name} {said}"


def _number(array: np.ndarray, whole: bool, rng: Rng) -> Any:
    if not whole:
        return float(REAL[rng.integers(len(REAL))] if rng.random() < 0.7 else rng.standard_normal())
    if rng.random() < 0.5:
        return WHOLE[rng.integers(len(WHOLE))]
    return int(array[rng.integers(array.size)]) + int(rng.integers(-2, 3))


def _change_header(header: Header, rng: Rng) -> str:
    """Another value, a field less, a field more, or twice the same, somewhere in the tree."""
    here: Any = header
    path = []
    while True:
        keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
        if not path:
            keys = [key for key in keys if key != "digest"]
        if not keys:
            break
        key = keys[rng.integers(len(keys))]
        path.append(key)
        if not isinstance(here[key], dict | list) or not here[key] or rng.random() < 0.15:
            break
        here = here[key]
    if not path:
        return "nothing"
    key, choice = path[-1], int(rng.integers(6))
    where = ".".join(map(str, path))
    if choice == 0:
        del here[key]
        return f"without {where}"
    if choice == 1:
        if isinstance(here, list):
            here.insert(key, copy.deepcopy(here[key]))
        else:
            here["more"] = 1
        return f"more at {where}"
    if choice == 2 and isinstance(here[key], int) and not isinstance(here[key], bool):
        here[key] += int(rng.integers(-2, 3))
    elif choice == 3 and isinstance(here[key], bool):
        here[key] = not here[key]
    elif choice == 4 and isinstance(here, list):
        rng.shuffle(here)
    else:
        here[key] = copy.deepcopy(ODD[rng.integers(len(ODD))])
    return f"{where} = {here[key]!r:.40}"


def _grow(arrays: Arrays, header: Header, rng: Rng) -> str:
    """One variable more, or another number of rows, in some of the places that say so."""
    if rng.random() < 0.5:
        header["n"] += 1
        for name in ("pattern_P_indptr", "pattern_A_indptr", "q_indptr"):
            if rng.random() < 0.9:
                arrays[name] = np.append(arrays[name], arrays[name].flat[-1:])
        if rng.random() < 0.9:
            arrays["q_constant"] = np.append(arrays["q_constant"], 0.0)
        return "a variable more"
    header["cones"]["nonneg"] += 1
    for name in ("b_indptr", "b_constant"):
        if rng.random() < 0.9 and arrays[name].size:
            arrays[name] = np.append(arrays[name], arrays[name][-1:])
    return "a row more, the last"


def _regroup(cones: dict[str, Any], rng: Rng) -> str:
    """Other cones of as many rows."""
    for _ in range(1 + int(rng.integers(3))):
        choice = int(rng.integers(6))
        if choice == 0 and cones["zero"]:
            cones["zero"], cones["nonneg"] = cones["zero"] - 1, cones["nonneg"] + 1
        elif choice == 1 and cones["nonneg"]:
            rows = int(rng.integers(1, cones["nonneg"] + 1))
            cones["nonneg"] -= rows
            cones["second_order"].insert(int(rng.integers(len(cones["second_order"]) + 1)), rows)
        elif choice == 2 and cones["second_order"]:
            rows = cones["second_order"].pop(int(rng.integers(len(cones["second_order"]))))
            first = int(rng.integers(1, rows + 1))
            cones["second_order"] += [first, rows - first] if first < rows else [rows]
        elif choice == 3 and cones["nonneg"] >= 3:
            cones["nonneg"] -= 3
            cones["psd"].append(2)
        elif choice == 4 and cones["psd"]:
            order = cones["psd"].pop()
            cones["psd"].extend([1] * (order * (order + 1) // 2))
        elif choice == 5 and cones["exponential"] + len(cones["power"]):
            if cones["exponential"]:
                cones["exponential"] -= 1
                cones["power"].append(float(rng.uniform(0.01, 0.99)))
            else:
                cones["exponential"] += 1
                cones["power"].pop()
    return f"cones {cones}"


def flipped_bytes(content: bytes, rng: Rng) -> bytes:
    data = bytearray(content)
    for place in rng.integers(len(data), size=int(rng.integers(1, 4))):
        data[place] ^= int(rng.integers(1, 256))
    return bytes(data)


def flipped_table(content: bytes, rng: Rng) -> bytes:
    """Bytes of the table of contents, at the end."""
    data = bytearray(content)
    start = content.index(b"PK\x01\x02")
    place = start + int(rng.integers(len(data) - start))
    data[place] = (0, 1, 8, 127, 255, data[place] ^ (1 << int(rng.integers(8))))[rng.integers(6)]
    return bytes(data)


def wrong_sizes(content: bytes, rng: Rng) -> bytes:
    """A member that says it has another size, in four bytes or eight."""
    data = bytearray(content)
    places = [i for i in range(len(data) - 4) if data[i : i + 4] == b"PK\x01\x02"]
    at = places[rng.integers(len(places))] + int(rng.choice([16, 20, 24, 28, 30, 42]))
    data[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**20, 2**31, 2**32 - 1, 2**32 - 2])))
    return bytes(data)


def truncated(content: bytes, rng: Rng) -> bytes:
    return content[: int(rng.integers(len(content)))]


def overwritten(content: bytes, rng: Rng) -> bytes:
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
    return content[:at] + bytes([int(rng.integers(256))]) * length + content[at + length :]


def wrapped(content: bytes, rng: Rng) -> bytes:
    """Something before it, or after it."""
    more = rng.bytes(int(rng.integers(1, 100)))
    return more + content if rng.random() < 0.5 else content + more


def twice(content: bytes, rng: Rng) -> bytes:
    """A member that occurs twice, which readers may resolve in either way."""
    members = _members(content)
    name = sorted(members)[rng.integers(len(members))]
    return _zipped([*members.items(), (name, members[name] if rng.random() < 0.5 else b"\0" * 200)])


def renamed(content: bytes, rng: Rng) -> bytes:
    members = _members(content)
    name = sorted(members)[rng.integers(len(members))]
    other = ("../../etc/x.npy", "/x.npy", "x", "", "q_constant.npy.npy", "Q_CONSTANT.NPY", "a\0b.npy", "dir/")[
        rng.integers(8)
    ]
    return _zipped([(other if key == name else key, value) for key, value in members.items()])


def other_members(content: bytes, rng: Rng) -> bytes:
    """One less, one more, or two that change places."""
    members = _members(content)
    names = sorted(members)
    one, two = (names[i] for i in rng.integers(len(names), size=2))
    choice = int(rng.integers(3))
    if choice == 0:
        del members[one]
    elif choice == 1:
        members["more.npy"] = members[one]
    else:
        members[one], members[two] = members[two], members[one]
    return _zipped(list(members.items()))


def other_compression(content: bytes, rng: Rng) -> bytes:
    how = (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(3)]
    return _zipped(list(_members(content).items()), how)


def bomb(content: bytes, rng: Rng) -> bytes:
    """A member of hundreds of megabytes of zeros."""
    members = _members(content)
    name = sorted(members)[rng.integers(len(members))]
    count = int(rng.integers(10, 30)) * 10**6
    start = io.BytesIO()
    np.lib.format.write_array_header_1_0(start, {"descr": "<f8", "fortran_order": False, "shape": (count,)})
    members[name] = start.getvalue() + bytes(8 * count)
    return _zipped(list(members.items()))


def other_descriptions(content: bytes, rng: Rng) -> bytes:
    """The line before an array's numbers, as others may write it, or nobody."""
    members = _members(content)
    name = sorted(members)[rng.integers(len(members))]
    texts = (
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }",
        "{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (0, 9223372036854775807), }",
        "(" * 3000,
        "__import__('os')._exit(3)",
        "",
    )
    text = texts[rng.integers(len(texts))].encode() + b" \n"
    version = bytes([int(rng.choice([1, 2, 3, 9])), 0])
    length = struct.pack("<H" if version[0] == 1 else "<I", min(len(text) if rng.random() < 0.8 else 60000, 60000))
    rest = pickle.dumps(print) if b"|O" in text else members[name][128:]
    members[name] = b"\x93NUMPY" + version + length + text + rest
    return _zipped(list(members.items()))


def strange_headers(content: bytes, rng: Rng) -> bytes:
    """A header that is no JSON object, or nested without an end, or has names twice."""
    members = _members(content)
    texts = (b"", b"[]", b"null", b"{", b"\xff\xfe", b"[" * 100000, b'{"a":' * 50000, b"1" * 10000, b'{"magic": 1}')
    text = texts[rng.integers(len(texts))]
    if rng.random() < 0.2:
        text = members["header.npy"][128:].rstrip(b"}") + b', "n": 3, "n": 4}'
    entry = io.BytesIO()
    np.save(entry, np.frombuffer(text, np.uint8))
    members["header.npy"] = entry.getvalue()
    return _zipped(list(members.items()))


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def _zipped(members: list[tuple[str, bytes]], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as zipped:
        for name, data in members:
            zipped.writestr(zipfile.ZipInfo(name), data, how)
    return file.getvalue()


ZIP: tuple[Callable[[bytes, Rng], bytes], ...] = (
    flipped_bytes, flipped_table, wrong_sizes, truncated, overwritten, wrapped, twice, renamed, other_members,
    other_compression, bomb, other_descriptions, strange_headers,
)  # fmt: skip
