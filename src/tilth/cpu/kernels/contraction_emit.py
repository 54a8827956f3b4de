"""The code around the micro-kernels of a contraction: work items, blocks, tiles.

One work item is a block of rows times a block of panels. Inside it the loops over panels and over
blocks of the depth enclose the loop over register tiles, so that a panel's block of the right
operand stays in L2 while all rows of the block, in L2 too, pass by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_epilogue import Epilogue, line_of, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS, Loop
from tilth.cpu.kernels.contraction_geometry import Geometry
from tilth.cpu.kernels.contraction_parts import Parts
from tilth.cpu.kernels.packing import copy_run
from tilth.cpu.kernels.pieces import by_size, either, even_part, piece_start
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.tiles import Cover

Range = tuple[int | Val, int | Val]


def emit(
    module: ll.Module, isa: Isa, name: str, geometry: Geometry, operands: tuple[Operand, ...]
) -> ll.Function:
    """Define the kernel function `name` and its micro-kernels."""
    return _Nest(module, isa, name, geometry, operands).emit()


def emit_right(
    module: ll.Module, isa: Isa, name: str, g: Geometry, operands: tuple[Operand, ...]
) -> ll.Function:
    """Define f(source, packed): all panels of the right operand for one turn of the outer loops."""
    parts = Parts(module, isa, name, g, Epilogue(g.shape, operands, g.dtypes[RESULT]))
    e = Emitter(module, isa, name, [PTR, PTR])
    _pack_panels(e, g, parts, e.args[0], e.args[1], (0, g.plan.tiling.panels.count))
    return e.finish()


def _pack_panels(
    e: Emitter, g: Geometry, parts: Parts, source: Val, packed: Val, panels: Range
) -> None:
    """Pack some panels of the right operand; both pointers are at panel 0."""
    shape, cover = g.shape, g.plan.tiling.panels
    column = shape.lanes * g.stride(shape.columns, RHS)
    whole = cover.width * g.unit * shape.form.depth
    first, stop = (e.b.mul(e.i64(p), I64(cover.width)) for p in panels)
    with e.loop(first, e.intrinsic("smin", stop, I64(shape.vectors))) as vector:
        panel, within = (f(vector, I64(cover.width)) for f in (e.b.udiv, e.b.urem))
        ends = e.b.icmp_signed("==", panel, I64(cover.count - 1))
        pitch = e.b.select(ends, I64(cover.last * g.unit), I64(cover.width * g.unit))
        target = step(e, step(e, packed, panel, whole), within, g.unit)
        args = [step(e, source, vector, column), target, pitch]
        if shape.tail is None:
            e.b.call(parts.pack(None), args)
        else:
            either(
                *(e, e.b.icmp_signed("==", vector, I64(shape.vectors - 1))),
                lambda: e.b.call(parts.pack(shape.tail), args),
                lambda: e.b.call(parts.pack(None), args),
            )


class _Nest:
    def __init__(
        self, module: ll.Module, isa: Isa, name: str, g: Geometry, operands: tuple[Operand, ...]
    ):
        self.module, self.isa, self.name, self.g = module, isa, name, g
        self.shape, self.plan = g.shape, g.plan
        self.epilogue = Epilogue(g.shape, operands, g.dtypes[RESULT])
        self.e, pointers = kernel_emitter(module, isa, name, len(operands) + 1)
        self.base = [pointers[i] for i in g.positions]
        self.scratch, self.begin, self.end, _ = self.e.args[len(operands) + 1 :]
        self.parts = Parts(module, isa, name, g, self.epilogue)

    def emit(self) -> ll.Function:
        with self.e.loop(self.begin, self.end) as item:
            self._item(item)
        return self.e.finish()

    def _item(self, item: Val) -> None:
        e, g, plan = self.e, self.g, self.plan
        blocks = (plan.row_blocks, plan.panel_blocks)
        outer = tuple(loop.size for loop in self.shape.outer)
        if plan.interleaved:
            far = [i for i in range(len(outer)) if i not in plan.interleaved]
            order = [*far, *plan.interleaved]
            sizes = [outer[i] for i in order]
            sizes[len(far) : len(far)] = [blocks[0]]
            *found, panel = decode(e, item, (*sizes, blocks[1]))
            row = found.pop(len(far))
            index = [found[order.index(i)] for i in range(len(outer))]
        elif plan.panels_first:
            *index, panel, row = decode(e, item, (*outer, *reversed(blocks)))
        else:
            *index, row, panel = decode(e, item, (*outer, *blocks))
        pointers = self._outer(index)
        rows = even_part(e, row, g.cut.count, plan.row_blocks)
        panels = even_part(e, panel, plan.tiling.panels.count, plan.panel_blocks)
        pointers = self._copy_rhs(pointers, panels)
        if plan.depth_outside:
            with e.loop(0, g.depth_blocks) as block:
                at = self._copy_lhs(pointers, rows, block)
                with e.loop(*panels) as panel:
                    self._tiles(at, rows, panels, panel, block)
        else:
            pointers = self._copy_lhs(pointers, rows, None)
            with e.loop(*panels) as panel, e.loop(0, g.depth_blocks) as block:
                self._tiles(pointers, rows, panels, panel, block)

    def _outer(self, index: Sequence[int | Val]) -> list[Val]:
        """The tensors' pointers at an index of the outer loops."""
        moved = list(self.base)
        packed = self.plan.rhs == "packed"
        block = self.shape.vectors * self.shape.form.depth * self.g.unit
        turns = 1
        for i, loop in reversed(list(zip(index, self.shape.outer, strict=True))):
            for tensor in range(len(moved)):
                nbytes = self.g.stride(loop, tensor)
                if tensor == RHS and packed and nbytes:
                    nbytes, turns = turns * block, turns * loop.size
                moved[tensor] = step(self.e, moved[tensor], i, nbytes)
        return moved

    # -- copies ------------------------------------------------------------------------------
    def _copy_lhs(self, pointers: list[Val], rows: Range, block: Val | None) -> list[Val]:
        """Copy the block's rows; gives the pointers with the left one as if at row (0, 0)."""
        if not self.plan.copy_lhs:
            return pointers
        e, g, shape = self.e, self.g, self.shape
        source, run = pointers[LHS], g.copied_run
        if block is not None:
            strides = [g.stride(t, LHS) for t in shape.taps]
            source, run = (
                self._depth_offset(source, block, strides, g.stride(shape.inner, LHS)),
                self._trips(block),
            )
        first, stop = (piece_start(e, g.cut, r) for r in rows)
        tall = shape.height.size > 1
        across = shape.width.size if tall else 1
        with e.loop(first, stop) as r, e.loop(0, across) as w:
            where = self._rows(source, LHS, *((r, w) if tall else (0, r)))
            number = e.b.add(e.b.mul(e.b.sub(r, e.i64(first)), I64(across)), w)
            target = step(e, e.offset(self.scratch, g.lhs_at), number, g.pitch)
            self._copy_taps(list(g.copied_taps), where, target, run)
        back = e.b.neg(e.b.mul(e.i64(first), I64(g.pitch * across)))
        return [e.offset(e.offset(self.scratch, g.lhs_at), back), *pointers[1:]]

    def _copy_rhs(self, pointers: list[Val], panels: Range) -> list[Val]:
        """Pack the block of panels; gives the pointers with the right one as if at panel 0."""
        if self.plan.rhs != "copied":
            return pointers
        e, g = self.e, self.g
        whole = self.plan.tiling.panels.width * g.unit * self.shape.form.depth
        packed = e.offset(self.scratch, g.rhs_at)
        packed = e.offset(packed, e.b.mul(e.i64(panels[0]), I64(-whole)))
        _pack_panels(e, g, self.parts, pointers[RHS], packed, panels)
        return [pointers[LHS], packed, *pointers[RESULT:]]

    def _copy_taps(self, taps: list[Loop], source: Val, target: Val, run: int | Val) -> None:
        e, g = self.e, self.g
        if not taps:
            copy_run(e, source, target, g.dtypes[LHS], run)
            return
        tap, *rest = taps
        inside = math.prod(t.size for t in rest) * g.copied_run * g.sizes[LHS]
        with e.loop(0, tap.size) as i:
            where = step(e, source, i, g.stride(tap, LHS))
            self._copy_taps(rest, where, step(e, target, i, inside), run)

    def _rows(self, pointer: Val, tensor: int, h: int | Val, w: int | Val) -> Val:
        pointer = step(self.e, pointer, h, self.g.stride(self.shape.height, tensor))
        pointer = step(self.e, pointer, w, self.g.stride(self.shape.width, tensor))
        return step(self.e, pointer, line_of(self.e, self.shape, w), self.g.gaps[tensor])

    # -- depth -------------------------------------------------------------------------------
    def _depth_offset(self, pointer: Val, block: Val, taps: Sequence[int], inner: int) -> Val:
        """`pointer` at the start of a depth block."""
        *index, chunk = decode(self.e, block, self.g.block_dims)
        for i, nbytes in zip(index, taps, strict=False):
            pointer = step(self.e, pointer, i, nbytes)
        return step(self.e, pointer, chunk, self.g.chunk * inner)

    def _trips(self, block: Val) -> int | Val:
        """Innermost depth of a block."""
        if not self.g.uneven:
            return self.g.chunk
        chunk = decode(self.e, block, self.g.block_dims)[-1]
        rest = self.e.b.sub(I64(self.shape.inner.size), self.e.b.mul(chunk, I64(self.g.chunk)))
        return self.e.intrinsic("smin", rest, I64(self.g.chunk))

    # -- tiles -------------------------------------------------------------------------------
    def _tiles(
        self,
        pointers: list[Val],
        rows: Range,
        panels: Range,
        panel: Val,
        block: Val,
    ) -> None:
        """All tiles of the block of rows, for one panel and one depth block."""
        cut = self.plan.tiling.panels
        last = cut.last if cut.last != cut.width or self.shape.tail else None
        given = (pointers, rows, panels, panel, block)
        if last is None or cut.count == 1:
            self._panel_tiles(*given, cut.last, last is not None)
            return
        ends = self.e.b.icmp_signed("==", panel, I64(cut.count - 1))
        either(
            *(self.e, ends),
            lambda: self._panel_tiles(*given, cut.last, True),
            lambda: self._panel_tiles(*given, cut.width, False),
        )

    def _panel_tiles(
        self,
        pointers: list[Val],
        rows: Range,
        panels: Range,
        panel: Val,
        block: Val,
        vectors: int,
        last: bool,
    ) -> None:
        e, g, tiling = self.e, self.g, self.plan.tiling
        ahead = None
        if self.plan.fetch_ahead:
            ahead = self._following(pointers[RHS], panels, panel, block, vectors)
        pointers = self._at_panel(pointers, panel)
        taps, inner = g.rhs_depth(vectors)
        pointers[RHS] = self._depth_offset(pointers[RHS], block, taps, inner)
        held = self.plan.copy_lhs and self.plan.depth_outside
        if not held:
            inner = g.sizes[LHS] if self.plan.copy_lhs else g.stride(self.shape.inner, LHS)
            pointers[LHS] = self._depth_offset(pointers[LHS], block, g.lhs_taps(), inner)
        tall = self.shape.height.size > 1
        heights = rows if tall else (0, 1)
        widths = (0, tiling.width.count) if tall else rows
        with e.loop(*heights) as i, e.loop(*widths) as j:
            across = tiling.width.count if tall else 1
            number = e.b.add(
                e.b.mul(e.b.sub(i, e.i64(heights[0])), I64(across)), e.b.sub(j, e.i64(widths[0]))
            )
            share = [] if ahead is None else [step(e, ahead, number, g.turns * g.pace)]
            if self.plan.depth_outside:
                earlier = e.b.mul(e.b.sub(panel, e.i64(panels[0])), I64(g.block_tiles))
                number = e.b.add(number, earlier)
            if g.slots <= 1:
                number = I64(0)
            slot = step(e, self.scratch, number, g.slot)
            self._tile(pointers, slot, share, i, j, block, vectors, last)

    def _at_panel(self, pointers: list[Val], panel: Val) -> list[Val]:
        lanes, width = self.shape.lanes, self.plan.tiling.panels.width
        moved = []
        for tensor, pointer in enumerate(pointers):
            nbytes = width * lanes * self.g.stride(self.shape.columns, tensor)
            if tensor == RHS and self.plan.rhs != "direct":
                nbytes = width * self.g.unit * self.shape.form.depth
            moved.append(step(self.e, pointer, panel, nbytes))
        return moved

    def _tile(
        self,
        pointers: list[Val],
        slot: Val,
        ahead: list[Val],
        i: Val,
        j: Val,
        block: Val,
        vectors: int,
        last: bool,
    ) -> None:
        """Call the micro-kernel for tile (i, j): one of at most two sizes along each extent."""
        e, g, tiling = self.e, self.g, self.plan.tiling
        h, w = self._start(tiling.height, i), self._start(tiling.width, j)
        moved = [self._rows(p, tensor, h, w) for tensor, p in enumerate(pointers)]
        if self.plan.copy_lhs:
            high, wide = g.row_strides
            moved[LHS] = step(e, step(e, pointers[LHS], h, high), w, wide)
        within = [e.b.urem(e.i64(w), I64(self.shape.line))] * self.shape.flat

        def call(th: int, tw: int) -> None:
            micro = self.parts.microkernel(th, tw, vectors, last)
            flags = [*self._flags(block), *ahead, *within]
            e.b.call(micro, [moved[LHS], moved[RHS], slot, *moved[RESULT:], *flags])
            if self.plan.deferred:
                finish = self.parts.finish(th, tw, vectors, last)
                args = [slot, *moved[RESULT:], *within]
                if g.depth_blocks == 1:
                    e.b.call(finish, args)
                    return
                done = e.b.icmp_signed("==", block, I64(g.depth_blocks - 1))
                with e.when(done):
                    e.b.call(finish, args)

        by_size(
            *(e, tiling.height, i),
            lambda th: by_size(e, tiling.width, j, lambda tw: call(th, tw)),
        )

    def _following(
        self,
        rhs: Val,
        panels: Range,
        panel: Val,
        block: Val,
        vectors: int,
    ) -> Val:
        """The weights to fetch ahead: the block after this one, or the item's first after its last.

        (Most items begin with the panels that the one before began with.)
        """
        e, g = self.e, self.g
        first, stop = (e.i64(p) for p in panels)

        def advance(index: Val, start: Val, stop: Val, by: Val) -> tuple[Val, Val]:
            """The next index, and 1 if it starts again."""
            following = e.b.add(index, by)
            done = e.b.icmp_signed("==", following, stop)
            return e.b.select(done, start, following), e.b.zext(done, I64)

        blocks = (I64(0), I64(g.depth_blocks))
        if self.plan.depth_outside:
            panel, done = advance(panel, first, stop, I64(1))
            block, _ = advance(block, *blocks, done)
        else:
            block, done = advance(block, *blocks, I64(1))
            panel, _ = advance(panel, first, stop, done)
        whole = self.plan.tiling.panels.width * g.unit * self.shape.form.depth
        return self._depth_offset(step(e, rhs, panel, whole), block, *g.rhs_depth(vectors))

    def _flags(self, block: Val) -> list[Val]:
        if self.g.depth_blocks == 1:
            return []
        trips = self._trips(block)
        return [block, *([trips] if not isinstance(trips, int) else [])]

    def _start(self, cover: Cover, index: Val) -> int | Val:
        """First row of piece `index`."""
        return 0 if cover.count == 1 else piece_start(self.e, cover, index)
