"""Memory for weights and intermediate results: aligned, and not touched before it is used."""

from __future__ import annotations

import numpy as np

ALIGNMENT = 64
HUGE_PAGE = 2 << 20


def aligned(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def aligned_bytes(nbytes: int) -> np.ndarray:
    """Uninitialised memory whose address is a multiple of 64, of a huge page if it fills some.

    NumPy asks for huge pages from 4 MiB on; then weights and arena cost next to no TLB misses.
    """
    alignment = ALIGNMENT if nbytes < HUGE_PAGE else HUGE_PAGE
    raw = np.empty(nbytes + alignment, np.uint8)
    skip = -raw.ctypes.data % alignment
    return raw[skip : skip + nbytes]
