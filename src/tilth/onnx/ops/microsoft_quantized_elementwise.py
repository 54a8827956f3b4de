"""Elementwise operators of com.microsoft on quantised tensors.

Each is its real function between a dequantisation and a quantisation; products of integers are
taken exactly before they are scaled.

Source: ONNX Runtime, "Contrib Operators" (docs/ContribOperators.md).
"""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.table import op
from tilth.onnx.build import as_bool, concatenate, flatten, normal_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.quantized import (
    centred,
    dequantized,
    product_of,
    quantized,
    requantized,
    triples,
)
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("QLinearAdd", domain=DOMAIN)
def qlinear_add(
    cx: NodeContext,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    c_scale: Value,
    c_zero: Value | None = None,
) -> Value:
    total = op.add(dequantized(a, a_scale, a_zero), dequantized(b, b_scale, b_zero))
    return quantized(total, c_scale, c_zero, a.tensor.dtype)


@onnx_op("QLinearMul", domain=DOMAIN)
def qlinear_mul(
    cx: NodeContext,
    a: Value,
    a_scale: Value,
    a_zero: Value | None,
    b: Value,
    b_scale: Value,
    b_zero: Value | None,
    c_scale: Value,
    c_zero: Value | None = None,
) -> Value:
    factor = op.divide(product_of(a_scale, b_scale), product_of(c_scale))
    product = op.multiply(centred(a, a_zero), centred(b, b_zero))
    return requantized(product, factor, c_zero, a.tensor.dtype)


@onnx_op("MulInteger", domain=DOMAIN)
def mul_integer(
    cx: NodeContext, a: Value, a_zero: Value | None, b: Value, b_zero: Value | None = None
) -> Value:
    """The i32 products of what is left without the zero points."""
    return op.multiply(centred(a, a_zero), centred(b, b_zero))


@onnx_op("QLinearLeakyRelu", domain=DOMAIN)
def qlinear_leaky_relu(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
) -> Value:
    real = op.leaky_relu(dequantized(x, x_scale, x_zero), alpha=cx.attr("alpha", 0.01))
    return quantized(real, y_scale, y_zero, x.tensor.dtype)


@onnx_op("QLinearSigmoid", domain=DOMAIN)
def qlinear_sigmoid(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value | None = None,
) -> Value:
    real = op.logistic(dequantized(x, x_scale, x_zero))
    return quantized(real, y_scale, y_zero, x.tensor.dtype)


@onnx_op("QLinearSoftmax", domain=DOMAIN)
def qlinear_softmax(
    cx: NodeContext,
    x: Value,
    x_scale: Value,
    x_zero: Value | None,
    y_scale: Value,
    y_zero: Value,
) -> Value:
    """Before opset 13 of Softmax all dimensions from `axis` on are one."""
    axis = normal_axis(cx.attr("axis", -1), len(x.shape))
    real = dequantized(x, x_scale, x_zero)
    if cx.attr("opset") >= 13:
        real = op.softmax(real, axis=axis)
    else:
        real = op.reshape(op.softmax(flatten(real, axis), axis=1), shape=x.shape)
    return quantized(real, y_scale, y_zero, x.tensor.dtype)


@onnx_op("QLinearConcat", domain=DOMAIN)
def qlinear_concat(cx: NodeContext, y_scale: Value, y_zero: Value, *operands: Value) -> Value:
    dtype = y_zero.tensor.dtype
    parts = [
        quantized(dequantized(x, scale, zero), y_scale, y_zero, dtype)
        for x, scale, zero in triples(operands)
    ]
    return concatenate(parts, normal_axis(cx.attr("axis"), len(parts[0].shape)))


@onnx_op("QLinearWhere", domain=DOMAIN)
def qlinear_where(
    cx: NodeContext,
    condition: Value,
    x: Value,
    x_scale: Value,
    x_zero: Value,
    y: Value,
    y_scale: Value,
    y_zero: Value,
    z_scale: Value,
    z_zero: Value,
) -> Value:
    real = op.select(
        as_bool(condition), dequantized(x, x_scale, x_zero), dequantized(y, y_scale, y_zero)
    )
    return quantized(real, z_scale, z_zero, x.tensor.dtype)
