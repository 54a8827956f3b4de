"""Contractions of bytes by the instruction that adds four products u8 * i8 to each i32 lane.

Four neighbouring bytes of the depth are one 32-bit element to everything around the micro-kernel:
the left operand is read as such elements where it lies, the constant right operand is packed so
that the four bytes of a column are neighbours. Blocking and tiles then are those of a contraction
a quarter as deep. No sum saturates on the way, so results are exact modulo 2^32.
"""

from __future__ import annotations

from dataclasses import replace

from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_form import LHS, Contraction, Loop
from tilth.ir.types import i8, i32, u8

QUAD = 4  # bytes of one element


def suits(form: Contraction, operands: tuple[Operand, ...], isa: Isa) -> bool:
    """Can the machine do so, and are the operands of the right types and in the right order?"""
    if not isa.byte_dot or operands[form.rhs].constant is None or not form.k:
        return False
    if (form.lhs_dtype, form.rhs_dtype, form.accumulator) != (u8, i8, i32):
        return False
    others = (*form.batch, *form.m, *form.n, *form.k[:-1])
    inner = form.k[-1]
    contiguous = inner.strides[LHS] == 1 and inner.size % QUAD == 0
    apart = form.lhs not in form.extras and form.rhs not in form.extras
    return contiguous and apart and all(loop.strides[LHS] % QUAD == 0 for loop in others)


def in_quads(
    form: Contraction, operands: tuple[Operand, ...]
) -> tuple[Contraction, tuple[Operand, ...]]:
    """The contraction of 32-bit elements, and its operands as such."""

    def strides(loop: Loop) -> tuple[int, ...]:
        left, *rest = loop.strides
        return (left // QUAD, *rest)

    def wide(loops: tuple[Loop, ...]) -> tuple[Loop, ...]:
        return tuple(Loop(loop.size, strides(loop)) for loop in loops)

    *taps, inner = form.k
    quads = Loop(inner.size // QUAD, (1, *inner.strides[1:]))
    wider = list(operands)
    for position in (form.lhs, form.rhs):
        wider[position] = replace(operands[position], dtype=i32)
    form = replace(
        form,
        batch=wide(form.batch),
        m=wide(form.m),
        n=wide(form.n),
        k=(*wide(tuple(taps)), quads),
        lhs_dtype=i32,
        rhs_dtype=i32,
        quads=True,
    )
    return form, tuple(wider)
