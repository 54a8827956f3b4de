"""Fourier transforms and complex products of com.microsoft: [..., 2] are real, imaginary part."""

from __future__ import annotations

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_shape
from tilth.ir.ops.table import op
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.signal import complex_parts, joined_parts, real_inverse, transform
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


def _require_plain(cx: NodeContext) -> None:
    if cx.attr("signal_ndim", 1) != 1:
        raise UnsupportedError(f"{cx.label}: transforms over more than one dimension")
    if cx.attr("normalized", 0) or not cx.attr("onesided", 1):
        raise UnsupportedError(f"{cx.label}: only transforms with normalized=0 and onesided=1")


@onnx_op("Rfft", domain=DOMAIN)
def rfft(cx: NodeContext, x: Value) -> Value:
    """[..., n] to [..., n / 2 + 1, 2]"""
    _require_plain(cx)
    axis, length = len(x.shape) - 1, x.shape[-1]
    return joined_parts(transform([x], axis, length, length // 2 + 1, inverse=False))


@onnx_op("Irfft", domain=DOMAIN)
def irfft(cx: NodeContext, x: Value) -> Value:
    """[..., n / 2 + 1, 2] to [..., n] for an even n; the inverse of `Rfft`."""
    _require_plain(cx)
    axis = len(x.shape) - 2
    y = real_inverse(x, axis, 2 * (x.shape[axis] - 1))
    return as_shape(y, y.shape[:-1])


@onnx_op("ComplexMul", domain=DOMAIN)
def complex_mul(cx: NodeContext, x: Value, y: Value) -> Value:
    return _product(x, y, conjugate=False)


@onnx_op("ComplexMulConj", domain=DOMAIN)
def complex_mul_conj(cx: NodeContext, x: Value, y: Value) -> Value:
    """x times the conjugate of y."""
    return _product(x, y, conjugate=True)


def _product(x: Value, y: Value, conjugate: bool) -> Value:
    (a, b), (c, d) = complex_parts(x), complex_parts(y)
    d = op.negate(d) if conjugate else d
    real = op.subtract(op.multiply(a, c), op.multiply(b, d))
    return joined_parts([real, op.add(op.multiply(a, d), op.multiply(b, c))])
