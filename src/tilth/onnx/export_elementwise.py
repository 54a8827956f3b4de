"""Elementwise ops as ONNX: most have an operator of their own, some are a short formula."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Node, constant_of
from tilth.ir.types import DType, bool_, f32, f64, i32, u8, u16, u32, u64
from tilth.onnx.export_core import NUMBERS, GraphExporter, Names, exports

_SAME = {
    "abs": "Abs",
    "sign": "Sign",
    "ceil": "Ceil",
    "floor": "Floor",
    "round_nearest_even": "Round",
    "exponential": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "sine": "Sin",
    "cosine": "Cos",
    "tan": "Tan",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "tanh": "Tanh",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "erf": "Erf",
    "logistic": "Sigmoid",
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "select": "Where",
    "relu": "Relu",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "hard_swish": "HardSwish",
    "mish": "Mish",
}
_UNSIGNED = {8: u8, 16: u16, 32: u32, 64: u64}


@exports(*_SAME)
def _(e: GraphExporter, node: Node, *xs: str) -> Names:
    return e.op(_SAME[node.op], *xs)


_WITH_ATTRIBUTES = {
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "selu": "Selu",
    "hard_sigmoid": "HardSigmoid",
    "gelu": "Gelu",
}


@exports(*_WITH_ATTRIBUTES)
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op(_WITH_ATTRIBUTES[node.op], x, **node.attrs)


@exports("silu")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    return e.op("Swish", x) if e.target.opset >= 24 else None


@exports("negate")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    if node.inputs[0].tensor.dtype.kind == "uint":
        return e.op("Sub", e.like(0, node.inputs[0]), x)
    return e.op("Neg", x)


@exports("rsqrt")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op("Reciprocal", e.op("Sqrt", x))


@exports("cbrt")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    root = e.op("Pow", e.op("Abs", x), e.like(1 / 3, node.inputs[0]))
    return e.op("Mul", e.op("Sign", x), root)


@exports("exponential_minus_one")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    """2 e^(x/2) sinh(x/2), which is exact near 0."""
    half = e.op("Mul", x, e.like(0.5, node.inputs[0]))
    product = e.op("Mul", e.op("Exp", half), e.op("Sinh", half))
    return e.op("Mul", product, e.like(2, node.inputs[0]))


@exports("log_plus_one")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    """Near 0 it is 2 artanh(x / (2 + x))."""
    value = node.inputs[0]
    ratio = e.op("Div", x, e.op("Add", x, e.like(2, value)))
    near = e.op("Mul", e.op("Atanh", ratio), e.like(2, value))
    far = e.op("Log", e.op("Add", x, e.like(1, value)))
    return e.op("Where", e.op("Less", e.op("Abs", x), e.like(0.5, value)), near, far)


@exports("atan2")
def _(e: GraphExporter, node: Node, y: str, x: str) -> Names:
    """The arctangent of y / x, half a turn on where x is negative; the sign of zeros is lost."""
    value = node.inputs[0]
    zero, turn = e.like(0, value), e.like(math.pi, value)
    slope = e.op("Atan", e.op("Div", y, x))
    below = e.op("Less", y, zero)
    turned = e.op("Where", below, e.op("Sub", slope, turn), e.op("Add", slope, turn))
    angle = e.op("Where", e.op("Less", x, zero), turned, slope)
    both_zero = e.op("And", e.op("Equal", x, zero), e.op("Equal", y, zero))
    return e.op("Where", both_zero, zero, angle)


@exports("remainder")
def _(e: GraphExporter, node: Node, x: str, y: str) -> Names:
    return e.op("Mod", x, y, fmod=1)


@exports("maximum", "minimum")
def _(e: GraphExporter, node: Node, x: str, y: str) -> Names:
    if node.inputs[0].tensor.dtype == bool_:
        return e.op("Or" if node.op == "maximum" else "And", x, y)
    return e.op("Max" if node.op == "maximum" else "Min", x, y)


@exports("clamp")
def _(e: GraphExporter, node: Node, low: str, x: str, high: str) -> Names:
    bounds = node.inputs[0], node.inputs[2]
    if all(constant_of(b) is not None and b.shape == () for b in bounds):
        return e.op("Clip", x, low, high)
    return e.op("Min", e.op("Max", x, low), high)


@exports("and", "or", "xor", "not")
def _(e: GraphExporter, node: Node, *xs: str) -> Names:
    name = node.op.capitalize()
    logical = node.inputs[0].tensor.dtype == bool_
    return e.op(name if logical else f"Bitwise{name}", *xs)


@exports("shift_left", "shift_right_logical")
def _(e: GraphExporter, node: Node, x: str, y: str) -> Names | None:
    """On unsigned integers; amounts of at least the width give 0."""
    dtype = node.types[0].dtype  # type: ignore[union-attr]
    if dtype.bits not in _UNSIGNED:
        return None
    unsigned = _UNSIGNED[dtype.bits]
    if dtype != unsigned:
        x, y = e.cast(x, unsigned), e.cast(y, unsigned)
    limit, zero = e.constant(dtype.bits, unsigned), e.constant(0, unsigned)
    fits = e.op("Less", y, limit)
    direction = "LEFT" if node.op == "shift_left" else "RIGHT"
    shifted = e.op("BitShift", x, e.op("Where", fits, y, zero), direction=direction)
    result = e.op("Where", fits, shifted, zero)
    return result if dtype == unsigned else e.cast(result, dtype)


_COMPARE = {"LT": "Less", "LE": "LessOrEqual", "GT": "Greater", "GE": "GreaterOrEqual"}


@exports("compare")
def _(e: GraphExporter, node: Node, x: str, y: str) -> Names:
    direction = node.attrs["direction"]
    if direction in ("EQ", "NE"):
        equal = e.op("Equal", x, y)
        return equal if direction == "EQ" else e.op("Not", equal)
    if node.inputs[0].tensor.dtype == bool_:
        x, y = e.cast(x, i32), e.cast(y, i32)
    return e.op(_COMPARE[direction], x, y)


def _as_f32(e: GraphExporter, node: Node, x: str) -> str:
    """Small floats as f32, which the tests for NaN and infinity take at every opset."""
    return e.cast(x, f32) if node.inputs[0].tensor.dtype.bits < 16 else x


@exports("is_nan")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op("IsNaN", _as_f32(e, node, x))


@exports("is_inf")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op("IsInf", _as_f32(e, node, x))


@exports("is_finite")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    x = _as_f32(e, node, x)
    return e.op("Not", e.op("Or", e.op("IsInf", x), e.op("IsNaN", x)))


@exports("convert")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return _converted(e, x, node.inputs[0].tensor.dtype, node.attrs["dtype"])


def _converted(e: GraphExporter, x: str, source: DType, target: DType) -> str:
    """A Cast; what is beyond the range of an integer is clamped first, which Cast leaves open."""
    if source.is_float and target.is_integer and 8 <= target.bits <= 32:
        limits = np.iinfo(target.numpy)
        wide = x if source == f64 else e.cast(x, f64)  # holds all these integers
        x = e.op("Clip", wide, e.constant(limits.min, f64), e.constant(limits.max, f64))
    return e.cast(x, target)


@exports("bitcast_convert")
def _(e: GraphExporter, node: Node, x: str) -> Names | None:
    return e.op("BitCast", x, to=NUMBERS[node.attrs["dtype"]]) if e.target.opset >= 26 else None


@exports("uniform_quantize", "uniform_dequantize")
def _(e: GraphExporter, node: Node, x: str, scale: str, zero_point: str) -> Names:
    name = "QuantizeLinear" if node.op == "uniform_quantize" else "DequantizeLinear"
    return e.op(name, x, scale, zero_point, axis=node.attrs["axis"])
