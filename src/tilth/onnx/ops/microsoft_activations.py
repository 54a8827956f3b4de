"""Activations of com.microsoft, most of them with an addition that optimisers fused into them."""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import split
from tilth.ir.ops.table import op
from tilth.onnx.build import scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("Gelu", "BiasGelu", domain=DOMAIN)
def gelu(cx: NodeContext, x: Value, bias: Value | None = None) -> Value:
    return op.gelu(_biased(x, bias), approximate="none")


@onnx_op("FastGelu", domain=DOMAIN)
def fast_gelu(cx: NodeContext, x: Value, bias: Value | None = None) -> Value:
    return op.gelu(_biased(x, bias), approximate="tanh")


def _biased(x: Value, bias: Value | None) -> Value:
    return x if bias is None else op.add(x, bias)


@onnx_op("QuickGelu", domain=DOMAIN)
def quick_gelu(cx: NodeContext, x: Value) -> Value:
    """x logistic(alpha x)"""
    alpha = cx.attr("alpha", 1.702)
    if alpha == 1:
        return op.silu(x)
    return op.multiply(x, op.logistic(op.multiply(x, scalar(alpha, x))))


@onnx_op("BiasSplitGelu", domain=DOMAIN)
def bias_split_gelu(cx: NodeContext, x: Value, bias: Value) -> Value:
    """The left half of x + bias times gelu of its right half."""
    half = x.shape[-1] // 2
    left, right = split(op.add(x, bias), (half, half), len(x.shape) - 1)
    return op.multiply(left, op.gelu(right, approximate="none"))


@onnx_op("BiasAdd", domain=DOMAIN)
def bias_add(cx: NodeContext, x: Value, bias: Value, skip: Value) -> Value:
    return op.add(op.add(x, bias), skip)


@onnx_op("ScaledSiLU", domain=DOMAIN)
def scaled_silu(cx: NodeContext, x: Value, scale: Value | None = None) -> Value:
    factor = scalar(cx.attr("alpha", 1.0), x) if scale is None else scale
    return op.silu(op.multiply(x, factor))


@onnx_op("GatedAdd", domain=DOMAIN)
def gated_add(cx: NodeContext, x: Value, y: Value, gate: Value) -> Value:
    return op.add(x, op.multiply(y, gate))
