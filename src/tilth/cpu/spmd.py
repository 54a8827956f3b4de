"""The threads' side of a program, as emitted code: start, worker loop and barrier.

A program is one function `main(table, tid, pool)` that every thread of a pool enters once per call
(SPMD). Python only lends threads (`runtime/threads.py`): each sits in `tilth_worker`, spinning
briefly after a call and then asleep on a futex, so that idling costs nothing. Within a call threads
spin for longer: what they wait for comes soon, and waking a thread takes 30 us, or milliseconds
when the system finds it no core. Everything lives in the pool's memory, one cache line per field
that threads fight over.
"""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ll

from tilth.cpu.emit import I32, I64, PTR, VOID, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.table import (
    ARRIVED,
    EPOCH,
    FINISHED,
    MAIN,
    PATIENCE_BETWEEN,
    PATIENCE_WITHIN,
    SLEEPING_AT_BARRIER,
    SLEEPING_CALLER,
    SLEEPING_WORKERS,
    TABLE,
)

_TURNS = 64  # of spinning between two looks at the clock
_CLOCK_MONOTONIC = 1
_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}
_WAIT_PRIVATE, _WAKE_PRIVATE = 128, 129


def emit_now(e: Emitter) -> Val:
    """The time in nanoseconds, of a clock that never goes back."""
    clock = e.declare("clock_gettime", I32, [I32, PTR])
    spec = e.var(ll.ArrayType(I64, 2))
    e.b.call(clock, [I32(_CLOCK_MONOTONIC), spec])
    seconds, nanoseconds = e.load(spec, I64), e.load(e.offset(spec, 8), I64)
    return e.b.add(e.b.mul(seconds, I64(10**9)), nanoseconds)


def emit_runtime(module: ll.Module, isa: Isa, main: ll.Function, threads: int) -> None:
    """Define `tilth_run`, `tilth_worker` and, if the program needs it, `tilth_barrier`."""
    _emit_run(module, isa, main, threads)
    _emit_worker(module, isa)


def barrier(module: ll.Module, isa: Isa, threads: int) -> ll.Function:
    """`tilth_barrier(pool)`: returns when all `threads` threads have called it."""
    if "tilth_barrier" in module.globals:
        return module.globals["tilth_barrier"]
    e = Emitter(module, isa, "tilth_barrier", [PTR])
    e.fn.attributes.add("noinline")
    pool = e.args[0]
    ticket = e.b.atomic_rmw("add", e.offset(pool, ARRIVED), I64(1), "seq_cst")
    past = e.b.urem(ticket, I64(threads))  # who came before, of this round
    everyone = e.b.add(e.b.sub(ticket, past), I64(threads))
    with e.b.if_else(e.b.icmp_unsigned("==", past, I64(threads - 1))) as (last, others):
        with last:
            _wake_sleepers(e, e.offset(pool, ARRIVED), e.offset(pool, SLEEPING_AT_BARRIER))
        with others:
            places = ARRIVED, SLEEPING_AT_BARRIER, PATIENCE_WITHIN
            _wait_until(e, pool, places, lambda n: e.b.icmp_unsigned(">=", n, everyone), I64)
    return e.finish()


def _emit_run(module: ll.Module, isa: Isa, main: ll.Function, threads: int) -> None:
    """`tilth_run(pool, table)`: one call of the program, the caller being thread 0.

    It returns when every worker has left `main`, so that the program may be unloaded afterwards.
    """
    e = Emitter(module, isa, "tilth_run", [PTR, PTR])
    pool, table = e.args
    if threads == 1:
        e.b.call(main, [table, I32(0), pool])
        e.finish()
        return
    finished, epoch = e.offset(pool, FINISHED), e.offset(pool, EPOCH)
    e.store(main, e.offset(pool, MAIN))
    e.store(table, e.offset(pool, TABLE))
    e.b.atomic_rmw("xchg", finished, I32(0), "monotonic")
    e.b.atomic_rmw("add", epoch, I32(1), "seq_cst")
    _wake_sleepers(e, epoch, e.offset(pool, SLEEPING_WORKERS))
    e.b.call(main, [table, I32(0), pool])
    everyone = I32(threads - 1)
    _wait_until(
        *(e, pool, (FINISHED, SLEEPING_CALLER, PATIENCE_WITHIN)),
        lambda count: e.b.icmp_unsigned("==", count, everyone),
    )
    e.finish()


def _emit_worker(module: ll.Module, isa: Isa) -> None:
    """`tilth_worker(pool, tid)`: serve calls for ever. The pool's epoch must be 0 at the start."""
    e = Emitter(module, isa, "tilth_worker", [PTR, I32])
    pool, tid = e.args
    epoch, finished = e.offset(pool, EPOCH), e.offset(pool, FINISHED)
    seen = e.var(I32, I32(0))
    forever = e.fn.append_basic_block("forever")
    e.b.branch(forever)
    e.b.position_at_end(forever)
    places = EPOCH, SLEEPING_WORKERS, PATIENCE_BETWEEN
    _wait_until(e, pool, places, _differs(e, e.b.load(seen, typ=I32)))
    e.b.store(e.b.load_atomic(epoch, "acquire", 4, typ=I32), seen)
    main = e.load(e.offset(pool, MAIN), ll.FunctionType(VOID, [PTR, I32, PTR]).as_pointer())
    table = e.load(e.offset(pool, TABLE), PTR)
    e.b.call(main, [table, tid, pool])
    e.b.atomic_rmw("add", finished, I32(1), "seq_cst")
    _wake_sleepers(e, finished, e.offset(pool, SLEEPING_CALLER))
    e.b.branch(forever)
    e.finish()


def _differs(e: Emitter, old: Val) -> Callable[[Val], Val]:
    return lambda value: e.b.icmp_unsigned("!=", value, old)


def _wait_until(
    e: Emitter,
    pool: Val,
    places: tuple[int, int, int],
    ready: Callable[[Val], Val],
    type_: ll.IntType = I32,
) -> None:
    """Return once `ready(word)`: spin for as long as patience lasts, then sleep until woken.

    `places` are the offsets of the word, of the number of its sleepers, and of the patience. The
    system looks at 32 bits of the word, its lowest ones.
    """
    word, sleepers, patience = (e.offset(pool, place) for place in places)
    turns, deadline = e.var(I64, I64(0)), e.var(I64, I64(0))
    names = ("test", "spin", "look", "sleep", "done")
    test, spin, look, sleep, done = (e.fn.append_basic_block(f"wait.{n}") for n in names)
    e.b.branch(test)
    e.b.position_at_end(test)
    value = e.b.load_atomic(word, "acquire", type_.width // 8, typ=type_)
    e.b.cbranch(ready(value), done, spin)
    e.b.position_at_end(spin)
    _pause(e)
    turn = e.b.add(e.b.load(turns, typ=I64), I64(1))
    e.b.store(turn, turns)
    e.b.cbranch(e.b.icmp_unsigned("==", e.b.and_(turn, I64(_TURNS - 1)), I64(0)), look, test)
    e.b.position_at_end(look)
    now = emit_now(e)
    with e.when(e.b.icmp_unsigned("==", turn, I64(_TURNS))):
        e.b.store(e.b.add(now, e.load(patience, I64)), deadline)
    e.b.cbranch(e.b.icmp_unsigned(">", now, e.b.load(deadline, typ=I64)), sleep, test)
    e.b.position_at_end(sleep)
    e.b.atomic_rmw("add", sleepers, I32(1), "seq_cst")
    _futex(e, word, _WAIT_PRIVATE, e.b.trunc(value, I32) if type_ != I32 else value)
    e.b.atomic_rmw("sub", sleepers, I32(1), "seq_cst")
    e.b.branch(test)
    e.b.position_at_end(done)


def _wake_sleepers(e: Emitter, word: Val, sleepers: Val) -> None:
    count = e.b.load_atomic(sleepers, "seq_cst", 4, typ=I32)
    with e.when(e.b.icmp_unsigned("!=", count, I32(0))):
        _futex(e, word, _WAKE_PRIVATE, I32(0x7FFFFFFF))


def _pause(e: Emitter) -> None:
    """Tell the core that this is a spin loop."""
    if _machine(e.isa) == "x86_64":
        e.b.call(e.declare("llvm.x86.sse2.pause", VOID, []), [])
    elif _machine(e.isa) == "aarch64":
        e.b.call(e.declare("llvm.aarch64.hint", VOID, [I32]), [I32(1)])  # 1 = yield


def _futex(e: Emitter, word: Val, operation: int, value: Val) -> None:
    """futex(2) through libc's `syscall`; spurious returns are fine for every caller."""
    if "syscall" in e.module.globals:
        syscall = e.module.globals["syscall"]
    else:
        syscall = ll.Function(e.module, ll.FunctionType(I64, [I64], var_arg=True), "syscall")
    number = I64(_FUTEX[_machine(e.isa)])
    e.b.call(syscall, [number, word, I32(operation), value, ll.Constant(PTR, None)])


def _machine(isa: Isa) -> str:
    return isa.triple.split("-")[0]
