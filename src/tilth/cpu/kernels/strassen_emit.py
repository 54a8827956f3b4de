"""The code of a product by Strassen's algorithm: work items, blocks of the depth, panels, products.

For a block of rows of every part the left factors are made first, [product][row][depth]; then,
panel by panel, come the products, [product][row][column], while the right factors, [block of the
depth][panel][product][depth][column], stream by, and the results. The sums are those of
`strassen_scheme`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import load
from tilth.cpu.emit import F32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_epilogue import Epilogue, line_of, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS, Loop
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.microkernel import Depth, Stream, accumulate, unrolling, with_earlier
from tilth.cpu.kernels.pieces import by_size, either, even_part, piece_start
from tilth.cpu.kernels.space import decode, kernel_emitter, vector_loop
from tilth.cpu.kernels.strassen_plan import FLOAT, Plan
from tilth.cpu.kernels.strassen_scheme import Sums
from tilth.ir.types import f32

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
    """Define the kernel function `name` and the functions it calls."""
    return _Nest(module, isa, name, shape, plan, operands, result).emit()


@dataclass(frozen=True)
class _Item:
    """A work item: pointers of all tensors, and ranges of register tiles, their rows, panels."""

    pointers: list[Val]
    groups: Range
    rows: tuple[Val, Val]
    panels: Range


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
        self.sums = self.e.offset(self.scratch, plan.problem.products * plan.data_plane)
        self.parts = _Parts(module, isa, name, shape, plan, epilogue)

    def emit(self) -> ll.Function:
        e, plan = self.e, self.plan
        outer = tuple(loop.size for loop in self.shape.outer)
        with e.loop(self.begin, self.end) as number:
            *index, block, part = decode(e, number, (*outer, plan.row_blocks, plan.panel_blocks))
            groups = even_part(e, block, plan.tiling.width.count, plan.row_blocks)
            first, stop = (e.i64(piece_start(e, plan.tiling.width, g)) for g in groups)
            panels = even_part(e, part, plan.tiling.panels.count, plan.panel_blocks)
            item = _Item(self._outer(index), groups, (first, stop), panels)
            with e.loop(0, plan.depth_blocks) as depth:
                self._combine(item, depth)
                with e.loop(*panels) as panel:
                    self._panel(item, panel, depth)
        return e.finish()

    def _outer(self, index: Sequence[int | Val]) -> list[Val]:
        moved = list(self.base)
        for i, loop in zip(index, self.shape.outer, strict=True):
            for tensor, size in enumerate(self.sizes):
                moved[tensor] = step(self.e, moved[tensor], i, loop.strides[tensor] * size)
        return moved

    def _combine(self, item: _Item, block: Val) -> None:
        """The left factors of the seven products, for a block of the depth."""
        e, shape, plan = self.e, self.shape, self.plan
        *taps, chunk = decode(e, block, plan.depth_dims)
        source = item.pointers[LHS]
        for i, tap in zip(taps, shape.taps, strict=False):
            source = step(e, source, i, tap.strides[LHS] * FLOAT)
        source = step(e, source, chunk, plan.chunk * shape.inner.strides[LHS] * FLOAT)
        p = self.problem
        with e.loop(*item.rows) as row:
            target = step(e, self.scratch, e.b.sub(row, item.rows[0]), plan.data_pitch)
            last = e.b.add(row, I64((p.parts - 1) * p.height))
            others = [
                self._row(source, e.b.add(row, I64(i * p.height))) for i in range(p.parts - 1)
            ]

            def all_parts() -> None:
                e.b.call(self.parts.combine(True), [*others, self._row(source, last), target])

            def but_the_last() -> None:
                e.b.call(self.parts.combine(False), [*others, others[0], target])

            if p.rows % p.parts:
                exists = e.b.icmp_signed("<", last, I64(p.rows))
                either(e, exists, all_parts, but_the_last)
            else:
                all_parts()

    def _row(self, pointer: Val, row: Val) -> Val:
        """The left operand at a row, counted through the lines of the map."""
        e, shape = self.e, self.shape
        pointer = step(e, pointer, row, shape.width.strides[LHS] * FLOAT)
        return step(e, pointer, line_of(e, shape, row), shape.gap(LHS) * FLOAT)

    def _panel(self, item: _Item, panel: Val, block: Val) -> None:
        cut = self.plan.tiling.panels
        if cut.count == 1 or cut.last == cut.width:
            self._products(item, panel, block, cut.last)
            return
        either(
            *(self.e, self.e.b.icmp_signed("==", panel, I64(cut.count - 1))),
            lambda: self._products(item, panel, block, cut.last),
            lambda: self._products(item, panel, block, cut.width),
        )

    def _products(self, item: _Item, panel: Val, block: Val, vectors: int) -> None:
        """All products for one panel, a register tile after the other; then the results."""
        e, plan = self.e, self.plan
        depth_bytes, run_bytes = (d * vectors * plan.vector for d in (plan.depth, plan.run))
        weights = step(e, item.pointers[RHS], block, plan.weights // plan.depth_blocks)
        width = plan.tiling.panels.width
        weights = step(e, weights, panel, self.problem.products * plan.depth * width * plan.vector)
        sums = self.sums
        if plan.slots > 1:
            number = e.b.sub(panel, e.i64(item.panels[0]))
            sums = step(e, sums, number, self.problem.products * plan.sum_plane)
        with e.loop(0, self.problem.products) as product, e.loop(0, plan.runs) as run:
            left = step(e, self.scratch, product, plan.data_plane)
            right = step(e, weights, product, depth_bytes)
            pointers = [
                step(e, left, run, plan.run * FLOAT),
                step(e, right, run, run_bytes),
                step(e, sums, product, plan.sum_plane),
            ]
            self._tiles(item, pointers, e.b.add(block, run), vectors)
        with e.when(e.b.icmp_signed("==", block, I64(plan.depth_blocks - 1))):
            self._results(item, e.b.mul(panel, I64(width)), sums, vectors)

    def _tiles(self, item: _Item, pointers: Sequence[Val], earlier: Val, vectors: int) -> None:
        """A run of one product, from left and right factors into sums, which fetches the next."""
        e, plan, cover = self.e, self.plan, self.plan.tiling.width
        left, right, sums = pointers
        following = e.offset(right, plan.run * vectors * plan.vector)
        with e.loop(*item.groups) as group:
            row = e.b.sub(e.i64(piece_start(e, cover, group)), item.rows[0])
            number = e.b.sub(group, e.i64(item.groups[0]))
            args = [
                step(e, left, row, plan.data_pitch),
                right,
                step(e, sums, row, vectors * plan.vector),
                step(e, following, number, self.parts.fetched(vectors)),
                earlier,
            ]
            by_size(
                *(e, cover, group),
                lambda rows: e.b.call(self.parts.product(rows, vectors), args),
            )

    def _results(self, item: _Item, first: Val, sums: Val, vectors: int) -> None:
        """The results of a panel: of its vectors with a full one in the last part, and others."""
        e, shape = self.e, self.shape
        ends = e.b.add(first, I64(vectors))
        p, tail = self.problem, shape.tail or shape.lanes
        there = shape.vectors - (p.parts - 1) * p.vectors  # of the last part
        full = there - (tail < shape.lanes)
        pieces = [(0, full, shape.lanes), (full, there, tail), (there, p.vectors, 0)]
        for start, stop, lanes in pieces:
            if start == stop:
                continue
            begin = e.intrinsic("smax", first, I64(start))
            moved = step(e, sums, e.b.sub(begin, first), self.plan.vector)
            args = [moved, *item.rows, begin, e.intrinsic("smin", ends, I64(stop))]
            e.b.call(self.parts.finish(vectors, lanes), [*args, *item.pointers[RESULT:]])


class _Parts:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(
        self, module: ll.Module, isa: Isa, name: str, shape: Shape, plan: Plan, epilogue: Epilogue
    ):
        self.module, self.isa, self.name = module, isa, name
        self.shape, self.plan, self.problem = shape, plan, plan.problem
        self.epilogue = epilogue
        self.lanes = vector(F32, shape.lanes)
        self._made: dict[str, ll.Function] = {}

    def _function(self, label: str, args: list[ll.Type]) -> Emitter:
        e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    # -- left factors ------------------------------------------------------------------------
    def combine(self, last: bool) -> ll.Function:
        """f(a row of each part..., target): the left factors of these rows; the one of the last
        part is zeros if it is not there."""
        label = "rows" if last else "without"
        if label not in self._made:
            e = self._function(label, [PTR] * (self.problem.parts + 1))
            *rows, target = e.args
            self._rows(e, rows, target, self.shape.taps[self.plan.tap_loops :], last)
            self._made[label] = e.finish()
        return self._made[label]

    def _rows(
        self, e: Emitter, rows: Sequence[Val], target: Val, taps: Sequence[Loop], last: bool
    ) -> None:
        """All turns of these taps, side by side."""
        count = self.plan.chunk or self.problem.channels
        if not taps:
            self._run(e, rows, target, count, last)
            return
        tap, *rest = taps
        count *= math.prod(loop.size for loop in rest)
        with e.loop(0, tap.size) as i:
            moved = [step(e, row, i, tap.strides[LHS] * FLOAT) for row in rows]
            self._rows(e, moved, step(e, target, i, count * FLOAT), rest, last)

    def _run(self, e: Emitter, rows: Sequence[Val], target: Val, count: int, last: bool) -> None:
        """Neighbouring channels of one tap."""
        parts, stride = self.problem.parts, self.shape.inner.strides[LHS]
        part = self.problem.channels * stride * FLOAT

        def some(at: int | Val, lanes: int, limit: int | Val | None) -> None:
            def value(row: int, column: int) -> Val:
                if row == parts - 1 and not last:
                    return e.const(vector(F32, lanes), 0)
                where = step(e, e.offset(rows[row], column * part), at, stride * FLOAT)
                return load(e, where, f32, lanes, stride, limit)

            found = [[value(row, column) for column in range(parts)] for row in range(parts)]
            factors = Sums(e.b.fadd, e.b.fsub).left(found)
            for product, factor in enumerate(factors):
                where = step(e, e.offset(target, product * self.plan.data_plane), at, FLOAT)
                if limit is None:
                    e.store(factor, where)
                else:
                    e.masked_store(factor, where, limit)

        vector_loop(e, count, self.shape.lanes, True, some)

    # -- products ----------------------------------------------------------------------------
    def product(self, rows: int, vectors: int) -> ll.Function:
        """f(data, weights, sums, ahead, earlier): a register tile of a run of one product, added to
        the sums if there are `earlier` ones. On the way it brings some bytes from `ahead` on into
        L2.
        """
        label = f"product{rows}x{vectors}"
        if label not in self._made:
            self._made[label] = self._emit_product(label, rows, vectors)
        return self._made[label]

    def fetched(self, vectors: int) -> int:
        """Bytes one call of `product` fetches ahead: its share of the next product's weights."""
        return self._turns * self._pace(vectors)

    @property
    def _turns(self) -> int:
        return max(1, self.plan.run // unrolling(0, fetching=True))

    def _pace(self, vectors: int) -> int:
        wanted = self.plan.run * vectors * self.plan.vector
        return -(-wanted // (self.plan.block_groups * self._turns * 16)) * 16

    def _emit_product(self, label: str, rows: int, vectors: int) -> ll.Function:
        e, plan = self._function(label, [PTR] * 4 + [I64]), self.plan
        data, weights, sums, ahead, earlier = e.args
        lanes = tuple(v * plan.vector for v in range(vectors))
        left = Stream(f32, f32, tuple(r * plan.data_pitch for r in range(rows)))
        right = Stream(f32, f32, lanes, (None,) * vectors)
        depth = Depth(plan.run, FLOAT, vectors * plan.vector)
        accs = [e.const(self.lanes, 0)] * (rows * vectors)
        pointers = [data, weights, ahead]
        pace = self._pace(vectors)
        accs = accumulate(e, left, right, pointers, (), depth, depth.size, accs, pace)
        if plan.depth_blocks * plan.runs > 1:
            accs = with_earlier(e, sums, accs, earlier, f32)
        for i, acc in enumerate(accs):
            e.store(acc, e.offset(sums, i * plan.vector), align=plan.vector)
        return e.finish()

    # -- results -----------------------------------------------------------------------------
    def finish(self, width: int, last: int) -> ll.Function:
        """f(sums, first, stop, v, end, result, extras...): results of rows [first, stop) in vectors
        [v, end) of all parts, of which `last` lanes exist in the last one.

        `sums` are those of row `first` and vector `v`, of panels of `width` vectors.
        """
        label = f"finish{width}x{last}"
        if label not in self._made:
            self._made[label] = self._emit_finish(label, width, last)
        return self._made[label]

    def _emit_finish(self, label: str, width: int, last: int) -> ll.Function:
        tensors = [PTR] * (1 + len(self.shape.form.extras))
        e = self._function(label, [PTR] + [I64] * 4 + tensors)
        sums, first, stop, begin, end, *pointers = e.args
        p, vector_bytes = self.problem, self.plan.vector
        with e.loop(first, stop) as number:
            row = step(e, sums, e.b.sub(number, first), width * vector_bytes)
            places = [e.b.add(number, I64(i * p.height)) for i in range(p.parts)]
            rows = [self._row(e, pointers, place) for place in places]
            exists = e.b.icmp_signed("<", places[-1], I64(p.rows))
            with e.loop(begin, end) as v:
                *others, lowest = self._results(e, step(e, row, e.b.sub(v, begin), vector_bytes))
                for moved, values in zip(rows, others, strict=False):
                    self._store(e, moved, v, values, last)
                if p.rows % p.parts:
                    with e.when(exists):
                        self._store(e, rows[-1], v, lowest, last)
                else:
                    self._store(e, rows[-1], v, lowest, last)
        return e.finish()

    def _results(self, e: Emitter, sums: Val) -> list[list[Val]]:
        """A vector of each part of the results."""
        products = (
            e.load(e.offset(sums, i * self.plan.sum_plane), self.lanes, align=self.plan.vector)
            for i in range(self.problem.products)
        )
        return Sums(e.b.fadd, e.b.fsub).results(products, self.problem.parts)

    def _row(self, e: Emitter, pointers: Sequence[Val], row: Val) -> list[Val]:
        return self.epilogue.row(e, pointers, 0, row, line_of(e, self.shape, row))

    def _store(
        self, e: Emitter, pointers: Sequence[Val], v: Val, values: Sequence[Val], last: int
    ) -> None:
        """Finish and store a row's vectors, one in each part of its columns."""
        p = self.problem
        for i, value in enumerate(values):
            lanes = last if i == p.parts - 1 else p.lanes
            if not lanes:
                continue
            count = None if lanes == p.lanes else lanes
            moved = self.epilogue.vector(e, pointers, e.b.add(v, I64(i * p.vectors)))
            known = self.epilogue.row_invariant(e, moved, [count])
            self.epilogue.finish(e, moved, known, [value], [count])
