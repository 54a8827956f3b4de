"""Operators that make tensors out of attributes and shapes."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_dtype, broadcast_to
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import iota, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.tensors import element_type


@onnx_op("Constant")
def constant(cx: NodeContext) -> Value:
    for name, dtype in (
        *(("value", None), ("sparse_value", None), ("value_float", np.float32)),
        *(("value_floats", np.float32), ("value_int", np.int64), ("value_ints", np.int64)),
        *(("value_string", object), ("value_strings", object)),
    ):
        if cx.has(name):
            return make_constant(np.asarray(cx.attr(name), dtype))
    raise ValueError("it has no value")


@onnx_op("ConstantOfShape")
def constant_of_shape(cx: NodeContext, shape: Value) -> Value:
    fill = make_constant(np.asarray(cx.attr("value", np.zeros(1, np.float32))).reshape(()))
    return broadcast_to(fill, cx.ints(shape, "the shape"))


@onnx_op("Range")
def range_(cx: NodeContext, start: Value, limit: Value, delta: Value) -> Value:
    first, end, step = (cx.static(v, "the range").item() for v in (start, limit, delta))
    count = max(0, math.ceil((end - first) / step))
    dtype = start.tensor.dtype
    places = iota((count,), 0, dtype)
    return op.add(op.multiply(places, scalar(step, dtype)), scalar(first, dtype))


@onnx_op("EyeLike")
def eye_like(cx: NodeContext, x: Value) -> Value:
    dtype = element_type(cx.attr("dtype"), "attribute 'dtype'") if cx.has("dtype") else None
    diagonal = op.add(iota(x.shape, 0, i64), scalar(cx.attr("k", 0), i64))
    hit = op.compare(iota(x.shape, 1, i64), diagonal, direction="EQ")
    return as_dtype(hit, dtype or x.tensor.dtype)


@onnx_op("OneHot")
def one_hot(cx: NodeContext, indices: Value, depth: Value, values: Value) -> Value:
    """`values` is [off, on]; indices outside [-depth, depth) give a row of off."""
    count = int(cx.static(depth, "the depth").reshape(()))
    rank = len(indices.shape) + 1
    axis = cx.attr("axis", -1) % rank
    shape = list(indices.shape)
    shape.insert(axis, count)
    dims = tuple(i for i in range(rank) if i != axis)
    wide = op.broadcast_in_dim(as_dtype(indices, i64), shape=tuple(shape), dims=dims)
    zero, size = scalar(0, i64), scalar(count, i64)
    wide = op.select(op.compare(wide, zero, direction="LT"), op.add(wide, size), wide)
    hit = op.compare(wide, iota(shape, axis, i64), direction="EQ")
    off, on = (
        op.reshape(op.slice(values, start=(i,), limit=(i + 1,), strides=(1,)), shape=())
        for i in range(2)
    )
    return op.select(hit, on, off)


@onnx_op("MelWeightMatrix")
def mel_weight_matrix(
    cx: NodeContext, bins: Value, dft_length: Value, rate: Value, low: Value, high: Value
) -> Value:
    """Triangular filters on the mel scale [dft_length // 2 + 1, bins] (ONNX, MelWeightMatrix)."""
    n_bins, n_fft, sample_rate, low_hz, high_hz = (
        cx.static(v, "the filter bank").item() for v in (bins, dft_length, rate, low, high)
    )
    require_table(n_fft // 2 + 1, n_bins)
    mel = 2595 * np.log10(1 + np.array([low_hz, high_hz]) / 700)
    edges_mel = mel[0] + np.arange(n_bins + 2) * (mel[1] - mel[0]) / (n_bins + 2)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    edges = ((n_fft + 1) * edges_hz // sample_rate).astype(int)
    filters = np.zeros((n_fft // 2 + 1, n_bins))
    for i, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        if left == centre:
            filters[centre, i] = 1
        else:
            filters[left : centre + 1, i] = np.arange(centre - left + 1) / (centre - left)
        if centre < right:
            filters[centre:right, i] = (right - np.arange(centre, right)) / (right - centre)
    dtype = element_type(cx.attr("output_datatype", 1), "attribute 'output_datatype'")
    return make_constant(filters.astype(dtype.numpy))
