"""Poolings and reductions of com.microsoft on quantised tensors.

Elements are summed as integers, exactly; one factor then takes count and scales into account.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i32, u32
from tilth.onnx.build import expand_dims, normal_axes, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.microsoft_channels_last import channels_first, channels_last
from tilth.onnx.ops.pooling import average_pool
from tilth.onnx.quantized import centred, dequantized, product_of, quantized, requantized
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


def _mean(
    x: Value,
    axes: Sequence[int],
    parameters: tuple[Value, Value | None, Value, Value | None],
) -> Value:
    """The requantised mean over axes, which are dropped; scale, zero of x, scale, zero of y."""
    x_scale, x_zero, y_scale, y_zero = parameters
    total = op.reduce(centred(x, x_zero), kind="sum", axes=tuple(axes))
    count = scalar(math.prod(x.shape[a] for a in axes), f32)
    factor = op.divide(product_of(x_scale), op.multiply(product_of(y_scale), count))
    return requantized(total, factor, y_zero, x.tensor.dtype)


@onnx_op("QLinearGlobalAveragePool", domain=DOMAIN)
def qlinear_global_average_pool(
    cx: NodeContext, x: Value, x_scale: Value, x_zero: Value, y_scale: Value, y_zero: Value
) -> Value:
    first = 1 if cx.attr("channels_last", 0) else 2
    axes = tuple(range(first, first + len(x.shape) - 2))
    return expand_dims(_mean(x, axes, (x_scale, x_zero, y_scale, y_zero)), axes)


@onnx_op("QLinearReduceMean", domain=DOMAIN)
def qlinear_reduce_mean(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
) -> Value:
    axes = normal_axes(cx.attr("axes", tuple(range(len(x.shape)))), len(x.shape))
    mean = _mean(x, axes, (x_scale, x_zero, y_scale, y_zero))
    return expand_dims(mean, axes) if cx.attr("keepdims", 1) else mean


@onnx_op("ReduceSumInteger", domain=DOMAIN)
def reduce_sum_integer(cx: NodeContext, x: Value) -> Value:
    """i8 is summed in i32, u8 in u32."""
    wide = as_dtype(x, i32 if x.tensor.dtype.kind == "int" else u32)
    axes = normal_axes(cx.attr("axes", tuple(range(len(x.shape)))), len(x.shape))
    total = op.reduce(wide, kind="sum", axes=axes)
    return expand_dims(total, axes) if cx.attr("keepdims", 1) else total


@onnx_op("QLinearAveragePool", domain=DOMAIN)
def qlinear_average_pool(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
) -> Value:
    """Padding that counts is the real number 0."""
    last = bool(cx.attr("channels_last", 0))
    real = dequantized(channels_first(x) if last else x, x_scale, x_zero)
    mean = average_pool(cx, real)
    y = quantized(mean, y_scale, y_zero, x.tensor.dtype)
    return channels_last(y) if last else y
