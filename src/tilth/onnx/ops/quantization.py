"""Quantisation: explicit quantise and dequantise nodes, and the operators on quantised tensors."""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import align, as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32, u8
from tilth.onnx.build import matmul, normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.convolution import convolve
from tilth.onnx.quantized import centred, product_of, repeated, requantized, scalars, zero_like
from tilth.onnx.registry import onnx_op
from tilth.onnx.tensors import element_type


def _axis_of(cx: NodeContext, x: Value, scale: Value) -> int | None:
    return normal_axis(cx.attr("axis", 1), len(x.shape)) if scale.shape else None


def _blocked(cx: NodeContext, x: Value, parameter: Value) -> Value:
    """A parameter per block along `axis`, repeated to the shape of x."""
    axis = normal_axis(cx.attr("axis", 1), len(x.shape))
    return repeated(parameter, axis, cx.attr("block_size"), x.shape[axis])


@onnx_op("QuantizeLinear")
@onnx_op("QuantizeLinear", domain="com.microsoft")
def quantize_linear(
    cx: NodeContext, x: Value, scale: Value, zero_point: Value | None = None
) -> Value:
    if zero_point is not None:
        dtype = zero_point.tensor.dtype
    else:
        number = cx.attr("output_dtype", 0)
        dtype = element_type(number, "attribute 'output_dtype'") if number else u8
    zero = zero_like(scale, dtype) if zero_point is None else zero_point
    number = cx.attr("precision", 0)
    wide = element_type(number, "attribute 'precision'") if number else f32
    x = as_dtype(x, wide)
    if cx.attr("block_size", 0):
        return _quantize_elementwise(x, _blocked(cx, x, scale), _blocked(cx, x, zero), dtype)
    scale, zero = scalars(as_dtype(scale, wide), zero)
    return op.uniform_quantize(x, scale, zero, axis=_axis_of(cx, x, scale), dtype=dtype)


def _quantize_elementwise(x: Value, scale: Value, zero: Value, dtype: DType) -> Value:
    """`uniform_quantize` with a scale and zero point per element."""
    scaled = op.divide(x, as_dtype(scale, x.tensor.dtype))
    if dtype.is_integer:
        scaled = op.round_nearest_even(scaled)
    shifted = op.add(scaled, as_dtype(zero, x.tensor.dtype))
    return op.uniform_quantize(shifted, scalar(1, x), scalar(0, dtype), dtype=dtype)


@onnx_op("DequantizeLinear")
@onnx_op("DequantizeLinear", domain="com.microsoft")
def dequantize_linear(
    cx: NodeContext, x: Value, scale: Value, zero_point: Value | None = None
) -> Value:
    number = cx.attr("output_dtype", 0)
    dtype = element_type(number, "attribute 'output_dtype'") if number else scale.tensor.dtype
    zero = zero_like(scale, x.tensor.dtype) if zero_point is None else zero_point
    if cx.attr("block_size", 0):
        wide, offset = as_dtype(x, f32), as_dtype(_blocked(cx, x, zero), f32)
        factor = as_dtype(_blocked(cx, x, scale), f32)
        return as_dtype(op.multiply(op.subtract(wide, offset), factor), dtype)
    scale, zero = scalars(scale, zero)
    real = scale.tensor.dtype
    axis = _axis_of(cx, x, scale)
    return as_dtype(op.uniform_dequantize(x, scale, zero, axis=axis, dtype=real), dtype)


@onnx_op("QLinearMatMul")
def qlinear_matmul(
    cx: NodeContext,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    y_scale: Value,
    y_zero: Value,
) -> Value:
    """Scales per tensor, per row of `a`, or per column of `b`."""
    total = matmul(centred(a, a_zero, len(a.shape) - 2), centred(b, b_zero, len(b.shape) - 1))
    a_scale, b_scale, y_scale = scalars(*(as_dtype(s, f32) for s in (a_scale, b_scale, y_scale)))
    if len(a_scale.shape) == 1:
        a_scale = as_shape(a_scale, (*a_scale.shape, 1))
    factor = op.divide(op.multiply(a_scale, b_scale), y_scale)
    return requantized(total, factor, y_zero, y_zero.tensor.dtype)


@onnx_op("QLinearConv")
def qlinear_conv(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    w: Value,
    w_scale: Value,
    w_zero: Value,
    y_scale: Value,
    y_zero: Value,
    bias: Value | None = None,
) -> Value:
    """The bias is i32 in units of x_scale * w_scale; weights may be scaled per output channel."""
    total = convolve(cx, centred(x, x_zero, None), centred(w, w_zero, 0))
    if bias is not None:
        total = op.add(total, align(bias, 1, len(total.shape)))
    factor = op.divide(product_of(x_scale, w_scale), product_of(y_scale))
    return requantized(total, factor, y_zero, y_zero.tensor.dtype, axis=1)


@onnx_op("DynamicQuantizeLinear")
def dynamic_quantize_linear(cx: NodeContext, x: Value) -> list[Value]:
    """To u8 over the tensor's own range, which is widened to contain 0."""
    zero = scalar(0, x)
    axes = tuple(range(len(x.shape)))
    low = op.minimum(op.reduce(x, kind="min", axes=axes), zero)
    high = op.maximum(op.reduce(x, kind="max", axes=axes), zero)
    scale = op.divide(op.subtract(high, low), scalar(255, x))
    centre = op.clamp(zero, op.divide(op.subtract(zero, low), scale), scalar(255, x))
    zero_point = as_dtype(op.round_nearest_even(centre), u8)
    return [op.uniform_quantize(x, scale, zero_point, dtype=u8), scale, zero_point]
