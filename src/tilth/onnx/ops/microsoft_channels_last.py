"""Operators of com.microsoft whose tensors have their channels last.

They are the channels-first operators between two transposes, which the compiler takes out again.
"""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import permuted
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.convolution import conv
from tilth.onnx.ops.microsoft_products import fused_conv
from tilth.onnx.ops.pooling import max_pool
from tilth.onnx.ops.quantization import qlinear_conv
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


def channels_first(x: Value) -> Value:
    """[N, spatial..., C] as [N, C, spatial...]"""
    rank = len(x.shape)
    return permuted(x, (0, rank - 1, *range(1, rank - 1)))


def channels_last(x: Value) -> Value:
    """[N, C, spatial...] as [N, spatial..., C]"""
    return permuted(x, (0, *range(2, len(x.shape)), 1))


@onnx_op("NhwcConv", domain=DOMAIN)
def nhwc_conv(cx: NodeContext, x: Value, w: Value, bias: Value | None = None) -> Value:
    """The weights are laid out as Conv's, output and input channels first."""
    return channels_last(conv(cx, channels_first(x), w, bias))


@onnx_op("NhwcFusedConv", domain=DOMAIN)
def nhwc_fused_conv(
    cx: NodeContext, x: Value, w: Value, bias: Value | None = None, residual: Value | None = None
) -> Value:
    """activation(conv(x, w) + bias + residual)"""
    residual = None if residual is None else channels_first(residual)
    return channels_last(fused_conv(cx, channels_first(x), w, bias, residual))


@onnx_op("NhwcMaxPool", domain=DOMAIN)
def nhwc_max_pool(cx: NodeContext, x: Value) -> Value:
    return channels_last(max_pool(cx, channels_first(x))[0])


@onnx_op("QLinearConv", domain=DOMAIN)
def qlinear_conv_of_either_layout(cx: NodeContext, x: Value, *operands: Value) -> Value:
    if not cx.attr("channels_last", 0):
        return qlinear_conv(cx, x, *operands)
    return channels_last(qlinear_conv(cx, channels_first(x), *operands))
