"""One cache entry as a file: a JSON tree whose arrays and byte strings are sections of the file.

Layout: a fixed header (magic, format version, and where the manifest is: offset, length, SHA-256),
the sections, each aligned to 64 bytes so that arrays are used straight from the memory map, and the
manifest (JSON: the tree, and offset, length and checksum of each section). The header is written
last. Nothing is ever unpickled.
"""

from __future__ import annotations

import errno
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
from tilth.runtime.mapped import Warmer
from tilth.runtime.memory import aligned

MAGIC = b"TILTHART"
VERSION = 3
_HEADER = struct.Struct("<8sIxxxxQQ32s")  # magic, version, manifest: offset, length, SHA-256


class EntryError(Exception):
    """The file is not a whole, unchanged entry of this format; the message says what is off."""


class EntryWriter:
    """Fills an empty file, open for reading and writing. Parts of it may be filled in place."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._end = aligned(_HEADER.size)
        self._rooms: list[tuple[np.ndarray, int]] = []  # with their offsets
        self._warmer: Warmer | None = None

    def warm(self, nbytes: int) -> None:
        """Begin to reserve memory and space for so many bytes. Raises OSError where there is none.

        It goes on in a thread until they are there, or the file is written.
        """
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, nbytes)
            self._warmer = Warmer(mmap.mmap(self._file.fileno(), nbytes))

    def room(self, nbytes: int) -> np.ndarray:
        """Bytes of the file, mapped to be written. Raises OSError where it cannot be extended.

        The space is taken now: writing to a mapping must not find a full disk.
        """
        if not hasattr(os, "posix_fallocate"):
            raise OSError(errno.ENOTSUP, "this system cannot reserve space in a file")
        start = aligned(self._end, mmap.ALLOCATIONGRANULARITY)
        os.posix_fallocate(self._file.fileno(), start, nbytes)
        mapped = mmap.mmap(self._file.fileno(), nbytes, offset=start)
        array = np.frombuffer(mapped, np.uint8)
        self._rooms.append((array, start))
        self._end = start + nbytes
        return array

    def write(self, tree: Mapping[str, Any]) -> int:
        """Write `tree` (dicts with str keys, lists, JSON scalars, bytes, arrays); the size.

        Arrays that lie in rooms are there already. Tuples come back as lists. Raises TypeError for
        anything else in the tree, OSError.
        """
        self._cool()
        sections: list[memoryview] = []
        root = _encode(tree, sections)
        table = [
            {"offset": self._place(s), "length": s.nbytes, "checksum": checksum(s)}
            for s in sections
        ]
        manifest = json.dumps({"tree": root, "sections": table}, separators=(",", ":")).encode()
        where = self._append(memoryview(manifest)), len(manifest)
        self._file.seek(0)
        self._file.write(_HEADER.pack(MAGIC, VERSION, *where, hashlib.sha256(manifest).digest()))
        self._file.truncate(self._end)
        return self._end

    def close(self) -> None:
        self._cool()
        self._file.close()

    def _cool(self) -> None:
        if self._warmer is not None:
            self._warmer.stop()
            self._warmer = None

    def _place(self, section: memoryview) -> int:
        """The offset of a section, which is written if it is not in the file."""
        address = np.frombuffer(section, np.uint8).ctypes.data
        for room, offset in self._rooms:
            inside = address - room.ctypes.data
            if 0 <= inside <= room.nbytes - section.nbytes and section.nbytes:
                return offset + inside
        return self._append(section)

    def _append(self, section: memoryview) -> int:
        start = self._file.seek(aligned(self._end))
        self._file.write(section)
        self._end = start + section.nbytes
        return start


def write_entry(path: Path, tree: Mapping[str, Any]) -> None:
    """Write `tree` to `path`. Raises TypeError, OSError: see `EntryWriter.write`."""
    with path.open("w+b") as file:
        EntryWriter(file).write(tree)


def read_entry(path: Path) -> dict[str, Any]:
    """The tree back; its arrays are read-only views of the memory-mapped file.

    Every checksum is verified. Raises EntryError, or OSError when the file cannot be opened.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < _HEADER.size:
            raise EntryError("shorter than a header")
        data = memoryview(_mapped(file))
    magic, version, offset, length, expected = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise EntryError(f"not an entry of format version {VERSION}")
    manifest = data[offset : offset + length]
    if hashlib.sha256(manifest).digest() != expected:
        raise EntryError("the manifest does not match its digest")
    parsed = json.loads(bytes(manifest))
    sections = [data[s["offset"] :][: s["length"]] for s in parsed["sections"]]
    for i, (section, told) in enumerate(zip(sections, parsed["sections"], strict=True)):
        if checksum(section) != told["checksum"]:
            raise EntryError(f"section {i} does not match its checksum")
    return _decode(parsed["tree"], sections)


def _mapped(file: BinaryIO) -> mmap.mmap:
    """All of a file to be read, its pages taken at once where the system can do that.

    Checksums read all of it at once in any case, and threads that take pages one by one wait for
    each other.
    """
    flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
    return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)


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
