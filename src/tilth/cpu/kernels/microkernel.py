"""The inner loop of every contraction: accumulators in registers, one pass over the depth.

acc[row][vector] += broadcast(lhs[row, k]) * rhs[k, vector]. The rows of the left operand lie at
displacements from one pointer, whatever they are: rows of a matrix or pixels of a window. These are
static, except where rows are counted through the lines of a map.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import load
from tilth.cpu.emit import I32, I64, PTR, VOID, Emitter, Val, width
from tilth.cpu.expression import convert
from tilth.ir.types import DType

LINE = 64  # bytes of a cache line


def unrolling(accumulators: int, fetching: bool = False) -> int:
    """Units of depth per turn of the inner loop: enough to hide the loop's own instructions.

    A loop that is `fetching` at its own pace takes longer turns, so as to fetch seldom.
    """
    return 2 if accumulators > 16 and not fetching else 4


@dataclass(frozen=True, slots=True)
class Depth:
    """One loop over the depth: trip count and byte strides of both operands.

    `turns` replaces `size`, the most there are, where a tap's trip count is known at run time.
    """

    size: int
    lhs: int
    rhs: int
    turns: int | Val | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """How one operand is read: element type, the type to compute in, byte displacements.

    `displacements` are of the rows (left) or of the vectors (right); `counts`, of the right operand
    only, says how many lanes of a vector may be touched, None for all. `quads`, of the left
    operand only: an element is four unsigned bytes, one of the right operand four signed ones.
    """

    dtype: DType
    compute: DType
    displacements: tuple[int | Val, ...]
    counts: tuple[int | None, ...] = ()
    stride: int = 1  # between lanes, in elements
    quads: bool = False


def accumulate(
    e: Emitter,
    lhs: Stream,
    rhs: Stream,
    pointers: Sequence[Val],
    taps: Sequence[Depth],
    inner: Depth,
    trips: int | Val,
    accumulators: Sequence[Val],
    pace: int | None = None,
) -> list[Val]:
    """`accumulators` (rows x vectors) plus the products of `taps` x the first `trips` of `inner`.

    `pointers` are of the two operands and, optionally, of memory to bring into L2 on the way:
    `pace` bytes per turn of the inner loop (None: a line). `trips` may be known only at run time;
    it is then positive.
    """
    unroll = unrolling(len(accumulators), pace is not None)
    if pace is None:
        unroll = min(unroll, _nearest(lhs, abs(inner.lhs)))
    fetched = pace or LINE
    if taps:
        tap, *rest = taps

        def one_tap(values: list[Val]) -> list[Val]:
            a, b, *others = values[: len(pointers)]
            accs = values[len(pointers) :]
            accs = accumulate(
                *(e, lhs, rhs, values[: len(pointers)], rest, inner, trips, accs, pace)
            )
            others = [e.offset(p, inner.size // unroll * fetched) for p in others]
            return [e.offset(a, tap.lhs), e.offset(b, tap.rhs), *others, *accs]

        turns = tap.size if tap.turns is None else tap.turns
        return repeat(e, turns, [*pointers, *accumulators], one_tap)[len(pointers) :]

    def steps(count: int) -> Callable[[list[Val]], list[Val]]:
        def body(values: list[Val]) -> list[Val]:
            a, b, *others = values[: len(pointers)]
            accs = values[len(pointers) :]
            if count == unroll:
                others = [_fetch(e, p, fetched) for p in others]
            for k in range(count):
                accs = _step(
                    e, lhs, rhs, e.offset(a, k * inner.lhs), e.offset(b, k * inner.rhs), accs
                )
            moved = [e.offset(a, count * inner.lhs), e.offset(b, count * inner.rhs)]
            return [*moved, *others, *accs]

        return body

    values = [*pointers, *accumulators]
    if isinstance(trips, int):
        values = repeat(e, trips // unroll, values, steps(unroll))
        return steps(trips % unroll)(values)[len(pointers) :]
    values = repeat(e, e.b.udiv(trips, I64(unroll)), values, steps(unroll))
    if inner.size % unroll:
        values = repeat(e, e.b.urem(trips, I64(unroll)), values, steps(1))
    return values[len(pointers) :]


def _nearest(lhs: Stream, step: int) -> int:
    """The fewest units of depth between two rows, as in windows over few channels.

    Longer turns would read an element for one row, and again for another: LLVM would keep it, in a
    register that is not there.
    """
    places = [at for at in lhs.displacements if isinstance(at, int)]
    apart = {abs(a - b) for a, b in itertools.combinations(places, 2)} - {0}
    return min((d // step for d in apart if step and d % step == 0), default=LINE)


def with_earlier(
    e: Emitter, slot: Val, accumulators: list[Val], block: Val, dtype: DType
) -> list[Val]:
    """The accumulators plus those that lie in `slot`, except for block 0 of the depth."""
    before = e.b.block
    more, ready = e.fn.append_basic_block("more"), e.fn.append_basic_block("ready")
    e.b.cbranch(e.b.icmp_signed(">", block, I64(0)), more, ready)
    e.b.position_at_end(more)
    type_ = accumulators[0].type
    add = e.b.fadd if dtype.is_float else e.b.add
    nbytes = dtype.nbytes * width(type_)
    totals = [
        add(e.load(e.offset(slot, i * nbytes), type_, align=nbytes), acc)
        for i, acc in enumerate(accumulators)
    ]
    e.b.branch(ready)
    e.b.position_at_end(ready)
    values = []
    for acc, total in zip(accumulators, totals, strict=True):
        phi = e.b.phi(type_)
        phi.add_incoming(acc, before)
        phi.add_incoming(total, more)
        values.append(phi)
    return values


def _fetch(e: Emitter, pointer: Val, nbytes: int) -> Val:
    """Bring some bytes into L2; gives the pointer behind them."""
    for at in range(0, nbytes, LINE):
        prefetch(e, e.offset(pointer, at))
    return e.offset(pointer, nbytes)


def prefetch(e: Emitter, pointer: Val, to_write: bool = False) -> None:
    """Bring a cache line into L2, its ownership too if it is to be written. Never faults."""
    fn = e.declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
    e.b.call(fn, [pointer, I32(int(to_write)), I32(2), I32(1)])


def _step(e: Emitter, lhs: Stream, rhs: Stream, a: Val, b: Val, accs: list[Val]) -> list[Val]:
    """One unit of depth."""
    lanes = accs[0].type.count if isinstance(accs[0].type, ll.VectorType) else 1
    row = [
        convert(
            e, load(e, e.offset(b, at), rhs.dtype, lanes, rhs.stride, count), rhs.dtype, rhs.compute
        )
        for at, count in zip(rhs.displacements, rhs.counts, strict=True)
    ]
    result = []
    for i, at in enumerate(lhs.displacements):
        scalar = convert(e, load(e, e.offset(a, at), lhs.dtype, 1), lhs.dtype, lhs.compute)
        factor = e.splat(scalar, lanes)
        for j, vector in enumerate(row):
            acc = accs[i * len(row) + j]
            if lhs.quads:
                result.append(e.byte_dot(factor, vector, acc))
            elif lhs.compute.is_float:
                result.append(e.fma(factor, vector, acc))
            else:
                result.append(e.b.add(acc, e.b.mul(factor, vector)))
    return result


def repeat(
    e: Emitter, trips: int | Val, values: list[Val], body: Callable[[list[Val]], list[Val]]
) -> list[Val]:
    """`values = body(values)`, `trips` times, with the values in registers."""
    if isinstance(trips, int) and trips <= 1:
        return body(values) if trips else values
    before = e.b.block
    loop, done = e.fn.append_basic_block("depth"), e.fn.append_basic_block("depth.done")
    if isinstance(trips, int):
        e.b.branch(loop)
    else:
        e.b.cbranch(e.b.icmp_signed(">", trips, I64(0)), loop, done)
    e.b.position_at_end(loop)
    left = e.b.phi(I64)
    left.add_incoming(e.i64(trips), before)
    carried = []
    for value in values:
        phi = e.b.phi(value.type)
        phi.add_incoming(value, before)
        carried.append(phi)
    results = body(carried)
    after = e.b.block
    remaining = e.b.sub(left, I64(1))
    left.add_incoming(remaining, after)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, after)
    e.b.cbranch(e.b.icmp_signed(">", remaining, I64(0)), loop, done)
    e.b.position_at_end(done)
    if isinstance(trips, int):
        return results
    merged = []
    for value, result in zip(values, results, strict=True):
        phi = e.b.phi(value.type)
        phi.add_incoming(value, before)
        phi.add_incoming(result, after)
        merged.append(phi)
    return merged
