"""A cache entry in the making: arrays may be made where they will lie in its file.

Weights packed straight into the mapped file are in memory once, and need not be written after that.
The file has a temporary name until all of it is there; who does not finish leaves nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tilth.runtime.entry import EntryWriter
from tilth.runtime.memory import aligned_bytes

SUFFIX = ".part"
_LEAST = 1 << 20  # bytes from which on a mapping pays


class Draft:
    """At most one file in `root`, made when something asks for it; of at most `limit` bytes.

    Memory for the `expected` bytes is reserved from now on, while something else is done.
    """

    def __init__(self, root: Path, limit: int, expected: int = 0) -> None:
        self._root, self._limit = root, limit
        self._path: Path | None = None
        self._writer: EntryWriter | None = None
        if _LEAST <= expected <= limit:
            with suppress(OSError):  # see `allocate`
                self._opened().warm(expected)

    def allocate(self, nbytes: int) -> np.ndarray:
        """Bytes to be filled, in the file if that has room; else, or if they are few, in memory.

        Their address is a multiple of 64.
        """
        if _LEAST <= nbytes <= self._limit:
            with suppress(OSError):  # a full or read-only disk: who stores the entry will say so
                return self._opened().room(nbytes)
        return aligned_bytes(nbytes)

    def publish(self, tree: Mapping[str, Any], path: Path) -> int:
        """Complete the file and give it its name, or leave it if it is beyond the limit.

        Gives its size. Raises OSError.
        """
        writer = self._opened()
        assert self._path is not None, "it is open"
        size = writer.write(tree)
        if size <= self._limit:
            self._path.replace(path)
        return size

    def close(self) -> None:
        """Delete the file unless it was published; what was allocated stays usable."""
        if self._writer is not None:
            self._writer.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _opened(self) -> EntryWriter:
        if self._writer is None:
            import tempfile  # it is slow to import, and few processes need it

            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=SUFFIX, dir=self._root)
            self._path, self._writer = Path(name), EntryWriter(os.fdopen(handle, "w+b"))
        return self._writer
