"""What happens to finished accumulators: the rest of the fusion body, then the one store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tilth.cpu.access import load, store
from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.expression import convert, evaluate
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_form import FIRST_EXTRA, RESULT
from tilth.cpu.kernels.contraction_plan import Shape
from tilth.ir.types import DType


@dataclass(frozen=True)
class Epilogue:
    """Applies the body after the hero to one row of a tile and stores the result.

    Pointers are those of the result and of the extra operands, at the tile's first element.
    """

    shape: Shape
    operands: tuple[Operand, ...]
    result: DType

    @property
    def dtypes(self) -> list[DType]:
        """Of the result and the extra operands, in the order of the pointers."""
        return [self.result, *(self.operands[i].dtype for i in self.shape.form.extras)]

    def row_invariant(self, e: Emitter, pointers: Sequence[Val], counts: Counts) -> Invariants:
        """Values of operands that are the same for all rows (a bias), to be loaded only once."""
        known: Invariants = {}
        for i in range(1, len(pointers)):
            tensor = FIRST_EXTRA + i - 1
            if not self._moves_along_rows(tensor):
                for v, count in enumerate(counts):
                    known[i, v] = self._load(e, pointers[i], i, v, count)
        return known

    def finish(
        self,
        e: Emitter,
        pointers: Sequence[Val],
        known: Invariants,
        accumulators: Sequence[Val],
        counts: Counts,
    ) -> None:
        """Compute and store one row; `pointers` are at the row's first column."""
        form = self.shape.form
        inputs = [form.body.inputs[i] for i in form.extras]
        for v, (accumulator, count) in enumerate(zip(accumulators, counts, strict=True)):
            hero = form.hero.outputs[0]
            values = {hero: convert(e, accumulator, form.accumulator, hero.tensor.dtype)}
            for i, value in enumerate(inputs, start=1):
                found = known.get((i, v))
                if found is None:
                    found = self._load(e, pointers[i], i, v, count)
                values[value] = found
            (value,) = evaluate(e, form.body.outputs, values, self.shape.lanes)
            at = self._column(e, pointers[0], 0, v)
            store(e, value, at, self.result, self._lane_stride(0), count)

    def row(
        self, e: Emitter, pointers: Sequence[Val], h: int | Val, w: int | Val, line: int | Val = 0
    ) -> list[Val]:
        """The pointers moved to row (h, w) of the tile, so many lines of the map further."""
        moved = []
        for i, pointer in enumerate(pointers):
            size, tensor = self.dtypes[i].nbytes, RESULT + i
            for index, loop in ((h, self.shape.height), (w, self.shape.width)):
                pointer = step(e, pointer, index, loop.strides[tensor] * size)
            moved.append(step(e, pointer, line, self.shape.gap(tensor) * size))
        return moved

    def vector(self, e: Emitter, pointers: Sequence[Val], index: int | Val) -> list[Val]:
        """The pointers moved to vector `index` of a row."""
        lane = [self._lane_stride(i) * self.dtypes[i].nbytes for i in range(len(pointers))]
        moves = zip(pointers, lane, strict=True)
        return [step(e, p, index, self.shape.lanes * nbytes) for p, nbytes in moves]

    def _load(self, e: Emitter, pointer: Val, i: int, v: int, count: int | None) -> Val:
        at = self._column(e, pointer, i, v)
        return load(e, at, self.dtypes[i], self.shape.lanes, self._lane_stride(i), count)

    def _column(self, e: Emitter, pointer: Val, i: int, v: int) -> Val:
        return e.offset(
            pointer, v * self.shape.lanes * self._lane_stride(i) * self.dtypes[i].nbytes
        )

    def _lane_stride(self, i: int) -> int:
        return self.shape.columns.strides[RESULT + i]

    def _moves_along_rows(self, tensor: int) -> bool:
        return any(loop.strides[tensor] for loop in self.shape.form.m if loop.size > 1)


Counts = Sequence[int | None]  # lanes used of each vector of a panel, None for all
Invariants = dict[tuple[int, int], Val]


def line_of(e: Emitter, shape: Shape, row: int | Val) -> int | Val:
    """The line of the map that a row lies in, if rows are counted through the lines; else 0."""
    if not shape.flat:
        return 0
    return row // shape.line if isinstance(row, int) else e.b.udiv(row, I64(shape.line))


def step(e: Emitter, pointer: Val, index: int | Val, nbytes: int) -> Val:
    """`pointer` moved `index` times `nbytes`."""
    if isinstance(index, int):
        return e.offset(pointer, index * nbytes)
    return e.offset(pointer, e.b.mul(index, e.i64(nbytes), flags=["nsw"])) if nbytes else pointer
