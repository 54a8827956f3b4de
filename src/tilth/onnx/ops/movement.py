"""Operators that move elements without computing: shape, slice, concatenate, pad, tile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from tilth.ir.graph import Value
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_shape, broadcast_to, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import (
    concatenate,
    expand_dims,
    flatten,
    ints,
    iota,
    normal_axes,
    normal_axis,
    pad_axes,
    scalar,
    slice_axis,
)
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

# Shapes


@onnx_op("Shape")
def shape(cx: NodeContext, x: Value) -> Value:
    return ints(x.shape[slice(cx.attr("start", 0), cx.attr("end", None))])


@onnx_op("Size")
def size(cx: NodeContext, x: Value) -> Value:
    return scalar(x.tensor.size, i64)


@onnx_op("Reshape", since=5)
def reshape_operand(cx: NodeContext, x: Value, target: Value) -> Value:
    return _reshape(cx, x, cx.ints(target, "the target shape"))


@onnx_op("Reshape", since=1)
def reshape_attribute(cx: NodeContext, x: Value) -> Value:
    return _reshape(cx, x, cx.attr("shape"))


def _reshape(cx: NodeContext, x: Value, target: Sequence[int]) -> Value:
    """0 keeps a dimension (unless `allowzero`), a single -1 is whatever is left."""
    dims = list(target)
    if not cx.attr("allowzero", 0):
        dims = [x.shape[i] if d == 0 else d for i, d in enumerate(dims)]
    if dims.count(-1) > 1:
        raise ValueError(f"the target shape {list(target)} has more than one -1")
    if -1 in dims:
        known = math.prod(d for d in dims if d != -1)
        if known == 0 or x.tensor.size % known:
            raise ValueError(f"{list(x.shape)} cannot become {list(target)}")
        dims[dims.index(-1)] = x.tensor.size // known
    return as_shape(x, dims)


@onnx_op("Flatten")
def flatten_(cx: NodeContext, x: Value) -> Value:
    axis, rank = cx.attr("axis", 1), len(x.shape)
    return flatten(x, axis + rank if axis < 0 else axis)


@onnx_op("Squeeze", since=13)
def squeeze(cx: NodeContext, x: Value, axes: Value | None = None) -> Value:
    return _squeeze(x, None if axes is None else cx.ints(axes, "the axes"))


@onnx_op("Squeeze", since=1)
def squeeze_attribute(cx: NodeContext, x: Value) -> Value:
    return _squeeze(x, cx.attr("axes", None))


def _squeeze(x: Value, axes: Sequence[int] | None) -> Value:
    if axes is None:
        return as_shape(x, [d for d in x.shape if d != 1])
    axes = normal_axes(axes, len(x.shape))
    for axis in axes:
        if x.shape[axis] != 1:
            raise ValueError(f"axis {axis} of {list(x.shape)} is not 1")
    return as_shape(x, [d for i, d in enumerate(x.shape) if i not in axes])


@onnx_op("Unsqueeze", since=13)
def unsqueeze(cx: NodeContext, x: Value, axes: Value) -> Value:
    return expand_dims(x, cx.ints(axes, "the axes"))


@onnx_op("Unsqueeze", since=1)
def unsqueeze_attribute(cx: NodeContext, x: Value) -> Value:
    return expand_dims(x, cx.attr("axes"))


@onnx_op("Transpose")
def transpose_(cx: NodeContext, x: Value) -> Value:
    rank = len(x.shape)
    return permuted(x, cx.attr("perm", tuple(reversed(range(rank)))))


@onnx_op("Expand")
def expand(cx: NodeContext, x: Value, target: Value) -> Value:
    return broadcast_to(x, np.broadcast_shapes(x.shape, cx.ints(target, "the target shape")))


@onnx_op("Tile", since=6)
def tile(cx: NodeContext, x: Value, repeats: Value) -> Value:
    return tile_by(x, cx.ints(repeats, "the repeats"))


@onnx_op("Tile", since=1)
def tile_axis(cx: NodeContext, x: Value, tiles: Value, axis: Value) -> Value:
    repeats = [1] * len(x.shape)
    repeats[cx.ints(axis, "the axis")[0]] = cx.ints(tiles, "the number of tiles")[0]
    return tile_by(x, repeats)


def tile_by(x: Value, repeats: Sequence[int]) -> Value:
    """Repeat along each axis: a broadcast over new axes, folded into the old ones."""
    if len(repeats) != len(x.shape):
        raise ValueError(f"{len(repeats)} repeats for rank {len(x.shape)}")
    wide = [n for pair in zip(repeats, x.shape, strict=True) for n in pair]
    dims = tuple(range(1, 2 * len(x.shape), 2))
    tiled = [r * d for r, d in zip(repeats, x.shape, strict=True)]
    return as_shape(op.broadcast_in_dim(x, shape=tuple(wide), dims=dims), tiled)


# Joining and cutting


@onnx_op("Concat")
def concat(cx: NodeContext, *xs: Value) -> Value:
    default = {"default": 1} if cx.version < 4 else {}
    return concatenate(xs, normal_axis(cx.attr("axis", **default), len(xs[0].shape)))


@onnx_op("Split", since=13)
def split(cx: NodeContext, x: Value, sizes: Value | None = None) -> list[Value]:
    given = None if sizes is None else cx.ints(sizes, "the sizes")
    count = cx.attr("num_outputs", cx.output_count)
    if count != cx.output_count:
        raise ValueError(f"num_outputs is {count}, but there are {cx.output_count} outputs")
    return _split(cx, x, given, count)


@onnx_op("Split", since=1)
def split_attribute(cx: NodeContext, x: Value, sizes: Value | None = None) -> list[Value]:
    given = cx.attr("split", None)
    if sizes is not None:  # opset 1 took either
        given = cx.ints(sizes, "the sizes")
    return _split(cx, x, given, cx.output_count)


def _split(cx: NodeContext, x: Value, sizes: Sequence[int] | None, count: int) -> list[Value]:
    """Equal parts (the last may be smaller) where no sizes are given."""
    axis = normal_axis(cx.attr("axis", 0), len(x.shape))
    total = x.shape[axis]
    if sizes is None:
        part = -(-total // count)
        sizes = [max(0, min(part, total - i * part)) for i in range(count)]
    if sum(sizes) != total:
        raise ValueError(f"parts {list(sizes)} do not add up to dimension {axis}, {total}")
    bounds = np.cumsum([0, *sizes]).tolist()
    return [slice_axis(x, axis, a, b) for a, b in pairwise(bounds)]


@onnx_op("Slice", since=10)
def slice_(
    cx: NodeContext,
    x: Value,
    starts: Value,
    ends: Value,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    first = cx.ints(starts, "the start")
    return slice_by(
        x,
        first,
        cx.ints(ends, "the end"),
        range(len(first)) if axes is None else cx.ints(axes, "the axes"),
        [1] * len(first) if steps is None else cx.ints(steps, "the steps"),
    )


@onnx_op("Slice", since=1)
def slice_attributes(cx: NodeContext, x: Value) -> Value:
    starts = cx.attr("starts")
    axes = cx.attr("axes", tuple(range(len(starts))))
    return slice_by(x, starts, cx.attr("ends"), axes, [1] * len(starts))


def slice_by(
    x: Value,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int],
    steps: Sequence[int],
) -> Value:
    """Python's slicing per axis; a negative step becomes a reversal of a forward slice."""
    rank = len(x.shape)
    start, limit, strides = [0] * rank, list(x.shape), [1] * rank
    flipped = []
    for s, e, a, step in zip(starts, ends, axes, steps, strict=True):
        axis = normal_axis(a, rank)
        # Past the front, a backward slice ends before element 0, which Python writes None.
        end = None if step < 0 and e < -x.shape[axis] else e
        picked = range(x.shape[axis])[s:end:step]
        forward = picked if step > 0 else picked[::-1]
        start[axis], strides[axis] = (forward[0], forward.step) if forward else (0, 1)
        limit[axis] = forward[-1] + 1 if forward else 0
        if step < 0:
            flipped.append(axis)
    if (start, limit, strides) != ([0] * rank, list(x.shape), [1] * rank):
        x = op.slice(x, start=tuple(start), limit=tuple(limit), strides=tuple(strides))
    return op.reverse(x, axes=tuple(sorted(flipped))) if flipped else x


# Padding


@onnx_op("Pad", since=11)
def pad(
    cx: NodeContext, x: Value, pads: Value, value: Value | None = None, axes: Value | None = None
) -> Value:
    amounts = cx.ints(pads, "the padding")
    if axes is not None:
        chosen = [normal_axis(a, len(x.shape)) for a in cx.ints(axes, "the axes")]
        wide = [0] * (2 * len(x.shape))
        for i, axis in enumerate(chosen):
            wide[axis], wide[axis + len(x.shape)] = amounts[i], amounts[i + len(chosen)]
        amounts = tuple(wide)
    return _pad(cx, x, amounts, None if value is None else as_shape(value, ()))


@onnx_op("Pad", since=1)
def pad_attributes(cx: NodeContext, x: Value) -> Value:
    amounts = cx.attr("pads") if cx.has("pads") else cx.attr("paddings")
    return _pad(cx, x, amounts, scalar(cx.attr("value", 0.0), x))


def _pad(cx: NodeContext, x: Value, amounts: Sequence[int], value: Value | None) -> Value:
    rank = len(x.shape)
    if len(amounts) != 2 * rank:
        raise ValueError(f"{len(amounts)} padding amounts for rank {rank}")
    pads = list(zip(amounts[:rank], amounts[rank:], strict=True))
    mode = cx.attr("mode", "constant")
    if mode == "constant":
        return pad_axes(x, pads, value)
    x = pad_axes(x, [(min(low, 0), min(high, 0)) for low, high in pads])  # cropping first
    for axis, (low, high) in enumerate(pads):
        x = _extend(x, axis, max(low, 0), max(high, 0), mode)
    return x


def _extend(x: Value, axis: int, low: int, high: int, mode: Any) -> Value:
    """Pad one axis with copies of its own elements, as slices (reversed where mirrored)."""
    require_table(x.shape[axis], low + high)
    source = np.pad(np.arange(x.shape[axis]), (low, high), mode=mode)
    return concatenate([_run(x, axis, run) for run in _runs(source.tolist())], axis)


def _runs(indices: list[int]) -> list[range]:
    """A list of indices as maximal runs of step 1, -1 or 0 (a repeated element: length 1 each)."""
    runs = []
    start = 0
    while start < len(indices):
        stop = start + 1
        if stop < len(indices) and abs(indices[stop] - indices[start]) == 1:
            step = indices[stop] - indices[start]
            while stop < len(indices) and indices[stop] - indices[stop - 1] == step:
                stop += 1
            runs.append(range(indices[start], indices[start] + step * (stop - start), step))
        else:
            runs.append(range(indices[start], indices[start] + 1))
        start = stop
    return runs


def _run(x: Value, axis: int, run: range) -> Value:
    if run.step == 1:
        return slice_axis(x, axis, run[0], run[-1] + 1)
    return op.reverse(slice_axis(x, axis, run[-1], run[0] + 1), axes=(axis,))


@onnx_op("CenterCropPad")
def center_crop_pad(cx: NodeContext, x: Value, target: Value) -> Value:
    """Crop or zero-pad around the middle; an odd remainder goes to the end."""
    sizes = cx.ints(target, "the target shape")
    axes = [normal_axis(a, len(x.shape)) for a in cx.attr("axes", tuple(range(len(x.shape))))]
    pads = [(0, 0)] * len(x.shape)
    for axis, size_ in zip(axes, sizes, strict=True):
        extra = size_ - x.shape[axis]
        low = extra // 2 if extra >= 0 else -(-extra // 2)
        pads[axis] = (low, extra - low)
    return pad_axes(x, pads)


# Rearranging blocks


@onnx_op("DepthToSpace")
def depth_to_space(cx: NodeContext, x: Value) -> Value:
    block = cx.attr("blocksize")
    n, c, *spatial = x.shape
    k = len(spatial)
    blocks = [block] * k
    depth = c // block**k
    cells = [d for i in range(k) for d in (2 + i + k, 2 + i)]
    if cx.attr("mode", "DCR") == "DCR":  # depth, column, row
        y = as_shape(x, (n, *blocks, depth, *spatial))
        order = (0, k + 1, *(d for i in range(k) for d in (k + 2 + i, 1 + i)))
    else:
        y = as_shape(x, (n, depth, *blocks, *spatial))
        order = (0, 1, *cells)
    return as_shape(permuted(y, order), (n, depth, *(d * block for d in spatial)))


@onnx_op("SpaceToDepth")
def space_to_depth(cx: NodeContext, x: Value) -> Value:
    block = cx.attr("blocksize")
    n, c, *spatial = x.shape
    k = len(spatial)
    y = as_shape(x, (n, c, *(d for s in spatial for d in (s // block, block))))
    if cx.attr("mode", "DCR") == "DCR":
        order = (0, *range(3, 3 + 2 * k, 2), 1, *range(2, 2 + 2 * k, 2))
    else:
        order = (0, 1, *range(3, 3 + 2 * k, 2), *range(2, 2 + 2 * k, 2))
    return as_shape(permuted(y, order), (n, c * block**k, *(s // block for s in spatial)))


@onnx_op("Trilu")
def trilu(cx: NodeContext, x: Value, k: Value | None = None) -> Value:
    """Keep the upper (or lower) triangle from the `k`-th diagonal on."""
    diagonal = 0 if k is None else cx.ints(k, "k")[0]
    rows, columns = iota(x.shape[-2:], 0, i64), iota(x.shape[-2:], 1, i64)
    edge = op.add(rows, scalar(diagonal, i64))
    keep = op.compare(columns, edge, direction="GE" if cx.attr("upper", 1) else "LE")
    return op.select(keep, x, scalar(0, x))
