"""Uniform quantisation with an explicit scale and zero point, per tensor or per axis.

Small floats are computed in float32. Up to 16 bits everything is exact there but the division and
the multiplication by the scale; 32-bit integers and their zero points meet in float64.
"""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.checks import check_axis, check_kind
from tilth.ir.ops.helpers import align, as_dtype, scalar
from tilth.ir.ops.numerics import limits
from tilth.ir.ops.table import composite, decompose, infer, op
from tilth.ir.types import DType, TensorType, f32, f64


def _check(
    real: TensorType,
    quantized: TensorType,
    scale: TensorType,
    zero_point: TensorType,
    axis: int | None,
) -> None:
    check_kind(real, "float")
    check_kind(quantized, "int", "uint", "float")
    if scale.dtype != real.dtype:
        raise ValueError(f"the scale must be {real.dtype}, got {scale}")
    if zero_point != TensorType(quantized.dtype, scale.shape):
        raise ValueError(
            f"the zero point must be {quantized.dtype} like the scale, got {zero_point}"
        )
    expected = () if axis is None else (quantized.dims[check_axis(axis, quantized.rank)],)
    if scale.shape != expected:
        raise ValueError(f"the scale must have shape {expected}, got {scale}")


def _along(parameter: Value, axis: int | None, rank: int) -> Value:
    """A per-axis vector aligned with its axis; a scalar as it is."""
    return parameter if axis is None else align(parameter, axis, rank)


def _real_dtype(dtype: DType) -> DType:
    """Where x and the scale meet."""
    return f64 if dtype == f64 else f32


def _sum_dtype(real: DType, quantized: DType) -> DType:
    """Where quantised values and zero points are added without rounding."""
    return f64 if quantized.bits > 16 else _real_dtype(real)


composite("uniform_quantize", "round(x / scale) + zero_point, to nearest even, clamped")


@infer("uniform_quantize")
def _(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType,
    *,
    dtype: DType,
    axis: int | None = None,
) -> TensorType:
    """`axis` None: scale and zero point are scalars; else vectors along that axis."""
    result = x.with_dtype(dtype)
    _check(x, result, scale, zero_point, axis)
    return result


@decompose("uniform_quantize")
def _(x: Value, scale: Value, zero_point: Value, *, dtype: DType, axis: int | None) -> Value:
    """Floats are not rounded to integers first, and clamped to the finite range. NaN becomes 0."""
    real = _real_dtype(x.tensor.dtype)
    wide = _sum_dtype(real, dtype)
    rank = x.tensor.rank
    scaled = op.divide(as_dtype(x, real), as_dtype(_along(scale, axis, rank), real))
    if dtype.is_integer:
        scaled = op.round_nearest_even(scaled)
    zero = op.convert(_along(zero_point, axis, rank), dtype=wide)
    shifted = op.add(as_dtype(scaled, wide), zero)
    if dtype.is_float:
        low, high = (scalar(limit, shifted) for limit in limits(dtype.numpy))
        shifted = op.clamp(low, shifted, high)
    return as_dtype(shifted, dtype)


composite("uniform_dequantize", "(x - zero_point) scale")


@infer("uniform_dequantize")
def _(
    x: TensorType,
    scale: TensorType,
    zero_point: TensorType,
    *,
    dtype: DType,
    axis: int | None = None,
) -> TensorType:
    """`dtype` is the result's and the scale's; `axis` as in `uniform_quantize`."""
    result = x.with_dtype(dtype)
    _check(result, x, scale, zero_point, axis)
    return result


@decompose("uniform_dequantize")
def _(x: Value, scale: Value, zero_point: Value, *, dtype: DType, axis: int | None) -> Value:
    real = _real_dtype(dtype)
    wide = _sum_dtype(real, x.tensor.dtype)
    zero = op.convert(_along(zero_point, axis, x.tensor.rank), dtype=wide)
    difference = op.subtract(op.convert(x, dtype=wide), zero)
    factor = as_dtype(_along(scale, axis, x.tensor.rank), real)
    return as_dtype(op.multiply(as_dtype(difference, real), factor), dtype)
