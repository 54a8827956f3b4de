"""Matrix products and convolutions of com.microsoft, with what optimisers fused into them."""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import permuted
from tilth.ir.ops.table import op
from tilth.onnx.build import matmul, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.convolution import conv
from tilth.onnx.ops.matrix import gemm
from tilth.onnx.ops.microsoft_activations import fast_gelu
from tilth.onnx.ops.recurrent import activate
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def fused_matmul(cx: NodeContext, a: Value, b: Value) -> Value:
    """alpha a' b', the operands transposed as the attributes say."""
    a = _transposed(a, cx.attr("transA", 0), cx.attr("transBatchA", 0))
    b = _transposed(b, cx.attr("transB", 0), cx.attr("transBatchB", 0))
    product, alpha = matmul(a, b), cx.attr("alpha", 1.0)
    return product if alpha == 1 else op.multiply(product, scalar(alpha, product))


def _transposed(x: Value, last: int, batch: int) -> Value:
    """`last` swaps the last two dimensions; `batch` moves the first one behind the batch's others.

    A vector is a row on the left and a column on the right either way.
    """
    order = list(range(len(x.shape)))
    if batch and len(order) > 2:
        order = [*order[1:-1], 0, order[-1]]
    if last and len(order) > 1:
        order[-2:] = reversed(order[-2:])
    return permuted(x, order)


@onnx_op("FusedMatMulActivation", domain=DOMAIN)
def fused_matmul_activation(cx: NodeContext, a: Value, b: Value) -> Value:
    return _activated(cx, fused_matmul(cx, a, b))


@onnx_op("FusedGemm", domain=DOMAIN)
def fused_gemm(cx: NodeContext, a: Value, b: Value, c: Value | None = None) -> Value:
    return _activated(cx, gemm(cx, a, b, c))


def _activated(cx: NodeContext, x: Value) -> Value:
    """The parameters of an activation come one by one; Selu's second is called gamma."""
    if not cx.has("activation"):
        return x
    name, alpha = cx.attr("activation"), cx.attr("activation_alpha", None)
    second = cx.attr("activation_gamma" if name == "Selu" else "activation_beta", None)
    return activate(name, x, alpha, second)


@onnx_op("GemmFastGelu", domain=DOMAIN)
def gemm_fast_gelu(cx: NodeContext, x: Value, w: Value, bias: Value | None = None) -> Value:
    return fast_gelu(cx, matmul(x, w), bias)


@onnx_op("FusedConv", domain=DOMAIN)
def fused_conv(
    cx: NodeContext, x: Value, w: Value, bias: Value | None = None, residual: Value | None = None
) -> Value:
    """activation(conv(x, w) + bias + residual)"""
    y = conv(cx, x, w, bias)
    if residual is not None:
        y = op.add(y, residual)
    if not cx.has("activation"):
        return y
    alpha, beta = (*cx.attr("activation_params", ()), None, None)[:2]
    return activate(cx.attr("activation"), y, alpha, beta)
