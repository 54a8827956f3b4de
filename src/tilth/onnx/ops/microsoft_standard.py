"""Operators of com.microsoft that mean what the standard's operators mean, or nearly."""

from __future__ import annotations

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype
from tilth.ir.types import i64
from tilth.onnx.build import expand_dims, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.constants import range_
from tilth.onnx.ops.convolution import transposed_convolution
from tilth.onnx.ops.indexing import gather_nd
from tilth.onnx.ops.movement import pad, trilu
from tilth.onnx.ops.spatial import grid_sample
from tilth.onnx.registry import onnx_op
from tilth.onnx.windows import split_pads

DOMAIN = "com.microsoft"

onnx_op("GridSample", domain=DOMAIN)(grid_sample)
onnx_op("Pad", domain=DOMAIN)(pad)
onnx_op("Trilu", domain=DOMAIN)(trilu)


@onnx_op("GatherND", domain=DOMAIN)
def gather_nd_(cx: NodeContext, x: Value, indices: Value) -> Value:
    return gather_nd(cx, x, as_dtype(indices, i64))


@onnx_op("Range", domain=DOMAIN)
def range_with_default(
    cx: NodeContext, start: Value, limit: Value, delta: Value | None = None
) -> Value:
    return range_(cx, start, limit, scalar(1, start) if delta is None else delta)


@onnx_op("ExpandDims", domain=DOMAIN)
def expand_dims_(cx: NodeContext, x: Value, axis: Value) -> Value:
    return expand_dims(x, cx.ints(axis, "the axis"))


@onnx_op("ConvTransposeWithDynamicPads", domain=DOMAIN)
def conv_transpose_with_pads(
    cx: NodeContext, x: Value, w: Value, pads: Value | None = None, bias: Value | None = None
) -> Value:
    given = None if pads is None else split_pads(cx.ints(pads, "the padding"), len(x.shape) - 2)
    return transposed_convolution(cx, x, w, bias, given)
