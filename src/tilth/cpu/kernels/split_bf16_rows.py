"""Where the rows of a split contraction lie in memory, as code: their indices, distances, lines."""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import I1, I64, Emitter, Val
from tilth.cpu.kernels.contraction_epilogue import step
from tilth.cpu.kernels.contraction_form import LHS
from tilth.cpu.kernels.matrix_unit import ROWS
from tilth.cpu.kernels.space import decode
from tilth.cpu.kernels.split_bf16_plan import Problem
from tilth.ir.types import f32


def first_row(e: Emitter, problem: Problem, tile: int | Val) -> Val:
    """The first row of a tile; the number of rows behind the last one."""
    return e.intrinsic("smin", e.b.mul(e.i64(tile), I64(ROWS)), I64(problem.rows))


def index_of(e: Emitter, problem: Problem, row: Val) -> tuple[list[int | Val], Val | None]:
    """The index of a row; on a grid with gaps also whether it is wanted."""
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


def distance(
    e: Emitter, problem: Problem, index: Sequence[int | Val], tensor: int, size: int
) -> Val:
    """Bytes to a row of a tensor whose elements have `size` bytes."""
    total = I64(0)
    for i, loop in zip(index, problem.form.m, strict=True):
        total = e.b.add(total, e.b.mul(e.i64(i), I64(loop.strides[tensor] * size)))
    return total


def line_source(e: Emitter, problem: Problem, left: Val, number: Val) -> Val:
    """Where line `number` of the left operand begins."""
    if problem.on_grid:
        return step(e, left, number, problem.unit * f32.nbytes)
    index, _ = index_of(e, problem, number)
    return e.offset(left, distance(e, problem, index, LHS, f32.nbytes))
