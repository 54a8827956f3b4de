"""Arrays that lie in memory-mapped files, such as weights in external data.

Pages of a file that were read stay in memory as long as the system has room. Whoever has made a
copy in another form says so, and a model takes the memory of its weights once, not twice.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np


def release(array: np.ndarray) -> None:
    """Let the system drop the pages behind an array, if they are a file's; they can be read again.

    Does nothing for other arrays, and where the system has no `madvise`.
    """
    mapped = _mapping(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    first = start // mmap.PAGESIZE * mmap.PAGESIZE
    mapped.madvise(mmap.MADV_DONTNEED, first, start + array.nbytes - first)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """The read-only mapping of a file that holds the array, if one does."""
    owner: Any = array
    while not isinstance(owner, mmap.mmap):
        if isinstance(owner, memoryview):
            owner = owner.obj
        else:
            owner = getattr(owner, "base", None)
        if owner is None:
            return None
    return owner if memoryview(owner).readonly and array.flags.c_contiguous else None
