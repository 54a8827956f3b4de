"""Gathers and scatters: reading and writing at indices that are data."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Value, constant_of, make_constant
from tilth.ir.ops.helpers import as_dtype, as_shape, take
from tilth.ir.ops.table import op
from tilth.ir.types import Shape, i64
from tilth.onnx.build import (
    concatenate,
    expand_dims,
    ints,
    iota,
    normal_axis,
    scalar,
    slice_axis,
    wrap_negative,
)
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

REDUCTION = {"none": "assign", "add": "add", "mul": "multiply", "max": "max", "min": "min"}


def _empty(x: Value, shape: Shape) -> Value | None:
    """The result where it has no elements: x may have no place then that an index could name."""
    if math.prod(shape):
        return None
    return make_constant(np.zeros(shape, x.tensor.dtype.numpy))


@onnx_op("Gather")
def gather(cx: NodeContext, x: Value, indices: Value) -> Value:
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    empty = _empty(x, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    if empty is not None:
        return empty
    known = constant_of(indices)
    if known is not None and known.size == 1:  # one row: a slice
        index = normal_axis(int(known.reshape(())), x.shape[axis])
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        return as_shape(slice_axis(x, axis, index, index + 1), shape)
    return take(x, wrap_negative(indices, x.shape[axis]), axis)


@onnx_op("GatherElements")
def gather_elements(cx: NodeContext, x: Value, indices: Value) -> Value:
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    empty = _empty(x, indices.shape)
    if empty is not None:
        return empty
    for i, size in enumerate(indices.shape):
        if i != axis:
            x = slice_axis(x, i, 0, size)
    others = tuple(i for i in range(len(x.shape)) if i != axis)
    return op.gather(
        x,
        wrap_negative(indices, x.shape[axis]),
        offset_dims=(),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        index_vector_dim=len(x.shape),
        slice_sizes=(1,) * len(x.shape),
        operand_batching_dims=others,
        start_indices_batching_dims=others,
    )


def _wrap_vectors(indices: Value, sizes: tuple[int, ...]) -> Value:
    """Index vectors (last dimension) whose negative entries count from the end."""
    wrapped = op.add(indices, ints(sizes))
    return op.select(op.compare(indices, scalar(0, i64), direction="LT"), wrapped, indices)


@onnx_op("GatherND")
def gather_nd(cx: NodeContext, x: Value, indices: Value) -> Value:
    batch = cx.attr("batch_dims", 0)
    depth, batch_rank = indices.shape[-1], len(indices.shape) - 1
    empty = _empty(x, (*indices.shape[:-1], *x.shape[batch + depth :]))
    if empty is not None:
        return empty
    addressed = tuple(range(batch, batch + depth))
    rest = len(x.shape) - batch - depth
    sizes = tuple(1 if i < batch + depth else d for i, d in enumerate(x.shape))
    return op.gather(
        x,
        _wrap_vectors(indices, x.shape[batch : batch + depth]),
        offset_dims=tuple(range(batch_rank, batch_rank + rest)),
        collapsed_slice_dims=addressed,
        start_index_map=addressed,
        index_vector_dim=batch_rank,
        slice_sizes=sizes,
        operand_batching_dims=tuple(range(batch)),
        start_indices_batching_dims=tuple(range(batch)),
    )


@onnx_op("Scatter", "ScatterElements")
def scatter_elements(cx: NodeContext, x: Value, indices: Value, updates: Value) -> Value:
    """Each update goes to its own position, but for `axis`, where the index says."""
    axis, rank = normal_axis(cx.attr("axis", 0), len(x.shape)), len(x.shape)
    wrapped = as_dtype(wrap_negative(indices, x.shape[axis]), i64)
    places = [wrapped if i == axis else iota(indices.shape, i, i64) for i in range(rank)]
    return op.scatter(
        x,
        concatenate([expand_dims(p, (rank,)) for p in places], rank),
        updates,
        update_window_dims=(),
        inserted_window_dims=tuple(range(rank)),
        scatter_dims_to_operand_dims=tuple(range(rank)),
        index_vector_dim=rank,
        kind=cx.choice("reduction", REDUCTION, "none"),
    )


@onnx_op("ScatterND")
def scatter_nd(cx: NodeContext, x: Value, indices: Value, updates: Value) -> Value:
    depth, batch_rank = indices.shape[-1], len(indices.shape) - 1
    return op.scatter(
        x,
        _wrap_vectors(indices, x.shape[:depth]),
        updates,
        update_window_dims=tuple(range(batch_rank, len(updates.shape))),
        inserted_window_dims=tuple(range(depth)),
        scatter_dims_to_operand_dims=tuple(range(depth)),
        index_vector_dim=batch_rank,
        kind=cx.choice("reduction", REDUCTION, "none"),
    )


@onnx_op("TensorScatter")
def tensor_scatter(
    cx: NodeContext, past: Value, update: Value, start: Value | None = None
) -> Value:
    """Write `update` into a cache along `axis`, from a start per batch element; may wrap around."""
    axis = normal_axis(cx.attr("axis", -2), len(past.shape))
    steps = iota(update.shape, axis, i64)
    if start is not None:
        shape = (update.shape[0], *(1,) * (len(past.shape) - 1))
        steps = op.add(steps, as_shape(as_dtype(start, i64), shape))
    if cx.attr("mode", "linear") == "circular":
        steps = op.remainder(steps, scalar(past.shape[axis], i64))
    rank = len(past.shape)
    places = [steps if i == axis else iota(update.shape, i, i64) for i in range(rank)]
    return op.scatter(
        past,
        concatenate([expand_dims(p, (rank,)) for p in places], rank),
        update,
        update_window_dims=(),
        inserted_window_dims=tuple(range(rank)),
        scatter_dims_to_operand_dims=tuple(range(rank)),
        index_vector_dim=rank,
        kind="assign",
    )


@onnx_op("Compress")
def compress(cx: NodeContext, x: Value, condition: Value) -> Value:
    """Keep the slices where a constant condition holds."""
    keep = cx.static(condition, "the condition").nonzero()[0]
    x = x if cx.has("axis") else as_shape(x, (x.tensor.size,))
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    empty = _empty(x, (*x.shape[:axis], keep.size, *x.shape[axis + 1 :]))
    return take(x, ints(keep), axis) if empty is None else empty


@onnx_op("ReverseSequence")
def reverse_sequence(cx: NodeContext, x: Value, lengths: Value) -> Value:
    """Reverse the first `lengths[b]` steps of each batch element."""
    time, batch = cx.attr("time_axis", 0), cx.attr("batch_axis", 1)
    rank = len(x.shape)
    steps = iota(x.shape, time, i64)
    limit = op.broadcast_in_dim(as_dtype(lengths, i64), shape=x.shape, dims=(batch,))
    mirrored = op.subtract(op.subtract(limit, scalar(1, i64)), steps)
    source = op.select(op.compare(steps, limit, direction="LT"), mirrored, steps)
    others = tuple(i for i in range(rank) if i != time)
    return op.gather(
        x,
        source,
        offset_dims=(),
        collapsed_slice_dims=(time,),
        start_index_map=(time,),
        index_vector_dim=rank,
        slice_sizes=(1,) * rank,
        operand_batching_dims=others,
        start_indices_batching_dims=others,
    )
