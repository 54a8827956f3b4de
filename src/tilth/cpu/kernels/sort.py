"""Sorting along an axis, and the k greatest or least: line by line, on words of rank and position.

Words go to scratch, blocks of eight through a sorting network, then runs are merged without
branches. A few of many are selected instead: a short sorted list takes what beats its worst.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.access import address, load
from tilth.cpu.emit import I1, I64, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels.lines import Limit, Lines, lines_of
from tilth.cpu.kernels.ranking import position_of, rank, rank_bits, word, word_type
from tilth.cpu.kernels.space import as_bits, kernel_emitter, require_dtypes, touched_bytes
from tilth.ir.types import DType

_BLOCK = 8  # words per sorting network
_MOST_SELECTED = 64  # beyond, sorting everything is faster

Order = Callable[["_Line"], Val]  # leaves the words in order and gives where they are


def lower_sort(task: Task) -> Kernel:
    """All operands in the stable order of the first."""
    first, count = task.operands[0], len(task.operands)
    require_dtypes((first,))
    axis, descending = task.node.attrs["axis"], task.node.attrs["descending"]
    length, views = first.shape[axis], (first, *as_bits(task.views))
    lines = lines_of(views, axis, _work(length), task.threads, alone=True)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, 2 * count)
        *_, scratch, begin, end, _step = e.args

        def sort(at: Sequence[Val], n: int, limit: Limit) -> None:
            line = _Line(e, lines, at, length, descending, scratch)
            ordered = line.sorted()
            with e.loop(0, length) as i:
                source = line.position(ordered, i)
                for j in range(1, count + 1):
                    value = lines.read(e, at, j, source, 1, None)
                    lines.write(e, value, at, count + j, i)

        lines.walk(e, [pointers[0], *pointers], begin, end, sort)
        return e.finish()

    return Kernel(
        name="sort",
        key=("sort", lines, length, descending),
        emit=emit,
        items=lines.cut.items,
        flops=_work(length) * lines.space.size,
        bytes=touched_bytes(task.views),
        scratch=2 * _capacity(length) * _word_bytes(first.dtype, length),
        algorithm="merge sort",
    )


def lower_top_k(task: Task) -> Kernel:
    """The first k of a line in order, and their positions."""
    require_dtypes(task.views)
    attrs, (x, values, indices) = task.node.attrs, task.views
    axis, k, descending = attrs["axis"], attrs["k"], attrs["largest"]
    length, views = x.shape[axis], (x, *as_bits((x, values)), indices)
    lines = lines_of(views, axis, _work(length), task.threads, alone=True)
    few = k <= _MOST_SELECTED and 2 * k <= length

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, (x_at, values_at, indices_at) = kernel_emitter(module, isa, name, 3)
        *_, scratch, begin, end, _step = e.args

        def choose(at: Sequence[Val], n: int, limit: Limit) -> None:
            line = _Line(e, lines, at, length, descending, scratch)
            chosen = line.selected(k) if few else line.sorted()
            with e.loop(0, k) as i:
                source = line.position(chosen, i)
                lines.write(e, lines.read(e, at, 1, source, 1, None), at, 2, i)
                lines.write(e, source, at, 3, i)

        lines.walk(e, [x_at, x_at, values_at, indices_at], begin, end, choose)
        return e.finish()

    return Kernel(
        name="top_k",
        key=("top_k", lines, length, k, descending),
        emit=emit,
        items=lines.cut.items if k else 0,
        flops=_work(length) * lines.space.size,
        bytes=touched_bytes(task.views),
        scratch=2 * _capacity(length) * _word_bytes(x.dtype, length),
        algorithm="selection" if few else "merge sort",
    )


def _work(length: int) -> int:
    """Steps to sort a line."""
    return length * max(1, length.bit_length())


def _capacity(length: int) -> int:
    """Words in a buffer: whole blocks, and one that a merge may look at beyond the end."""
    return -(-length // _BLOCK) * _BLOCK + 1


def _word_bytes(dtype: DType, length: int) -> int:
    return rank_bits(dtype, length) // 4


class _Line:
    """One line while it is being sorted: its words in thread-private memory."""

    def __init__(
        self,
        e: Emitter,
        lines: Lines,
        at: Sequence[Val],
        length: int,
        descending: bool,
        scratch: Val,
    ):
        self.e, self.lines, self.at, self.length = e, lines, at, length
        self.dtype = lines.space.accesses[0].dtype
        self.descending = descending
        self.bits = rank_bits(self.dtype, length)
        self.type = word_type(self.bits)
        self.greatest = ll.Constant(self.type, (1 << self.type.width - 1) - 1)
        self.first = scratch
        self.second = e.offset(scratch, _capacity(length) * self.type.width // 8)

    def position(self, words: Val, i: int | Val) -> Val:
        """The place along the line of word number i."""
        return position_of(self.e, self.get(words, i))

    def get(self, words: Val, i: int | Val) -> Val:
        return self.e.load(self._slot(words, i), self.type, align=8)

    def put(self, value: Val, words: Val, i: int | Val) -> None:
        self.e.store(value, self._slot(words, i), align=8)

    def _slot(self, words: Val, i: int | Val) -> Val:
        nbytes = self.type.width // 8
        step = i * nbytes if isinstance(i, int) else self.e.b.mul(i, I64(nbytes))
        return self.e.offset(words, step)

    def ranks(self, start: Val, n: int) -> Val:
        """The ranks of `n` elements from `start` on."""
        e, stride = self.e, self.lines.strides[0]
        pointer = address(e, self.at[0], self.dtype, (stride,), (start,))
        x = load(e, pointer, self.dtype, n, stride)
        return rank(e, x, self.dtype, self.bits, self.descending)

    # -- all of them ---------------------------------------------------------------------------
    def sorted(self) -> Val:
        """All words in order."""
        e = self.e
        with e.loop(0, self.length) as i:
            self.put(word(e, self.ranks(i, 1), i), self.first, i)
        whole = _capacity(self.length) - 1
        for i in range(self.length, whole):
            self.put(self.greatest, self.first, i)
        with e.loop(0, whole, _BLOCK) as start:
            self._sort_block(start)
        levels = max(0, (whole // _BLOCK - 1).bit_length())
        with e.loop(0, levels) as level:
            odd = e.b.trunc(level, I1)
            source = e.b.select(odd, self.second, self.first)
            target = e.b.select(odd, self.first, self.second)
            run = e.b.shl(I64(_BLOCK), level)
            with e.loop(0, whole, e.b.shl(run, I64(1))) as start:
                self._merge(source, target, start, run, I64(whole))
        return self.second if levels % 2 else self.first

    def _sort_block(self, start: Val) -> None:
        places = [self.e.b.add(start, I64(i)) for i in range(_BLOCK)]
        words = [self.get(self.first, place) for place in places]
        for low, high in _network(_BLOCK):
            a, b = words[low], words[high]
            words[low], words[high] = self._ordered(a, b)
        for value, place in zip(words, places, strict=True):
            self.put(value, self.first, place)

    def _ordered(self, a: Val, b: Val) -> tuple[Val, Val]:
        less = self.e.b.icmp_signed("<", a, b)
        return self.e.b.select(less, a, b), self.e.b.select(less, b, a)

    def _merge(self, source: Val, target: Val, start: Val, run: Val, whole: Val) -> None:
        """Two neighbouring runs in order; the second may be cut short, or absent."""
        e, b = self.e, self.e.b
        middle = e.intrinsic("smin", b.add(start, run), whole)
        stop = e.intrinsic("smin", b.add(middle, run), whole)
        left, right = e.var(I64, start), e.var(I64, middle)
        with e.loop(start, stop) as place:
            i, j = b.load(left), b.load(right)
            x, y = self.get(source, i), self.get(source, j)
            rest = b.and_(b.icmp_signed("<", i, middle), b.icmp_signed("<", x, y))
            take = b.or_(b.icmp_signed("==", j, stop), rest)
            self.put(b.select(take, x, y), target, place)
            step = b.zext(take, I64)
            b.store(b.add(i, step), left)
            b.store(b.add(j, b.xor(step, I64(1))), right)

    # -- a few of them -------------------------------------------------------------------------
    def selected(self, k: int) -> Val:
        """The k least words in order."""
        e, lanes = self.e, self.e.isa.lanes
        with e.loop(0, k) as i:
            self.put(self.greatest, self.first, i)
        whole = self.length // lanes * lanes
        with e.loop(0, whole, lanes) as start:
            ranks = self.ranks(start, lanes)
            worst = e.b.ashr(self.get(self.first, k - 1), ll.Constant(self.type, self.bits))
            bound = e.splat(e.b.trunc(worst, ranks.type.element), lanes)
            hits = e.b.icmp_signed("<=", ranks, bound)
            mask = e.b.bitcast(hits, ll.IntType(lanes))
            some = e.b.icmp_unsigned("!=", mask, ll.Constant(mask.type, 0))
            with e.when(some), e.loop(start, e.b.add(start, I64(lanes))) as i:
                self._insert(i, k)
        with e.loop(whole, self.length) as i:
            self._insert(i, k)
        return self.first

    def _insert(self, i: Val, k: int) -> None:
        """Element i into the sorted list of k words, whose worst falls out."""
        e = self.e
        value = word(e, self.ranks(i, 1), i)
        with e.when(e.b.icmp_signed("<", value, self.get(self.first, k - 1))):
            moving = e.var(self.type, value)
            with e.loop(0, k) as place:
                low, high = self._ordered(self.get(self.first, place), e.b.load(moving))
                self.put(low, self.first, place)
                e.b.store(high, moving)


def _network(n: int) -> list[tuple[int, int]]:
    """Batcher's odd-even merge sort of n = 2^m elements, as pairs to put in order.

    Source: Batcher, "Sorting networks and their applications", AFIPS 1968.
    """
    pairs = []
    p = 1
    while p < n:
        k = p
        while k:
            for j in range(k % p, n - k, 2 * k):
                for i in range(min(k, n - j - k)):
                    if (i + j) // (2 * p) == (i + j + k) // (2 * p):
                        pairs.append((i + j, i + j + k))
            k //= 2
        p *= 2
    return pairs
