"""Uniform quantisation with an explicit scale and zero point, per tensor or per axis."""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import check_axis, check_kind
from tilth.ir.ops.numerics import Array, narrow, saturating_round, widen
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import DType, TensorType


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


def _along(x: Array, axis: int | None, rank: int) -> Array:
    """A per-axis vector aligned with its axis, widened."""
    x = widen(x)
    return x if axis is None else x.reshape([-1 if i == axis else 1 for i in range(rank)])


primitive("uniform_quantize", "round(x / scale) + zero_point, to nearest even, clamped")


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


@reference("uniform_quantize")
def _(x: Array, scale: Array, zero_point: Array, *, dtype: DType, axis: int | None) -> Array:
    scaled = widen(x) / _along(scale, axis, x.ndim)
    zero = _along(zero_point, axis, x.ndim).astype(np.float64)
    rounded = np.rint(scaled) if dtype.is_integer else scaled
    return saturating_round(rounded.astype(np.float64) + zero, dtype.numpy)


primitive("uniform_dequantize", "(x - zero_point) scale")


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


@reference("uniform_dequantize")
def _(x: Array, scale: Array, zero_point: Array, *, dtype: DType, axis: int | None) -> Array:
    scale = _along(scale, axis, x.ndim)
    difference = widen(x).astype(np.float64) - _along(zero_point, axis, x.ndim)
    return narrow(difference.astype(scale.dtype) * scale, dtype.numpy)
