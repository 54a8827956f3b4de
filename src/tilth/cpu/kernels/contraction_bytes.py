"""Contractions of bytes by the instruction that adds four products u8 * i8 to each i32 lane.

Four neighbouring bytes of the depth are one 32-bit element to everything around the micro-kernel:
the left operand is read as such elements where it lies, the constant right operand is packed so
that the four bytes of a column are neighbours. Blocking and tiles then are those of a contraction
a quarter as deep. No sum saturates on the way, so results are exact modulo 2^32.
"""

from __future__ import annotations

from dataclasses import replace

from tilth.cpu.kernel import Operand, Task, once
from tilth.cpu.kernels import contraction_form
from tilth.cpu.kernels.contraction_form import LHS, Contraction, Loop
from tilth.ir.types import i8, i32, u8

QUAD = 4  # bytes of one element


@once
def canonicalise(task: Task) -> Contraction:
    """`contraction_form.canonicalise`, in quads where machine and operands allow it."""
    form = contraction_form.canonicalise(task)
    return _in_quads(form) if _suits(form, task) else form


def views(form: Contraction, operands: tuple[Operand, ...]) -> tuple[Operand, ...]:
    """The operands as the micro-kernels read them."""
    if not form.quads:
        return operands
    wide = (form.lhs, form.rhs)
    return tuple(replace(o, dtype=i32) if i in wide else o for i, o in enumerate(operands))


def _suits(form: Contraction, task: Task) -> bool:
    """Can the machine do so, and are the operands of the right types and in the right order?"""
    if not task.isa.byte_dot or not task.is_constant(form.rhs) or not form.k:
        return False
    if (form.lhs_dtype, form.rhs_dtype, form.accumulator) != (u8, i8, i32):
        return False
    others = (*form.batch, *form.m, *form.n, *form.k[:-1])
    inner = form.k[-1]
    contiguous = inner.strides[LHS] == 1 and inner.size % QUAD == 0
    apart = form.lhs not in form.extras and form.rhs not in form.extras
    return contiguous and apart and all(loop.strides[LHS] % QUAD == 0 for loop in others)


def _in_quads(form: Contraction) -> Contraction:
    """The contraction of 32-bit elements."""

    def strides(loop: Loop) -> tuple[int, ...]:
        left, *rest = loop.strides
        return (left // QUAD, *rest)

    def wide(loops: tuple[Loop, ...]) -> tuple[Loop, ...]:
        return tuple(Loop(loop.size, strides(loop)) for loop in loops)

    *taps, inner = form.k
    return replace(
        form,
        batch=wide(form.batch),
        m=wide(form.m),
        n=wide(form.n),
        k=(*wide(tuple(taps)), Loop(inner.size // QUAD, (1, *inner.strides[1:]))),
        lhs_dtype=i32,
        rhs_dtype=i32,
        quads=True,
    )
