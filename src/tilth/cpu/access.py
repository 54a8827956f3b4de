"""Reading and writing elements of strided operands, a vector at a time.

An element has two faces: its bytes in memory and its value in a register. They differ for bool (a
byte, an i1), for floats below 32 bits, which are computed in f32 and rounded when they are stored,
and for integers below eight bits, which are sign- or zero-extended to a byte.
"""

from __future__ import annotations

from collections.abc import Sequence

import llvmlite.ir as ll

from tilth.cpu import minifloat
from tilth.cpu.emit import (
    F32,
    I1,
    I8,
    I16,
    I32,
    I64,
    Emitter,
    Val,
    element,
    llvm_type,
    vector,
    width,
)
from tilth.cpu.kernel import Operand
from tilth.ir.errors import CompileError
from tilth.ir.types import DType, Shape

HALF = ll.HalfType()


def memory_type(dtype: DType, n: int = 1) -> ll.Type:
    """The type of `n` elements as they lie in memory. Raises CompileError if there is none."""
    if dtype.name == "bool" or is_packed_integer(dtype) or dtype.name in minifloat.NAMES:
        return vector(I8, n)
    if dtype.name == "bf16":
        return vector(I16, n)
    try:
        return vector(llvm_type(dtype), n)
    except NotImplementedError as e:
        raise CompileError(f"no machine type for {dtype}; convert to f32 or an integer type") from e


def register_type(dtype: DType, n: int = 1) -> ll.Type:
    """The type of `n` elements as they are computed with. Raises CompileError if there is none."""
    if dtype.name == "bool":
        return vector(I1, n)
    return vector(F32, n) if is_small_float(dtype) else memory_type(dtype, n)


def is_small_float(dtype: DType) -> bool:
    """Is it computed in f32, though it has fewer bits?"""
    return dtype.is_float and dtype.bits < 32


def is_packed_integer(dtype: DType) -> bool:
    """Does it leave bits of its byte unused?"""
    return dtype.is_integer and dtype.bits < 8


def broadcast_strides(operand: Operand, shape: Shape) -> Shape:
    """The strides of `operand` over an iteration space it broadcasts to: 0 where it repeats."""
    missing = len(shape) - len(operand.shape)
    pairs = zip(operand.shape, operand.strides, strict=True)
    return (0,) * missing + tuple(0 if dim == 1 else stride for dim, stride in pairs)


def address(e: Emitter, ptr: Val, dtype: DType, strides: Shape, index: Sequence[int | Val]) -> Val:
    """The address of the element at `index` (as many entries as `strides`)."""
    constant = sum(i * s for i, s in zip(index, strides, strict=True) if isinstance(i, int))
    ptr = e.offset(ptr, constant * dtype.nbytes)
    for i, stride in zip(index, strides, strict=True):
        if not isinstance(i, int) and stride:
            ptr = e.offset(ptr, e.b.mul(i, e.i64(stride * dtype.nbytes), flags=["nsw"]))
    return ptr


def load(
    e: Emitter, ptr: Val, dtype: DType, n: int, stride: int = 1, count: int | Val | None = None
) -> Val:
    """Register value of `n` elements, `stride` apart; only the first `count` are touched."""
    memory = memory_type(dtype, n)
    if n == 1 or stride == 0:
        bits = e.load(ptr, element(memory))
        return e.splat(to_register(e, bits, dtype), n)
    if stride != 1:
        bits = _gather(e, ptr, memory, stride * dtype.nbytes, count)
    else:
        bits = e.load(ptr, memory) if count is None else e.masked_load(ptr, memory, count)
    return to_register(e, bits, dtype)


def store(
    e: Emitter, value: Val, ptr: Val, dtype: DType, stride: int = 1, count: int | Val | None = None
) -> None:
    """Write the lanes of `value`, `stride` elements apart; only the first `count` of them."""
    bits = to_memory(e, value, dtype)
    n = width(bits.type)
    if n > 1 and stride != 1:
        _scatter(e, bits, ptr, stride * dtype.nbytes, count)
    elif n == 1 or count is None:
        e.store(bits, ptr)
    else:
        e.masked_store(bits, ptr, count)


def to_register(e: Emitter, bits: Val, dtype: DType) -> Val:
    """What was loaded from memory, as the value to compute with."""
    if dtype.name == "bool":
        return e.b.icmp_unsigned("!=", bits, e.const(bits.type, 0))
    if dtype.name == "f16":
        if not e.isa.converts_half:
            return minifloat.decode_half(e, e.b.bitcast(bits, vector(I16, width(bits.type))))
        return e.b.fpext(bits, vector(F32, width(bits.type)))
    if dtype.name == "bf16":
        wide = vector(I32, width(bits.type))
        shifted = e.b.shl(e.b.zext(bits, wide), e.const(wide, 16))
        return e.b.bitcast(shifted, vector(F32, width(bits.type)))
    if dtype.name in minifloat.NAMES:
        return minifloat.decode(e, bits, dtype)
    return wrapped(e, bits, dtype)


def wrapped(e: Emitter, value: Val, dtype: DType) -> Val:
    """An integer of less than eight bits modulo its range; anything else as it is."""
    if not is_packed_integer(dtype):
        return value
    if dtype.kind == "uint":
        return e.b.and_(value, e.const(value.type, (1 << dtype.bits) - 1))
    unused = e.const(value.type, 8 - dtype.bits)
    return e.b.ashr(e.b.shl(value, unused), unused)


def to_memory(e: Emitter, value: Val, dtype: DType) -> Val:
    """The bytes of a register value; small floats round to nearest even."""
    if dtype.name == "bool":
        return e.b.zext(value, vector(I8, width(value.type)))
    if dtype.name == "f16":
        half = vector(HALF, width(value.type))
        if not e.isa.converts_half:
            return e.b.bitcast(minifloat.encode_half(e, value), half)
        return e.b.fptrunc(value, half)
    if dtype.name in minifloat.NAMES:
        return minifloat.encode(e, value, dtype)
    if is_packed_integer(dtype):
        return e.b.and_(value, e.const(value.type, (1 << dtype.bits) - 1))
    return _bf16_bits(e, value) if dtype.name == "bf16" else value


def _bf16_bits(e: Emitter, value: Val) -> Val:
    wide = vector(I32, width(value.type))
    bits = e.b.bitcast(value, wide)
    high = e.b.lshr(bits, e.const(wide, 16))
    bias = e.b.add(e.b.and_(high, e.const(wide, 1)), e.const(wide, 0x7FFF))
    rounded = e.b.lshr(e.b.add(bits, bias), e.const(wide, 16))
    quiet_nan = e.b.or_(high, e.const(wide, 0x40))
    result = e.b.select(e.b.fcmp_unordered("uno", value, value), quiet_nan, rounded)
    return e.b.trunc(result, vector(I16, width(value.type)))


def _gather(e: Emitter, ptr: Val, type_: ll.VectorType, step: int, count: int | Val | None) -> Val:
    result: Val = ll.Constant(type_, ll.Undefined)
    last = None if count is None else e.b.sub(e.i64(count), e.i64(1))
    for lane in range(type_.count):
        # lanes beyond `count` read the last element again: no branch, nothing out of bounds
        at = lane * step
        if last is not None:
            at = e.b.mul(e.intrinsic("smin", e.i64(lane), last), e.i64(step))
        scalar = e.load(e.offset(ptr, at), type_.element)
        result = e.b.insert_element(result, scalar, ll.Constant(I32, lane))
    return result


def _scatter(e: Emitter, bits: Val, ptr: Val, step: int, count: int | Val | None) -> None:
    for lane in range(bits.type.count):
        scalar = e.b.extract_element(bits, ll.Constant(I32, lane))
        if count is None:
            e.store(scalar, e.offset(ptr, lane * step))
            continue
        with e.when(e.b.icmp_signed("<", ll.Constant(I64, lane), e.i64(count))):
            e.store(scalar, e.offset(ptr, lane * step))
