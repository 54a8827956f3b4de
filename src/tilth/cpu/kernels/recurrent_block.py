"""A recurrent layer, and a block of its hidden units at one step: views, and products with weights.

The recurrent weights are packed so that a block streams them once per step, in the order it needs
them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.access import address, load, register_type, store
from tilth.cpu.emit import I8, I32, Emitter, Val, width
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand, Packed
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.microkernel import prefetch
from tilth.ir.types import DType, Shape, f32, f64

Index = int | Val
Rows = Sequence[Index]
_WAITING = 32  # rows whose sums wait on the stack
_TILE = 4  # rows of a register tile, if there are as many, that are worth another part of the gates
_FINISHED = 2  # rows finished side by side, as that is a long chain of operations
_TURN = 4  # units of depth in a turn of the inner loop


@dataclass(frozen=True, slots=True)
class Layer:
    """Sizes and views that both kinds of layer have; `h0` [B, H], `y` [S, B, H]."""

    xp: Operand
    r: Operand
    h0: Operand
    y: Operand
    gates: int
    isa: Isa
    reverse: bool

    @property
    def lanes(self) -> int:
        return self.isa.lanes

    @property
    def parts(self) -> tuple[range, ...]:
        """The gates, in parts whose products with some rows of the state are one register tile:
        so many that a tile has `_TILE` rows, if there are as many."""
        rows = min(self.batch, _TILE)
        most = max(n for n in range(1, self.gates + 1) if n == 1 or tiles.fits(self.isa, rows, n))
        return tuple(range(self.gates)[i : i + most] for i in range(0, self.gates, most))

    @property
    def steps(self) -> int:
        return self.y.shape[0]

    @property
    def batch(self) -> int:
        return self.y.shape[1]

    @property
    def hidden(self) -> int:
        return self.y.shape[2]

    @property
    def blocks(self) -> int:
        return -(-self.hidden // self.lanes)

    @property
    def compute(self) -> DType:
        return f64 if self.y.dtype == f64 else f32

    @property
    def flops(self) -> int:
        return 2 * self.steps * self.batch * self.gates * self.hidden * self.hidden

    def packed(self) -> Packed | None:
        """The weights as [block][part][k][gate][lane], zero beyond the last unit; None if they
        are not known."""
        constant = self.r.constant
        if constant is None:
            return None
        dtype = self.compute.numpy
        shape = (self.blocks, self.gates * self.hidden * self.lanes)

        def fill(place: np.ndarray) -> None:
            weights = np.zeros((self.gates, self.blocks * self.lanes, self.hidden), dtype)
            weights[:, : self.hidden] = constant.reshape(self.gates, self.hidden, self.hidden)
            turned = weights.reshape(self.gates, self.blocks, self.lanes, -1).transpose(1, 3, 0, 2)
            pieces = [turned[:, :, part].reshape(self.blocks, -1) for part in self.parts]
            np.concatenate(pieces, axis=1, out=place.view(dtype).reshape(shape))

        layout = ("recurrent", shape, self.parts, dtype)
        return Packed(math.prod(shape) * dtype.itemsize, constant, fill, layout)


def _joined(e: Emitter, vectors: Sequence[Val]) -> Val:
    """One or two vectors in one: functions of it run through both side by side."""
    if len(vectors) == 1:
        return vectors[0]
    lanes = 2 * width(vectors[0].type)
    return e.b.shuffle_vector(*vectors, ll.Constant(ll.VectorType(I32, lanes), list(range(lanes))))


def _split(e: Emitter, value: Val, count: int) -> list[Val]:
    """What `_joined` has joined."""
    if count == 1:
        return [value]
    lanes = width(value.type) // count
    parts = [list(range(i * lanes, (i + 1) * lanes)) for i in range(count)]
    masks = [ll.Constant(ll.VectorType(I32, lanes), part) for part in parts]
    return [e.b.shuffle_vector(value, ll.Constant(value.type, ll.Undefined), m) for m in masks]


def _pieces(e: Emitter, extent: int, at_most: int) -> Iterator[tuple[Val, int]]:
    """Loops over balanced pieces: where one begins, and its size."""
    start = 0
    for size, count in tiles.cover(extent, at_most).sizes().items():
        with e.loop(start, start + size * count, size) as first:
            yield first, size
        start += size * count


def _rows_together(isa: Isa, gates: int) -> int:
    """How many rows of a register tile fit, for so many gates."""
    return max(r for r in range(1, isa.registers) if r == 1 or tiles.fits(isa, r, gates))


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix [B, H] in memory; strides in elements."""

    pointer: Val
    dtype: DType
    strides: Shape


def matrix(pointer: Val, operand: Operand) -> Matrix:
    return Matrix(pointer, operand.dtype, operand.strides)


class Block:
    """One work item at one step: the hidden units [first, first + lanes)."""

    def __init__(self, e: Emitter, layer: Layer, item: Val, step: Val, xp_at: Val, r_at: Val):
        self.e, self.layer, self.item, self.step = e, layer, item, step
        self.xp_at, self.r_at = xp_at, r_at
        self.first = e.b.mul(item, e.i64(layer.lanes))
        self.limit: Val | None = None
        if layer.hidden % layer.lanes:
            rest = e.b.sub(e.i64(layer.hidden), self.first)
            self.limit = e.intrinsic("smin", rest, e.i64(layer.lanes))
        last = e.i64(layer.steps - 1)
        self.time = e.b.sub(last, step) if layer.reverse else step
        self.is_first = e.b.icmp_signed("==", step, e.i64(0))
        self.is_last = e.b.icmp_signed("==", step, last)

    # -- views ---------------------------------------------------------------------------------
    def now(self, y_at: Val) -> Matrix:
        """The results of this step."""
        y = self.layer.y
        at = address(self.e, y_at, y.dtype, y.strides[:1], (self.time,))
        return Matrix(at, y.dtype, y.strides[1:])

    def before(self, y_at: Val) -> Matrix:
        """The results of the step before; not to be read in the first step."""
        now = self.now(y_at)
        back = self.layer.y.strides[0] * (1 if self.layer.reverse else -1)
        pointer = self.e.b.gep(now.pointer, [self.e.i64(back * now.dtype.nbytes)], source_etype=I8)
        return Matrix(pointer, now.dtype, now.strides)

    def either(self, initial: Matrix, later: Matrix) -> Iterator[Matrix]:
        """`initial` in the first step, else `later`; code is emitted once if it can be."""
        if initial.strides == later.strides:
            at = self.e.b.select(self.is_first, initial.pointer, later.pointer)
            yield Matrix(at, later.dtype, later.strides)
            return
        with self.e.when(self.is_first):
            yield initial
        with self.e.when(self.e.b.not_(self.is_first)):
            yield later

    def units(self, view: Matrix, rows: Rows) -> Val:
        """This block's part of some rows, joined."""

        def part(b: Index) -> Val:
            at = address(self.e, view.pointer, view.dtype, view.strides, (b, self.first))
            return load(self.e, at, view.dtype, self.layer.lanes, view.strides[1], self.limit)

        return _joined(self.e, [part(b) for b in rows])

    def put(self, view: Matrix, rows: Rows, values: Val) -> None:
        for b, value in zip(rows, _split(self.e, values, len(rows)), strict=True):
            at = address(self.e, view.pointer, view.dtype, view.strides, (b, self.first))
            store(self.e, value, at, view.dtype, view.strides[1], self.limit)

    def put_state(self, y_at: Val, final: Matrix, b: Rows, value: Val) -> None:
        """Write the new state to the sequence, and in the last step to `final` too."""
        self.put(self.now(y_at), b, value)
        with self.e.when(self.is_last):
            self.put(final, b, value)

    def input(self, rows: Rows, gate: int) -> Val:
        """This block's part of a gate of xp, of some rows, joined."""
        xp, unit = self.layer.xp, self._unit_of(gate)

        def part(b: Index) -> Val:
            at = address(self.e, self.xp_at, xp.dtype, xp.strides, (self.time, b, unit))
            return load(self.e, at, xp.dtype, self.layer.lanes, xp.strides[2], self.limit)

        return _joined(self.e, [part(b) for b in rows])

    def _fetch_input(self, gates: Sequence[int], first: Val, rows: int) -> None:
        """Ask for what `input` will read of some rows, while products are made."""
        e, xp = self.e, self.layer.xp
        for i, gate in itertools.product(range(rows), gates):
            where = self.time, e.b.add(first, e.i64(i)), self._unit_of(gate)
            prefetch(e, address(e, self.xp_at, xp.dtype, xp.strides, where))

    def bias(self, pointer: Val, bias: Operand, gate: int, rows: int) -> Val:
        """This block's part of a gate of the bias, as often as there are rows."""
        at = address(self.e, pointer, bias.dtype, bias.strides, (self._unit_of(gate),))
        one = load(self.e, at, bias.dtype, self.layer.lanes, bias.strides[0], self.limit)
        return _joined(self.e, [one] * rows)

    def _unit_of(self, gate: int) -> Val:
        return self.e.b.add(self.first, self.e.i64(gate * self.layer.hidden))

    # -- products ------------------------------------------------------------------------------
    def accumulate(
        self, state: Matrix, gates: Sequence[int], finish: Callable[[Rows, list[Val]], None]
    ) -> None:
        """For each row b: `finish([b], [state[b] . weights of the gate, for each gate])`, a
        vector for each gate, or for some rows at once, whose vectors are joined.

        Where all gates are too many for a register tile, a part of them meets all rows before the
        next part does: its weights stay in L1 meanwhile. Sums wait until all gates have theirs.
        """
        e, batch, n = self.e, self.layer.batch, self.layer.gates
        vector = register_type(self.layer.compute, self.layer.lanes)
        waiting = e.var(ll.ArrayType(vector, tiles.cover(batch, _WAITING).size * n))

        def place(row: Val, gate: int) -> Val:
            at = e.b.add(e.b.mul(row, e.i64(n)), e.i64(gate))
            return e.b.gep(waiting, [e.i64(0), at], inbounds=True)

        parts = [[gate for gate in gates if gate in part] for part in self.layer.parts]
        for block, rows in _pieces(e, batch, _WAITING):
            for part in filter(None, parts):
                for first, size in _pieces(e, rows, _rows_together(e.isa, len(part))):
                    self._fetch_input(part, e.b.add(block, first), size)
                    products = self._products(state, part, e.b.add(block, first), size)
                    for (i, gate), total in products.items():
                        e.b.store(total, place(e.b.add(first, e.i64(i)), gate))
            for first, size in _pieces(e, rows, _FINISHED):
                these = [e.b.add(first, e.i64(i)) for i in range(size)]
                sums = [_joined(e, [e.b.load(place(b, gate)) for b in these]) for gate in gates]
                finish([e.b.add(block, b) for b in these], sums)

    def _products(
        self, state: Matrix, gates: Sequence[int], first: Val, rows: int
    ) -> dict[tuple[int, int], Val]:
        """Of some rows with the weights of some gates, by (row of these, gate)."""
        e, depth = self.e, self.layer.hidden
        zero = e.const(register_type(self.layer.compute, self.layer.lanes), 0.0)
        chains = 2 if rows == 1 else 1  # enough independent sums to hide the latency of one
        keys = list(itertools.product(range(rows), gates))
        sums = [{key: e.var(zero.type, zero) for key in keys} for _ in range(chains)]

        def term(k: Index, totals: dict[tuple[int, int], Val]) -> None:
            weights = {gate: self._weights(gate, k) for gate in gates}
            for i in range(rows):
                row = e.b.add(first, e.i64(i))
                at = address(e, state.pointer, state.dtype, state.strides, (row, k))
                unit = load(e, at, state.dtype, self.layer.lanes, 0)
                for gate, weight in weights.items():
                    slot = totals[i, gate]
                    e.b.store(e.fma(unit, weight, e.b.load(slot)), slot)

        whole = depth // _TURN * _TURN
        start, way = self._there_or_back(whole)
        with e.loop(0, whole, _TURN) as turn:
            k = e.b.add(start, e.b.mul(turn, way))
            for i in range(_TURN):
                term(e.b.add(k, e.i64(i)), sums[i % chains])
        for k in range(whole, depth):
            term(k, sums[0])
        found = {key: e.b.load(slot) for key, slot in sums[0].items()}
        for more in sums[1:]:
            found = {key: e.b.fadd(total, e.b.load(more[key])) for key, total in found.items()}
        return found

    def _there_or_back(self, depth: int) -> tuple[Val, Val]:
        """Where the turns of the depth start, and which way they go. With one row, which is as fast
        as weights come, every second step goes backwards: what is in L1 is read first."""
        e, there = self.e, (self.e.i64(0), self.e.i64(1))
        if self.layer.batch > 1:
            return there
        is_odd = e.b.trunc(self.step, ll.IntType(1))
        back = e.i64(depth - _TURN), e.i64(-1)
        return e.b.select(is_odd, back[0], there[0]), e.b.select(is_odd, back[1], there[1])

    def _weights(self, gate: int, k: Index) -> Val:
        """The weights from unit `k` to this block's units."""
        e, layer = self.e, self.layer
        if layer.r.constant is None:
            r = layer.r
            at = address(e, self.r_at, r.dtype, r.strides, (self._unit_of(gate), k))
            return load(e, at, r.dtype, layer.lanes, r.strides[0], self.limit)
        part = next(part for part in layer.parts if gate in part)
        row = len(part) * layer.lanes
        begin = part.start * layer.hidden * layer.lanes + (gate - part.start) * layer.lanes
        strides = (layer.gates * layer.hidden * layer.lanes, 1, row)
        at = address(e, self.r_at, layer.compute, strides, (self.item, begin, k))
        return load(e, at, layer.compute, layer.lanes)
