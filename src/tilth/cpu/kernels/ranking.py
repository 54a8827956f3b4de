"""Order as integers: every sortable dtype becomes a signed integer that compares the same.

NaN is the greatest of all and zeros of both signs are equal, as the reference has it. With its
position in the lower half, a rank becomes a `word`; words of a line are all different, so that
every way of sorting them is stable.
"""

from __future__ import annotations

import llvmlite.ir as ll

from tilth.cpu.emit import F32, Emitter, Val, element, vector, width
from tilth.ir.types import DType


def rank_bits(dtype: DType, length: int) -> int:
    """The width of ranks that hold the dtype, and positions up to `length`: 32 or 64."""
    return 64 if dtype.bits == 64 or length >= 1 << 31 else 32


def rank(e: Emitter, x: Val, dtype: DType, bits: int, descending: bool = False) -> Val:
    """Signed integers in the order of register values `x` of a dtype, or in the opposite order."""
    type_ = vector(ll.IntType(bits), width(x.type))
    if dtype.is_float:
        result = _float_rank(e, x)
    elif dtype.kind == "uint" and dtype.bits == bits:
        result = e.b.xor(x, e.const(x.type, -(1 << bits - 1)))
    else:
        result = x
    if result.type != type_:
        result = (e.b.zext if dtype.kind in ("uint", "bool") else e.b.sext)(result, type_)
    return e.b.not_(result) if descending else result


def _float_rank(e: Emitter, x: Val) -> Val:
    """Bit patterns of positive floats are in order; those of negative ones are turned round."""
    bits = 32 if element(x.type) == F32 else 64
    type_ = vector(ll.IntType(bits), width(x.type))
    greatest = (1 << bits - 1) - 1
    pattern = e.b.bitcast(e.b.fadd(x, e.const(x.type, 0.0)), type_)  # -0.0 + 0.0 is 0.0
    sign = e.b.ashr(pattern, e.const(type_, bits - 1))
    ordered = e.b.xor(pattern, e.b.and_(sign, e.const(type_, greatest)))
    return e.b.select(e.b.fcmp_unordered("uno", x, x), e.const(type_, greatest), ordered)


def word_type(bits: int) -> ll.IntType:
    """The type of words made of ranks and positions of this width."""
    return ll.IntType(2 * bits)


def word(e: Emitter, rank: Val, position: Val) -> Val:
    """A scalar rank and an i64 position below 2^31 as one integer."""
    bits = rank.type.width
    type_ = word_type(bits)
    high = e.b.shl(e.b.sext(rank, type_), ll.Constant(type_, bits))
    low = position if position.type == type_ else e.b.zext(position, type_)
    return e.b.or_(high, low)


def position_of(e: Emitter, word: Val) -> Val:
    """The i64 position in a word."""
    half = e.b.trunc(word, ll.IntType(word.type.width // 2))
    return half if half.type.width == 64 else e.b.zext(half, ll.IntType(64))
