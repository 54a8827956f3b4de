"""The arithmetic limits of this processor, measured: loops of fused multiply-adds.

Profiles and benchmarks show shares of what registers alone allow. A loop that also has the loads of
a product, all from L1, tells what a kernel can reach: less, above all where another thread of the
same core, perhaps another machine's, takes its share of loads and decoding. Measuring beats a table
of clocks and units, because clocks change with load, heat and the number of busy cores.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable

import llvmlite.ir as ll

from tilth.cpu.emit import F32, I32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.microkernel import Depth, Stream, accumulate, repeat
from tilth.cpu.loader import LoadedCode
from tilth.cpu.together import run_together
from tilth.ir.types import f32
from tilth.runtime.memory import aligned_bytes

ITERATIONS = 500_000  # about 1 ms with 12 accumulators on a 4 GHz core
_DEPTH = 128  # of the product: its panel and rows take 12-32 KB
_FLOAT = 4


def measure_peak(isa: Isa, threads: int, runs: int = 5) -> float:
    """FLOP/s of f32 FMAs on `threads` threads at once, the best of `runs` (an FMA counts two)."""
    flops = 2 * isa.lanes * _accumulators(isa) * ITERATIONS
    _, function = _fma_loop(isa)
    return max(_run(threads, flops, lambda _: function(ITERATIONS)) for _ in range(runs))


def measure_product_peak(isa: Isa, threads: int, runs: int = 5) -> float:
    """The same of the inner loop of products: each unit of depth loads vectors of one operand and
    broadcasts elements of the other, all in L1."""
    rows, vectors = _product_tile(isa)
    _, function = _product_loop(isa)
    times = ITERATIONS // _DEPTH
    flops = 2 * isa.lanes * rows * vectors * _DEPTH * times
    rooms = [aligned_bytes(_DEPTH * (rows + vectors * isa.lanes) * _FLOAT) for _ in range(threads)]
    for room in rooms:
        room[:] = 0
    places = [room.ctypes.data for room in rooms]
    return max(_run(threads, flops, lambda t: function(times, places[t])) for _ in range(runs))


def _run(threads: int, flops: int, loop: Callable[[int], object]) -> float:
    """Sum of the threads' rates in one run of `loop(thread)`."""
    return sum(flops / seconds for seconds in run_together(threads, loop))


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


def _product_tile(isa: Isa) -> tuple[int, int]:
    """Rows and vectors of the register tile that large products take."""
    tiling = tiles.choose(isa, 1, 5040, 60, _DEPTH)
    return tiling.width.size, tiling.panels.width


def emit_product_loop(module: ll.Module, isa: Isa) -> ll.Function:
    """`float product_loop(int64 n, ptr)`: n times the product of some rows and a panel, behind
    each other in memory, added up in registers."""
    e = Emitter(module, isa, "product_loop", [I64, PTR], F32)
    (rows, vectors), unit = _product_tile(isa), isa.vector_bytes
    left = Stream(f32, f32, tuple(r * _DEPTH * _FLOAT for r in range(rows)))
    right = Stream(f32, f32, tuple(v * unit for v in range(vectors)), (None,) * vectors)
    depth = Depth(_DEPTH, _FLOAT, vectors * unit)
    panel = e.offset(e.args[1], rows * _DEPTH * _FLOAT)

    def product(sums: list[Val]) -> list[Val]:
        return accumulate(e, left, right, (e.args[1], panel), (), depth, _DEPTH, sums)

    zero = e.const(vector(F32, isa.lanes), 0.0)
    total, *others = repeat(e, e.args[0], [zero] * (rows * vectors), product)
    for value in others:
        total = e.b.fadd(total, value)
    e.b.ret(e.b.extract_element(total, ll.Constant(I32, 0)))
    return e.finish()


@functools.cache
def _product_loop(isa: Isa) -> tuple[LoadedCode, Callable[[int, int], float]]:
    """The loop alone, and the object it is in."""
    module = new_module(isa, "product peak")
    emit_product_loop(module, isa)
    code = LoadedCode((compile_object(module, isa),), ("product_loop",))
    prototype = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64, ctypes.c_void_p)
    return code, prototype(code.address("product_loop"))


@functools.cache
def _fma_loop(isa: Isa) -> tuple[LoadedCode, Callable[[int], float]]:
    """The loop alone, and the object it is in."""
    module = new_module(isa, "peak")
    emit_fma_loop(module, isa)
    code = LoadedCode((compile_object(module, isa),), ("fma_loop",))
    return code, ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_int64)(code.address("fma_loop"))
