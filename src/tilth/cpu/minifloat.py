"""Floats of four and eight bits, and f16 where no instruction converts it: f32 in a register.

Reading a byte looks up a table; writing rounds to nearest even with integer arithmetic, as
`ml_dtypes` does it. Sources: the OCP specifications of 8-bit floating point (2023) and of
microscaling formats (2023); the `fnuz` kinds are those of Noune et al., "8-bit Numerical Formats
for Deep Neural Networks" (2022); f16 is binary16 of IEEE 754.
"""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.emit import F32, I8, I16, I32, I64, Emitter, Val, vector, width
from tilth.ir.types import DType


@dataclass(frozen=True, slots=True)
class _Format:
    """Bits of the mantissa, exponent bias, and the codes without sign of what is special."""

    mantissa: int
    bias: int
    largest: int
    overflow: int
    nan: int
    one_zero: bool = False  # the code of -0 is that of NaN


_FORMATS = {
    "f8e4m3fn": _Format(3, 7, largest=0x7E, overflow=0x7F, nan=0x7F),
    "f8e4m3fnuz": _Format(3, 8, largest=0x7F, overflow=0x80, nan=0x80, one_zero=True),
    "f8e5m2": _Format(2, 15, largest=0x7B, overflow=0x7C, nan=0x7E),
    "f8e5m2fnuz": _Format(2, 16, largest=0x7F, overflow=0x80, nan=0x80, one_zero=True),
    "f4e2m1fn": _Format(1, 1, largest=0x7, overflow=0x7, nan=0x8),
}
_HALF = _Format(10, 15, largest=0x7BFF, overflow=0x7C00, nan=0x7E00)
_SCALE = "f8e8m0fnu"  # powers of two, without sign and zero
NAMES = frozenset({*_FORMATS, _SCALE})


def decode(e: Emitter, codes: Val, dtype: DType) -> Val:
    """Bytes as f32."""
    table = _table(e, dtype)
    n = width(codes.type)
    if n == 1:
        return _look_up(e, table, codes)
    result: Val = ll.Constant(vector(F32, n), ll.Undefined)
    for lane in range(n):
        at = ll.Constant(I32, lane)
        value = _look_up(e, table, e.b.extract_element(codes, at))
        result = e.b.insert_element(result, value, at)
    return result


def _look_up(e: Emitter, table: Val, code: Val) -> Val:
    place = e.b.mul(e.b.zext(code, I64), I64(4))
    return e.load(e.offset(table, place), F32)


def _table(e: Emitter, dtype: DType) -> Val:
    """The values of all bytes, once per module."""
    name = f"tilth.{dtype.name}"
    if name not in e.module.globals:
        values = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
        array = ll.ArrayType(I32, 256)
        table = ll.GlobalVariable(e.module, array, name)
        table.linkage, table.global_constant = "internal", True
        table.initializer = ll.Constant(array, values.view(np.uint32).tolist())
    return e.module.globals[name]


def decode_half(e: Emitter, codes: Val) -> Val:
    """16-bit integers that hold f16 codes, as f32."""
    b, floats, ints = e.b, vector(F32, width(codes.type)), vector(I32, width(codes.type))
    wide = b.zext(codes, ints)
    size = b.and_(wide, e.const(ints, 0x7FFF))
    # with the bits of f16 an f32 is 2^112 too small, denormals too
    bits = b.bitcast(b.shl(size, e.const(ints, 13)), floats)
    finite = b.bitcast(b.fmul(bits, e.const(floats, 2.0**112)), ints)
    special = b.icmp_signed(">", size, e.const(ints, _HALF.largest))
    value = b.select(special, b.or_(finite, e.const(ints, 0x7F800000)), finite)
    sign = b.shl(b.lshr(wide, e.const(ints, 15)), e.const(ints, 31))
    return b.bitcast(b.or_(value, sign), floats)


def encode_half(e: Emitter, x: Val) -> Val:
    """f32 as 16-bit integers that hold f16 codes."""
    codes = _signed(e, x, vector(I32, width(x.type)), _HALF, 16)
    return e.b.trunc(codes, vector(I16, width(x.type)))


def encode(e: Emitter, x: Val, dtype: DType) -> Val:
    """f32 as bytes."""
    ints = vector(I32, width(x.type))
    if dtype.name == _SCALE:
        codes = _scale(e, x, ints)
    else:
        codes = _signed(e, x, ints, _FORMATS[dtype.name], dtype.bits)
    return e.b.trunc(codes, vector(I8, width(x.type)))


def _signed(e: Emitter, x: Val, ints: ll.Type, form: _Format, nbits: int) -> Val:
    b = e.b
    dropped = 23 - form.mantissa

    def const(value: int) -> Val:
        return e.const(ints, value)

    bits = b.bitcast(x, ints)
    size = b.and_(bits, const(0x7FFFFFFF))
    odd = b.and_(b.lshr(size, const(dropped)), const(1))
    rounded = b.add(b.add(size, const((1 << dropped - 1) - 1)), odd)
    normal = b.sub(b.lshr(rounded, const(dropped)), const((127 - form.bias) << form.mantissa))
    # adding a power of two whose last place is that of the format's denormals rounds to these
    anchor = e.const(x.type, 2.0 ** (24 - form.bias - form.mantissa))
    shifted = b.fadd(b.bitcast(size, x.type), anchor)
    denormal = b.sub(b.bitcast(shifted, ints), b.bitcast(anchor, ints))
    is_small = b.icmp_signed("<", size, const((128 - form.bias) << 23))
    code = b.select(is_small, denormal, normal)
    code = b.select(b.icmp_signed(">", code, const(form.largest)), const(form.overflow), code)
    code = b.select(b.fcmp_unordered("uno", x, x), const(form.nan), code)
    sign = b.shl(b.lshr(bits, const(31)), const(nbits - 1))
    if form.one_zero:
        lower = b.and_(code, const(0x7F))
        sign = b.select(b.icmp_signed("==", lower, const(0)), const(0), sign)
    return b.xor(code, sign)


def _scale(e: Emitter, x: Val, ints: ll.Type) -> Val:
    """The nearest power of two, ties up; what is not positive or too large is NaN, code 255."""
    b, half = e.b, e.const(ints, 1 << 22)
    bits = b.bitcast(x, ints)
    normal = b.lshr(b.add(bits, half), e.const(ints, 23))
    denormal = b.zext(b.icmp_signed(">", bits, half), ints)
    code = b.select(b.icmp_signed("<", bits, e.const(ints, 1 << 23)), denormal, normal)
    positive = b.fcmp_ordered(">", x, e.const(x.type, 0.0))
    return b.select(positive, code, e.const(ints, 255))
