"""The steps of LSTM and GRU layers, one call per step with a barrier between.

A work item is a block of hidden units, one per lane, with all their gates (see `recurrent_block`).
The state of the previous step is read from the sequence of results, so threads share nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import llvmlite.ir as ll

from tilth.cpu import vmath
from tilth.cpu.emit import Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels.recurrent_block import Block, Layer, Matrix, Rows, matrix
from tilth.cpu.kernels.space import kernel_emitter, require_dtypes, touched_bytes


def lower_lstm(task: Task) -> Kernel:
    """xp, r, h0, c0 -> y, h, c. The cell state lives in the result c: items own their block."""
    require_dtypes(task.views)
    xp, r, h0, c0, y, h, c = task.views
    layer = Layer(xp, r, h0, y, 4, task.isa, task.node.attrs["reverse"])

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, (xp_at, r_at, h0_at, c0_at, y_at, h_at, c_at) = kernel_emitter(module, isa, name, 7)
        *_, begin, end, step = e.args

        def finish(block: Block, old: Matrix, b: Rows, sums: list[Val]) -> None:
            gates = [e.b.fadd(s, block.input(b, g)) for g, s in enumerate(sums)]
            i, o, f = (vmath.apply(e, "logistic", x) for x in gates[:3])
            new = vmath.apply(e, "tanh", gates[3])
            cell = e.fma(i, new, e.b.fmul(f, block.units(old, b)))
            state = e.b.fmul(o, vmath.apply(e, "tanh", cell))
            block.put(matrix(c_at, c), b, cell)
            block.put_state(y_at, matrix(h_at, h), b, state)

        with _there_and_back(e, begin, end, step) as item:
            block = Block(e, layer, item, step, xp_at, r_at)
            for before in block.either(matrix(h0_at, h0), block.before(y_at)):
                for old in block.either(matrix(c0_at, c0), matrix(c_at, c)):
                    block.accumulate(before, range(4), partial(finish, block, old))
        return e.finish()

    return _kernel("lstm", task, layer, emit, layer.steps)


def lower_gru(task: Task) -> Kernel:
    """xp, r, rb, h0 -> y, h."""
    linear = task.node.attrs["linear_before_reset"]
    return _lower_gru_linear(task) if linear else _lower_gru_reset_first(task)


def _lower_gru_linear(task: Task) -> Kernel:
    """The reset gate scales the finished product, so a step is one sweep over the weights."""
    require_dtypes(task.views)
    xp, r, rb, h0, y, h = task.views
    layer = Layer(xp, r, h0, y, 3, task.isa, task.node.attrs["reverse"])

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, (xp_at, r_at, rb_at, h0_at, y_at, h_at) = kernel_emitter(module, isa, name, 6)
        *_, begin, end, step = e.args

        def finish(block: Block, before: Matrix, b: Rows, sums: list[Val]) -> None:
            biased = [e.b.fadd(s, block.bias(rb_at, rb, g, len(b))) for g, s in enumerate(sums)]
            update, reset = (
                vmath.apply(e, "logistic", e.b.fadd(biased[g], block.input(b, g))) for g in (0, 1)
            )
            new = vmath.apply(e, "tanh", e.fma(reset, biased[2], block.input(b, 2)))
            state = _mix(e, update, new, block.units(before, b))
            block.put_state(y_at, matrix(h_at, h), b, state)

        with _there_and_back(e, begin, end, step) as item:
            block = Block(e, layer, item, step, xp_at, r_at)
            for before in block.either(matrix(h0_at, h0), block.before(y_at)):
                block.accumulate(before, range(3), partial(finish, block, before))
        return e.finish()

    return _kernel("gru", task, layer, emit, layer.steps)


def _lower_gru_reset_first(task: Task) -> Kernel:
    """The reset state of all units is needed before the product: two calls per step.

    The first leaves the update gate in y (its own block's place) and the reset state in the result
    h; the second makes y of them. A last call copies the final state to h.
    """
    require_dtypes(task.views)
    xp, r, rb, h0, y, h = task.views
    layer = Layer(xp, r, h0, y, 3, task.isa, task.node.attrs["reverse"])

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, (xp_at, r_at, rb_at, h0_at, y_at, h_at) = kernel_emitter(module, isa, name, 6)
        *_, begin, end, call = e.args
        step, phase = e.b.lshr(call, e.i64(1)), e.b.and_(call, e.i64(1))
        final = e.b.icmp_signed("==", step, e.i64(layer.steps))
        step = e.intrinsic("smin", step, e.i64(layer.steps - 1))
        scaled = matrix(h_at, h)

        def gate(block: Block, b: Rows, g: int, total: Val) -> Val:
            total = e.b.fadd(total, block.bias(rb_at, rb, g, len(b)))
            return e.b.fadd(total, block.input(b, g))

        def reset(block: Block, before: Matrix, b: Rows, sums: list[Val]) -> None:
            gates = [vmath.apply(e, "logistic", gate(block, b, g, s)) for g, s in enumerate(sums)]
            block.put(block.now(y_at), b, gates[0])
            block.put(scaled, b, e.b.fmul(gates[1], block.units(before, b)))

        def update(block: Block, before: Matrix, b: Rows, sums: list[Val]) -> None:
            new = vmath.apply(e, "tanh", gate(block, b, 2, sums[0]))
            z = block.units(block.now(y_at), b)
            block.put(block.now(y_at), b, _mix(e, z, new, block.units(before, b)))

        def is_phase(number: int) -> Val:
            return e.b.and_(e.b.not_(final), e.b.icmp_signed("==", phase, e.i64(number)))

        with _there_and_back(e, begin, end, step) as item:
            block = Block(e, layer, item, step, xp_at, r_at)
            for before in block.either(matrix(h0_at, h0), block.before(y_at)):
                with e.when(is_phase(0)):
                    block.accumulate(before, range(2), partial(reset, block, before))
                with e.when(is_phase(1)):
                    block.accumulate(scaled, [2], partial(update, block, before))
            with e.when(final), e.loop(0, layer.batch) as b:
                block.put(scaled, [b], block.units(block.now(y_at), [b]))
        return e.finish()

    return _kernel("gru", task, layer, emit, 2 * layer.steps + 1)


def _mix(e: Emitter, update: Val, new: Val, old: Val) -> Val:
    """(1 - z) n + z h = n + z (h - n)."""
    return e.fma(update, e.b.fsub(old, new), new)


def _kernel(
    name: str,
    task: Task,
    layer: Layer,
    emit: Callable[[ll.Module, Isa, str], ll.Function],
    steps: int,
) -> Kernel:
    packed = layer.packed()
    attrs = tuple(sorted(task.node.attrs.items()))
    return Kernel(
        name=name,
        key=(name, attrs, task.layouts, layer.lanes, packed is None),
        emit=emit,
        items=layer.blocks if layer.batch else 0,
        flops=layer.flops,
        bytes=touched_bytes(task.views),
        steps=steps,
        algorithm="weights in place" if packed is None else "packed weights",
        packed={} if packed is None else {1: packed},
    )


@contextmanager
def _there_and_back(e: Emitter, begin: Val, end: Val, step: Val) -> Iterator[Val]:
    """A thread's items, in every second step the last one first: if their weights are more than L2
    holds, those read last are still there."""
    is_odd = e.b.trunc(step, ll.IntType(1))
    last = e.b.sub(e.b.add(begin, end), e.i64(1))
    with e.loop(begin, end) as i:
        yield e.b.select(is_odd, e.b.sub(last, i), i)
