"""Operators of com.microsoft that cut regions and windows out of a tensor."""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_dtype, split, take
from tilth.ir.ops.table import op
from tilth.ir.types import bool_
from tilth.onnx.build import concatenate, expand_dims, full, ints, normal_axis, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.spatial import interpolated, pixels_at
from tilth.onnx.registry import onnx_op

DOMAIN = "com.microsoft"


@onnx_op("CropAndResize", domain=DOMAIN)
def crop_and_resize(
    cx: NodeContext, x: Value, boxes: Value, batch_indices: Value, size: Value
) -> Value:
    """Boxes [R, 4] (top, left, bottom, right as shares of the image) resized to one size, corners
    on corners: [R, C, height, width]. A box of size 1 samples its centre."""
    out = cx.ints(size, "the size of the crops")
    require_table(*out)
    bilinear = cx.choice("mode", {"bilinear": True, "nearest": False}, "bilinear")
    images = take(x, batch_indices, 0)
    corners = split(boxes, (1,) * 4, 1)
    shape = (boxes.shape[0], *out)
    places, inside = [], full(True, shape, bool_)
    for axis, (count, length) in enumerate(zip(out, x.shape[2:], strict=True)):
        first, last = (op.multiply(corners[i], scalar(length - 1, x)) for i in (axis, axis + 2))
        if count > 1:
            share = as_dtype(ints(np.arange(count)), x.tensor.dtype)
            step = op.divide(op.subtract(last, first), scalar(count - 1, x))
            line = op.add(first, op.multiply(share, step))
        else:
            line = op.multiply(op.add(first, last), scalar(0.5, x))
        within = op.and_(
            op.compare(line, scalar(0, x), direction="GE"),
            op.compare(line, scalar(length - 1, x), direction="LE"),
        )
        place, within = (
            op.broadcast_in_dim(v, shape=shape, dims=(0, 1 + axis)) for v in (line, within)
        )
        places.append(place)
        inside = op.and_(inside, within)
    if bilinear:
        crops = interpolated(images, places, "border", align=True)
    else:
        nearest = [op.floor(op.add(p, scalar(0.5, x))) for p in places]
        crops = pixels_at(images, nearest, "border", align=True)
    outside = scalar(cx.attr("extrapolation_value", 0.0), x)
    return op.select(expand_dims(inside, (1,)), crops, outside)


@onnx_op("UnfoldTensor", domain=DOMAIN)
def unfold_tensor(cx: NodeContext, x: Value) -> Value:
    """Windows of `size` along `dim`, `step` apart; elements of a window become the last axis."""
    axis, size, step = (
        normal_axis(cx.attr("dim", -1), len(x.shape)),
        cx.attr("size"),
        cx.attr("step", 1),
    )
    last = x.shape[axis] - size
    columns = [slice_axis(x, axis, i, last + i + 1, step) for i in range(size)]
    rank = len(x.shape)
    return concatenate([expand_dims(c, (rank,)) for c in columns], rank)
