"""Random bits: Philox on the number of each block of words, blocks in lanes.

Gives what `ir.ops.random` gives, bit by bit.
"""

from __future__ import annotations

import llvmlite.ir as ll

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import I64, Emitter, Val, vector, width
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels.space import (
    Split,
    decode,
    kernel_emitter,
    space_of,
    split,
    touched_bytes,
    vector_loop,
)
from tilth.ir.ops.random import MULTIPLIERS, ROUNDS, WEYL

_LOW = 0xFFFFFFFF
_BLOCK_FLOPS = 10 * ROUNDS  # integer operations, about


def lower(task: Task) -> Kernel:
    """A kernel for `rng_bits`: by blocks where one stride leads through the result, and the rest,
    or all where none does, by element."""
    key, view = task.views
    size, per_block = view.size, 128 // max(32, view.dtype.bits)
    space = space_of(view.shape, (view,)).merged()
    strides = space.accesses[0].strides
    blocks = size // per_block if len(space.dims) == 1 else 0
    by_block = split((blocks,), task.threads, 1, 64, 1024)
    by_element = split((size - blocks * per_block,), task.threads, 1)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, (key_at, result_at) = kernel_emitter(module, isa, name, 2)
        *_, begin, end, _step = e.args
        philox = _Philox(e, key, key_at, view.dtype.bits)

        def put(words: Val, place: list[int | Val], step: int) -> None:
            at = address(e, result_at, view.dtype, strides, place)
            type_ = vector(ll.IntType(view.dtype.bits), width(words.type))
            narrow = words if words.type == type_ else e.b.trunc(words, type_)
            store(e, narrow, at, view.dtype, step)

        start, stop = _span(e, by_block, begin, end)

        def several(i: int | Val, n: int, limit: int | Val | None) -> None:
            block = e.b.add(start, e.i64(i))
            for k, words in enumerate(philox.words(block, n)):
                place = e.b.add(e.b.mul(block, I64(per_block)), I64(k))
                put(words, [place], per_block * strides[-1])

        if blocks:
            vector_loop(e, e.b.sub(stop, start), e.isa.lanes, False, several)
        past = I64(by_block.items)
        first, last = _span(e, by_element, e.b.sub(begin, past), e.b.sub(end, past))
        with e.loop(first, last) as i:
            index = e.b.add(i, I64(blocks * per_block))
            words = philox.words(e.b.udiv(index, I64(per_block)), 1)
            put(_chosen(e, words, e.b.urem(index, I64(per_block))), decode(e, index, space.dims), 1)
        return e.finish()

    return Kernel(
        name="rng_bits",
        key=("rng_bits", key.layout, view.layout, by_block, by_element),
        emit=emit,
        items=by_block.items + by_element.items,
        flops=_BLOCK_FLOPS * (blocks + size - blocks * per_block),
        bytes=touched_bytes(task.results),
        algorithm="Philox, blocks in lanes" if blocks else "Philox by element",
    )


def _span(e: Emitter, cut: Split, begin: Val, end: Val) -> tuple[Val, Val]:
    """What a range of work items covers of one dimension, items beyond the dimension left out."""

    def edge(item: Val) -> Val:
        place = e.b.mul(e.intrinsic("smax", item, I64(0)), I64(cut.chunk))
        return e.intrinsic("smin", place, I64(cut.dims[0]))

    return edge(begin), edge(end)


def _chosen(e: Emitter, words: list[Val], number: Val) -> Val:
    result = words[0]
    for k, word in enumerate(words[1:], 1):
        result = e.b.select(e.b.icmp_signed("==", number, I64(k)), word, result)
    return result


class _Philox:
    """Philox 4x32-10 with a key of two u64: the cipher's key, and the counter's high half."""

    def __init__(self, e: Emitter, key: Operand, pointer: Val, bits: int):
        self.e, self.bits = e, bits
        self.secret, self.stream = (
            load(e, address(e, pointer, key.dtype, key.strides, (i,)), key.dtype, 1) for i in (0, 1)
        )

    def words(self, block: Val, n: int) -> list[Val]:
        """The words of `n` blocks from number `block` on, as u64 of 32 bits, or all 64 of them."""
        e, b = self.e, self.e.b
        type_ = vector(I64, n)
        low, half = e.const(type_, _LOW), e.const(type_, 32)

        def halves(x: Val) -> list[Val]:
            return [e.var(type_, b.and_(x, low)), e.var(type_, b.lshr(x, half))]

        blocks = b.add(e.splat(block, n), e.iota(n)) if n > 1 else block
        counter = [*halves(blocks), *halves(e.splat(self.stream, n))]
        keys = halves(e.splat(self.secret, n))
        with e.loop(0, ROUNDS):
            c0, c1, c2, c3 = map(b.load, counter)
            k0, k1 = map(b.load, keys)
            p0, p1 = (
                b.mul(c, e.const(type_, m)) for c, m in zip((c0, c2), MULTIPLIERS, strict=True)
            )
            after = (
                b.xor(b.xor(b.lshr(p1, half), c1), k0),
                b.and_(p1, low),
                b.xor(b.xor(b.lshr(p0, half), c3), k1),
                b.and_(p0, low),
            )
            for slot, value in zip(counter, after, strict=True):
                b.store(value, slot)
            for slot, value, weyl in zip(keys, (k0, k1), WEYL, strict=True):
                b.store(b.and_(b.add(value, e.const(type_, weyl)), low), slot)
        c0, c1, c2, c3 = map(b.load, counter)
        if self.bits < 64:
            return [c0, c1, c2, c3]
        return [b.or_(c0, b.shl(c1, half)), b.or_(c2, b.shl(c3, half))]
