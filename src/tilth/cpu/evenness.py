"""How even the machine itself is: the same arithmetic again and again on each core, timed.

What interrupts it (other processes, a hypervisor, a changing clock) interrupts calls of models just
so, and no program can be more even than the machine. `benchmarks/latency.py` shows both.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.emit import F32, I64, PTR, Emitter
from tilth.cpu.harness import aligned
from tilth.cpu.isa import Isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.loader import LoadedCode
from tilth.cpu.peak import emit_fma_loop
from tilth.cpu.spmd import barrier, emit_now
from tilth.cpu.table import pool_memory
from tilth.cpu.together import run_together

_CALIBRATION_ROUNDS = 50
_CALIBRATION_TURNS = 2_000


def even_rounds(isa: Isa, threads: int, round_seconds: float) -> Callable[[int], np.ndarray]:
    """What takes a number of rounds and gives the seconds of each, [rounds] f64.

    In a round every thread, on a core of its own, does the same register-only multiplications, of
    about `round_seconds`; the round lasts from the start of thread 0 until all have finished.
    """
    turns = _CALIBRATION_TURNS
    for _ in range(2):  # the second time the fixed cost of a round hardly matters
        typical = float(np.median(_rounds(isa, threads, turns, _CALIBRATION_ROUNDS)))
        turns = max(1, round(turns * round_seconds / typical))
    return functools.partial(_rounds, isa, threads, turns)


def _rounds(isa: Isa, threads: int, turns: int, rounds: int) -> np.ndarray:
    _, function = _round_loop(isa, threads)
    pool = aligned(np.frombuffer(pool_memory(crowded=False), np.uint8))
    times = np.zeros((threads, rounds), np.int64)
    # cores must be known before a thread restricts itself to one
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

    def work(thread: int) -> None:
        if len(cores) >= threads:
            os.sched_setaffinity(0, {cores[thread]})
        function(pool.ctypes.data, turns, rounds, times[thread].ctypes.data)

    run_together(threads, work)
    return times[0] * 1e-9


@functools.cache
def _round_loop(isa: Isa, threads: int) -> tuple[LoadedCode, Callable[[int, int, int, int], float]]:
    """`float rounds(pool, int64 turns, int64 rounds, int64 *times)`, and the object it is in."""
    module = new_module(isa, "evenness")
    loop, wait = emit_fma_loop(module, isa), barrier(module, isa, threads)
    loop.attributes.add("noinline")
    e = Emitter(module, isa, "rounds", [PTR, I64, I64, PTR], F32)
    pool, turns, rounds, times = e.args
    total = e.var(F32, ll.Constant(F32, 0.0))
    with e.loop(0, rounds) as index:
        start = emit_now(e)
        e.b.store(e.b.fadd(e.load(total, F32), e.b.call(loop, [turns])), total)
        e.b.call(wait, [pool])
        e.store(e.b.sub(emit_now(e), start), e.offset(times, e.b.mul(index, I64(8))))
    e.b.ret(e.load(total, F32))
    e.finish()
    code = LoadedCode((compile_object(module, isa),), ("rounds",))
    types = (ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return code, ctypes.CFUNCTYPE(ctypes.c_float, *types)(code.address("rounds"))
