"""Winograd's inner product: two products by one multiplication and two additions.

    x0 y0 + x1 y1 = (x0 + y1) (x1 + y0) - x0 x1 - y0 y1

The sums of the last two terms depend on one row and one column alone. A core that adds vectors up
beside its FMAs takes a pair and a single product in turn: two FMAs and two additions for three
products, 1.5 times what FMAs alone can do.

Terms cancel, so both factors must be of one size: columns of weights are scaled when they are
packed, rows when they are copied, to a mean square near 1, by powers of two, which round nothing.
Sums are cut after `LONGEST` products, each with its own last two terms, so that they stay small.

Source: Winograd, "A New Algorithm for Inner Product", IEEE Transactions on Computers C-17, 1968.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.access import load
from tilth.cpu.emit import F32, I32, PTR, VOID, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels.accumulator import Accumulator
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.microkernel import LINE, prefetch, repeat
from tilth.cpu.kernels.space import vector_loop
from tilth.ir.types import f32

FLOAT = 4
LONGEST = 192  # products that are added up in one go
TURN = 3  # products of a turn of the inner loop: a pair and a single one
_SMALL, _LARGE = 64, 190  # biased exponents of sums of squares that are neither 0 nor infinite ...
_FAR = 60  # ... and the power of two that rows beyond them are scaled by first


@dataclass(frozen=True)
class Runs:
    """A depth cut into runs of at most `LONGEST` products, equal ones where that can be."""

    depth: int

    @cached_property
    def length(self) -> int:
        """Of each run but the last."""
        least = -(-self.depth // LONGEST)
        equal = (n for n in range(least, 2 * least) if self.depth % n == 0)
        return -(-self.depth // next(equal, least))

    @property
    def count(self) -> int:
        return -(-self.depth // self.length)

    @property
    def last(self) -> int:
        """Products of the last run."""
        return self.depth - (self.count - 1) * self.length

    @property
    def facts(self) -> int:
        """Numbers that are known of a row, or of a column: what undoes its scale, and for each run
        the negative sum of products of its pairs."""
        return 1 + self.count

    def starts(self) -> range:
        return range(0, self.depth, self.length)


# -- rows of the left operand ----------------------------------------------------------------


class Rows:
    """Internal functions of a module that scale rows of `depth` neighbouring f32."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, depth: int):
        self.module, self.isa, self.name, self.runs = module, isa, name, Runs(depth)
        self.lanes = isa.lanes
        self._made: dict[str, ll.Function] = {}

    def _function(self, label: str, args: list[ll.Type], result: ll.Type) -> Emitter:
        e = Emitter(self.module, self.isa, f"{self.name}.{label}", args, result)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    def normalise(self) -> ll.Function:
        """f(source, target, facts): a row scaled to a mean square near 1, and its `Runs.facts`.

        `source` may be `target`. A row of zeros, or of numbers below 2^-120, makes results of 0.
        """
        if "normalise" not in self._made:
            self._made["normalise"] = self._emit_normalise()
        return self._made["normalise"]

    def _emit_normalise(self) -> ll.Function:
        e = self._function("normalise", [PTR] * 3, VOID)
        source, target, facts = e.args
        from_, first = e.var(PTR, source), e.var(I32, I32(0))  # what was scaled before, log2
        square = e.var(I32, self._exponent(e, e.b.call(self._measure(), [source, facts])))
        found = e.b.load(square, typ=I32)
        ordinary = e.b.icmp_unsigned("<", e.b.sub(found, I32(_SMALL)), I32(_LARGE - _SMALL))
        with e.when(e.b.not_(ordinary)):
            small = e.b.icmp_signed("<", found, I32(_SMALL))
            e.b.store(e.b.select(small, I32(_FAR), I32(-_FAR)), first)
            e.b.call(self._scale(), [source, target, self._power(e, e.b.load(first, typ=I32))])
            e.b.store(target, from_)
            again = e.b.call(self._measure(), [target, facts])
            e.b.store(self._exponent(e, again), square)
        biased, earlier = e.b.load(square, typ=I32), e.b.load(first, typ=I32)
        mean = 127 + round(math.log2(self.runs.depth))
        scale = e.b.ashr(e.b.sub(I32(mean), biased), I32(1))
        factor = self._power(e, scale)
        e.b.call(self._scale(), [e.b.load(from_, typ=PTR), target, factor])
        zero = e.b.icmp_signed("==", biased, I32(0))
        back = self._power(e, e.b.neg(e.b.add(scale, earlier)))
        e.store(e.b.select(zero, ll.Constant(F32, 0.0), back), facts)
        pairs = e.offset(facts, FLOAT)
        for _ in range(2):  # the square of the factor might be infinite
            self._multiply(e, pairs, pairs, self.runs.count, factor)
        return e.finish()

    def _exponent(self, e: Emitter, value: Val) -> Val:
        """The biased exponent of a number that is not negative."""
        return e.b.lshr(e.b.bitcast(value, I32), I32(23))

    def _power(self, e: Emitter, exponent: Val) -> Val:
        """2^exponent."""
        return e.b.bitcast(e.b.shl(e.b.add(exponent, I32(127)), I32(23)), F32)

    def _scale(self) -> ll.Function:
        """f(source, target, factor)"""
        if "scale" not in self._made:
            e = self._function("scale", [PTR, PTR, F32], VOID)
            source, target, factor = e.args
            self._multiply(e, source, target, self.runs.depth, factor)
            self._made["scale"] = e.finish()
        return self._made["scale"]

    def _multiply(self, e: Emitter, source: Val, target: Val, count: int, factor: Val) -> None:
        """`count` numbers times `factor`."""

        def some(at: int | Val, lanes: int, limit: int | Val | None) -> None:
            value = load(e, step(e, source, at, FLOAT), f32, lanes, 1, limit)
            value = e.b.fmul(value, e.splat(factor, lanes))
            if limit is None:
                e.store(value, step(e, target, at, FLOAT))
            else:
                e.masked_store(value, step(e, target, at, FLOAT), limit)

        vector_loop(e, count, self.lanes, True, some)

    def _measure(self) -> ll.Function:
        """f(source, facts): the sum of the row's squares; writes the sums of products of pairs."""
        if "measure" not in self._made:
            e = self._function("measure", [PTR, PTR], F32)
            source, facts = e.args
            squares = Accumulator(e, "sum", f32, self.lanes)

            def run(number: int | Val, length: int) -> None:
                pairs = Accumulator(e, "sum", f32, self.lanes)
                at = step(e, source, number, self.runs.length * FLOAT)
                self._run(e, at, length, squares, pairs)
                total = e.b.fneg(pairs.result())
                e.store(total, step(e, e.offset(facts, FLOAT), number, FLOAT))

            with e.loop(0, self.runs.count - 1) as number:
                run(number, self.runs.length)
            run(self.runs.count - 1, self.runs.last)
            e.b.ret(squares.result())
            self._made["measure"] = e.finish()
        return self._made["measure"]

    def _run(
        self, e: Emitter, source: Val, length: int, squares: Accumulator, pairs: Accumulator
    ) -> None:
        """A run of a row; behind its last vector there may be nothing."""
        lanes, paired = self.lanes, length // TURN * TURN
        vectors = -(-length // lanes)
        whole = (vectors - 1) // TURN  # chunks of vectors

        def one(at: Val, first: int, count: int, end: bool) -> None:
            """`count` lanes, the first of which is number `first` of the run or of a chunk."""
            value = load(e, at, f32, lanes, 1, None if count == lanes else count)
            squares.add(e.b.fmul(value, value))
            leads = [float((first + i) % TURN == 0 and first + i < paired) for i in range(lanes)]
            if not any(leads):
                return
            if end:
                order = ll.Constant(ll.VectorType(I32, lanes), list(range(1, lanes + 1)))
                next_ = e.b.shuffle_vector(value, e.const(value.type, 0), order)
            else:
                next_ = load(e, e.offset(at, FLOAT), f32, lanes, 1, None)
            mask = ll.Constant(value.type, [ll.Constant(F32, x) for x in leads])
            pairs.add(e.b.fmul(e.b.fmul(value, mask), next_))

        with e.loop(0, whole) as chunk:
            at = step(e, source, chunk, TURN * lanes * FLOAT)
            for i in range(TURN):
                one(e.offset(at, i * lanes * FLOAT), i * lanes, lanes, False)
        for i in range(whole * TURN, vectors):
            count = min(lanes, length - i * lanes)
            one(e.offset(source, i * lanes * FLOAT), i * lanes, count, i == vectors - 1)


# -- products --------------------------------------------------------------------------------


def products(
    e: Emitter,
    rows: int,
    pitches: tuple[int, int],
    pointers: Sequence[Val],
    depth: int,
    pace: int,
) -> list[Val]:
    """Sums, a vector of each row, of a run of this depth.

    `pointers` are of the left operand, whose rows are so far apart, of its run's fact, the next
    row's behind the second pitch, of the right operand, a vector of its sums of pairs and of each
    unit of depth, and of memory to bring into L2: `pace` bytes per turn.
    """
    nbytes, lanes = e.isa.vector_bytes, vector(F32, e.isa.lanes)
    left, facts, right, ahead = pointers

    def number(pointer: Val, at: int) -> Val:
        return e.load_broadcast(e.offset(pointer, at), F32, e.isa.lanes)

    def turn(values: list[Val], count: int) -> list[Val]:
        left, right, ahead, *sums = values
        columns = [e.load(e.offset(right, k * nbytes), lanes, nbytes) for k in range(count)]
        if count == TURN:
            for at in range(0, pace, LINE):
                prefetch(e, e.offset(ahead, at))
            for i, total in enumerate(sums):
                one = e.b.fadd(number(left, i * pitches[0]), columns[1])
                other = e.b.fadd(number(left, i * pitches[0] + FLOAT), columns[0])
                sums[i] = e.fma(one, other, total)
        for k in range(2 if count == TURN else 0, count):
            for i, total in enumerate(sums):
                factor = number(left, i * pitches[0] + k * FLOAT)
                sums[i] = e.fma(factor, columns[k], total)
        moved = [e.offset(left, count * FLOAT), e.offset(right, count * nbytes)]
        return [*moved, e.offset(ahead, pace), *sums]

    pairs = e.load(right, lanes, nbytes)
    sums = [e.b.fadd(number(facts, row * pitches[1]), pairs) for row in range(rows)]
    start = [left, e.offset(right, nbytes), ahead, *sums]
    values = repeat(e, depth // TURN, start, lambda v: turn(v, TURN))
    return turn(values, depth % TURN)[len(start) - rows :]


def turns(depth: int) -> int:
    """Of the inner loop, in which memory is fetched."""
    return max(1, depth // TURN)


def pace(nbytes: int, turns: int) -> int:
    """Bytes to fetch in each of so many turns."""
    return -(-nbytes // (turns * 16)) * 16


# -- the right operand -----------------------------------------------------------------------


class Columns:
    """Weights [..., depth, columns], scaled, with what undoes that and sums of their pairs.

    What undoes it is 0 for a column of zeros, so that its results are.
    """

    def __init__(self, weights: np.ndarray):
        self.runs = Runs(weights.shape[-2])
        exponents, zeros = _exponents(weights), ~weights.any(axis=-2)
        self.scaled = np.ldexp(weights, -exponents[..., None, :])
        self.scales = np.where(zeros, np.float32(0), np.ldexp(np.float32(1), exponents))
        pieces = (self._piece(self.scaled, start) for start in self.runs.starts())
        self.pairs = [_pairs(piece) for piece in pieces]

    def strip(self, place: np.ndarray, start: int, stop: int) -> None:
        """Write columns [start, stop), and zeros where there are none, to [..., rows, columns]:
        their scales, then each run behind the sums of its pairs."""
        known = min(stop, self.scaled.shape[-1])
        place[..., known - start :] = 0
        place = place[..., : known - start]
        place[..., 0, :] = self.scales[..., start:known]
        at = 1
        for top, pairs in zip(self.runs.starts(), self.pairs, strict=True):
            run = self._piece(self.scaled[..., start:known], top)
            place[..., at, :] = pairs[..., start:known]
            at += 1 + run.shape[-2]
            place[..., at - run.shape[-2] : at, :] = run

    def _piece(self, rows: np.ndarray, start: int) -> np.ndarray:
        """A run."""
        return rows[..., start : start + self.runs.length, :]


def _exponents(weights: np.ndarray) -> np.ndarray:
    """Of two, for each column: of the root of the mean of its squares."""
    depth = weights.shape[-2]
    squares = np.einsum("...kn,...kn->...n", weights, weights)
    if not ((squares > 1e-20) & (squares < 1e20)).all():  # too large or small for f32, or zeros
        squares = np.sum(np.square(weights, dtype=np.float64), axis=-2)
    known = (squares > 0) & np.isfinite(squares)
    half = np.log2(np.where(known, squares, depth) / depth) / 2
    return np.round(half).clip(-60, 60).astype(np.int32)


def _pairs(run: np.ndarray) -> np.ndarray:
    """Negative sums of products of pairs, [..., depth, columns] to [..., columns]."""
    stop = run.shape[-2] // TURN * TURN
    first, second = run[..., 0:stop:TURN, :], run[..., 1:stop:TURN, :]
    return -np.einsum("...kn,...kn->...n", first, second, dtype=np.float64).astype(np.float32)
