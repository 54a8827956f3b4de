"""Composites over sliding windows: average_pool."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.checks import NO_PADDING, ONE_EACH, check_kind
from tilth.ir.ops.helpers import in_float32, scalar
from tilth.ir.ops.table import INFER, REFERENCE, composite, decompose, infer, op
from tilth.ir.types import Shape, TensorType

Pairs = tuple[tuple[int, int], ...]

composite("average_pool", "the mean over each position of a sliding window")


@infer("average_pool")
def _(
    x: TensorType,
    *,
    window: Shape,
    strides: Shape = ONE_EACH,
    padding: Pairs = NO_PADDING,
    window_dilation: Shape = ONE_EACH,
    count_include_pad: bool = False,
) -> TensorType:
    """Attributes have one entry per axis of x, as for `reduce_window`."""
    check_kind(x, "float")
    return INFER["reduce_window"](
        x,
        kind="sum",
        window=window,
        strides=strides,
        padding=padding,
        base_dilation=(1,) * x.rank,
        window_dilation=window_dilation,
    )


@decompose("average_pool")
@in_float32
def _(
    x: Value,
    *,
    window: Shape,
    strides: Shape,
    padding: Pairs,
    window_dilation: Shape,
    count_include_pad: bool,
) -> Value:
    total = op.reduce_window(
        x,
        kind="sum",
        window=window,
        strides=strides,
        padding=padding,
        window_dilation=window_dilation,
    )
    if count_include_pad or not any(map(any, padding)):
        return op.divide(total, scalar(math.prod(window), x))
    counts = _elements_inside(x.shape, window, strides, padding, window_dilation)
    return op.divide(total, make_constant(counts.astype(x.tensor.dtype.numpy)))


def _elements_inside(
    shape: Shape, window: Shape, strides: Shape, padding: Pairs, dilation: Shape
) -> np.ndarray:
    """How many elements of x each window covers; size 1 along axes where that is the same."""
    counts = np.ones((1,) * len(shape), np.int64)
    for axis, size in enumerate(shape):
        line = REFERENCE["reduce_window"](
            np.ones(size, np.int64),
            kind="sum",
            window=window[axis : axis + 1],
            strides=strides[axis : axis + 1],
            padding=padding[axis : axis + 1],
            base_dilation=(1,),
            window_dilation=dilation[axis : axis + 1],
        )
        line = line[:1] if line.size and (line == line[0]).all() else line
        counts = counts * line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return counts
