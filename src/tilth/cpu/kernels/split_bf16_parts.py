"""The functions a split contraction calls: split operands into tiles, multiply tiles, finish rows.

A line of the left operand holds its high and low parts in turns, 32 numbers each; 16 lines make a
tile. Tiles of the right operand are [pair of k][column][k of the pair], side by side in a panel,
those of the high parts before those of the low ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.access import load
from tilth.cpu.emit import F32, I8, I16, I32, I64, PTR, VOID, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RHS, Loop
from tilth.cpu.kernels.packing import transposed
from tilth.cpu.kernels.split_bf16_plan import (
    COLUMNS,
    DEPTH,
    LINE,
    PARTS,
    ROWS,
    STEP,
    SUMS,
    TILE,
    UNWANTED,
    Plan,
)
from tilth.ir.types import f32

_LANES = 16  # f32 in such a row of sums, and half of its bf16


class Parts:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, plan: Plan, epilogue: Epilogue):
        self.module, self.isa, self.name = module, isa, name
        self.plan, self.problem, self.epilogue = plan, plan.problem, epilogue
        self._made: dict[str, ll.Function] = {}

    def _function(self, label: str, args: Sequence[ll.Type]) -> Emitter:
        e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    # -- splitting ---------------------------------------------------------------------------
    def left(self) -> ll.Function:
        """f(source, target): split one line of the left operand."""
        if "left" not in self._made:
            e = self._function("left", [PTR, PTR])
            source, target = e.args
            taps = [] if self.problem.on_grid else list(self.problem.taps)
            self._each_tap(e, taps, LHS, source, target, STEP, self._left_run)
            self._made["left"] = e.finish()
        return self._made["left"]

    def _left_run(self, e: Emitter, source: Val, target: Val) -> None:
        """The innermost depth of a line, or its part."""
        inner = self.problem.inner.size // self.plan.depth_blocks

        def one(source: Val, target: Val, count: int) -> None:
            halves = [
                _load_part(e, e.offset(source, i * LINE), count - i * _LANES) for i in range(2)
            ]
            for part, bits in enumerate(_split(e, *halves)):
                e.store(bits, e.offset(target, part * LINE), align=LINE)

        whole = inner // DEPTH
        with e.loop(0, whole) as i:
            one(step(e, source, i, DEPTH * 4), step(e, target, i, STEP), DEPTH)
        if inner % DEPTH:
            one(e.offset(source, whole * DEPTH * 4), e.offset(target, whole * STEP), inner % DEPTH)

    def right(self, tiles: int, tail: int | None) -> ll.Function:
        """f(source, target): split a panel, the last of whose tiles has `tail` columns."""
        label = f"right{tiles}x{tail or COLUMNS}"
        if label not in self._made:
            e = self._function(label, [PTR, PTR])
            counts = [None] * (tiles - 1) + [tail]

            def run(e: Emitter, source: Val, target: Val) -> None:
                self._right_run(e, source, target, counts)

            source, target = e.args
            taps, pitch = list(self.problem.taps), PARTS * tiles * TILE
            self._each_tap(e, taps, RHS, source, target, pitch, run)
            self._made[label] = e.finish()
        return self._made[label]

    def _right_run(
        self, e: Emitter, source: Val, target: Val, counts: Sequence[int | None]
    ) -> None:
        """The innermost depth of a panel; `counts` are the columns of its tiles."""
        inner, tiles = self.problem.inner, len(counts)
        along, across = inner.strides[RHS] * 4, self.problem.columns.strides[RHS] * 4
        one_tile = self._pairs_of_rows if across == 4 else self._pairs_of_columns

        def one(source: Val, target: Val, depth: int) -> None:
            for t, count in enumerate(counts):
                at = e.offset(source, t * COLUMNS * across)
                to = e.offset(target, t * TILE)
                one_tile(e, at, to, tiles * TILE, depth, COLUMNS if count is None else count)

        done, pitch = inner.size // DEPTH, PARTS * tiles * TILE
        with e.loop(0, done) as i:
            one(step(e, source, i, DEPTH * along), step(e, target, i, pitch), DEPTH)
        if inner.size % DEPTH:
            at = e.offset(source, done * DEPTH * along)
            one(at, e.offset(target, done * pitch), inner.size % DEPTH)

    def _pairs_of_rows(
        self, e: Emitter, source: Val, target: Val, low: int, depth: int, columns: int
    ) -> None:
        """A tile from rows of neighbouring columns."""
        along = self.problem.inner.strides[RHS] * 4
        mask = _interleaved()
        for pair in range(DEPTH // 2):
            rows = [
                _load_part(e, e.offset(source, k * along), columns if k < depth else 0)
                for k in (2 * pair, 2 * pair + 1)
            ]
            for part, bits in enumerate(_split(e, *rows)):
                bits = e.b.shuffle_vector(bits, ll.Constant(bits.type, ll.Undefined), mask)
                e.store(bits, e.offset(target, part * low + pair * LINE), align=LINE)

    def _pairs_of_columns(
        self, e: Emitter, source: Val, target: Val, low: int, depth: int, columns: int
    ) -> None:
        """A tile from columns of neighbouring k."""
        across = self.problem.columns.strides[RHS] * 4
        split: list[tuple[Val, ...]] = []
        for column in range(COLUMNS):
            at = e.offset(source, min(column, columns - 1) * across)
            halves = [_load_part(e, e.offset(at, i * LINE), depth - i * _LANES) for i in range(2)]
            split.append(_split(e, *halves))
        for part in range(PARTS):
            pairs = [e.b.bitcast(bits[part], vector(I32, COLUMNS)) for bits in split]
            for row, bits in enumerate(transposed(e, pairs)):
                e.store(bits, e.offset(target, part * low + row * LINE), align=LINE)

    def _each_tap(
        self,
        e: Emitter,
        taps: list[Loop],
        tensor: int,
        source: Val,
        target: Val,
        pitch: int,
        run: Callable[[Emitter, Val, Val], None],
    ) -> None:
        """`run` for every index of `taps`, each of whose steps takes `pitch` bytes."""
        if not taps:
            run(e, source, target)
            return
        tap, *rest = taps
        steps = math.prod(t.size for t in rest) * self.problem.tap_steps
        with e.loop(0, tap.size) as i:
            at = step(e, source, i, tap.strides[tensor] * 4)
            to = step(e, target, i, steps * pitch)
            self._each_tap(e, rest, tensor, at, to, pitch, run)

    # -- products ----------------------------------------------------------------------------
    def product(self, high: int, wide: int, resumes: bool) -> ll.Function:
        """f(left, right, sums, ahead): `high` row tiles by a panel of `wide` tiles.

        It adds to sums of earlier parts of the depth if it `resumes`. On the way it brings
        `fetched` lines per step, from `ahead` on, into L2.
        """
        label = f"product{high}x{wide}{'more' * resumes}"
        if label not in self._made:
            e = self._function(label, [PTR] * 4)
            left, right, sums, ahead = e.args
            unit = Tiles(e)
            places = [
                e.offset(sums, row * ROWS * SUMS + column * LINE)
                for row in range(high)
                for column in range(wide)
            ]
            for i, place in enumerate(places):
                if resumes:
                    unit.load(i, place, SUMS)
                else:
                    unit.zero(i)
            self._taps(e, self.problem.tap_pitches, left, right, ahead, high, wide)
            for i, place in enumerate(places):
                unit.store(i, place, SUMS)
            self._made[label] = e.finish()
        return self._made[label]

    def _taps(
        self,
        e: Emitter,
        taps: list[tuple[int, int]],
        a: Val,
        b: Val,
        ahead: Val,
        high: int,
        wide: int,
    ) -> None:
        """Products of all steps of the given taps."""
        turn, fetched = PARTS * wide * TILE, self.plan.fetched * LINE
        if not taps:
            with e.loop(0, self.plan.block_steps) as k:
                self._fetch(e, step(e, ahead, k, fetched))
                self._one_step(e, step(e, a, k, STEP), step(e, b, k, turn), high, wide)
            return
        (size, pitch), *rest = taps
        inside = math.prod(size for size, _ in rest) * self.problem.tap_steps
        with e.loop(0, size) as i:
            at, of = step(e, a, i, pitch), step(e, b, i, inside * turn)
            self._taps(e, rest, at, of, step(e, ahead, i, inside * fetched), high, wide)

    def _fetch(self, e: Emitter, ahead: Val) -> None:
        prefetch = e.declare("llvm.prefetch.p0", VOID, [PTR, I32, I32, I32])
        for line in range(self.plan.fetched):
            e.b.call(prefetch, [e.offset(ahead, line * LINE), I32(0), I32(2), I32(1)])

    def _one_step(self, e: Emitter, a: Val, b: Val, high: int, wide: int) -> None:
        """sums += low x high + high x high + high x low; loads stand well before their use."""
        unit, lefts, rights = Tiles(e), (4, 5)[:high], (6, 7)[:wide]

        def load_left(row: int, part: int) -> None:
            at = row * ROWS * self.plan.pitch + part * LINE
            unit.load(lefts[row], e.offset(a, at), self.plan.pitch)

        def load_right(column: int, part: int) -> None:
            unit.load(rights[column], e.offset(b, (part * wide + column) * TILE), LINE)

        def multiply(row: int, column: int) -> None:
            unit.multiply(row * wide + column, lefts[row], rights[column])

        for column in range(wide):
            load_right(column, 0)
        for row in range(high):
            load_left(row, 1)
        for row in range(high):
            for column in range(wide):
                multiply(row, column)
            load_left(row, 0)
        for row in range(high):
            for column in range(wide):
                multiply(row, column)
        for column in range(wide):
            load_right(column, 1)
            for row in range(high):
                multiply(row, column)

    # -- results -----------------------------------------------------------------------------
    def finish(self, wide: int, tail: int | None) -> ll.Function:
        """f(sums, offsets, rows, result, extras...): finish and store rows of a panel.

        `offsets` holds the bytes to each row in each of the tensors; the first of them is
        `UNWANTED` for a row that nobody wants.
        """
        label = f"finish{wide}x{tail or COLUMNS}"
        if label not in self._made:
            self._made[label] = self._emit_finish(label, wide, tail)
        return self._made[label]

    def _emit_finish(self, label: str, wide: int, tail: int | None) -> ll.Function:
        tensors = self.plan.tensors
        e = self._function(label, [PTR, PTR, I64, *[PTR] * tensors])
        sums, offsets, rows, *pointers = e.args
        counts = [None] * (wide - 1) + [tail]
        known = self.epilogue.row_invariant(e, pointers, counts)

        def finish(row: Val, distances: list[Val]) -> None:
            at = step(e, sums, row, SUMS)
            moved = [e.offset(p, d) for p, d in zip(pointers, distances, strict=True)]
            values = [
                e.load(e.offset(at, v * LINE), vector(F32, _LANES), align=LINE) for v in range(wide)
            ]
            self.epilogue.finish(e, moved, known, values, counts)

        with e.loop(0, rows) as row:
            line = step(e, offsets, row, 8 * tensors)
            distances = [e.load(e.offset(line, 8 * i), I64) for i in range(tensors)]
            if self.problem.rows == self.problem.wanted:
                finish(row, distances)
            else:
                with e.when(e.b.icmp_signed("!=", distances[0], I64(UNWANTED))):
                    finish(row, distances)
        return e.finish()


class Tiles:
    """The matrix unit's instructions: eight tile registers, here all of 16 rows of 64 bytes."""

    def __init__(self, e: Emitter):
        self.e = e

    def configure(self, memory: Val) -> None:
        """Set the shape of all tiles, by way of 64 bytes of memory (AMX palette 1)."""
        e = self.e
        settings = [1, *[0] * 15, *[LINE, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8]
        e.store(ll.Constant(vector(I8, 64), settings), memory)
        self._call("ldtilecfg", [memory])

    def release(self) -> None:
        """Give the registers back, so that nobody has to save them."""
        self._call("tilerelease", [])

    def zero(self, tile: int) -> None:
        self._call("tilezero", [I8(tile)])

    def load(self, tile: int, memory: Val, pitch: int) -> None:
        self._call("tileloadd64", [I8(tile), memory, I64(pitch)])

    def store(self, tile: int, memory: Val, pitch: int) -> None:
        self._call("tilestored64", [I8(tile), memory, I64(pitch)])

    def multiply(self, sums: int, left: int, right: int) -> None:
        """sums += left x right, pairs of bf16 summed in f32."""
        self._call("tdpbf16ps", [I8(sums), I8(left), I8(right)])

    def _call(self, name: str, args: list[Val]) -> None:
        fn = self.e.declare(f"llvm.x86.{name}", VOID, [a.type for a in args])
        self.e.b.call(fn, args)


def _load_part(e: Emitter, pointer: Val, count: int) -> Val:
    """Up to 16 f32, zeros behind the first `count`."""
    if count <= 0:
        return e.const(vector(F32, _LANES), 0)
    return load(e, pointer, f32, _LANES, 1, count if count < _LANES else None)


def _split(e: Emitter, first: Val, second: Val) -> tuple[Val, Val]:
    """High and low parts of 32 numbers, to the nearest bf16 each, in one register each."""
    both, half, single = vector(I16, 2 * _LANES), vector(I16, _LANES), vector(F32, _LANES)
    convert = e.declare("llvm.x86.avx512bf16.cvtne2ps2bf16.512", both, [single, single])
    high = e.b.call(convert, [second, first])
    rest = []
    for i, value in enumerate((first, second)):
        mask = ll.Constant(vector(I32, _LANES), list(range(i * _LANES, (i + 1) * _LANES)))
        bits = e.b.shuffle_vector(high, ll.Constant(both, ll.Undefined), mask)
        assert bits.type == half
        wide = e.b.shl(e.b.zext(bits, vector(I32, _LANES)), e.const(vector(I32, _LANES), 16))
        rest.append(e.b.fsub(value, e.b.bitcast(wide, single)))
    return high, e.b.call(convert, rest[::-1])


def _interleaved() -> ll.Constant:
    order = [half * _LANES + lane for lane in range(_LANES) for half in range(2)]
    return ll.Constant(vector(I32, 2 * _LANES), order)
