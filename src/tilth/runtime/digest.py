"""SHA-256 of large data on several cores: the hash of the hashes of its chunks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

CHUNK = 8 << 20


def digest(data: bytes | memoryview) -> str:
    """The digest of bytes, in hex: SHA-256 up to `CHUNK` bytes, a hash of hashes beyond."""
    view = memoryview(data).cast("B")
    if view.nbytes <= CHUNK:
        return hashlib.sha256(view).hexdigest()
    chunks = [view[i : i + CHUNK] for i in range(0, view.nbytes, CHUNK)]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # hashlib releases the GIL
        return combined(pool.map(lambda chunk: hashlib.sha256(chunk).hexdigest(), chunks))


def combined(digests: Iterable[str]) -> str:
    """One digest over several, in order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()
