"""Elementwise operators: one-to-one names in tables, the others built from primitives."""

from __future__ import annotations

from functools import reduce
from typing import Any

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh",
    "Atan": "atan", "Atanh": "atanh", "BitwiseNot": "not", "Ceil": "ceil", "Cos": "cosine",
    "Cosh": "cosh", "Erf": "erf", "Exp": "exponential", "Floor": "floor",
    "HardSwish": "hard_swish", "IsNaN": "is_nan", "Log": "log", "Mish": "mish",
    "Neg": "negate", "Not": "not", "Relu": "relu", "Round": "round_nearest_even",
    "Sigmoid": "logistic", "Sign": "sign", "Sin": "sine", "Sinh": "sinh",
    "Softplus": "softplus", "Softsign": "softsign", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
}  # fmt: skip

BINARY = {
    "Add": "add", "And": "and", "BitwiseAnd": "and", "BitwiseOr": "or", "BitwiseXor": "xor",
    "Div": "divide", "Mul": "multiply", "Or": "or", "PRelu": "prelu", "Sub": "subtract",
    "Xor": "xor",
}  # fmt: skip

COMPARE = {
    "Equal": "EQ", "Greater": "GT", "GreaterOrEqual": "GE", "Less": "LT", "LessOrEqual": "LE",
}  # fmt: skip

VARIADIC = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


@onnx_op(*UNARY)
def unary(cx: NodeContext, x: Value) -> Value:
    return getattr(op, UNARY[cx.op_type])(x)


def _binary(op_type: str, x: Value, y: Value) -> Value:
    if op_type in COMPARE:
        return op.compare(x, y, direction=COMPARE[op_type])
    if op_type == "PRelu":
        return op.select(op.compare(x, scalar(0, x), direction="LT"), op.multiply(x, y), x)
    if op_type == "Pow":
        return _pow(x, y)
    return getattr(op, BINARY[op_type])(x, y)


@onnx_op(*BINARY, *COMPARE, since=7)
def binary(cx: NodeContext, x: Value, y: Value) -> Value:
    return _binary(cx.op_type, x, y)


@onnx_op(*BINARY, *COMPARE, "Pow", since=1)
def binary_with_axis(cx: NodeContext, x: Value, y: Value) -> Value:
    """Before opset 7, `broadcast` asks for it and `axis` says where `y` is aligned in `x`."""
    if cx.attr("broadcast", 0) and y.shape != x.shape and cx.has("axis"):
        axis = normal_axis(cx.attr("axis"), len(x.shape))
        y = as_shape(y, (*y.shape, *(1,) * (len(x.shape) - axis - len(y.shape))))
    elif cx.op_type == "PRelu" and y.shape != x.shape and len(y.shape) == 1:
        y = as_shape(y, (*y.shape, *(1,) * (len(x.shape) - 2)))  # one slope per channel
    return _binary(cx.op_type, x, y)


def _pow(x: Value, y: Value) -> Value:
    """The result has the base's type; a mixed pair is computed in the wider kind."""
    base, exponent = x.tensor.dtype, y.tensor.dtype
    if base == exponent:
        return op.power(x, y)
    if base.is_float and base.bits >= 32:
        return op.power(x, as_dtype(y, base))
    wide = exponent if exponent.is_float else base
    wide = f32 if wide.is_float and wide.bits < 32 else wide
    return as_dtype(op.power(as_dtype(x, wide), as_dtype(y, wide)), base)


@onnx_op("Pow", since=7)
def pow_(cx: NodeContext, x: Value, y: Value) -> Value:
    return _pow(x, y)


@onnx_op(*VARIADIC)
def variadic(cx: NodeContext, *xs: Value) -> Value:
    return reduce(getattr(op, VARIADIC[cx.op_type]), xs)


@onnx_op("Mean")
def mean(cx: NodeContext, *xs: Value) -> Value:
    return op.divide(reduce(op.add, xs), scalar(len(xs), xs[0]))


@onnx_op("Mod")
def mod(cx: NodeContext, x: Value, y: Value) -> Value:
    """C's remainder with fmod=1, else Python's, whose sign is the divisor's."""
    rest = op.remainder(x, y)
    if cx.attr("fmod", 0) or x.tensor.dtype.kind == "uint":
        return rest
    zero = scalar(0, x)
    differs = op.xor(op.compare(rest, zero, direction="LT"), op.compare(y, zero, direction="LT"))
    nonzero = op.compare(rest, zero, direction="NE")
    return op.select(op.and_(nonzero, differs), op.add(rest, y), rest)


@onnx_op("BitShift")
def bit_shift(cx: NodeContext, x: Value, y: Value) -> Value:
    left = cx.attr("direction") == "LEFT"
    if left:
        return op.shift_left(x, y)
    signed = x.tensor.dtype.kind == "int"
    return (op.shift_right_arithmetic if signed else op.shift_right_logical)(x, y)


@onnx_op("Where")
def where(cx: NodeContext, condition: Value, x: Value, y: Value) -> Value:
    return op.select(condition, x, y)


@onnx_op("Reciprocal")
def reciprocal(cx: NodeContext, x: Value) -> Value:
    return op.divide(scalar(1, x), x)


@onnx_op("IsInf")
def is_inf(cx: NodeContext, x: Value) -> Value:
    positive, negative = cx.attr("detect_positive", 1), cx.attr("detect_negative", 1)
    infinite = op.is_inf(x)
    if positive and negative:
        return infinite
    side = "GT" if positive else "LT"
    wanted = op.compare(x, scalar(0, x), direction=side)
    return op.and_(infinite, wanted) if positive or negative else op.xor(infinite, infinite)


@onnx_op("Identity")
def identity(cx: NodeContext, x: Any) -> list[Any]:
    return [x]


# Activations with parameters


@onnx_op("LeakyRelu")
def leaky_relu(cx: NodeContext, x: Value) -> Value:
    return op.leaky_relu(x, alpha=cx.attr("alpha", 0.01))


@onnx_op("Elu")
def elu(cx: NodeContext, x: Value) -> Value:
    return op.elu(x, alpha=cx.attr("alpha", 1.0))


@onnx_op("Selu", since=6)
def selu(cx: NodeContext, x: Value) -> Value:
    alpha = cx.attr("alpha", 1.67326319217681884765625)
    return op.selu(x, alpha=alpha, gamma=cx.attr("gamma", 1.05070102214813232421875))


@onnx_op("Selu", since=1)
def selu_1(cx: NodeContext, x: Value) -> Value:
    return op.selu(x, alpha=cx.attr("alpha", 1.6732), gamma=cx.attr("gamma", 1.0507))


@onnx_op("HardSigmoid")
def hard_sigmoid(cx: NodeContext, x: Value) -> Value:
    return op.hard_sigmoid(x, alpha=cx.attr("alpha", 0.2), beta=cx.attr("beta", 0.5))


@onnx_op("Gelu")
def gelu(cx: NodeContext, x: Value) -> Value:
    return op.gelu(x, approximate=cx.attr("approximate", "none"))


@onnx_op("Swish")
def swish(cx: NodeContext, x: Value) -> Value:
    alpha = cx.attr("alpha", 1.0)
    if alpha == 1.0:
        return op.silu(x)
    return op.multiply(x, op.logistic(op.multiply(x, scalar(alpha, x))))


@onnx_op("Celu")
def celu(cx: NodeContext, x: Value) -> Value:
    """max(0, x) + min(0, alpha (exp(x / alpha) - 1))"""
    alpha, zero = scalar(cx.attr("alpha", 1.0), x), scalar(0, x)
    low = op.multiply(alpha, op.exponential_minus_one(op.divide(x, alpha)))
    return op.add(op.maximum(x, zero), op.minimum(low, zero))


@onnx_op("ThresholdedRelu")
def thresholded_relu(cx: NodeContext, x: Value) -> Value:
    above = op.compare(x, scalar(cx.attr("alpha", 1.0), x), direction="GT")
    return op.select(above, x, scalar(0, x))


@onnx_op("Shrink")
def shrink(cx: NodeContext, x: Value) -> Value:
    bias, limit = scalar(cx.attr("bias", 0.0), x), cx.attr("lambd", 0.5)
    low = op.compare(x, scalar(-limit, x), direction="LT")
    high = op.compare(x, scalar(limit, x), direction="GT")
    inner = op.select(high, op.subtract(x, bias), scalar(0, x))
    return op.select(low, op.add(x, bias), inner)


@onnx_op("Clip", since=11)
def clip(cx: NodeContext, x: Value, low: Value | None = None, high: Value | None = None) -> Value:
    """min(max(x, low), high): when the bounds cross, the result is `high`."""
    if low is not None and high is not None:
        return op.clamp(low, x, high)
    if low is not None:
        return op.maximum(x, low)
    return x if high is None else op.minimum(x, high)


@onnx_op("Clip", since=1)
def clip_attributes(cx: NodeContext, x: Value) -> Value:
    low = scalar(cx.attr("min"), x) if cx.has("min") else None
    return clip(cx, x, low, scalar(cx.attr("max"), x) if cx.has("max") else None)
