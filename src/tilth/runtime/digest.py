"""What large data is recognised by, on several cores: a digest for keys, a checksum for damage.

`digest` is SHA-256, for what decides whether two things are the same. `checksum` is ten times as
fast and finds accidents: no flipped bit, lost page or swapped part passes, but a forger could make
one pass. (Who can write to the cache could put any digest there as well.)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

R = TypeVar("R")
CHUNK = 8 << 20
_COLUMNS = 509  # a prime, so that no two pages of a block lie in the same columns
_BLOCK = 8 * _COLUMNS * 256


def digest(data: bytes | memoryview) -> str:
    """The digest of bytes, in hex: SHA-256 up to `CHUNK` bytes, a hash of hashes beyond."""
    view = memoryview(data).cast("B")
    if view.nbytes <= CHUNK:
        return hashlib.sha256(view).hexdigest()
    chunks = [view[i : i + CHUNK] for i in range(0, view.nbytes, CHUNK)]
    return combined(each(lambda chunk: hashlib.sha256(chunk).hexdigest(), chunks))


def combined(digests: Iterable[str]) -> str:
    """One digest over several, in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def checksum(data: bytes | memoryview) -> str:
    """The SHA-256, in hex, of sums over the columns of each block of 1 MB, and of the rest."""
    view = memoryview(data).cast("B")
    whole = view.nbytes // _BLOCK * _BLOCK
    blocks = np.frombuffer(view[:whole], np.uint64).reshape(-1, _BLOCK // 8 // _COLUMNS, _COLUMNS)
    parts = [blocks[i : i + 8] for i in range(0, len(blocks), 8)]
    found = hashlib.sha256(view[whole:])
    for sums in each(lambda part: np.add.reduce(part, axis=1), parts):
        found.update(sums)
    return found.hexdigest()


def each(function: Callable[[Any], R], items: Sequence[Any]) -> Iterable[R]:
    """The results in order, on several cores; hashing and summing let other threads run."""
    if len(items) < 2:
        return map(function, items)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return pool.map(function, items)
