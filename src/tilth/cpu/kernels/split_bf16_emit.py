"""The code of a contraction on a matrix unit: work items, blocks of rows, panels of columns.

What a product leaves is finished beside the next one, lines are split beside the products of the
first panel, and panels packed as f32 beside those of the panel before (see `split_bf16_parts`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import llvmlite.ir as ll

from tilth.cpu.emit import I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand, Task
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH, ROWS, TILE, Tiles
from tilth.cpu.kernels.pieces import either, even_part
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.split_bf16_parts import Kind, Parts
from tilth.cpu.kernels.split_bf16_plan import PAIR, PANEL, PARTS, SUMS, UNWANTED, Plan
from tilth.cpu.kernels.split_bf16_rows import distance, first_row, index_of, line_source


def emit(
    module: ll.Module,
    isa: Isa,
    name: str,
    plan: Plan,
    operands: tuple[Operand, ...],
    result: Operand,
) -> ll.Function:
    """Define the kernel function `name` and the parts it calls."""
    return _Nest(module, isa, name, plan, operands, result).emit()


def emit_right(module: ll.Module, isa: Isa, name: str, plan: Plan, task: Task) -> ll.Function:
    """Define f(source, target): split all panels of the right operand, for one turn of the outer
    loops, into what kernels with constant weights read."""
    problem = plan.problem
    epilogue = Epilogue(Shape(problem.form, COLUMNS), task.operands, task.results[0].dtype)
    parts = Parts(module, isa, name, plan, epilogue)
    e = Emitter(module, isa, name, [PTR, PTR])
    source, target = e.args
    size = task.operands[problem.form.rhs].dtype.nbytes
    across = PANEL * COLUMNS * problem.columns.strides[RHS] * size
    last = problem.panels - 1
    with e.loop(0, last) as number:
        panel = [step(e, source, number, across), step(e, target, number, problem.panel)]
        e.b.call(parts.right(PANEL, None), panel)
    panel = [e.offset(source, last * across), e.offset(target, last * problem.panel)]
    e.b.call(parts.right(problem.last_panel, problem.tail), panel)
    return e.finish()


_ROOM = PANEL * ROWS * SUMS  # bytes of the sums of a product


@dataclass(frozen=True)
class _Block:
    """What a panel is multiplied by: row tiles `first` to `stop`, one part of the depth."""

    depth: int
    first: Val
    stop: Val
    left: Val  # where the lines' elements are
    lines: Val  # how many lines, counted from the first row of all


@dataclass(frozen=True)
class _Panel:
    """A panel: its number in the item, itself, where results go, and what comes after it."""

    number: Val
    right: Val
    results: Sequence[Val]
    kind: Kind
    following: Sequence[Val] = ()  # of a plain panel: the next one, where it goes, does it exist?


class _Earlier:
    """What an earlier product left, which is to be finished: arguments of `Parts.earlier`."""

    def __init__(self, e: Emitter, parts: Parts, tensors: Sequence[Val]):
        self.e, self.parts = e, parts
        self.sums, self.offsets = e.var(PTR, tensors[0]), e.var(PTR, tensors[0])
        self.rows = e.var(I64, I64(0))
        self.tensors = [e.var(PTR, tensor) for tensor in tensors]

    def args(self) -> list[Val]:
        load = self.e.b.load
        pointers = [load(at, typ=PTR) for at in (self.sums, self.offsets)]
        tensors = [load(at, typ=PTR) for at in self.tensors]
        return [load(self.rows, typ=I64), *pointers, *tensors]

    def note(self, sums: Val, offsets: Val, rows: Val, tensors: Sequence[Val]) -> None:
        """A product left these."""
        places = (self.sums, self.offsets, self.rows, *self.tensors)
        for place, value in zip(places, (sums, offsets, rows, *tensors), strict=True):
            self.e.b.store(value, place)

    def finish(self, kind: Kind, tensors: Sequence[Val]) -> None:
        """Finish now. `tensors` of a panel that exists are noted instead, as products load what is
        the same for all rows, even of none."""
        self.e.b.call(self.parts.finish(kind), [I64(0), *self.args()])
        self.note(tensors[0], tensors[0], I64(0), tensors)


class _Nest:
    def __init__(
        self,
        module: ll.Module,
        isa: Isa,
        name: str,
        plan: Plan,
        operands: tuple[Operand, ...],
        result: Operand,
    ):
        self.plan, self.problem = plan, plan.problem
        form = self.problem.form
        epilogue = Epilogue(Shape(form, COLUMNS), operands, result.dtype)
        self.parts = Parts(module, isa, name, plan, epilogue)
        self.e, pointers = kernel_emitter(module, isa, name, len(operands) + 1)
        positions = (form.lhs, form.rhs, len(operands), *form.extras)
        views = (*operands, result)
        self.base = [pointers[i] for i in positions]
        self.sizes = [views[i].dtype.nbytes for i in positions]
        self.scratch, self.begin, self.end, _ = self.e.args[len(operands) + 1 :]
        self.spare = self.e.offset(self.scratch, 2 * _ROOM)
        self.offsets = self.e.offset(self.scratch, plan.offsets_at)
        self.left = self.e.offset(self.scratch, plan.left_at)
        self.waiting = self.e.offset(self.scratch, plan.waiting_at)
        self.panels = self.e.offset(self.scratch, plan.panel_at)
        self.sums = self.e.var(I64, I64(0))  # which of two rooms the next sums take
        self.line = self.e.var(I64, I64(0))  # the next one to be split
        self.full: Kind = (PANEL, None)
        self.last: Kind = (self.problem.last_panel, self.problem.tail)
        if self.problem.panels == 1:
            self.full = self.last
        self.earlier = _Earlier(self.e, self.parts, self.base[RESULT:])

    def emit(self) -> ll.Function:
        e, unit = self.e, Tiles(self.e)
        unit.configure(self.scratch)
        with e.loop(self.begin, self.end) as item:
            self._item(item)
        unit.release()
        return e.finish()

    def _item(self, item: Val) -> None:
        e, plan, problem = self.e, self.plan, self.problem
        outer = tuple(loop.size for loop in problem.outer)
        *index, row, panel = decode(e, item, (*outer, plan.row_blocks, plan.panel_blocks))
        pointers = self._outer(index)
        first, stop = (e.i64(i) for i in even_part(e, row, problem.row_tiles, plan.row_blocks))
        begin, end = (e.i64(i) for i in even_part(e, panel, problem.panels, plan.panel_blocks))
        self._find_rows(first, stop)
        for depth in range(plan.depth_blocks):
            left = e.offset(pointers[LHS], depth * plan.part_distance * self.sizes[LHS])
            lines = e.b.add(first_row(e, problem, stop), I64(problem.halo))
            block = _Block(depth, first, stop, left, lines)
            if depth == 0 or plan.line_cuts > 1:
                self._first_lines(block)
            if plan.plain:
                source = self._packed(pointers[RHS], begin, depth)
                e.b.call(self.parts.plain(), [source, self._room(begin)])
            with e.loop(begin, end) as number:
                self._by_panel(number, partial(self._panel, block, pointers, (begin, end), number))
        self.earlier.finish(self.full, pointers[RESULT:])

    def _outer(self, index: Sequence[int | Val]) -> list[Val]:
        """The tensors' pointers at an index of the outer loops."""
        moved, turns = list(self.base), 1
        for i, loop in reversed(list(zip(index, self.problem.outer, strict=True))):
            for tensor in range(len(moved)):
                nbytes = loop.strides[tensor] * self.sizes[tensor]
                if tensor == RHS and self.plan.constant and nbytes:
                    nbytes, turns = turns * self.plan.right, turns * loop.size
                moved[tensor] = step(self.e, moved[tensor], i, nbytes)
        return moved

    # -- rows --------------------------------------------------------------------------------
    def _find_rows(self, first: Val, stop: Val) -> None:
        """Note where each row of the block lies in every tensor but the operands."""
        e, problem = self.e, self.problem
        start, end = first_row(e, problem, first), first_row(e, problem, stop)
        with e.loop(start, end) as row:
            index, wanted = index_of(e, problem, row)
            line = step(e, self.offsets, e.b.sub(row, start), 8 * self.plan.tensors)
            for i, tensor in enumerate(range(RESULT, len(self.base))):
                at = distance(e, problem, index, tensor, self.sizes[tensor])
                if wanted is not None:
                    at = e.b.select(wanted, at, I64(UNWANTED))
                e.store(at, e.offset(line, 8 * i))

    def _first_lines(self, block: _Block) -> None:
        """Split what the first product of the block reads, or all if others have no time for it."""
        e, plan, problem = self.e, self.plan, self.problem
        start, stop = first_row(e, problem, block.first), block.lines
        if plan.lines_beside:
            few = e.b.add(start, I64(PANEL * ROWS + problem.halo))
            stop = e.intrinsic("smin", stop, few)
        target = self._lines_target(start)
        with e.loop(start, stop) as number:
            source = line_source(e, problem, block.left, number)
            e.b.call(self.parts.left(), [source, step(e, target, number, plan.pitch)])
        e.b.store(stop, self.line)

    def _lines_target(self, start: Val) -> Val:
        """Where line 0 would be, so that `start` is the first one in scratch."""
        return step(self.e, self.left, start, -self.plan.pitch)

    # -- panels ------------------------------------------------------------------------------
    def _packed(self, right: Val, number: Val, depth: int) -> Val:
        """Where a panel's part of the depth lies in the packed operand."""
        per_step = self.plan.panel // self.problem.steps
        at = depth * self.plan.product_steps * per_step
        return self.e.offset(step(self.e, right, number, self.plan.panel), at)

    def _room(self, number: Val) -> Val:
        """Where a plain panel goes when it is split."""
        odd = self.e.b.and_(number, I64(1))
        return step(self.e, self.panels, odd, self.plan.split_panel)

    def _by_panel(self, number: Val, body: Callable[[bool], None]) -> None:
        """Emit `body(is it another kind than the full ones?)` for panel `number`."""
        if self.last == self.full:
            body(False)
            return
        ends = self.e.b.icmp_signed("==", number, I64(self.problem.panels - 1))
        either(self.e, ends, lambda: body(True), lambda: body(False))

    def _panel(
        self,
        block: _Block,
        pointers: Sequence[Val],
        panels: tuple[Val, Val],
        number: Val,
        differs: bool,
    ) -> None:
        e, plan, problem = self.e, self.plan, self.problem
        kind = self.last if differs else self.full
        wide = PANEL if plan.plain else kind[0]
        across = [
            PANEL * COLUMNS * problem.columns.strides[tensor] * self.sizes[tensor]
            for tensor in range(len(pointers))
        ]
        results = [
            step(e, pointers[tensor], number, across[tensor])
            for tensor in range(RESULT, len(pointers))
        ]
        if differs:
            self.earlier.finish(self.full, results)
        if plan.plain:
            right = self._room(number)
        elif plan.constant:
            right = step(e, pointers[RHS], number, plan.panel)
            right = e.offset(right, block.depth * plan.product_steps * PARTS * wide * TILE)
        else:
            right = self.panels
            source = step(e, pointers[RHS], number, across[RHS])
            e.b.call(self.parts.right(*kind), [source, right])
        following: tuple[Val, ...] = ()
        if plan.plain:
            after = e.b.add(number, I64(1))
            exists = e.b.icmp_signed("<", after, panels[1])
            source = self._packed(pointers[RHS], after, block.depth)
            following = (source, self._room(after), exists)
        within = e.b.sub(number, panels[0])
        panel = _Panel(within, right, results, kind, following)
        tiles = e.b.sub(block.stop, block.first)
        pairs = e.b.and_(tiles, I64(-PANEL))
        with e.loop(0, pairs, PANEL) as tile:
            self._tile(block, tile, panel, PANEL, wide)
        with e.loop(pairs, tiles) as tile:
            self._tile(block, tile, panel, 1, wide)
        if differs:
            self.earlier.finish(kind, pointers[RESULT:])

    def _tile(self, block: _Block, tile: Val, panel: _Panel, high: int, wide: int) -> None:
        """Multiply `high` row tiles, counted within the block, by a panel."""
        e, plan, problem = self.e, self.plan, self.problem
        start, done = first_row(e, problem, block.first), e.b.mul(tile, I64(ROWS))
        call = e.b.udiv(tile, I64(PANEL))
        room = e.b.load(self.sums, typ=I64)
        sums = e.offset(self.scratch, room)
        if plan.depth_blocks > 1:
            sums = step(e, self.waiting, panel.number, plan.panel_sums)
            sums = step(e, sums, done, SUMS)
        left = step(e, self.left, done, plan.pitch)
        if plan.tap_pitches:
            size, pitch = plan.tap_pitches[0]
            left = e.offset(left, block.depth * size * pitch)
        args = [left, panel.right, sums, self.spare]
        work = []
        if plan.lines_beside:
            line = e.b.load(self.line, typ=I64)
            work.append(self.parts.lines())
            args += [block.left, self._lines_target(start), line, block.lines]
            after = e.b.add(line, I64(plan.lines_beside * plan.product_steps))
            e.b.store(e.intrinsic("smin", after, block.lines), self.line)
        if plan.plain:
            source, target, exists = panel.following
            pair = e.b.mul(call, I64(plan.pairs_beside))
            source = step(e, source, pair, plan.product_steps * PAIR)
            work.append(self.parts.panel())
            args += [source, target, e.b.select(exists, pair, I64(DEPTH // 2))]
        finishes = block.depth == plan.depth_blocks - 1
        if finishes:
            work.append(self.parts.earlier(panel.kind))
            args += self.earlier.args()
        e.b.call(self.parts.product(high, wide, block.depth > 0, work), args)
        if finishes:
            rows = e.b.sub(first_row(e, problem, block.stop), start)
            count = e.intrinsic("smin", e.b.sub(rows, done), I64(high * ROWS))
            offsets = step(e, self.offsets, done, 8 * plan.tensors)
            self.earlier.note(sums, offsets, count, panel.results)
            e.b.store(e.b.sub(I64(_ROOM), room), self.sums)
