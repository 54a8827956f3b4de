"""Pooling: windows and whole feature maps reduced to one element."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_shape, mean, reduce_keepdims
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import iota, pad_axes, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.windows import Windows, windows_of


@onnx_op("AveragePool")
def average_pool(cx: NodeContext, x: Value) -> Value:
    win = windows_of(cx, x.shape[2:])
    include_pad = bool(cx.attr("count_include_pad", 0))
    if include_pad and any(win.extra):
        # Cells that only ceil_mode adds never count, so the real padding becomes data first.
        x = pad_axes(x, ((0, 0), (0, 0), *win.pads))
        none = tuple((0, 0) for _ in win.pads)
        win = Windows(win.kernel, win.strides, win.dilations, none, win.extra)
        include_pad = False
    if not include_pad:
        win = win.clipped(x.shape[2:])
    return op.average_pool(x, **win.full_rank(), count_include_pad=include_pad)


@onnx_op("MaxPool")
def max_pool(cx: NodeContext, x: Value) -> list[Value]:
    win = windows_of(cx, x.shape[2:])
    if cx.wants(1):
        return _max_pool_indices(x, win, column_major=bool(cx.attr("storage_order", 0)))
    ones, win = (1,) * len(x.shape), win.clipped(x.shape[2:])
    return [op.reduce_window(x, kind="max", base_dilation=ones, **win.full_rank())]


def _max_pool_indices(x: Value, win: Windows, column_major: bool) -> list[Value]:
    """Maximum and its flat position, as a running comparison over the kernel's offsets."""
    pads = ((0, 0), (0, 0), *win.padding)
    values = pad_axes(x, pads, make_constant(_lowest(x)))
    places = pad_axes(_flat_positions(x, column_major), pads, scalar(-1, i64))
    best: tuple[Value, Value] | None = None
    for offset in itertools.product(*map(range, win.kernel)):
        value, place = (_at_offset(t, offset, win) for t in (values, places))
        if best is None:
            best = value, place
            continue
        # A padded cell loses against any real one, even the lowest number there is.
        better = op.compare(value, best[0], direction="GT")
        first = op.and_(
            op.compare(best[1], scalar(0, i64), direction="LT"),
            op.compare(place, scalar(0, i64), direction="GE"),
        )
        better = op.or_(better, first)
        best = op.select(better, value, best[0]), op.select(better, place, best[1])
    assert best is not None
    return list(best)


def _lowest(x: Value) -> np.ndarray:
    dtype = x.tensor.dtype
    low = -np.inf if dtype.is_float else np.iinfo(dtype.numpy).min
    return np.array(low, dtype.numpy)


def _flat_positions(x: Value, column_major: bool) -> Value:
    """Row-major positions in the whole tensor, or column-major within each feature map."""
    shape, rank = x.shape, len(x.shape)
    strides = [math.prod(shape[i + 1 :]) for i in range(rank)]
    if column_major:
        strides[2:] = [math.prod(shape[2:i]) for i in range(2, rank)]
    total = scalar(0, i64)
    for axis, stride in enumerate(strides):
        total = op.add(total, op.multiply(iota(shape, axis, i64), scalar(stride, i64)))
    return total


def _at_offset(x: Value, offset: tuple[int, ...], win: Windows) -> Value:
    """The element at `offset` of every window."""
    start, limit = [0, 0], list(x.shape[:2])
    for o, k, d, s, size in zip(
        offset, win.kernel, win.dilations, win.strides, x.shape[2:], strict=True
    ):
        count = (size - ((k - 1) * d + 1)) // s + 1
        start.append(o * d)
        limit.append(o * d + (count - 1) * s + 1)
    return op.slice(x, start=tuple(start), limit=tuple(limit), strides=(1, 1, *win.strides))


@onnx_op("LpPool")
def lp_pool(cx: NodeContext, x: Value) -> Value:
    win = windows_of(cx, x.shape[2:])
    powers = _power(op.abs(x), cx.attr("p", 2))
    ones = (1,) * len(x.shape)
    total = op.reduce_window(powers, kind="sum", base_dilation=ones, **win.full_rank())
    return _power(total, 1 / cx.attr("p", 2))


def _power(x: Value, exponent: float) -> Value:
    return x if exponent == 1 else op.power(x, scalar(exponent, x))


def _spatial(x: Value) -> tuple[int, ...]:
    return tuple(range(2, len(x.shape)))


@onnx_op("GlobalAveragePool")
def global_average_pool(cx: NodeContext, x: Value) -> Value:
    return mean(x, _spatial(x))


@onnx_op("GlobalMaxPool")
def global_max_pool(cx: NodeContext, x: Value) -> Value:
    return reduce_keepdims(x, "max", _spatial(x))


@onnx_op("GlobalLpPool")
def global_lp_pool(cx: NodeContext, x: Value) -> Value:
    p = cx.attr("p", 2)
    return _power(reduce_keepdims(_power(op.abs(x), p), "sum", _spatial(x)), 1 / p)


@onnx_op("MaxUnpool")
def max_unpool(cx: NodeContext, x: Value, indices: Value, shape: Value | None = None) -> Value:
    """Put each element back at the flat position MaxPool reported; zeros elsewhere.

    Positions count in the tensor before pooling; a larger requested shape is padded at the end.
    """
    kernel = cx.attr("kernel_shape")
    ones = (1,) * len(kernel)
    strides = cx.attr("strides", ones)
    pads = cx.attr("pads", (0,) * 2 * len(kernel))
    spatial = tuple(
        (n - 1) * s + k - pads[i] - pads[i + len(kernel)]
        for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    )
    natural = (*x.shape[:2], *spatial)
    wanted = natural if shape is None else cx.ints(shape, "the output shape")
    flat = op.broadcast_in_dim(scalar(0, x), shape=(math.prod(natural),), dims=())
    flat = op.scatter(
        flat,
        as_shape(indices, (indices.tensor.size, 1)),
        as_shape(x, (x.tensor.size,)),
        update_window_dims=(),
        inserted_window_dims=(0,),
        scatter_dims_to_operand_dims=(0,),
        index_vector_dim=1,
        kind="assign",
    )
    grown = [(0, w - n) for w, n in zip(wanted, natural, strict=True)]
    return pad_axes(as_shape(flat, natural), grown)
