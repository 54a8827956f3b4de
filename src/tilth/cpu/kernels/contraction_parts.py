"""The functions a contraction kernel calls: micro-kernels, late epilogues, packing.

Each is made once for each size of tile, as an internal function of the module, so that LLVM
allocates registers for one accumulator block at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import llvmlite.ir as ll

from tilth.cpu.access import register_type
from tilth.cpu.emit import I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernels.contraction_epilogue import Epilogue, line_of, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS, Loop
from tilth.cpu.kernels.contraction_geometry import Geometry
from tilth.cpu.kernels.contraction_runs import accumulate_in_runs
from tilth.cpu.kernels.microkernel import (
    LINE,
    Depth,
    Stream,
    accumulate,
    prefetch,
    with_earlier,
)
from tilth.cpu.kernels.packing import pack_column


class Parts:
    """The functions a kernel calls for one tile, made once for each size of tile."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, g: Geometry, epilogue: Epilogue):
        self.module, self.isa, self.name, self.g = module, isa, name, g
        self.epilogue = epilogue
        self._made: dict[tuple, ll.Function] = {}
        self._tensors = 1 + len(g.shape.form.extras)

    def microkernel(self, th: int, tw: int, vectors: int, last: bool) -> ll.Function:
        """f(lhs, rhs, slot, result, extras...[, depth block[, trips]][, ahead][, within line])."""
        key = ("tile", th, tw, vectors, last)
        if key not in self._made:
            self._made[key] = self._emit_microkernel(th, tw, vectors, last)
        return self._made[key]

    def finish(self, th: int, tw: int, vectors: int, last: bool) -> ll.Function:
        """f(slot, result, extras...[, within line]): the epilogue over a tile in memory."""
        key = ("finish", th, tw, vectors, last)
        if key not in self._made:
            self._made[key] = self._emit_finish(th, tw, vectors, last)
        return self._made[key]

    def pack(self, count: int | None) -> ll.Function:
        """f(source, target, pitch): pack one vector of columns of the right operand."""
        key = ("pack", count)
        if key not in self._made:
            self._made[key] = self._emit_pack(count)
        return self._made[key]

    def _emit_pack(self, count: int | None) -> ll.Function:
        g, shape = self.g, self.g.shape
        e = self._function("pack", (count or shape.lanes,), [PTR, PTR, I64])
        source, target, pitch = e.args
        strides = (shape.inner.strides[RHS], shape.columns.strides[RHS])

        def walk(taps: Sequence[Loop], source: Val, target: Val) -> None:
            if not taps:
                depth = shape.inner.size
                pack_column(
                    *(e, source, target, pitch, g.dtypes[RHS], depth, strides, shape.lanes, count)
                )
                return
            tap, *rest = taps
            rows = math.prod(t.size for t in rest) * shape.inner.size
            with e.loop(0, tap.size) as i:
                below = e.offset(target, e.b.mul(e.b.mul(i, I64(rows)), pitch))
                walk(rest, step(e, source, i, g.stride(tap, RHS)), below)

        walk(shape.taps, source, target)
        return e.finish()

    def _function(self, kind: str, size: tuple[int, ...], args: list[ll.Type]) -> Emitter:
        label = "x".join(map(str, size))
        e = Emitter(self.module, self.isa, f"{self.name}.{kind}{label}.{len(self._made)}", args)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    def _counts(self, vectors: int, last: bool) -> list[int | None]:
        return [None] * (vectors - 1) + [self.g.shape.tail if last else None]

    def _emit_microkernel(self, th: int, tw: int, vectors: int, last: bool) -> ll.Function:
        g, blocked = self.g, self.g.depth_blocks > 1
        flags = [I64] * (blocked + (blocked and g.uneven)) + [PTR] * g.plan.fetch_ahead
        flags += [I64] * g.shape.flat
        e = self._function("tile", (th, tw, vectors), [PTR] * (3 + self._tensors) + flags)
        lhs, rhs, slot = e.args[:3]
        tensors = list(e.args[3 : 3 + self._tensors])
        block = e.args[3 + self._tensors] if blocked else None
        trips = e.args[4 + self._tensors] if blocked and g.uneven else g.chunk
        lines = self._lines(e, tw)
        ahead = [e.args[-1 - g.shape.flat]] if g.plan.fetch_ahead else []
        type_ = register_type(g.shape.form.accumulator, g.shape.lanes)
        accs: list[Val] = [e.const(type_, 0)] * (th * tw * vectors)
        self._fetch_results(e, tensors, (th, tw, vectors), block, lines)
        if g.shape.form.depth:
            left, right, taps, inner = self._streams(e, (th, tw, vectors), last, lines)
            if g.plan.streams > 1:
                (taps, inner), trips = _in_turn(inner, g.plan.streams), g.plan.streams
            pace = g.pace if ahead else None
            parts = (e, left, right, [lhs, rhs, *ahead], taps, inner, trips, accs)
            if g.runs is None:
                accs = accumulate(*parts, pace)
            else:
                accs = accumulate_in_runs(*parts, g.runs, pace)
        if block is not None:
            accs = with_earlier(e, slot, accs, block, g.shape.form.accumulator)
        if g.plan.deferred or blocked:
            unfinished = e.fn.append_basic_block("unfinished")
            if g.plan.deferred:
                e.b.branch(unfinished)
            else:
                finished = e.fn.append_basic_block("finished")
                e.b.cbranch(self._is_last(e, block), finished, unfinished)
            e.b.position_at_end(unfinished)
            for i, acc in enumerate(accs):
                e.store(acc, e.offset(slot, i * g.lane_bytes), align=g.lane_bytes)
            if g.plan.deferred:
                return e.finish()
            e.b.ret_void()
            e.b.position_at_end(finished)
        counts = self._counts(vectors, last)
        known = self.epilogue.row_invariant(e, tensors, counts)
        for r in range(th * tw):
            at = self.epilogue.row(e, tensors, *divmod(r, tw), lines[r % tw])
            self.epilogue.finish(e, at, known, accs[r * vectors : (r + 1) * vectors], counts)
        return e.finish()

    def _lines(self, e: Emitter, rows: int) -> list[int | Val]:
        """How many lines of the map each row of a flat tile is behind the first; else zeros."""
        if not self.g.shape.flat:
            return [0] * rows
        within = e.args[-1]
        return [0, *(line_of(e, self.g.shape, e.b.add(within, I64(r))) for r in range(1, rows))]

    def _fetch_results(
        self,
        e: Emitter,
        tensors: Sequence[Val],
        tile: tuple[int, int, int],
        block: Val | None,
        lines: Sequence[int | Val],
    ) -> None:
        """Ask for the lines of the result before the sums are ready; stores would wait for them."""
        g, (th, tw, vectors) = self.g, tile
        if not g.plan.fetch_results:
            return
        row = vectors * g.shape.lanes * g.dtypes[RESULT].nbytes
        now = nullcontext() if block is None else e.when(self._is_last(e, block))
        with now:
            for h, w in itertools.product(range(th), range(tw)):
                result = self.epilogue.row(e, tensors, h, w, lines[w])[0]
                for at in range(0, row, LINE):
                    prefetch(e, e.offset(result, at), to_write=True)

    def _is_last(self, e: Emitter, block: Val) -> Val:
        return e.b.icmp_signed("==", block, I64(self.g.depth_blocks - 1))

    def _emit_finish(self, th: int, tw: int, vectors: int, last: bool) -> ll.Function:
        g = self.g
        args = [PTR] * (1 + self._tensors) + [I64] * g.shape.flat
        e = self._function("finish", (th, tw, vectors), args)
        slot, *tensors = e.args[: 1 + self._tensors]
        counts = self._counts(vectors, last)
        type_ = register_type(g.shape.form.accumulator, g.shape.lanes)
        known = self.epilogue.row_invariant(e, tensors, counts)
        with e.loop(0, th) as h, e.loop(0, tw) as w:
            row = e.b.add(e.b.mul(h, I64(tw)), w)
            sums = step(e, slot, row, vectors * g.lane_bytes)
            accs = [
                e.load(e.offset(sums, v * g.lane_bytes), type_, align=g.lane_bytes)
                for v in range(vectors)
            ]
            line = line_of(e, g.shape, e.b.add(e.args[-1], w)) if g.shape.flat else 0
            at = self.epilogue.row(e, tensors, h, w, line)
            self.epilogue.finish(e, at, known, accs, counts)
        return e.finish()

    def _streams(
        self, e: Emitter, tile: tuple[int, int, int], last: bool, lines: Sequence[int | Val]
    ) -> tuple[Stream, Stream, list[Depth], Depth]:
        g, shape, plan = self.g, self.g.shape, self.g.plan
        (th, tw, vectors), (high, wide) = tile, g.row_strides
        rows: list[int | Val] = [h * high + w * wide for h in range(th) for w in range(tw)]
        if g.gaps[LHS] and not plan.copy_lhs:
            rows[1:] = [
                e.b.add(e.i64(row), e.b.mul(e.i64(line), I64(g.gaps[LHS])))
                for row, line in zip(rows[1:], lines[1:], strict=True)
            ]
        left = Stream(g.dtypes[LHS], shape.form.accumulator, tuple(rows), quads=shape.form.quads)
        direct = plan.rhs == "direct"
        lane = g.stride(shape.columns, RHS) if direct else g.sizes[RHS]
        right = Stream(
            g.dtypes[RHS],
            shape.form.accumulator,
            tuple(v * shape.lanes * lane for v in range(vectors)),
            tuple(self._counts(vectors, last) if direct else [None] * vectors),
            shape.columns.strides[RHS] if direct else 1,
        )
        rhs_taps, rhs_inner = g.rhs_depth(vectors)
        lhs_inner = g.sizes[LHS] if plan.copy_lhs else g.stride(shape.inner, LHS)
        taps = [
            Depth(tap.size, a, b)
            for tap, a, b in zip(shape.taps, g.lhs_taps(), rhs_taps, strict=True)
        ]
        return left, right, taps[plan.tap_loops :], Depth(shape.inner.size, lhs_inner, rhs_inner)


def _in_turn(depth: Depth, streams: int) -> tuple[list[Depth], Depth]:
    """Loops over a depth that read it in so many places in turn."""
    length = depth.size // streams
    return [replace(depth, size=length)], Depth(streams, length * depth.lhs, length * depth.rhs)
