"""Ops that move elements as ONNX: views, slices, padding, and gathers by linear positions.

A general gather or scatter becomes one Gather or ScatterElements on the flattened tensor, over
positions computed from the indices; looking up rows along one axis stays a plain Gather.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilth.ir.graph import Node
from tilth.ir.ops.checks import dilated, without
from tilth.ir.types import Shape, i64
from tilth.onnx.export_core import GraphExporter, Names, exports

_BEFORE_FIRST = -(2**63) + 1  # as the end of a backward slice


@exports("reshape")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.reshape(x, node.attrs["shape"])


@exports("transpose")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.op("Transpose", x, perm=list(node.attrs["permutation"]))


@exports("broadcast_in_dim")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    shape, dims = node.attrs["shape"], node.attrs["dims"]
    source = node.inputs[0].shape
    x = e.transpose(x, sorted(range(len(dims)), key=dims.__getitem__))
    aligned = [1] * len(shape)
    for size, dim in zip(source, dims, strict=True):
        aligned[dim] = size
    if tuple(aligned[len(aligned) - len(source) :]) != source:
        x = e.reshape(x, aligned)
    return e.op("Expand", x, e.ints(shape))


@exports("iota")
def _(e: GraphExporter, node: Node) -> Names:
    dtype, shape, axis = (node.attrs[k] for k in ("dtype", "shape", "axis"))
    line = e.op("Range", *(e.constant(n, i64) for n in (0, shape[axis], 1)))
    if dtype != i64:
        line = e.cast(line, dtype)
    if len(shape) == 1:
        return line
    line = e.reshape(line, [shape[axis] if i == axis else 1 for i in range(len(shape))])
    return e.op("Expand", line, e.ints(shape))


@exports("slice")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    return e.slice(x, *(node.attrs[k] for k in ("start", "limit", "strides")))


@exports("reverse")
def _(e: GraphExporter, node: Node, x: str) -> Names:
    axes = node.attrs["axes"]
    if not axes:
        return e.op("Identity", x)
    count = len(axes)
    bounds = [-1] * count, [_BEFORE_FIRST] * count, axes, [-1] * count
    return e.op("Slice", x, *map(e.ints, bounds))


@exports("concatenate")
def _(e: GraphExporter, node: Node, *xs: str) -> Names:
    return e.op("Concat", *xs, axis=node.attrs["axis"])


@exports("pad")
def _(e: GraphExporter, node: Node, x: str, value: str) -> Names:
    low, high, interior = (node.attrs[k] for k in ("low", "high", "interior"))
    return padded(e, x, value, node.inputs[0].shape, low, high, interior)


def padded(
    e: GraphExporter, x: str, value: str, shape: Shape, low: Shape, high: Shape, interior: Shape
) -> str:
    """StableHLO's pad: holes between elements, then edges, which may be negative."""
    for axis, holes in enumerate(interior):
        if holes and shape[axis] > 1:
            x = _spread(e, x, value, shape, axis, holes)
            shape = (*shape[:axis], dilated(shape[axis], holes + 1), *shape[axis + 1 :])
    if any(n < 0 for n in (*low, *high)):
        starts = [max(0, -n) for n in low]
        ends = [size - max(0, -n) for size, n in zip(shape, high, strict=True)]
        if any(a > b for a, b in zip(starts, ends, strict=True)):  # more is cut off than there is
            grown = [max(0, n) for n in low], [max(0, n) for n in high]
            x = e.op("Pad", x, e.ints([*grown[0], *grown[1]]), value)
            ends = [a + g + h for a, g, h in zip(ends, *grown, strict=True)]
            return e.slice(x, starts, ends)
        x = e.slice(x, starts, ends)
    low, high = tuple(max(0, n) for n in low), tuple(max(0, n) for n in high)
    return e.op("Pad", x, e.ints([*low, *high]), value) if any((*low, *high)) else x


def _spread(e: GraphExporter, x: str, value: str, shape: Shape, axis: int, holes: int) -> str:
    """Holes along one axis: pad a new axis behind it, merge the two, cut off the last holes."""
    before, size, after = shape[:axis], shape[axis], shape[axis + 1 :]
    x = e.reshape(x, (*before, size, 1, *after))
    pads = [0] * (2 * (len(shape) + 1))
    pads[len(shape) + 1 + axis + 1] = holes
    x = e.op("Pad", x, e.ints(pads), value)
    x = e.reshape(x, (*before, size * (holes + 1), *after))
    return e.op("Slice", x, *map(e.ints, ([0], [dilated(size, holes + 1)], [axis])))


# Places that are known only at run time


@exports("gather")
def _(e: GraphExporter, node: Node, x: str, indices: str) -> Names:
    a = node.attrs
    shape, index_shape = node.inputs[0].shape, node.inputs[1].shape
    axis = _looked_up_axis(node)
    if axis is not None:
        safe = _clamped(e, node, indices, shape[axis] - 1)
        return e.op("Gather", x, safe, axis=axis)
    starts = _starts(
        e, node, indices, a["start_index_map"],
        a["operand_batching_dims"], a["start_indices_batching_dims"],
    )  # fmt: skip
    limits = [dim - size for dim, size in zip(shape, a["slice_sizes"], strict=True)]
    safe_starts = {
        axis: e.op("Min", e.op("Max", s, e.constant(0, i64)), e.constant(limits[axis], i64))
        for axis, s in starts.items()
    }
    batch = without(index_shape, (a["index_vector_dim"],))
    dropped = a["collapsed_slice_dims"] + a["operand_batching_dims"]
    window = without(a["slice_sizes"], dropped)
    places = _places(e, safe_starts, shape, a["slice_sizes"], batch, window, dropped)
    result = e.op("Gather", e.reshape(x, (-1,)), places, axis=0)
    return _window_moved(e, result, len(batch), a["offset_dims"])


def _looked_up_axis(node: Node) -> int | None:
    """The axis along which the node takes whole slices, if that is all it does."""
    a, shape = node.attrs, node.inputs[0].shape
    if a["operand_batching_dims"] or len(a["start_index_map"]) != 1:
        return None
    (axis,) = a["start_index_map"]
    rank = len(node.inputs[1].shape)
    others = [i for i in range(len(shape)) if i != axis]
    whole = all(a["slice_sizes"][i] == shape[i] for i in others)
    offsets = tuple(i if i < axis else i + rank - 1 for i in others)
    plain = a["index_vector_dim"] == rank and a["collapsed_slice_dims"] == (axis,)
    return axis if whole and plain and a["offset_dims"] == offsets else None


def _clamped(e: GraphExporter, node: Node, indices: str, high: int) -> str:
    if node.inputs[1].tensor.dtype != i64:
        indices = e.cast(indices, i64)
    return e.op("Clip", indices, e.constant(0, i64), e.constant(high, i64))


def _starts(
    e: GraphExporter,
    node: Node,
    indices: str,
    index_map: Shape,
    x_batch: Shape,
    index_batch: Shape,
) -> dict[int, str]:
    """Start positions along the addressed axes, each with the indices' batch shape."""
    value, vector = node.inputs[1], node.attrs["index_vector_dim"]
    if value.tensor.dtype != i64:
        indices = e.cast(indices, i64)
    rank = len(value.shape)
    if vector == rank:
        indices = e.reshape(indices, (*value.shape, 1))
    starts = {
        axis: e.op("Gather", indices, e.constant(i, i64), axis=vector)
        for i, axis in enumerate(index_map)
    }
    batch = without(value.shape, (vector,))
    for axis, dim in zip(x_batch, index_batch, strict=True):
        place = dim - (dim > vector)
        line = np.arange(batch[place]).reshape([-1 if i == place else 1 for i in range(len(batch))])
        starts[axis] = e.constant(np.broadcast_to(line, batch), i64)
    return starts


def _places(
    e: GraphExporter,
    starts: dict[int, str],
    shape: Shape,
    sizes: Shape,
    batch: Shape,
    window: Shape,
    dropped: Shape,
) -> str:
    """Linear positions [batch.., window..] in a flattened tensor of `shape`."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    offsets = np.zeros((), np.int64)
    for axis, size in enumerate(sizes):
        if axis not in dropped:
            offsets = offsets[..., None] + np.arange(size) * strides[axis]
    total = e.constant(offsets.reshape((1,) * len(batch) + window), i64)
    for axis, start in starts.items():
        scaled = e.op("Mul", start, e.constant(strides[axis], i64))
        total = e.op("Add", total, e.reshape(scaled, (*batch, *(1,) * len(window))))
    return e.op("Expand", total, e.ints((*batch, *window)))


def _window_moved(e: GraphExporter, x: str, batch: int, offset_dims: Shape) -> str:
    """[batch.., window..] with the window's axes at `offset_dims`."""
    rank = batch + len(offset_dims)
    order, rest = [], iter(range(batch))
    for i in range(rank):
        order.append(batch + offset_dims.index(i) if i in offset_dims else next(rest))
    return e.transpose(x, order)


@exports("scatter")
def _(e: GraphExporter, node: Node, x: str, indices: str, updates: str) -> Names:
    """Updates that would fall outside go to one more element, which is cut off in the end."""
    a, shape = node.attrs, node.inputs[0].shape
    update_shape = node.inputs[2].shape
    dropped = a["inserted_window_dims"] + a["input_batching_dims"]
    window = tuple(update_shape[d] for d in a["update_window_dims"])
    batch = without(update_shape, a["update_window_dims"])
    rest = iter(window)
    sizes = tuple(1 if axis in dropped else next(rest) for axis in range(len(shape)))
    starts = _starts(
        e, node, indices, a["scatter_dims_to_operand_dims"],
        a["input_batching_dims"], a["scatter_indices_batching_dims"],
    )  # fmt: skip
    places = _places(e, starts, shape, sizes, batch, window, dropped)
    inside = _inside(e, starts, shape, sizes, batch, window, dropped)
    size = math.prod(shape)
    if inside is not None:
        places = e.op("Where", inside, places, e.constant(size, i64))
    order = [*(i for i in range(len(update_shape)) if i not in a["update_window_dims"])]
    updates = e.transpose(updates, [*order, *a["update_window_dims"]])
    flat = e.op("Concat", e.reshape(x, (size,)), e.reshape(e.like(0, node.inputs[0]), (1,)), axis=0)
    result = e.op(
        "ScatterElements", flat, e.reshape(places, (-1,)), e.reshape(updates, (-1,)), axis=0,
        reduction=_REDUCTION[a["kind"]],
    )  # fmt: skip
    return e.reshape(e.slice(result, (0,), (size,)), shape)


_REDUCTION = {"assign": None, "add": "add", "multiply": "mul", "max": "max", "min": "min"}


def _inside(
    e: GraphExporter,
    starts: dict[int, str],
    shape: Shape,
    sizes: Shape,
    batch: Shape,
    window: Shape,
    dropped: Shape,
) -> str | None:
    """Which positions [batch.., window..] lie in the tensor; None when there is nothing to ask."""
    window_axes = [axis for axis in range(len(shape)) if axis not in dropped]
    result = None
    for axis, start in starts.items():
        offset = np.zeros((1,) * (len(batch) + len(window)), np.int64)
        if axis in window_axes:
            dims = [1] * offset.ndim
            dims[len(batch) + window_axes.index(axis)] = sizes[axis]
            offset = np.arange(sizes[axis]).reshape(dims)
        place = e.op(
            "Add", e.reshape(start, (*batch, *(1,) * len(window))), e.constant(offset, i64)
        )
        after = e.op("GreaterOrEqual", place, e.constant(0, i64))
        fits = e.op("And", after, e.op("Less", place, e.constant(shape[axis], i64)))
        result = fits if result is None else e.op("And", result, fits)
    return result


@exports("dynamic_slice")
def _(e: GraphExporter, node: Node, x: str, *starts: str) -> Names:
    shape, sizes = node.inputs[0].shape, node.attrs["sizes"]
    if not shape:
        return e.op("Identity", x)
    places = _corner(e, node, starts, shape, sizes)
    flat = e.op("Gather", e.reshape(x, (-1,)), places, axis=0)
    return flat


@exports("dynamic_update_slice")
def _(e: GraphExporter, node: Node, x: str, update: str, *starts: str) -> Names:
    shape, sizes = node.inputs[0].shape, node.inputs[1].shape
    if not shape:
        return e.op("Identity", update)
    places = e.reshape(_corner(e, node, starts, shape, sizes), (-1,))
    flat = e.reshape(x, (math.prod(shape),))
    values = e.reshape(update, (math.prod(sizes),))
    return e.reshape(e.op("ScatterElements", flat, places, values, axis=0), shape)


def _corner(e: GraphExporter, node: Node, starts: Sequence[str], shape: Shape, sizes: Shape) -> str:
    """Linear positions [sizes..] of a block whose first corner is moved inside the tensor."""
    corners = {}
    for axis, (start, dim, size) in enumerate(zip(starts, shape, sizes, strict=True)):
        place = e.cast(start, i64)
        corners[axis] = e.op("Clip", place, e.constant(0, i64), e.constant(dim - size, i64))
    return _places(e, corners, shape, sizes, (), sizes, ())
