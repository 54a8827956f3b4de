"""The program: all steps of a region in one native function that every thread enters.

`main(table, tid, pool)` calls each kernel on this thread's share of the work items, with a barrier
where a step depends on what another thread did. All addresses come through `table`:
arena, weights, profile (or null), then the inputs and the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I32, I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.jit import new_module
from tilth.cpu.memory import Memory, aligned, conflicts, pointer_of
from tilth.cpu.plan import Step
from tilth.cpu.spmd import barrier, emit_runtime

ARENA, WEIGHTS, PROFILE, FIRST_INPUT = range(4)
EXPORTS = ("tilth_run", "tilth_worker")
RECORD_BYTES = 16  # start and end of a step on a thread, nanoseconds, i64 each

_CLOCK_MONOTONIC = 1


def scratch_bytes(steps: Sequence[Step]) -> int:
    """Thread-private memory the program needs, per thread."""
    return aligned(max((s.kernel.scratch for s in steps), default=0))


def emit_program(
    steps: Sequence[Step], memory: Memory, inputs: int, isa: Isa, threads: int
) -> ll.Module:
    """The module of a region: its kernels, `main`, and the threads' runtime."""
    module = new_module(isa, "tilth")
    functions = _emit_kernels(module, isa, steps)
    main = _Main(module, isa, memory, inputs, threads).emit(steps, functions)
    emit_runtime(module, isa, main, threads)
    for function in module.functions:
        if not function.is_declaration and function.name not in EXPORTS:
            function.linkage = "internal"
    return module


def _emit_kernels(module: ll.Module, isa: Isa, steps: Sequence[Step]) -> list[ll.Function]:
    shared: dict[object, ll.Function] = {}
    functions = []
    for step in steps:
        kernel = step.kernel
        if kernel.key not in shared:
            function = kernel.emit(module, isa, f"{kernel.name}.{len(shared)}")
            function.attributes.add("noinline")
            shared[kernel.key] = function
        functions.append(shared[kernel.key])
    return functions


class _Main:
    def __init__(self, module: ll.Module, isa: Isa, memory: Memory, inputs: int, threads: int):
        self.module, self.isa, self.memory = module, isa, memory
        self.inputs, self.threads = inputs, threads
        self.e = Emitter(module, isa, "tilth_main", [PTR, I32, PTR])
        self.table, self.tid32, self.pool = self.e.args
        self.tid = self.e.b.zext(self.tid32, I64)

    def emit(self, steps: Sequence[Step], functions: Sequence[ll.Function]) -> ll.Function:
        e = self.e
        self.profile = self._slot(PROFILE)
        arena_end = aligned(self.memory.arena_bytes)
        own = e.b.mul(self.tid, I64(scratch_bytes(steps)))
        self.scratch = e.offset(self._slot(ARENA), e.b.add(own, I64(arena_end)))
        unsynced: list[Step] = []
        for i, (step, function) in enumerate(zip(steps, functions, strict=True)):
            if conflicts(self.memory, unsynced, step):
                self._barrier()
                unsynced = []
            self._timestamp(2 * i, len(steps))
            self._call(step, function)
            self._timestamp(2 * i + 1, len(steps))
            unsynced.append(step)
        return e.finish()

    def _call(self, step: Step, function: ll.Function) -> None:
        e, kernel = self.e, step.kernel
        pointers = [self._pointer(v) for v in (*step.reads, *step.writes)]
        begin, end = (
            self._share(kernel.items, self.tid),
            self._share(kernel.items, e.b.add(self.tid, I64(1))),
        )

        def call(index: Val) -> None:
            e.b.call(function, [*pointers, self.scratch, begin, end, index])

        if kernel.steps == 1:
            call(I64(0))
            return
        with e.loop(0, kernel.steps) as index:
            call(index)
            self._barrier()

    def _share(self, items: int, tid: Val) -> Val:
        """The first work item of thread `tid`."""
        return self.e.b.udiv(self.e.b.mul(tid, I64(items)), I64(self.threads))

    def _barrier(self) -> None:
        if self.threads > 1:
            self.e.b.call(barrier(self.module, self.isa, self.threads), [self.pool])

    def _slot(self, index: int) -> Val:
        return self.e.load(self.e.offset(self.table, 8 * index), PTR)

    def _pointer(self, view) -> Val:
        kind, index, offset = pointer_of(self.memory, view)
        slots = {
            "arena": ARENA,
            "weights": WEIGHTS,
            "input": FIRST_INPUT + index,
            "output": FIRST_INPUT + self.inputs + index,
        }
        return self.e.offset(self._slot(slots[kind]), offset)

    def _timestamp(self, record: int, steps: int) -> None:
        """Store the time in profile[tid][record], if there is a profile."""
        e = self.e
        null = e.b.icmp_unsigned("==", self.profile, ll.Constant(PTR, None))
        with e.when(e.b.not_(null)):
            clock = e.declare("clock_gettime", I32, [I32, PTR])
            spec = e.var(ll.ArrayType(I64, 2))
            e.b.call(clock, [I32(_CLOCK_MONOTONIC), spec])
            seconds, nanoseconds = e.load(spec, I64), e.load(e.offset(spec, 8), I64)
            now = e.b.add(e.b.mul(seconds, I64(10**9)), nanoseconds)
            row = e.b.mul(self.tid, I64(RECORD_BYTES * steps))
            e.store(now, e.offset(self.profile, e.b.add(row, I64(8 * record))))
