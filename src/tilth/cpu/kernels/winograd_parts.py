"""The functions a Winograd kernel calls for one tile: transforms of data and results, products.

Channels lie in lanes. Patches that hang over the border of the data, and channels that do not fill
a vector, are first copied into a small patch with zeros around, so that there is one fast way.
"""

from __future__ import annotations

import llvmlite.ir as ll

from tilth.cpu.access import load
from tilth.cpu.emit import F32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels import inner_product_rows
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.inner_product_rows import Rows
from tilth.cpu.kernels.microkernel import (
    LINE,
    Depth,
    Stream,
    accumulate,
    unrolling,
    with_earlier,
)
from tilth.cpu.kernels.winograd_plan import FLOAT, Plan
from tilth.cpu.kernels.winograd_transform import transform_2d
from tilth.ir.types import f32


class Parts:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(
        self, module: ll.Module, isa: Isa, name: str, shape: Shape, plan: Plan, epilogue: Epilogue
    ):
        self.module, self.isa, self.name = module, isa, name
        self.shape, self.plan, self.epilogue = shape, plan, epilogue
        self.transform = plan.transform
        self.lanes = vector(F32, shape.lanes)
        self.rows = Rows(module, isa, name, plan.problem.channels)
        self._made: dict[str, ll.Function] = {}
        channel = shape.form.k[-1]
        self.channel_stride = channel.strides[LHS]
        # leading vectors of input channels that need no patch where all pixels exist
        self.plain_vectors = channel.size // shape.lanes if self.channel_stride == 1 else 0

    def _function(self, label: str, args: list[ll.Type]) -> Emitter:
        e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    # -- data --------------------------------------------------------------------------------
    def data(self) -> ll.Function:
        """f(source, target): transform a whole patch, all full vectors of channels."""
        if "data" not in self._made:
            e = self._function("data", [PTR, PTR])
            with e.loop(0, self.plain_vectors) as v:
                at, to = (step(e, p, v, self.plan.vector) for p in e.args)
                self._transform_data(e, at, self._pixel_strides(), to)
            self._made["data"] = e.finish()
        return self._made["data"]

    def patched(self) -> ll.Function:
        """f(source, target, patch, rows, columns, v): the same where only rows x columns pixels
        exist, for the vectors of channels from `v` on."""
        if "patched" not in self._made:
            self._made["patched"] = self._emit_patched()
        return self._made["patched"]

    def _emit_patched(self) -> ll.Function:
        e = self._function("patched", [PTR, PTR, PTR, I64, I64, I64])
        source, target, patch, rows, columns, first = e.args
        size, lanes, channels = self.transform.size, self.shape.lanes, self.plan.problem.channels
        high, wide = self._pixel_strides()
        across, down = self.plan.vector, size * self.plan.vector
        for pixel in range(size * size):  # those that do not exist stay zero
            e.store(e.const(self.lanes, 0), e.offset(patch, pixel * across))
        with e.loop(first, self.plan.problem.depth_vectors) as v:
            at = step(e, source, v, self.channel_stride * self.plan.vector)
            left = e.b.sub(I64(channels), e.b.mul(v, I64(lanes))) if channels % lanes else None
            with e.loop(0, rows) as row:
                line, to = step(e, at, row, high), step(e, patch, row, down)
                with e.loop(0, columns) as column:
                    pixel = step(e, line, column, wide)
                    value = load(e, pixel, f32, lanes, self.channel_stride, left)
                    e.store(value, step(e, to, column, across))
            self._transform_data(e, patch, (down, across), step(e, target, v, self.plan.vector))
        return e.finish()

    def _pixel_strides(self) -> tuple[int, int]:
        """Bytes between neighbouring rows and columns of the data."""
        down, across, _ = self.shape.form.k
        return down.strides[LHS] * FLOAT, across.strides[LHS] * FLOAT

    def _transform_data(
        self, e: Emitter, source: Val, strides: tuple[int, int], target: Val
    ) -> None:
        t, (high, wide) = self.transform, strides

        def get(row: int, column: int) -> Val:
            return e.load(e.offset(source, row * high + column * wide), self.lanes)

        def put(row: int, column: int, value: Val) -> None:
            plane = (row * t.size + column) * self.plan.data_plane
            e.store(value, e.offset(target, plane), align=self.plan.vector)

        transform_2d(e, t.data_groups(), t.data_rows, t.size, get, put)

    # -- products ----------------------------------------------------------------------------
    def product(self, rows: int, vectors: int) -> ll.Function:
        """f(data, facts, weights, sums, ahead): a register tile of one product.

        On the way it brings `fetched(vectors)` bytes from `ahead` on into L2.
        """
        label = f"product{rows}x{vectors}"
        if label not in self._made:
            emit = self._emit_pairs if self.plan.paired else self._emit_product
            self._made[label] = emit(label, rows, vectors)
        return self._made[label]

    def fetched(self, vectors: int) -> int:
        """Bytes one call of `product` fetches ahead: its share of the next product's weights."""
        wanted = self.plan.rows_of_weights * vectors * self.plan.vector
        if self.plan.paired:
            return self._turns * inner_product_rows.pace(
                wanted, self._turns * self.plan.block_groups
            )
        return -(-wanted // (self.plan.block_groups * LINE)) * LINE

    def _emit_product(self, label: str, rows: int, vectors: int) -> ll.Function:
        e, plan = self._function(label, [PTR] * 5), self.plan
        data, _, weights, sums, ahead = e.args
        lanes = tuple(v * plan.vector for v in range(vectors))
        left = Stream(f32, f32, tuple(r * plan.data_pitch for r in range(rows)))
        right = Stream(f32, f32, lanes, (None,) * vectors)
        depth = Depth(plan.problem.channels, FLOAT, vectors * plan.vector)
        # one line per turn of the loop from each of these places
        run = max(1, depth.size // unrolling(rows * vectors)) * LINE
        fetched = [e.offset(ahead, at) for at in range(0, self.fetched(vectors), run)]
        accs = [e.const(self.lanes, 0)] * (rows * vectors)
        pointers = [data, weights, *fetched]
        accs = accumulate(e, left, right, pointers, (), depth, depth.size, accs)
        for i, acc in enumerate(accs):
            at = e.offset(sums, i // vectors * plan.sum_pitch + lanes[i % vectors])
            e.store(acc, at, align=plan.vector)
        return e.finish()

    @property
    def _turns(self) -> int:
        """Of the inner loop of a paired product, through all its runs."""
        runs = self.plan.runs
        turns = inner_product_rows.turns
        return (runs.count - 1) * turns(runs.length) + turns(runs.last)

    def _emit_pairs(self, label: str, rows: int, vectors: int) -> ll.Function:
        assert vectors == 1
        e, plan = self._function(label, [PTR] * 5), self.plan
        data, facts, weights, sums, ahead = e.args
        runs, pace = plan.runs, self.fetched(1) // self._turns
        fetched = inner_product_rows.turns(runs.length) * pace
        room = e.var(ll.ArrayType(self.lanes, rows))
        earlier = e.b.gep(room, [I64(0), I64(0)], inbounds=True)

        def run(number: Val, length: int) -> None:
            """Adds a run to the sums of those before."""
            pointers = [
                step(e, data, number, runs.length * FLOAT),
                step(e, e.offset(facts, FLOAT), number, FLOAT),
                step(e, e.offset(weights, plan.vector), number, (1 + runs.length) * plan.vector),
                step(e, ahead, number, fetched),
            ]
            pitches = plan.data_pitch, plan.fact_pitch
            accs = inner_product_rows.products(e, rows, pitches, pointers, length, pace)
            for i, acc in enumerate(with_earlier(e, earlier, accs, number, f32)):
                e.store(acc, e.offset(earlier, i * plan.vector), align=plan.vector)

        equal = runs.count - (runs.last < runs.length)
        with e.loop(0, equal) as number:
            run(number, runs.length)
        if equal < runs.count:
            run(I64(equal), runs.last)
        scale = e.load(weights, self.lanes, plan.vector)
        for row in range(rows):
            back = e.load_broadcast(e.offset(facts, row * plan.fact_pitch), F32, self.shape.lanes)
            acc = e.load(e.offset(earlier, row * plan.vector), self.lanes, plan.vector)
            value = e.b.fmul(acc, e.b.fmul(scale, back))
            e.store(value, e.offset(sums, row * plan.sum_pitch), align=plan.vector)
        return e.finish()

    # -- results -----------------------------------------------------------------------------
    def finish(self, count: int | None) -> ll.Function:
        """f(sums, tile, rows, columns, first, stop, result, extras...): the pixels of a tile.

        Transforms the sums, which begin at vector `first` of output channels, and finishes and
        stores the rows x columns pixels that exist, `count` lanes (None: all) of each vector.
        """
        label = f"finish{count or ''}"
        if label not in self._made:
            self._made[label] = self._emit_finish(label, count)
        return self._made[label]

    def _emit_finish(self, label: str, count: int | None) -> ll.Function:
        tensors = [PTR] * (1 + len(self.shape.form.extras))
        e = self._function(label, [PTR, PTR, I64, I64, I64, I64, *tensors])
        sums, tile, rows, columns, first, stop, *pointers = e.args
        with e.loop(first, stop) as v:
            at = step(e, sums, e.b.sub(v, first), self.plan.vector)
            self._transform_result(e, at, tile)
            moved = self.epilogue.vector(e, pointers, v)
            known = self.epilogue.row_invariant(e, moved, [count])
            with e.loop(0, rows) as row, e.loop(0, columns) as column:
                number = e.b.add(e.b.mul(row, I64(self.transform.outputs)), column)
                value = e.load(step(e, tile, number, self.plan.vector), self.lanes)
                pixel = self.epilogue.row(e, moved, row, column)
                self.epilogue.finish(e, pixel, known, [value], [count])
        return e.finish()

    def _transform_result(self, e: Emitter, sums: Val, tile: Val) -> None:
        t = self.transform

        def get(row: int, column: int) -> Val:
            plane = (row * t.size + column) * self.plan.sum_plane
            return e.load(e.offset(sums, plane), self.lanes, align=self.plan.vector)

        def put(row: int, column: int, value: Val) -> None:
            e.store(value, e.offset(tile, (row * t.outputs + column) * self.plan.vector))

        transform_2d(e, t.result_groups(), t.result_rows, t.size, get, put)
