"""What entries of the cache are found by: digests of all they follow from, Tilth's own code too.

Reading the text of every module takes longer than bringing a small model back. So the cache knows
what it was by its files' inodes, sizes and times, as it knows models (see `runtime.known`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tilth.runtime.cache import default_cache

SETTLED = 2_000_000_000  # nanoseconds that no file system's clock fails to tell apart
_PACKAGE = Path(__file__).resolve().parents[1]

_Row = tuple[str, int, int, int, int, int]  # path, device, inode, size, times of changes


def cache_key(**parts: Any) -> str:
    """SHA-256 over `parts` (JSON-able, order does not matter) and Tilth's own code."""
    return _digest({**parts, "tilth": source_digest()})


@functools.cache
def source_digest() -> str:
    """SHA-256 over the text of every module of Tilth: new code never meets old artifacts."""
    store = default_cache()
    rows = sorted(_rows(os.fspath(_PACKAGE)))
    changed = max((max(row[-2:]) for row in rows), default=0)
    if store is None or not rows or time.time_ns() - changed <= SETTLED:
        return _read()
    key = _digest({"files": rows})
    known = store.load(key)
    if known is not None:
        return str(known["source"])
    digest = _read()
    if sorted(_rows(os.fspath(_PACKAGE))) == rows:
        store.store(key, {"source": digest})
    return digest


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _rows(folder: str) -> Iterator[_Row]:
    """The modules in a folder and in those below."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                s = entry.stat()
                yield entry.path, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
            elif entry.is_dir() and entry.name != "__pycache__":
                yield from _rows(entry.path)


def _read() -> str:
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + b"\0")
        digest.update(path.read_bytes())
    return digest.hexdigest()
