"""The functions that a split contraction calls besides products: split operands, finish rows."""

from __future__ import annotations

from collections.abc import Iterator

import llvmlite.ir as ll

from tilth.cpu.emit import F32, I64, PTR, Emitter, Val, vector
from tilth.cpu.isa import Isa
from tilth.cpu.kernels import split_bf16_split as splitting
from tilth.cpu.kernels.contraction_epilogue import Counts, Epilogue, step
from tilth.cpu.kernels.matrix_unit import COLUMNS, LINE, ROWS
from tilth.cpu.kernels.split_bf16_plan import PANEL, STEP, SUMS, UNWANTED, Plan
from tilth.cpu.kernels.split_bf16_products import Beside, Products, Work, share
from tilth.cpu.kernels.split_bf16_rows import line_source
from tilth.ir.types import f32

Kind = tuple[int, int | None]  # of a panel: its tiles, the columns of the last one (None: all)


class Parts(Products):
    """Internal functions of the module, made when they are first asked for."""

    def __init__(self, module: ll.Module, isa: Isa, name: str, plan: Plan, epilogue: Epilogue):
        super().__init__(module, isa, name, plan)
        self.epilogue = epilogue

    def left(self) -> ll.Function:
        """f(source, target): split one line of the left operand."""
        return self.function("left", [PTR, PTR], lambda e: splitting.line(e, self.plan, *e.args))

    def right(self, tiles: int, tail: int | None) -> ll.Function:
        """f(source, target): split a panel, the last of whose tiles has `tail` columns."""
        return self.function(
            f"right{tiles}x{tail or COLUMNS}",
            [PTR, PTR],
            lambda e: splitting.panel(e, self.plan, e.args[0], e.args[1], tiles, tail),
        )

    def run(self) -> ll.Function:
        """f(source, target, first, stop): split some steps of a run of a line."""
        elements = self.plan.run_elements
        return self.function(
            "run", [PTR, PTR, I64, I64], lambda e: splitting.line_run(e, elements, *e.args)
        )

    def finish(self, kind: Kind) -> ll.Function:
        """f(first, stop, sums, offsets, result, extras...): finish and store rows of a panel.

        `offsets` holds the bytes to each row in each of the tensors; the first of them is
        `UNWANTED` for a row that nobody wants.
        """
        wide, tail = kind
        types = [I64, I64, PTR, PTR, *[PTR] * self.plan.tensors]
        return self.function(
            f"finish{wide}x{tail or COLUMNS}", types, lambda e: self._emit_finish(e, kind)
        )

    def _emit_finish(self, e: Emitter, kind: Kind) -> None:
        first, stop, sums, offsets, *pointers = e.args
        plan, (wide, tail) = self.plan, kind
        counts: Counts = [None] * (wide - 1) + [tail]
        known = self.epilogue.row_invariant(e, pointers, counts)

        def finish(row: Val, distances: list[Val]) -> None:
            at = step(e, sums, row, SUMS)
            moved = [e.offset(p, d) for p, d in zip(pointers, distances, strict=True)]
            values = [
                e.load(e.offset(at, v * LINE), vector(F32, COLUMNS), align=LINE)
                for v in range(wide)
            ]
            self.epilogue.finish(e, moved, known, values, counts)

        with e.loop(first, stop) as row:
            line = step(e, offsets, row, 8 * plan.tensors)
            distances = [e.load(e.offset(line, 8 * i), I64) for i in range(plan.tensors)]
            if plan.problem.rows == plan.problem.wanted:
                finish(row, distances)
            else:
                with e.when(e.b.icmp_signed("!=", distances[0], I64(UNWANTED))):
                    finish(row, distances)

    # -- work beside products ----------------------------------------------------------------
    def lines(self) -> Work:
        """Split `lines_beside` lines of the left operand in each step.

        Arguments: where lines come from and go to, counted from line 0; the first one, the end.
        """
        return Work("lines", (PTR, PTR, I64, I64), lambda e, args: _Lines(e, self, args))

    def earlier(self, kind: Kind) -> Work:
        """Finish so many rows of an earlier product.

        Arguments: the number of rows, and those of `finish` after the first two.
        """
        wide, tail = kind
        types = [I64, PTR, PTR, *[PTR] * self.plan.tensors]
        label = f"{wide}x{tail or COLUMNS}"
        return Work(label, types, lambda e, args: _Earlier(e, self, args, kind))


class _Lines(Beside):
    def __init__(self, e: Emitter, parts: Parts, args: list[Val]):
        self.e, self.plan, self.run = e, parts.plan, parts.run()
        self.source, self.target, first, self.stop = args
        self.next = e.var(I64, first)

    def step(self, moved: list[Val]) -> None:
        e, more = self.e, I64(self.plan.lines_beside)
        self.first = e.b.load(self.next, typ=I64)
        e.b.store(e.b.add(self.first, more), self.next)

    def emit(self, slot: int) -> None:
        e, plan = self.e, self.plan
        steps, distances = plan.run_steps, plan.run_distances
        units = plan.lines_beside * len(distances) * steps
        for piece, begin, end in _pieces(*share(units, slot), steps):
            line, run = divmod(piece, len(distances))
            number = e.b.add(self.first, I64(line))
            with e.when(e.b.icmp_signed("<", number, self.stop)):
                source = line_source(e, plan.problem, self.source, number)
                source = e.offset(source, distances[run] * f32.nbytes)
                target = step(e, self.target, number, plan.pitch)
                target = e.offset(target, run * steps * STEP)
                e.b.call(self.run, [source, target, I64(begin), I64(end)])


class _Earlier(Beside):
    def __init__(self, e: Emitter, parts: Parts, args: list[Val], kind: Kind):
        self.e, self.finish = e, parts.finish(kind)
        self.each = -(-PANEL * ROWS // parts.plan.product_steps)  # rows in a step
        self.rows, *self.args = args
        self.next = e.var(I64, I64(0))

    def emit(self, slot: int) -> None:
        e = self.e
        first, last = share(self.each, slot)
        if first < last:
            row = e.b.load(self.next, typ=I64)
            with e.when(e.b.icmp_signed("<", row, self.rows)):
                stop = e.intrinsic("smin", e.b.add(row, I64(last - first)), self.rows)
                e.b.call(self.finish, [row, stop, *self.args])
                e.b.store(stop, self.next)


def _pieces(first: int, stop: int, length: int) -> Iterator[tuple[int, int, int]]:
    """A range cut where runs of this length end: (run, from, to)."""
    while first < stop:
        run, begin = divmod(first, length)
        end = min(length, begin + stop - first)
        yield run, begin, end
        first += end - begin
