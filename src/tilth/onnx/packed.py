"""Weights of 2, 4 or 8 bits packed in bytes, with a scale and a zero point per block.

They are unpacked by shifts and masks. Constant weights are folded: compiled code holds them in f32.
"""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.types import f32, u8
from tilth.onnx.build import concatenate, expand_dims, scalar, slice_axis


def unpacked(packed: Value, bits: int, size: int) -> Value:
    """Unsigned elements along the last axis, from the low end of each byte on.

    u8 [..., bytes] becomes u8 [..., size]. ValueError when `bits` is none of 2, 4, 8.
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"elements of {bits} bits; only 2, 4 and 8 are defined")
    parts = [_bits_of(packed, start, bits) for start in range(0, 8, bits)]
    *outer, count = packed.shape
    last = len(outer)
    woven = concatenate([expand_dims(p, (last + 1,)) for p in parts], last + 1)
    return slice_axis(as_shape(woven, (*outer, count * len(parts))), last, 0, size)


def nibbles(packed: Value, size: int) -> Value:
    """Four-bit elements of a vector of bytes, from the high end of each byte on."""
    parts = [expand_dims(_bits_of(packed, start, 4), (1,)) for start in (4, 0)]
    return slice_axis(as_shape(concatenate(parts, 1), (2 * packed.shape[0],)), 0, 0, size)


def _bits_of(packed: Value, start: int, bits: int) -> Value:
    """The `bits` bits from bit `start` on, of each byte."""
    low = op.shift_right_logical(packed, scalar(start, u8)) if start else packed
    return low if start + bits == 8 else op.and_(low, scalar((1 << bits) - 1, u8))


def zero_points(zeros: Value | None, bits: int, blocks: tuple[int, ...]) -> Value:
    """Zero points in f32, one for each of `blocks`.

    They are packed like the weights, floats as they are, or, left out, the middle of the range.
    """
    if zeros is None:
        return scalar(1 << (bits - 1), f32)
    if zeros.tensor.dtype != u8:
        return as_dtype(as_shape(zeros, blocks), f32)
    *outer, count = blocks
    packed = as_shape(zeros, (*outer, -(-count * bits // 8)))
    return as_dtype(unpacked(packed, bits, count), f32)


def dequantized_blocks(
    packed: Value, scales: Value, zeros: Value | None, bits: int, size: int
) -> Value:
    """(q - zero_point) scale in f32, [..., size], with blocks along the last axis.

    `packed` is u8 [..., bytes], `scales` [..., blocks]; for the zero points see `zero_points`.
    """
    *outer, blocks = scales.shape
    block = packed.shape[-1] * 8 // bits // blocks
    q = as_dtype(unpacked(packed, bits, blocks * block), f32)
    centre = zero_points(zeros, bits, scales.shape)
    centre = expand_dims(centre, (-1,)) if centre.shape else centre
    factor = expand_dims(as_dtype(scales, f32), (len(scales.shape),))
    real = op.multiply(op.subtract(as_shape(q, (*outer, blocks, block)), centre), factor)
    return slice_axis(as_shape(real, (*outer, blocks * block)), len(outer), 0, size)
