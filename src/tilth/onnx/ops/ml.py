"""Operators of ai.onnx.ml that work on tensors of numbers."""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape, take
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import scalar, wrap_negative
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

_DOMAIN = "ai.onnx.ml"


@onnx_op("ArrayFeatureExtractor", domain=_DOMAIN)
def array_feature_extractor(cx: NodeContext, x: Value, indices: Value) -> Value:
    """Columns along the last axis; a vector is taken as one row."""
    rows = as_shape(x, (1, *x.shape)) if len(x.shape) == 1 else x
    axis = len(rows.shape) - 1
    flat = as_shape(indices, (indices.tensor.size,))
    return take(rows, wrap_negative(flat, rows.shape[axis]), axis)


@onnx_op("Binarizer", domain=_DOMAIN)
def binarizer(cx: NodeContext, x: Value) -> Value:
    above = op.compare(x, scalar(cx.attr("threshold", 0.0), x), direction="GT")
    return as_dtype(above, x.tensor.dtype)


@onnx_op("Scaler", domain=_DOMAIN)
def scaler(cx: NodeContext, x: Value) -> Value:
    """(x - offset) * scale, per feature or for all."""
    wide = as_dtype(x, f32)
    offset, scale = (
        make_constant(np.array(cx.attr(name, (default,)), np.float32))
        for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    return op.multiply(op.subtract(wide, offset), scale)
