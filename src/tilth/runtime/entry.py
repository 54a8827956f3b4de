"""One cache entry as a file: a JSON tree whose arrays and byte strings are sections of the file.

Layout: a fixed header (magic, format version, length and SHA-256 of the manifest), the manifest
(JSON: the tree, and offset, length and checksum of each section), then the sections, each aligned
to 64 bytes so that arrays are used straight from the memory map. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tilth.ir.types import DTYPES, dtype_of
from tilth.runtime.digest import checksum

MAGIC = b"TILTHART"
VERSION = 2
ALIGNMENT = 64
_HEADER = struct.Struct("<8sIxxxxQ32s")  # magic, version, manifest length, manifest SHA-256


class EntryError(Exception):
    """The file is not a whole, unchanged entry of this format; the message says what is off."""


def write_entry(path: Path, tree: Mapping[str, Any]) -> None:
    """Write `tree` (dicts with str keys, lists, JSON scalars, bytes, arrays) to `path`.

    Tuples come back as lists. Raises TypeError for anything else in the tree, OSError.
    """
    sections: list[memoryview] = []
    root = _encode(tree, sections)
    table, offset = [], 0
    for section in sections:
        table.append({"offset": offset, "length": section.nbytes, "checksum": checksum(section)})
        offset += _aligned(section.nbytes)
    manifest = json.dumps({"tree": root, "sections": table}, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(_HEADER.pack(MAGIC, VERSION, len(manifest), hashlib.sha256(manifest).digest()))
        file.write(manifest)
        for section in sections:
            _pad(file)
            file.write(section)


def read_entry(path: Path) -> dict[str, Any]:
    """The tree back; its arrays are read-only views of the memory-mapped file.

    Every checksum is verified. Raises EntryError, or OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEADER.size:
            raise EntryError("shorter than a header")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    magic, version, length, expected = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise EntryError(f"not an entry of format version {VERSION}")
    manifest = data[_HEADER.size : _HEADER.size + length]
    if hashlib.sha256(manifest).digest() != expected:
        raise EntryError("the manifest does not match its digest")
    parsed = json.loads(bytes(manifest))
    start = _aligned(_HEADER.size + length)
    sections = [data[start + s["offset"] :][: s["length"]] for s in parsed["sections"]]
    for i, (section, told) in enumerate(zip(sections, parsed["sections"], strict=True)):
        if checksum(section) != told["checksum"]:
            raise EntryError(f"section {i} does not match its checksum")
    return _decode(parsed["tree"], sections)


def _encode(value: Any, sections: list[memoryview]) -> Any:
    """JSON for `value`; arrays and bytes are appended to `sections` and referred to by number."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {"$dict": {str(k): _encode(v, sections) for k, v in value.items()}}
    if isinstance(value, (list, tuple)):
        return [_encode(v, sections) for v in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        sections.append(memoryview(value).cast("B"))
        return {"$bytes": len(sections) - 1}
    if isinstance(value, np.ndarray):
        dtype = dtype_of(value.dtype)
        if dtype.kind == "string":
            return {"$strings": [str(s) for s in value.ravel()], "shape": value.shape}
        flat = np.ascontiguousarray(value, value.dtype.newbyteorder("=")).reshape(-1)
        sections.append(flat.view(np.uint8).data)
        return {"$array": len(sections) - 1, "dtype": dtype.name, "shape": value.shape}
    raise TypeError(f"a cache entry cannot hold a {type(value).__name__}")


def _decode(value: Any, sections: list[memoryview]) -> Any:
    if isinstance(value, list):
        return [_decode(v, sections) for v in value]
    if not isinstance(value, dict):
        return value
    if "$dict" in value:
        return {k: _decode(v, sections) for k, v in value["$dict"].items()}
    if "$bytes" in value:
        return bytes(sections[value["$bytes"]])
    if "$strings" in value:
        return np.array(value["$strings"], dtype=object).reshape(value["shape"])
    shape, dtype = value["shape"], DTYPES[value["dtype"]]
    flat = np.frombuffer(sections[value["$array"]], np.uint8)
    return flat.view(dtype.numpy)[: math.prod(shape)].reshape(shape)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _pad(file: BinaryIO) -> None:
    """Fill up to the next aligned offset."""
    file.write(bytes(_aligned(file.tell()) - file.tell()))
