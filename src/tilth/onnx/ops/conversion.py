"""Conversions between element types, with the rounding and saturation of the narrow floats."""

from __future__ import annotations

import ml_dtypes

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.ops.table import op
from tilth.ir.types import DType, bool_, f8e8m0fnu, f32, i32, u8, u32
from tilth.onnx.build import as_bool, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.tensors import element_type

# Opset 1 wrote the target type of Cast as a name.
_TYPE_NAMES = {
    "FLOAT": 1, "UINT8": 2, "INT8": 3, "UINT16": 4, "INT16": 5, "INT32": 6, "INT64": 7,
    "BOOL": 9, "FLOAT16": 10, "DOUBLE": 11, "UINT32": 12, "UINT64": 13,
}  # fmt: skip


@onnx_op("Cast")
def cast(cx: NodeContext, x: Value) -> Value:
    to = cx.attr("to")
    return _cast(cx, x, element_type(_TYPE_NAMES.get(to, to), "attribute 'to'"))


@onnx_op("CastLike")
def cast_like(cx: NodeContext, x: Value, like: Value) -> Value:
    return _cast(cx, x, like.tensor.dtype)


def _cast(cx: NodeContext, x: Value, dtype: DType) -> Value:
    source = x.tensor.dtype
    if source == dtype:
        return x
    if "string" in (source.kind, dtype.kind):
        return op.convert(x, dtype=dtype)
    if dtype == bool_:
        return as_bool(x)
    if dtype == f8e8m0fnu and source.is_float:
        return _power_of_two(x, cx.attr("round_mode", "up"))
    if source.is_float and dtype.is_integer and dtype.bits < 8:
        x = as_dtype(x, i32)  # whose low bits are kept
    if dtype.is_float and dtype.bits == 8 and cx.attr("saturate", 1):
        x = _saturated(x, dtype)
    return as_dtype(x, dtype)


def _saturated(x: Value, dtype: DType) -> Value:
    """Beyond the largest number of an 8-bit float comes that number, not infinity or NaN."""
    source = x.tensor.dtype
    if source.is_float and source.bits == 8:
        x = as_dtype(x, f32)
    largest = float(ml_dtypes.finfo(dtype.numpy).max)
    return op.clamp(scalar(-largest, x), x, scalar(largest, x))


def _power_of_two(x: Value, round_mode: str) -> Value:
    """The exponent of x as a float8e8m0, which has no sign and no mantissa; NaN stays."""
    bits = op.bitcast_convert(as_dtype(x, f32), dtype=u32)
    exponent = op.and_(op.shift_right_logical(bits, scalar(23, u32)), scalar(0xFF, u32))
    mantissa = op.and_(bits, scalar(0x7FFFFF, u32))
    if round_mode != "down":
        least = 1 if round_mode == "up" else 0x400000
        up = op.compare(mantissa, scalar(least, u32), direction="GE")
        rounded = op.minimum(op.add(exponent, as_dtype(up, u32)), scalar(0xFE, u32))
        exponent = op.select(op.is_nan(x), scalar(0xFF, u32), rounded)
    return op.bitcast_convert(as_dtype(exponent, u8), dtype=f8e8m0fnu)


@onnx_op("BitCast")
def bit_cast(cx: NodeContext, x: Value) -> Value:
    dtype = element_type(cx.attr("to"), "attribute 'to'")
    if x.tensor.dtype == bool_:  # stored as a byte, 0 or 1
        x = as_dtype(x, u8)
    if dtype == bool_:
        return as_bool(x)
    return x if x.tensor.dtype == dtype else op.bitcast_convert(x, dtype=dtype)
