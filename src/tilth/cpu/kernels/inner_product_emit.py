"""The code of a product by Winograd's inner product: work items, scaled rows, panels, runs.

For a block of rows these are scaled first, [row][depth]; then, panel by panel, vector by vector
and run by run, come the products, [vector][row][lane], while weights, [vector][run][depth][lane],
stream by, and the panel's results.
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
from tilth.cpu.kernels import inner_product_rows
from tilth.cpu.kernels.contraction_epilogue import Epilogue, line_of, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS, Loop
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.inner_product_plan import Plan
from tilth.cpu.kernels.inner_product_rows import FLOAT, Rows
from tilth.cpu.kernels.microkernel import with_earlier
from tilth.cpu.kernels.pieces import by_size, either, even_part, piece_start
from tilth.cpu.kernels.space import decode, kernel_emitter, vector_loop
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
        self.facts = self.e.offset(self.scratch, plan.block_rows * plan.data_pitch)
        self.sums = self.e.offset(self.facts, plan.facts)
        self.parts = _Parts(module, isa, name, shape, plan, epilogue)

    def emit(self) -> ll.Function:
        e, plan = self.e, self.plan
        outer = tuple(loop.size for loop in self.shape.outer)
        held = e.var(I64, I64(-1))  # the block whose scaled rows lie in scratch
        with e.loop(self.begin, self.end) as number:
            *index, block, part = decode(e, number, (*outer, plan.row_blocks, plan.panel_blocks))
            groups = even_part(e, block, plan.tiling.width.count, plan.row_blocks)
            first, stop = (e.i64(piece_start(e, plan.tiling.width, g)) for g in groups)
            panels = even_part(e, part, plan.tiling.panels.count, plan.panel_blocks)
            item = _Item(self._outer(index), groups, (first, stop), panels)
            this = e.b.udiv(number, I64(plan.panel_blocks))
            with e.when(e.b.icmp_signed("!=", this, e.b.load(held, typ=I64))):
                self._scale(item)
                e.b.store(this, held)
            with e.loop(*panels) as panel:
                self._panel(item, panel)
        return e.finish()

    def _outer(self, index: Sequence[int | Val]) -> list[Val]:
        moved = list(self.base)
        for i, loop in zip(index, self.shape.outer, strict=True):
            for tensor, size in enumerate(self.sizes):
                moved[tensor] = step(self.e, moved[tensor], i, loop.strides[tensor] * size)
        return moved

    def _scale(self, item: _Item) -> None:
        """The rows of a block, and what is known of them."""
        e, shape, plan = self.e, self.shape, self.plan
        with e.loop(*item.rows) as row:
            source = step(e, item.pointers[LHS], row, shape.width.strides[LHS] * FLOAT)
            source = step(e, source, line_of(e, shape, row), shape.gap(LHS) * FLOAT)
            number = e.b.sub(row, item.rows[0])
            target = step(e, self.scratch, number, plan.data_pitch)
            facts = step(e, self.facts, number, plan.fact_pitch)
            e.b.call(self.parts.row(), [source, target, facts])

    def _panel(self, item: _Item, panel: Val) -> None:
        cut = self.plan.tiling.panels
        if cut.count == 1 or cut.last == cut.width:
            self._products(item, panel, cut.last)
            return
        either(
            *(self.e, self.e.b.icmp_signed("==", panel, I64(cut.count - 1))),
            lambda: self._products(item, panel, cut.last),
            lambda: self._products(item, panel, cut.width),
        )

    def _products(self, item: _Item, panel: Val, vectors: int) -> None:
        """All vectors of one panel; then the results."""
        e, plan = self.e, self.plan
        first = e.b.mul(panel, I64(plan.tiling.panels.width))
        pitch = plan.rows_of_weights * plan.vector
        weights = step(e, item.pointers[RHS], first, pitch)
        with e.loop(0, vectors) as v:
            self._vector(item, step(e, weights, v, pitch), step(e, self.sums, v, plan.sum_plane))
        args = [self.sums, weights, self.facts, *item.rows, first, *item.pointers[RESULT:]]
        if self.shape.tail is None:
            e.b.call(self.parts.finish(vectors, None), args)
            return
        either(
            *(e, e.b.icmp_signed("==", panel, I64(plan.tiling.panels.count - 1))),
            lambda: e.b.call(self.parts.finish(vectors, self.shape.tail), args),
            lambda: e.b.call(self.parts.finish(vectors, None), args),
        )

    def _vector(self, item: _Item, scales: Val, sums: Val) -> None:
        """All runs for a vector of columns."""
        e, plan, runs = self.e, self.plan, self.plan.runs
        weights, pitch = e.offset(scales, plan.vector), (1 + runs.length) * plan.vector
        equal = runs.count - (runs.last < runs.length)
        with e.loop(0, equal) as run:
            self._run(item, run, step(e, weights, run, pitch), sums, runs.length)
        if equal < runs.count:
            last = I64(equal)
            self._run(item, last, step(e, weights, last, pitch), sums, runs.last)

    def _run(self, item: _Item, run: Val, weights: Val, sums: Val, depth: int) -> None:
        """A run of products, a register tile after the other, added to the sums; it fetches the
        next one's weights."""
        e, plan, cover = self.e, self.plan, self.plan.tiling.width
        data = step(e, self.scratch, run, plan.runs.length * FLOAT)
        facts = step(e, e.offset(self.facts, FLOAT), run, FLOAT)
        following = e.offset(weights, (1 + depth) * plan.vector)
        with e.loop(*item.groups) as group:
            row = e.b.sub(e.i64(piece_start(e, cover, group)), item.rows[0])
            number = e.b.sub(group, e.i64(item.groups[0]))
            args = [
                step(e, data, row, plan.data_pitch),
                step(e, facts, row, plan.fact_pitch),
                weights,
                step(e, sums, row, plan.vector),
                step(e, following, number, self.parts.fetched(depth)),
                run,
            ]
            by_size(
                *(e, cover, group),
                lambda rows: e.b.call(self.parts.product(rows, depth), args),
            )


class _Parts:
    """Internal functions of the module, made when they are first asked for."""

    def __init__(
        self, module: ll.Module, isa: Isa, name: str, shape: Shape, plan: Plan, epilogue: Epilogue
    ):
        self.module, self.isa, self.name = module, isa, name
        self.shape, self.plan, self.problem = shape, plan, plan.problem
        self.epilogue = epilogue
        self.rows = Rows(module, isa, name, plan.problem.depth)
        self.lanes = vector(F32, shape.lanes)
        self._made: dict[str, ll.Function] = {}

    def _function(self, label: str, args: list[ll.Type]) -> Emitter:
        e = Emitter(self.module, self.isa, f"{self.name}.{label}", args)
        e.fn.linkage = "internal"
        e.fn.attributes.add("noinline")
        return e

    # -- rows --------------------------------------------------------------------------------
    def row(self) -> ll.Function:
        """f(source, target, facts): a scaled row, all taps side by side, and what is known of
        it."""
        if not self.shape.taps and self.shape.inner.strides[LHS] == 1:
            return self.rows.normalise()
        if "row" not in self._made:
            e = self._function("row", [PTR] * 3)
            source, target, facts = e.args
            self._copy(e, source, target, self.shape.taps)
            e.b.call(self.rows.normalise(), [target, target, facts])
            self._made["row"] = e.finish()
        return self._made["row"]

    def _copy(self, e: Emitter, source: Val, target: Val, taps: Sequence[Loop]) -> None:
        """All turns of these taps, side by side."""
        inner = self.shape.inner
        if taps:
            tap, *rest = taps
            count = inner.size * math.prod(loop.size for loop in rest)
            with e.loop(0, tap.size) as i:
                moved = step(e, source, i, tap.strides[LHS] * FLOAT)
                self._copy(e, moved, step(e, target, i, count * FLOAT), rest)
            return
        stride = inner.strides[LHS]

        def some(at: int | Val, lanes: int, limit: int | Val | None) -> None:
            value = load(e, step(e, source, at, stride * FLOAT), f32, lanes, stride, limit)
            where = step(e, target, at, FLOAT)
            if limit is None:
                e.store(value, where)
            else:
                e.masked_store(value, where, limit)

        vector_loop(e, inner.size, self.shape.lanes, True, some)

    # -- products ----------------------------------------------------------------------------
    def product(self, rows: int, depth: int) -> ll.Function:
        """f(data, facts, weights, sums, ahead, run): a register tile of a run of this depth, added
        to the sums if it is not the first. On the way it brings some bytes from `ahead` on into L2.
        """
        label = f"product{rows}x{depth}"
        if label not in self._made:
            self._made[label] = self._emit_product(label, rows, depth)
        return self._made[label]

    def fetched(self, depth: int) -> int:
        """Bytes one call of `product` fetches ahead: its share of the next run's weights."""
        return inner_product_rows.turns(depth) * self._pace(depth)

    def _pace(self, depth: int) -> int:
        wanted = self.plan.runs.length * self.plan.vector
        turns = inner_product_rows.turns(depth) * self.plan.block_groups
        return inner_product_rows.pace(wanted, turns)

    def _emit_product(self, label: str, rows: int, depth: int) -> ll.Function:
        e, plan = self._function(label, [PTR] * 5 + [I64]), self.plan
        data, facts, weights, sums, ahead, run = e.args
        accs = inner_product_rows.products(
            *(e, rows, (plan.data_pitch, plan.fact_pitch)),
            *([data, facts, weights, ahead], depth, self._pace(depth)),
        )
        if plan.runs.count > 1:
            accs = with_earlier(e, sums, accs, run, f32)
        for i, acc in enumerate(accs):
            e.store(acc, e.offset(sums, i * plan.vector), align=plan.vector)
        return e.finish()

    # -- results -----------------------------------------------------------------------------
    def finish(self, width: int, tail: int | None) -> ll.Function:
        """f(sums, weights, facts, first, stop, v, result, extras...): results of rows [first, stop)
        in the `width` vectors of a panel from `v` on, `tail` lanes of the last one (None: all).
        """
        label = f"finish{width}x{tail}"
        if label not in self._made:
            self._made[label] = self._emit_finish(label, width, tail)
        return self._made[label]

    def _emit_finish(self, label: str, width: int, tail: int | None) -> ll.Function:
        tensors = [PTR] * (1 + len(self.shape.form.extras))
        e = self._function(label, [PTR] * 3 + [I64] * 3 + tensors)
        sums, weights, facts, first, stop, v, *pointers = e.args
        plan, counts = self.plan, [None] * (width - 1) + [tail]
        moved = self.epilogue.vector(e, pointers, v)
        known = self.epilogue.row_invariant(e, moved, counts)
        pitch = plan.rows_of_weights * plan.vector
        scales = [
            e.load(e.offset(weights, i * pitch), self.lanes, plan.vector) for i in range(width)
        ]
        with e.loop(first, stop) as row:
            inside = e.b.sub(row, first)
            fact = step(e, facts, inside, plan.fact_pitch)
            back = e.load_broadcast(fact, F32, plan.problem.lanes)
            at, values = step(e, sums, inside, plan.vector), []
            for i, scale in enumerate(scales):
                total = e.load(e.offset(at, i * plan.sum_plane), self.lanes, plan.vector)
                values.append(e.b.fmul(total, e.b.fmul(scale, back)))
            pixel = self.epilogue.row(e, moved, 0, row, line_of(e, self.shape, row))
            self.epilogue.finish(e, pixel, known, values, counts)
        return e.finish()
