"""Matrix products of com.microsoft on integers and of dynamically quantised activations.

Sums are taken in 32-bit integers, exactly; scales are multiplied first, then applied once.
"""

from __future__ import annotations

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import f32, i32, u32
from tilth.onnx.build import matmul, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.quantization import dynamic_quantize_linear
from tilth.onnx.quantized import centred, product_of, requantized
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("QGemm", domain=DOMAIN)
def qgemm(
    cx: NodeContext,
    a: Value,
    a_scale: Value,
    a_zero: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value,
    c: Value | None = None,
    y_scale: Value | None = None,
    y_zero: Value | None = None,
) -> Value:
    """alpha (a' b' + c), where c is i32 in units of both scales; f32 without `y_scale`."""
    left, right = centred(a, a_zero), b
    if cx.attr("transA", 0):
        left = permuted(left, (1, 0))
    if cx.attr("transB", 0):
        right = permuted(right, (1, 0))
    total = matmul(left, centred(right, b_zero, axis=1))
    if c is not None:
        total = op.add(total, c)
    factor = product_of(scalar(cx.attr("alpha", 1.0), f32), a_scale, b_scale)
    if y_scale is None:
        return op.multiply(as_dtype(total, f32), factor)
    dtype = a.tensor.dtype if y_zero is None else y_zero.tensor.dtype
    return requantized(total, op.divide(factor, product_of(y_scale)), y_zero, dtype)


@onnx_op("MatMulIntegerToFloat", domain=DOMAIN)
def matmul_integer_to_float(
    cx: NodeContext,
    a: Value,
    b: Value,
    a_scale: Value,
    b_scale: Value,
    a_zero: Value | None = None,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """`b` may have a scale and a zero point per column."""
    if a_scale.tensor.size != 1 or (a_zero is not None and a_zero.tensor.size != 1):
        raise UnsupportedError(f"{cx.label}: a scale or zero point per column of A")
    total = matmul(centred(a, a_zero), centred(b, b_zero, axis=len(b.shape) - 1))
    real = op.multiply(as_dtype(total, f32), product_of(a_scale, b_scale))
    real = real if bias is None else op.add(real, as_dtype(bias, f32))
    return as_dtype(real, a_scale.tensor.dtype)


@onnx_op("DynamicQuantizeMatMul", domain=DOMAIN)
def dynamic_quantize_matmul(
    cx: NodeContext,
    a: Value,
    b: Value,
    b_scale: Value,
    b_zero: Value | None = None,
    bias: Value | None = None,
) -> Value:
    """`a` is quantised to u8 over its own range."""
    q, a_scale, a_zero = dynamic_quantize_linear(cx, a)
    return matmul_integer_to_float(cx, q, b, a_scale, b_scale, a_zero, b_zero, bias)


@onnx_op("MatMulInteger16", domain=DOMAIN)
def matmul_integer16(cx: NodeContext, a: Value, b: Value) -> Value:
    """Products of unsigned operands are u32, all others i32."""
    unsigned = a.tensor.dtype.kind == b.tensor.dtype.kind == "uint"
    wide = u32 if unsigned else i32
    return matmul(as_dtype(a, wide), as_dtype(b, wide))
