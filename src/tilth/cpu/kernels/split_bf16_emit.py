"""The code of a contraction on a matrix unit: work items, blocks of rows, panels of columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I1, I64, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_epilogue import Epilogue, step
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.cpu.kernels.pieces import either, even_part
from tilth.cpu.kernels.space import decode, kernel_emitter
from tilth.cpu.kernels.split_bf16_parts import Parts, Tiles
from tilth.cpu.kernels.split_bf16_plan import COLUMNS, LINE, PANEL, ROWS, UNWANTED, Plan


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
        self._split_rows(pointers[LHS], first, stop)
        begin, end = even_part(e, panel, problem.panels, plan.panel_blocks)
        with e.loop(begin, end) as number:
            self._by_panel(
                number, lambda wide, last: self._panel(pointers, number, first, stop, wide, last)
            )

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
    def _split_rows(self, left: Val, first: int | Val, stop: int | Val) -> None:
        """Split what the block's rows read; note where each row lies in every other tensor."""
        e, problem = self.e, self.problem
        start = e.b.mul(e.i64(first), I64(ROWS))
        end = e.intrinsic("smin", e.b.mul(e.i64(stop), I64(ROWS)), I64(problem.rows))
        with e.loop(start, end) as row:
            index, wanted = self._index(row)
            line = step(e, self.offsets, e.b.sub(row, start), 8 * self.plan.tensors)
            for i, tensor in enumerate(range(RESULT, len(self.base))):
                at = self._distance(index, tensor)
                if wanted is not None:
                    at = e.b.select(wanted, at, I64(UNWANTED))
                e.store(at, e.offset(line, 8 * i))
        with e.loop(start, e.b.add(end, I64(problem.halo))) as number:
            if problem.on_grid:
                source = step(e, left, number, problem.unit * self.sizes[LHS])
            else:
                source = e.offset(left, self._distance(self._index(number)[0], LHS))
            target = step(e, self.left, e.b.sub(number, start), problem.pitch)
            e.b.call(self.parts.left(), [source, target])

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
        self,
        pointers: list[Val],
        number: Val,
        first: int | Val,
        stop: int | Val,
        wide: int,
        last: bool,
    ) -> None:
        e, plan, problem = self.e, self.plan, self.problem
        tail = problem.tail if last else None
        moved = list(pointers)
        for tensor in range(RHS, len(pointers)):
            nbytes = PANEL * COLUMNS * problem.columns.strides[tensor] * self.sizes[tensor]
            if tensor == RHS and plan.constant:
                nbytes = problem.panel
            moved[tensor] = step(e, pointers[tensor], number, nbytes)
        right = moved[RHS]
        if not plan.constant:
            e.b.call(self.parts.right(wide, tail), [right, self.right])
            right = self.right
        tiles = e.b.sub(e.i64(stop), e.i64(first))
        rows = e.b.sub(I64(problem.rows), e.b.mul(e.i64(first), I64(ROWS)))
        pairs = e.b.and_(tiles, I64(-PANEL))
        with e.loop(0, pairs, PANEL) as tile:
            self._tile(tile, right, rows, moved, PANEL, wide, tail)
        with e.loop(pairs, tiles) as tile:
            self._tile(tile, right, rows, moved, 1, wide, tail)

    def _tile(
        self,
        tile: Val,
        right: Val,
        rows: Val,
        tensors: list[Val],
        high: int,
        wide: int,
        tail: int | None,
    ) -> None:
        """Multiply and finish `high` row tiles of a panel."""
        e, plan, problem = self.e, self.plan, self.problem
        left = step(e, self.left, tile, ROWS * problem.pitch)
        done = e.b.mul(tile, I64(ROWS))
        count = e.intrinsic("smin", e.b.sub(rows, done), I64(high * ROWS))
        line = step(e, self.offsets, done, 8 * self.plan.tensors)
        calls = e.b.udiv(tile, I64(PANEL))
        ahead = e.offset(right, problem.panel)
        ahead = step(e, ahead, calls, problem.steps * plan.fetched * LINE)
        e.b.call(self.parts.product(high, wide), [left, right, self.sums, ahead])
        e.b.call(self.parts.finish(wide, tail), [self.sums, line, count, *tensors[RESULT:]])
