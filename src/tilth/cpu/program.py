"""The program: all steps of a region, called by one native function that every thread enters.

`main(table, tid, pool)` calls each kernel on this thread's share of the work items, with a barrier
where a step depends on what another thread did, and around control flow. All addresses come
through `table`: arena, weights, profile (or null), then the inputs and the outputs.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterator, Mapping, Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I8, I32, I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.jit import new_module
from tilth.cpu.memory import Memory, conflicts, pointer_of
from tilth.cpu.spmd import barrier, emit_now, emit_runtime
from tilth.cpu.steps import Branch, Item, Loop, Step, all_steps
from tilth.cpu.table import ARENA, EXPORTS, FIRST_INPUT, PROFILE, RECORD_BYTES, WEIGHTS
from tilth.cpu.view import Counter, Motion, View
from tilth.runtime.memory import aligned

_Kernels = Mapping[Hashable, ll.Function]  # by their keys, in whatever module they are defined

_MODULE = 3000  # instructions from which on further kernels go into another module


def scratch_bytes(items: Sequence[Item]) -> int:
    """Thread-private memory the program needs, per thread."""
    return aligned(max((s.kernel.scratch for s in all_steps(items)), default=0))


def emit_program(
    items: Sequence[Item], memory: Memory, inputs: int, isa: Isa, threads: int
) -> Iterator[ll.Module]:
    """The modules of a region; each calls functions of those before it.

    Kernels come first, equal ones once: some can be compiled while others are emitted. The last
    module holds `main` and the threads' runtime.
    """
    module = new_module(isa, "tilth")
    kernels: dict[Hashable, ll.Function] = {}
    for step in all_steps(items):
        kernel = step.kernel
        if kernel.key in kernels:
            continue
        if _instructions(module) > _MODULE:
            _hide_all_but(module, {f.name for f in kernels.values()})
            yield module
            module = new_module(isa, "tilth")
        function = kernel.emit(module, isa, f"{kernel.name}.{len(kernels)}")
        function.attributes.add("noinline")
        kernels[kernel.key] = function
    main = _Main(module, isa, memory, inputs, threads).emit(items, kernels)
    emit_runtime(module, isa, main, threads)
    _hide_all_but(module, EXPORTS)
    yield module


def _instructions(module: ll.Module) -> int:
    return sum(len(block.instructions) for f in module.functions for block in f.blocks)


def _hide_all_but(module: ll.Module, exported: Container[str]) -> None:
    for function in module.functions:
        if not function.is_declaration and function.name not in exported:
            function.linkage = "internal"


class _Main:
    def __init__(self, module: ll.Module, isa: Isa, memory: Memory, inputs: int, threads: int):
        self.module, self.isa, self.memory = module, isa, memory
        self.inputs, self.threads = inputs, threads
        self.e = Emitter(module, isa, "tilth_main", [PTR, I32, PTR])
        self.table, self.tid32, self.pool = self.e.args
        self.tid = self.e.b.zext(self.tid32, I64)
        self.counters: dict[Counter, Val] = {}

    def emit(self, items: Sequence[Item], kernels: _Kernels) -> ll.Function:
        e = self.e
        self.kernels = kernels
        self.profile = self._slot(PROFILE)
        arena_end = aligned(self.memory.arena_bytes)
        own = e.b.mul(self.tid, I64(scratch_bytes(items)))
        self.scratch = e.offset(self._slot(ARENA), e.b.add(own, I64(arena_end)))
        self._run(items, timed=True)
        return e.finish()

    def _run(self, items: Sequence[Item], timed: bool = False) -> None:
        """Straight-line code; what came before is finished by all threads.

        Control flow begins and ends behind a barrier.
        """
        unsynced: list[Step] = []
        for i, item in enumerate(items):
            if unsynced and (not isinstance(item, Step) or conflicts(self.memory, unsynced, item)):
                self._barrier()
                unsynced = []
            if timed:
                self._timestamp(2 * i, len(items))
            match item:
                case Step():
                    self._call(item, self._function(item.kernel.key))
                    unsynced.append(item)
                case Branch():
                    self._branch(item)
                case Loop():
                    self._loop(item)
            if timed:
                self._timestamp(2 * i + 1, len(items))

    def _branch(self, item: Branch) -> None:
        with self.e.b.if_else(self._holds(item.predicate)) as (then, otherwise):
            with then:
                self._run(item.then)
            with otherwise:
                self._run(item.otherwise)
        self._barrier()

    def _loop(self, item: Loop) -> None:
        e = self.e
        counter = self.counters[item.counter] = e.var(I64, I64(0))
        turn, body, done = (e.fn.append_basic_block(f"turn.{n}") for n in ("ask", "body", "done"))
        e.b.branch(turn)
        e.b.position_at_end(turn)
        if item.predicate is None:
            going = e.b.icmp_signed("<", e.b.load(counter), I64(item.trips))
        else:
            self._run(item.condition)
            self._barrier()
            going = self._holds(item.predicate)
        e.b.cbranch(going, body, done)
        e.b.position_at_end(body)
        self._run(item.body)
        self._barrier()
        e.b.store(e.b.add(e.b.load(counter), I64(1)), counter)
        e.b.branch(turn)
        e.b.position_at_end(done)

    def _holds(self, predicate: View) -> Val:
        return self.e.b.icmp_unsigned("!=", self.e.load(self._pointer(predicate), I8), I8(0))

    def _function(self, key: Hashable) -> ll.Function:
        """A kernel, declared if it is defined elsewhere."""
        kernel = self.kernels[key]
        found = self.module.globals.get(kernel.name)
        return found or ll.Function(self.module, kernel.function_type, kernel.name)

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

    def _pointer(self, view: View) -> Val:
        kind, index, offset = pointer_of(self.memory, view)
        slots = {
            "arena": ARENA,
            "weights": WEIGHTS,
            "input": FIRST_INPUT + index,
            "output": FIRST_INPUT + self.inputs + index,
        }
        pointer = self.e.offset(self._slot(slots[kind]), offset)
        for motion in view.motions:
            pointer = self.e.offset(pointer, self._moved(motion))
        return pointer

    def _moved(self, motion: Motion) -> Val:
        b = self.e.b
        turn = b.add(b.load(self.counters[motion.counter]), I64(motion.phase))
        if motion.period is not None:
            turn = b.urem(turn, I64(motion.period))
        return b.mul(turn, I64(motion.nbytes))

    def _timestamp(self, record: int, steps: int) -> None:
        """Store the time in profile[tid][record], if there is a profile."""
        e = self.e
        null = e.b.icmp_unsigned("==", self.profile, ll.Constant(PTR, None))
        with e.when(e.b.not_(null)):
            now = emit_now(e)
            row = e.b.mul(self.tid, I64(RECORD_BYTES * steps))
            e.store(now, e.offset(self.profile, e.b.add(row, I64(8 * record))))
