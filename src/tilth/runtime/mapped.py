"""Arrays that lie in memory-mapped files, such as weights in external data.

Pages of a file that were read stay in memory as long as the system has room. Whoever has made a
copy in another form says so, and a model takes the memory of its weights once, not twice.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import threading
from typing import Any

import numpy as np

_POPULATE_WRITE = 23  # MADV_POPULATE_WRITE of Linux 5.14, asm-generic/mman-common.h
_CHUNK = 32 << 20


class Warmer:
    """A thread that takes memory for the pages of a writable mapping, whose contents stay.

    Fresh memory takes as long to get as to fill: a system zeroes it, and a virtual machine may have
    to ask its host for each page. Does nothing where the system cannot be asked.
    """

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = np.frombuffer(mapped, np.uint8)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tilth-warmer", daemon=True)
        if sys.platform == "linux":
            self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        madvise = ctypes.CDLL(None).madvise
        address, size = self._mapped.ctypes.data, self._mapped.nbytes
        for start in range(0, size, _CHUNK):
            chunk = ctypes.c_void_p(address + start), ctypes.c_size_t(min(_CHUNK, size - start))
            if self._stopped.is_set() or madvise(*chunk, _POPULATE_WRITE):
                break
            madvise(*chunk, mmap.MADV_DONTNEED)  # the file has the pages; they count once


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
