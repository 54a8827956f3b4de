"""The memory limit of this processor, measured: threads that do nothing but read.

Together with the FMA peak (`cpu.peak`) it makes the two roofs of the roofline model (S. Williams,
A. Waterman, D. Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import numpy as np

from tilth.cpu.emit import I32, I64, PTR, Emitter, mangle, vector
from tilth.cpu.isa import Isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.loader import LoadedCode
from tilth.cpu.together import run_together

# More than nearly all last-level caches hold. Where one holds it, models live in that cache too,
# and its rate is the one that limits them.
BYTES = 256 << 20
_STREAMS = 8  # independent loads in flight


@functools.cache
def measure_bandwidth(isa: Isa, threads: int, runs: int = 10) -> float:
    """Bytes per second that `threads` threads read together, the best of `runs`; once a process.

    Each thread reads its own part of 256 MiB from one end to the other.
    """
    _, function = _read_loop(isa)
    memory = np.ones(BYTES, np.uint8)  # written, so that it really is there
    step = _STREAMS * isa.vector_bytes
    part = BYTES // threads // step * step
    address = memory.ctypes.data

    def read() -> float:
        return max(run_together(threads, lambda tid: function(address + tid * part, part)))

    return threads * part / min(read() for _ in range(runs))


@functools.cache
def _read_loop(isa: Isa) -> tuple[LoadedCode, Callable[[int, int], int]]:
    """`int32 read_loop(void *memory, int64 bytes)`, and the object it is in."""
    module = new_module(isa, "bandwidth")
    e = Emitter(module, isa, "read_loop", [PTR, I64], I32)
    memory, size = e.args
    lanes = vector(I32, isa.lanes)
    slots = [e.var(lanes, e.const(lanes, 0)) for _ in range(_STREAMS)]
    with e.loop(0, size, _STREAMS * isa.vector_bytes) as offset:
        for i, slot in enumerate(slots):
            place = e.offset(e.offset(memory, offset), i * isa.vector_bytes)
            e.b.store(e.b.xor(e.b.load(slot, typ=lanes), e.load(place, lanes)), slot)
    total = e.b.load(slots[0], typ=lanes)
    for slot in slots[1:]:
        total = e.b.xor(total, e.b.load(slot, typ=lanes))
    reduce = e.declare(f"llvm.vector.reduce.xor.{mangle(lanes)}", I32, [lanes])
    e.b.ret(e.b.call(reduce, [total]))  # every lane of every load is needed
    e.finish()
    code = LoadedCode((compile_object(module, isa),), ("read_loop",))
    signature = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64)
    return code, signature(code.address("read_loop"))
