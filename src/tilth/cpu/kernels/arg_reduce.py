"""The position of the greatest or least element along an axis.

Lanes are lines where these are neighbours in memory; a line that stands alone is searched by all
lanes at once, each of which remembers its own best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import llvmlite.ir as ll

from tilth.cpu.access import address, load
from tilth.cpu.emit import I32, I64, Emitter, Val, vector, width
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels.lines import Limit, Lines, lines_of
from tilth.cpu.kernels.ranking import rank, rank_bits
from tilth.cpu.kernels.space import kernel_emitter, require_dtypes, touched_bytes
from tilth.ir.types import DType


def lower(task: Task) -> Kernel:
    """A kernel for `arg_reduce`."""
    require_dtypes(task.views)
    (x, view), attrs = task.views, task.node.attrs
    axis, kind, last = attrs["axis"], attrs["kind"], attrs["last"]
    length, dtype = x.shape[axis], x.dtype
    lines = lines_of((x, _with_axis(view, axis)), axis, length, task.threads)
    bits = rank_bits(dtype, length)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, 2)
        *_, begin, end, _step = e.args

        def search(at: Sequence[Val], n: int, limit: Limit) -> None:
            found = _search(e, lines, at, length, kind, last, bits, n, limit)
            wide = vector(I64, width(found.type))
            lines.write(e, e.b.zext(found, wide) if bits == 32 else found, at, 1, 0, limit)

        lines.walk(e, pointers, begin, end, search)
        return e.finish()

    return Kernel(
        name="arg_reduce",
        key=("arg_reduce", lines, length, kind, last),
        emit=emit,
        items=lines.cut.items,
        flops=x.size,
        bytes=touched_bytes(task.views),
        algorithm="lanes are lines" if lines.across else "line by line",
    )


def _with_axis(view: Operand, axis: int) -> Operand:
    """A result with the dropped axis back, one element long."""
    shape, strides = list(view.shape), list(view.strides)
    shape.insert(axis, 1)
    strides.insert(axis, 0)
    return replace(view, shape=tuple(shape), strides=tuple(strides))


def _search(
    e: Emitter,
    lines: Lines,
    at: Sequence[Val],
    length: int,
    kind: str,
    last: bool,
    bits: int,
    n: int,
    limit: Limit,
) -> Val:
    """The positions along `n` lines."""
    dtype, stride = lines.space.accesses[0].dtype, lines.strides[0]
    lanes = e.isa.lanes
    start = 0
    best = _Best(e, bits, n, last)
    if not lines.across and length >= 2 * lanes:
        start = length // lanes * lanes
        many = _Best(e, bits, lanes, last)
        with e.loop(0, start, lanes) as k:
            x = load(e, address(e, at[0], dtype, (stride,), (k,)), dtype, lanes, stride)
            many.offer(_score(e, x, dtype, kind, bits), many.positions(k))
        best = many.merged()
    with e.loop(start, length) as k:
        x = lines.read(e, at, 0, k, n, limit)
        best.offer(_score(e, x, dtype, kind, bits), e.splat(best.index(k), n))
    return e.b.load(best.position)


def _score(e: Emitter, x: Val, dtype: DType, kind: str, bits: int) -> Val:
    """Integers of which the greatest is wanted; NaN wins whatever is wanted."""
    score = rank(e, x, dtype, bits, descending=kind == "min")
    if dtype.is_float and kind == "min":
        greatest = e.const(score.type, (1 << bits - 1) - 1)
        return e.b.select(e.b.fcmp_unordered("uno", x, x), greatest, score)
    return score


class _Best:
    """The best score so far and where it was, in each of `n` lanes."""

    def __init__(self, e: Emitter, bits: int, n: int, last: bool):
        self.e, self.last, self.n = e, last, n
        self.type = ll.IntType(bits)
        wide = vector(self.type, n)
        self.score = e.var(wide, e.const(wide, -(1 << bits - 1)))
        self.position = e.var(wide, e.const(wide, 0))

    def index(self, k: Val) -> Val:
        return self.e.b.trunc(k, I32) if self.type == I32 else k

    def positions(self, k: Val) -> Val:
        """k, k + 1, ... one per lane."""
        return self.e.b.add(self.e.splat(self.index(k), self.n), self.e.iota(self.n, self.type))

    def offer(self, score: Val, position: Val) -> None:
        """Positions are offered in ascending order."""
        self._take(
            self.e.b.icmp_signed(">=" if self.last else ">", score, self._old), score, position
        )

    @property
    def _old(self) -> Val:
        return self.e.b.load(self.score)

    def _take(self, better: Val, score: Val, position: Val) -> None:
        b = self.e.b
        b.store(b.select(better, score, self._old), self.score)
        b.store(b.select(better, position, b.load(self.position)), self.position)

    def merged(self) -> _Best:
        """The best of all lanes."""
        e, b = self.e, self.e.b
        one = _Best(e, self.type.width, 1, self.last)
        scores, positions = self._old, b.load(self.position)
        for lane in range(self.n):
            at = ll.Constant(I32, lane)
            score, position = b.extract_element(scores, at), b.extract_element(positions, at)
            nearer = b.icmp_signed(">" if self.last else "<", position, b.load(one.position))
            equal = b.icmp_signed("==", score, one._old)
            better = b.or_(b.icmp_signed(">", score, one._old), b.and_(equal, nearer))
            one._take(better, score, position)
        return one
