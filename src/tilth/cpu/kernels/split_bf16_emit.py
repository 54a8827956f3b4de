"""The code of a contraction on a matrix unit: work items, blocks of rows, panels of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import llvmlite.ir as ll

from tilth.cpu.emit import I1, I64, PTR, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand, Task
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.pieces import either, even_part
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.split_bf16_parts import Parts, Tiles
from tilth.cpu.kernels.split_bf16_plan import (
    COLUMNS,
    DEPTH,
    LINE,
    PANEL,
    PARTS,
    ROWS,
    SUMS,
    TILE,
    UNWANTED,
    Plan,
)


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


@dataclass(frozen=True)
class _Block:
    """What is multiplied by a panel: row tiles `first` to `stop`, one part of the depth."""

    depth: int
    first: Val
    stop: Val
    panel: Val  # counted within the work item


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
        self.sums, self.begin, self.end, _ = self.e.args[len(operands) + 1 :]
        self.offsets = self.e.offset(self.sums, plan.offsets_at)
        self.left = self.e.offset(self.sums, plan.left_at)
        self.right = self.e.offset(self.sums, plan.right_at)

    def emit(self) -> ll.Function:
        e, unit = self.e, Tiles(self.e)
        unit.configure(self.sums)
        with e.loop(self.begin, self.end) as item:
            self._item(item)
        unit.release()
        return e.finish()

    def _item(self, item: Val) -> None:
        e, plan, problem = self.e, self.plan, self.problem
        outer = tuple(loop.size for loop in problem.outer)
        *index, row, panel = decode(e, item, (*outer, plan.row_blocks, plan.panel_blocks))
        pointers = self._outer(index)
        first, stop = even_part(e, row, problem.row_tiles, plan.row_blocks)
        begin, end = even_part(e, panel, problem.panels, plan.panel_blocks)
        self._find_rows(first, stop)
        for depth in range(plan.depth_blocks):
            self._split_rows(pointers[LHS], first, stop, depth)
            with e.loop(begin, end) as number:
                block = _Block(depth, e.i64(first), e.i64(stop), e.b.sub(number, e.i64(begin)))
                self._by_panel(number, partial(self._panel, block, pointers, number))

    def _outer(self, index: Sequence[int | Val]) -> list[Val]:
        """The tensors' pointers at an index of the outer loops."""
        moved, turns = list(self.base), 1
        for i, loop in reversed(list(zip(index, self.problem.outer, strict=True))):
            for tensor in range(len(moved)):
                nbytes = loop.strides[tensor] * self.sizes[tensor]
                if tensor == RHS and self.plan.constant and nbytes:
                    nbytes, turns = turns * self.problem.right, turns * loop.size
                moved[tensor] = step(self.e, moved[tensor], i, nbytes)
        return moved

    # -- rows --------------------------------------------------------------------------------
    def _find_rows(self, first: int | Val, stop: int | Val) -> None:
        """Note where each row of the block lies in every tensor but the operands."""
        e = self.e
        start, end = self._row(first), self._row(stop)
        with e.loop(start, end) as row:
            index, wanted = self._index(row)
            line = step(e, self.offsets, e.b.sub(row, start), 8 * self.plan.tensors)
            for i, tensor in enumerate(range(RESULT, len(self.base))):
                at = self._distance(index, tensor)
                if wanted is not None:
                    at = e.b.select(wanted, at, I64(UNWANTED))
                e.store(at, e.offset(line, 8 * i))

    def _split_rows(self, left: Val, first: int | Val, stop: int | Val, depth: int) -> None:
        """Split what the block's rows read, of this part of the depth."""
        e, plan, problem = self.e, self.plan, self.problem
        left = e.offset(left, depth * plan.block_steps * DEPTH * self.sizes[LHS])
        start, end = self._row(first), self._row(stop)
        with e.loop(start, e.b.add(end, I64(problem.halo))) as number:
            if problem.on_grid:
                source = step(e, left, number, problem.unit * self.sizes[LHS])
            else:
                source = e.offset(left, self._distance(self._index(number)[0], LHS))
            target = step(e, self.left, e.b.sub(number, start), plan.pitch)
            e.b.call(self.parts.left(), [source, target])

    def _row(self, tile: int | Val) -> Val:
        """The first row of a tile; the number of rows behind the last one."""
        return self.e.intrinsic(
            "smin", self.e.b.mul(self.e.i64(tile), I64(ROWS)), I64(self.problem.rows)
        )

    def _index(self, row: Val) -> tuple[list[int | Val], Val | None]:
        """The index of a row; on a grid with gaps also whether it is wanted."""
        e, problem = self.e, self.problem
        if problem.rows == problem.wanted:
            return decode(e, row, tuple(loop.size for loop in problem.form.m)), None
        index: list[int | Val] = []
        wanted: Val = ll.Constant(I1, 1)
        for loop in problem.form.m:
            pitch = I64(loop.strides[LHS] // problem.unit)
            at = e.b.udiv(row, pitch)
            row = e.b.urem(row, pitch)
            wanted = e.b.and_(wanted, e.b.icmp_signed("<", at, I64(loop.size)))
            index.append(at)
        return index, wanted

    def _distance(self, index: Sequence[int | Val], tensor: int) -> Val:
        """Bytes to a row."""
        e, total = self.e, I64(0)
        for i, loop in zip(index, self.problem.form.m, strict=True):
            nbytes = I64(loop.strides[tensor] * self.sizes[tensor])
            total = e.b.add(total, e.b.mul(e.i64(i), nbytes))
        return total

    # -- panels ------------------------------------------------------------------------------
    def _by_panel(self, number: Val, body: Callable[[int, bool], None]) -> None:
        """Emit `body(tiles, is last)` for panel `number`."""
        problem = self.problem
        special = problem.last_panel != PANEL or problem.tail
        if not special or problem.panels == 1:
            body(problem.last_panel, bool(special))
            return
        ends = self.e.b.icmp_signed("==", number, I64(problem.panels - 1))
        either(self.e, ends, lambda: body(problem.last_panel, True), lambda: body(PANEL, False))

    def _panel(
        self, block: _Block, pointers: Sequence[Val], number: Val, wide: int, last: bool
    ) -> None:
        e, plan, problem = self.e, self.plan, self.problem
        tail = problem.tail if last else None
        moved = list(pointers)
        for tensor in range(RHS, len(pointers)):
            nbytes = PANEL * COLUMNS * problem.columns.strides[tensor] * self.sizes[tensor]
            if tensor == RHS and plan.constant:
                nbytes = problem.panel
            moved[tensor] = step(e, pointers[tensor], number, nbytes)
        if not plan.constant:
            e.b.call(self.parts.right(wide, tail), [moved[RHS], self.right])
            moved[RHS] = self.right
        moved[RHS] = e.offset(moved[RHS], block.depth * plan.block_steps * PARTS * wide * TILE)
        tiles = e.b.sub(block.stop, block.first)
        pairs = e.b.and_(tiles, I64(-PANEL))
        with e.loop(0, pairs, PANEL) as tile:
            self._tile(block, tile, moved, PANEL, wide, tail)
        with e.loop(pairs, tiles) as tile:
            self._tile(block, tile, moved, 1, wide, tail)

    def _tile(
        self, block: _Block, tile: Val, tensors: list[Val], high: int, wide: int, tail: int | None
    ) -> None:
        """Multiply `high` row tiles of a panel; finish them with the last part of the depth."""
        e, plan = self.e, self.plan
        left = step(e, self.left, tile, ROWS * plan.pitch)
        sums = self.sums
        if plan.depth_blocks > 1:
            sums = step(e, step(e, self.right, block.panel, plan.panel_sums), tile, ROWS * SUMS)
        calls = e.b.udiv(tile, I64(PANEL))
        ahead = e.offset(tensors[RHS], self.problem.panel)
        ahead = step(e, ahead, calls, plan.block_steps * plan.fetched * LINE)
        product = self.parts.product(high, wide, resumes=block.depth > 0)
        e.b.call(product, [left, tensors[RHS], sums, ahead])
        if block.depth == plan.depth_blocks - 1:
            done = e.b.mul(tile, I64(ROWS))
            rows = e.b.sub(self._row(block.stop), self._row(block.first))
            count = e.intrinsic("smin", e.b.sub(rows, done), I64(high * ROWS))
            line = step(e, self.offsets, done, 8 * plan.tensors)
            e.b.call(self.parts.finish(wide, tail), [sums, line, count, *tensors[RESULT:]])
