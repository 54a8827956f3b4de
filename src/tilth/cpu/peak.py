"""The arithmetic limit of this processor, measured: a loop of nothing but fused multiply-adds.

Profiles and benchmarks show shares of it. Measuring beats a table of clocks and units, because
clocks change with load, heat and the number of busy cores.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable

import llvmlite.ir as ll

from tilth.cpu.emit import F32, I32, I64, Emitter, vector
from tilth.cpu.isa import Isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.loader import LoadedCode
from tilth.cpu.together import run_together

ITERATIONS = 500_000  # about 1 ms with 12 accumulators on a 4 GHz core


def measure_peak(isa: Isa, threads: int, runs: int = 5) -> float:
    """FLOP/s of f32 FMAs on `threads` threads at once, the best of `runs` (an FMA counts two)."""
    return max(_run(isa, threads) for _ in range(runs))


def _run(isa: Isa, threads: int) -> float:
    """Sum of the threads' rates in one run of the loop."""
    _, function = _fma_loop(isa)
    flops = 2 * isa.lanes * _accumulators(isa) * ITERATIONS
    return sum(flops / s for s in run_together(threads, lambda thread: function(ITERATIONS)))


def _accumulators(isa: Isa) -> int:
    """Independent chains, enough to hide the latency of all FMA units within the registers."""
    return 12 if isa.registers < 32 else 24


def emit_fma_loop(module: ll.Module, isa: Isa) -> ll.Function:
    """`float fma_loop(int64 n)`: n times one FMA on each accumulator."""
    e = Emitter(module, isa, "fma_loop", [I64], F32)
    lanes = vector(F32, isa.lanes)
    # different starts, and none the fixed point 2, or LLVM would see through chains
    slots = [e.var(lanes, e.const(lanes, 3.0 + i)) for i in range(_accumulators(isa))]
    factor, term = e.const(lanes, 0.5), e.const(lanes, 1.0)
    with e.loop(0, e.args[0]):
        for slot in slots:
            e.b.store(e.fma(e.b.load(slot, typ=lanes), factor, term), slot)
    total = e.b.load(slots[0], typ=lanes)
    for slot in itertools.islice(slots, 1, None):
        total = e.b.fadd(total, e.b.load(slot, typ=lanes))  # every chain is needed
    e.b.ret(e.b.extract_element(total, ll.Constant(I32, 0)))
    return e.finish()


@functools.cache
def _fma_loop(isa: Isa) -> tuple[LoadedCode, Callable[[int], float]]:
    """The loop alone, and the object it is in."""
    module = new_module(isa, "peak")
    emit_fma_loop(module, isa)
    code = LoadedCode((compile_object(module, isa),), ("fma_loop",))
    return code, ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64)(code.address("fma_loop"))
