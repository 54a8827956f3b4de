"""The code of a Winograd convolution: work items, blocks of tiles, panels of output channels.

A work item is a block of tiles times a part of the output channels. Its transformed data, [element
of the patch][tile][input channel], are made once; then, element by element, come the products,
[element][tile][output channel], while the weights stream by; last the transform of the results.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I64, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.pieces import by_size, either, even_part, piece_start
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.winograd_parts import Parts
from tilth.cpu.kernels.winograd_plan import FLOAT, Plan

Range = tuple[int | Val, int | Val]


def emit(
    module: ll.Module,
    isa: Isa,
    name: str,
    shape: Shape,
    plan: Plan,
    operands: tuple[Operand, ...],
    result: Operand,
) -> ll.Function:
    """Define the kernel function `name` and the functions it calls.

    `shape` is of the convolution's loops as written, so its height and width are the result's.
    """
    return _Nest(module, isa, name, shape, plan, operands, result).emit()


class _Nest:
    def __init__(
        self,
        module: ll.Module,
        isa: Isa,
        name: str,
        shape: Shape,
        plan: Plan,
        operands: tuple[Operand, ...],
        result: Operand,
    ):
        self.shape, self.plan, self.problem = shape, plan, plan.problem
        epilogue = Epilogue(shape, operands, result.dtype)
        self.e, pointers = kernel_emitter(module, isa, name, len(operands) + 1)
        form = shape.form
        self.base = [pointers[i] for i in (form.lhs, form.rhs, len(operands), *form.extras)]
        self.sizes = (FLOAT, FLOAT, *(d.nbytes for d in epilogue.dtypes))
        self.scratch, self.begin, self.end, _ = self.e.args[len(operands) + 1 :]
        self.sums = self.e.offset(self.scratch, plan.products * plan.data_plane)
        self.patch = self.e.offset(self.sums, plan.products * plan.sum_plane)
        self.facts = self.e.offset(self.patch, plan.products * plan.vector)
        self.parts = Parts(module, isa, name, shape, plan, epilogue)

    def emit(self) -> ll.Function:
        e, plan = self.e, self.plan
        held = e.var(I64, I64(-1))  # the block whose transformed data lie in scratch
        with e.loop(self.begin, self.end) as item:
            block, part = decode(e, item, (plan.tile_blocks, plan.panel_blocks))
            groups = even_part(e, block, plan.tiling.width.count, plan.tile_blocks)
            panels = even_part(e, part, plan.tiling.panels.count, plan.panel_blocks)
            first, stop = (piece_start(e, plan.tiling.width, g) for g in groups)
            with e.when(e.b.icmp_signed("!=", e.i64(block), e.b.load(held))):
                self._transform_data((first, stop))
                e.b.store(e.i64(block), held)
            self._products(groups, panels, first)
            self._results((first, stop), panels)
        return e.finish()

    def _corner(self, pointer: Val, tensor: int, tile: Val) -> Val:
        """The pointer at the first pixel of a tile."""
        m = self.plan.transform.outputs
        index = decode(self.e, tile, self.problem.grid(self.plan.transform))
        for i, loop, pixels in zip(index, self.shape.form.m, (1, m, m), strict=True):
            nbytes = pixels * loop.strides[tensor] * self.sizes[tensor]
            pointer = step(self.e, pointer, i, nbytes)
        return pointer

    def _room(self, tile: Val, wanted: int) -> tuple[int | Val, int | Val]:
        """How many of `wanted` rows and columns, counted from the tile's corner, exist."""
        e, t = self.e, self.plan.transform
        _, *index = decode(e, tile, self.problem.grid(t))
        pixels = t.stride if wanted == t.size else 1  # from one result's first pixel to the next's

        def room(i: int | Val, results: int) -> int | Val:
            if results % t.outputs == 0:
                return wanted
            extent = wanted + (results - t.outputs) * pixels
            left = e.b.sub(I64(extent), e.b.mul(e.i64(i), I64(t.outputs * pixels)))
            return e.intrinsic("smin", left, I64(wanted))

        return room(index[0], self.problem.height), room(index[1], self.problem.width)

    def _transform_data(self, tiles: Range) -> None:
        e, plan, parts = self.e, self.plan, self.parts
        size = plan.transform.size
        with e.loop(*tiles) as tile:
            source = self._corner(self.base[LHS], LHS, tile)
            target = step(e, self.scratch, e.b.sub(tile, e.i64(tiles[0])), plan.data_pitch)
            rows, columns = (e.i64(r) for r in self._room(tile, size))
            area = e.b.mul(rows, columns)
            whole = e.b.icmp_signed("==", area, I64(size * size))
            done = e.b.select(whole, I64(parts.plain_vectors), I64(0))
            if parts.plain_vectors:
                with e.when(whole):
                    e.b.call(parts.data(), [source, target])
            if parts.plain_vectors < self.problem.depth_vectors or self.problem.cut_share(
                plan.transform
            ):
                e.b.call(parts.patched(), [source, target, self.patch, rows, columns, done])
            if plan.paired:
                number = e.b.sub(tile, e.i64(tiles[0]))
                self._scale(target, step(e, self.facts, number, plan.fact_pitch))

    def _scale(self, target: Val, facts: Val) -> None:
        """The transformed data of a tile, for paired products."""
        e, plan = self.e, self.plan
        with e.loop(0, plan.products) as element:
            row = step(e, target, element, plan.data_plane)
            known = step(e, facts, element, plan.block_tiles * plan.fact_pitch)
            e.b.call(self.parts.rows.normalise(), [row, row, known])

    def _products(self, groups: Range, panels: Range, first_tile: int | Val) -> None:
        """For each element of a patch: tiles x input channels times input x output channels."""
        e, plan, widths = self.e, self.plan, self.plan.tiling.panels
        vectors = e.b.sub(self._vector(panels[1]), self._vector(panels[0]))
        per_vector = plan.rows_of_weights * plan.vector
        weights = step(e, self.base[RHS], self._vector(panels[0]), plan.factors * per_vector)
        with e.loop(0, plan.products) as element:
            data = step(e, self.scratch, element, plan.data_plane)
            row = step(e, weights, e.b.mul(self._factor(element), vectors), per_vector)
            sums = step(e, self.sums, element, plan.sum_plane)
            facts = step(e, self.facts, element, plan.block_tiles * plan.fact_pitch)
            with e.loop(*panels) as panel:
                number = e.b.sub(panel, e.i64(panels[0]))
                at = [
                    data,
                    facts,
                    step(e, row, number, widths.width * per_vector),
                    step(e, sums, number, widths.width * plan.vector),
                ]
                self._panel(at, panel, groups, first_tile)

    def _factor(self, element: Val) -> Val:
        """The number of the transformed weights that an element's product takes."""
        t = self.plan.transform
        if t.factors == t.size:
            return element
        last = I64(t.factors - 1)
        row, column = (
            self.e.intrinsic("smin", self.e.i64(i), last)
            for i in decode(self.e, element, (t.size, t.size))
        )
        return self.e.b.add(self.e.b.mul(row, I64(t.factors)), column)

    def _panel(
        self, pointers: Sequence[Val], panel: Val, groups: Range, first_tile: int | Val
    ) -> None:
        panels = self.plan.tiling.panels
        if panels.count == 1 or panels.last == panels.width:
            self._product(pointers, panels.last, groups, first_tile)
            return
        either(
            *(self.e, self.e.b.icmp_signed("==", panel, I64(panels.count - 1))),
            lambda: self._product(pointers, panels.last, groups, first_tile),
            lambda: self._product(pointers, panels.width, groups, first_tile),
        )

    def _vector(self, panel: int | Val) -> Val:
        """The first vector of a panel (the number of vectors behind the last one)."""
        panels = self.plan.tiling.panels
        vector = self.e.b.mul(self.e.i64(panel), I64(panels.width))
        return self.e.intrinsic("smin", vector, I64(panels.vectors))

    def _product(
        self, pointers: Sequence[Val], vectors: int, groups: Range, first_tile: int | Val
    ) -> None:
        """One product for one panel: a register tile after the other."""
        e, plan, cover = self.e, self.plan, self.plan.tiling.width
        data, facts, weights, sums = pointers
        following = e.offset(weights, plan.rows_of_weights * vectors * plan.vector)
        with e.loop(*groups) as group:
            row = e.b.sub(e.i64(piece_start(e, cover, group)), e.i64(first_tile))
            number = e.b.sub(group, e.i64(groups[0]))
            args = [
                step(e, data, row, plan.data_pitch),
                step(e, facts, row, plan.fact_pitch),
                weights,
                step(e, sums, row, plan.sum_pitch),
                step(e, following, number, self.parts.fetched(vectors)),
            ]
            by_size(
                *(e, cover, group),
                lambda rows: e.b.call(self.parts.product(rows, vectors), args),
            )

    def _results(self, tiles: Range, panels: Range) -> None:
        e, plan, tail = self.e, self.plan, self.shape.tail
        first, stop = (self._vector(panel) for panel in panels)
        full = self.problem.vectors - (tail is not None)
        tensors = range(RESULT, len(self.base))
        with e.loop(*tiles) as tile:
            sums = step(e, self.sums, e.b.sub(tile, e.i64(tiles[0])), plan.sum_pitch)
            at = [self._corner(self.base[tensor], tensor, tile) for tensor in tensors]
            room = [e.i64(r) for r in self._room(tile, plan.transform.outputs)]
            args = [sums, self.patch, *room, first]
            if full:
                e.b.call(
                    self.parts.finish(None), [*args, e.intrinsic("smin", stop, I64(full)), *at]
                )
            if tail is not None:
                with e.when(e.b.icmp_signed(">", stop, I64(full))):
                    sums = step(e, sums, e.b.sub(I64(full), first), plan.vector)
                    args = [sums, self.patch, *room, I64(full), stop]
                    e.b.call(self.parts.finish(tail), [*args, *at])
