"""What a program and its caller agree on: the table of pointers, and the memory of a pool.

The code is emitted elsewhere (`cpu/program.py`, `cpu/spmd.py`); calling it needs no more than this.
"""

from __future__ import annotations

import struct

EXPORTS = ("tilth_run", "tilth_worker")

# Places in the table of pointers; the inputs are followed by the outputs.
ARENA, WEIGHTS, PROFILE, FIRST_INPUT = range(4)
RECORD_BYTES = 16  # start and end of a step on a thread, nanoseconds, i64 each

# Byte offsets in a pool's memory.
EPOCH, SLEEPING_WORKERS, MAIN, TABLE = 0, 64, 128, 136
PATIENCE_WITHIN, PATIENCE_BETWEEN = 144, 152  # calls; nanoseconds of spinning before sleep, i64
ARRIVED, SLEEPING_AT_BARRIER = 192, 256  # the first an i64, which grows for ever
FINISHED, SLEEPING_CALLER = 320, 384
POOL_BYTES = 448

_PATIENCE = 400_000, 200_000  # within calls, between calls
_CROWDED_PATIENCE = 10_000, 10_000  # one that spins may keep another from its work


def pool_memory(crowded: bool) -> bytes:
    """What a pool's memory holds at first; `crowded` if there is no core for each thread."""
    patience = struct.pack("=qq", *(_CROWDED_PATIENCE if crowded else _PATIENCE))
    return bytes(PATIENCE_WITHIN) + patience + bytes(POOL_BYTES - PATIENCE_WITHIN - len(patience))
