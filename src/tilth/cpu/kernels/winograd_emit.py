"""The code of a Winograd convolution: work items, blocks of tiles, panels of output channels.

Inside a work item the transformed data of a block of tiles, [element of the patch][tile][channel],
are made once; then, panel by panel of output channels, come the products, [element][tile][channel
of the panel], and the transform of the results with the epilogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.tiles import Cover
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
        self.parts = Parts(module, isa, name, shape, plan, epilogue)

    def emit(self) -> ll.Function:
        e, plan = self.e, self.plan
        held = e.var(I64, I64(-1))  # the block whose transformed data lie in scratch
        with e.loop(self.begin, self.end) as item:
            block, part = decode(e, item, (plan.tile_blocks, plan.panel_blocks))
            groups = self._part(block, plan.tiling.width.count, plan.tile_blocks)
            panels = self._part(part, plan.tiling.panels.count, plan.panel_blocks)
            tiles = (piece_start(e, plan.tiling.width, g) for g in groups)
            first, stop = tiles
            with e.when(e.b.icmp_signed("!=", e.i64(block), e.b.load(held))):
                self._transform_data((first, stop))
                e.b.store(e.i64(block), held)
            with e.loop(*panels) as panel:
                self._panel(panel, groups, (first, stop))
        return e.finish()

    def _part(self, index: int | Val, count: int, blocks: int) -> Range:
        """The range of block `index` when `count` things are divided into `blocks`."""
        if blocks == 1:
            return 0, count
        e = self.e

        def start(i: Val) -> Val:
            return e.b.udiv(e.b.mul(i, I64(count)), I64(blocks))

        return start(index), start(e.b.add(index, I64(1)))

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
        e, m = self.e, self.plan.transform.outputs
        _, *index = decode(e, tile, self.problem.grid(self.plan.transform))

        def room(i: int | Val, extent: int) -> int | Val:
            extent += wanted - m  # of data there is a border more than of results
            if extent % m == wanted % m:
                return wanted
            left = e.b.sub(I64(extent), e.b.mul(e.i64(i), I64(m)))
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
            if parts.plain_vectors < self.problem.depth_vectors or self.problem.cut(plan.transform):
                e.b.call(parts.patched(), [source, target, self.patch, rows, columns, done])

    def _panel(self, panel: Val, groups: Range, tiles: Range) -> None:
        e, plan, shape = self.e, self.plan, self.shape
        panels = plan.tiling.panels
        moved = list(self.base)
        for tensor in range(RESULT, len(moved)):
            nbytes = shape.columns.strides[tensor] * self.sizes[tensor]
            moved[tensor] = step(e, moved[tensor], panel, panels.width * shape.lanes * nbytes)
        moved[RHS] = step(e, moved[RHS], panel, panels.width * plan.weights_of_vector)

        def body(vectors: int, last: bool) -> None:
            self._products(moved[RHS], vectors, groups, tiles)
            self._results(moved, vectors, last, tiles)

        differs = panels.last != panels.width or shape.tail is not None
        if panels.count == 1 or not differs:
            body(panels.last, differs)
            return
        ends = e.b.icmp_signed("==", panel, I64(panels.count - 1))
        either(e, ends, lambda: body(panels.last, True), lambda: body(panels.width, False))

    def _products(self, weights: Val, vectors: int, groups: Range, tiles: Range) -> None:
        """For each element of a patch: tiles x input channels times input x output channels."""
        e, plan, cover = self.e, self.plan, self.plan.tiling.width
        depth = self.problem.channels * vectors * plan.vector
        with e.loop(0, plan.products) as element, e.loop(*groups) as group:
            row = e.b.sub(e.i64(piece_start(e, cover, group)), e.i64(tiles[0]))
            pointers = [
                step(e, step(e, self.scratch, element, plan.data_plane), row, plan.data_pitch),
                step(e, weights, element, depth),
                step(e, step(e, self.sums, element, plan.sum_plane), row, plan.sum_pitch),
            ]
            number = e.b.sub(group, e.i64(groups[0]))

            def call(rows: int) -> None:
                ahead = e.offset(pointers[1], depth)  # the next product's weights
                ahead = step(e, ahead, number, self.parts.fetched(rows, vectors))
                e.b.call(self.parts.product(rows, vectors), [*pointers, ahead])

            by_size(e, cover, group, call)

    def _results(self, pointers: Sequence[Val], vectors: int, last: bool, tiles: Range) -> None:
        e, plan = self.e, self.plan
        finish = self.parts.finish(vectors, last)
        with e.loop(*tiles) as tile:
            tensors = range(RESULT, len(pointers))
            at = [self._corner(pointers[tensor], tensor, tile) for tensor in tensors]
            sums = step(e, self.sums, e.b.sub(tile, e.i64(tiles[0])), plan.sum_pitch)
            room = [e.i64(r) for r in self._room(tile, plan.transform.outputs)]
            e.b.call(finish, [sums, self.patch, *room, *at])


def piece_start(e: Emitter, cover: Cover, index: int | Val) -> int | Val:
    """Where piece `index` of a cover begins (the extent itself behind the last piece)."""
    if isinstance(index, int):
        return index * (cover.size - 1) + min(index, cover.large)
    if cover.large == cover.count:
        return e.b.mul(index, I64(cover.size))
    large = e.intrinsic("smin", index, I64(cover.large))
    return e.b.add(e.b.mul(index, I64(cover.size - 1)), large)


def by_size(e: Emitter, cover: Cover, index: Val, body: Callable[[int], object]) -> None:
    """Emit `body(size)` for the size of piece `index`, one of at most two."""
    if cover.large == cover.count:
        body(cover.size)
        return
    in_large = e.b.icmp_signed("<", index, I64(cover.large))
    either(e, in_large, lambda: body(cover.size), lambda: body(cover.size - 1))


def either(
    e: Emitter, condition: Val, then: Callable[[], object], other: Callable[[], object]
) -> None:
    """Emit both under a condition."""
    with e.b.if_else(condition) as (yes, no):
        with yes:
            then()
        with no:
            other()
