"""Affine quantisation as operators on quantised tensors use it: real = (q - zero_point) scale.

Scales and zero points are per tensor (of one element, whatever the rank), along one axis, or per
block of an axis; a missing zero point is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import align, as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32, i32
from tilth.onnx.build import full, scalar, slice_axis


def zero_like(scale: Value, dtype: DType) -> Value:
    """The zero point that is meant where none is given."""
    return full(0, scale.shape, dtype)


def scalars(*values: Value) -> tuple[Value, ...]:
    """Parameters where those of one element are scalars, which are meant per tensor."""
    return tuple(as_shape(v, ()) if v.tensor.size == 1 else v for v in values)


def quantized(
    x: Value, scale: Value, zero: Value | None, dtype: DType, axis: int | None = None
) -> Value:
    """round(x / scale) + zero_point in f32, ties to even, clamped to the range of `dtype`."""
    (scale,) = scalars(as_dtype(scale, f32))
    (zero,) = scalars(zero_like(scale, dtype) if zero is None else zero)
    axis = axis if scale.shape else None
    return op.uniform_quantize(as_dtype(x, f32), scale, zero, dtype=dtype, axis=axis)


def dequantized(x: Value, scale: Value, zero: Value | None, axis: int | None = None) -> Value:
    """(x - zero_point) scale, in the dtype of the scale."""
    (scale,) = scalars(scale)
    (zero,) = scalars(zero_like(scale, x.tensor.dtype) if zero is None else zero)
    if zero.shape != scale.shape:  # one zero point for scales along an axis
        zero = op.broadcast_in_dim(zero, shape=scale.shape, dims=())
    axis = axis if scale.shape else None
    return op.uniform_dequantize(x, scale, zero, axis=axis, dtype=scale.tensor.dtype)


def centred(x: Value, zero: Value | None, axis: int | None = None) -> Value:
    """x - zero_point in i32, exactly; the zero point is per tensor or along `axis`."""
    wide = as_dtype(x, i32)
    if zero is None:
        return wide
    (offset,) = scalars(as_dtype(zero, i32))
    if len(offset.shape) == 1 and axis is not None:
        offset = align(offset, axis, len(x.shape))
    return op.subtract(wide, offset)


def requantized(
    total: Value, factor: Value, zero: Value | None, dtype: DType, axis: int | None = None
) -> Value:
    """round(total factor) + zero_point, clamped, of sums of integers.

    `factor` is of any shape that broadcasts, or a vector along `axis`.
    """
    if factor.shape and axis is not None:
        factor = align(factor, axis, len(total.shape))
    return quantized(op.multiply(as_dtype(total, f32), factor), scalar(1, f32), zero, dtype)


def repeated(parameter: Value, axis: int, block: int, size: int) -> Value:
    """A parameter per block of `block` elements along `axis`, one for each of `size` elements."""
    shape = parameter.shape
    wide = (*shape[: axis + 1], block, *shape[axis + 1 :])
    dims = tuple(i for i in range(len(wide)) if i != axis + 1)
    each = op.broadcast_in_dim(parameter, shape=wide, dims=dims)
    merged = (*shape[:axis], shape[axis] * block, *shape[axis + 1 :])
    return slice_axis(as_shape(each, merged), axis, 0, size)


def product_of(*factors: Value) -> Value:
    """The product of scales, from left to right, in f32; those of one element are scalars."""
    first, *others = scalars(*(as_dtype(f, f32) for f in factors))
    for other in others:
        first = op.multiply(first, other)
    return first


def triples(values: Sequence[Value]) -> list[tuple[Value, Value, Value]]:
    """Operands listed as x, scale, zero point, x, scale, zero point ..."""
    if len(values) % 3:
        raise ValueError(f"{len(values)} operands are no triples of tensor, scale and zero point")
    return list(zip(*[iter(values)] * 3, strict=True))
