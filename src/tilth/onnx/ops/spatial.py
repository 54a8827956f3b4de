"""Operators that sample images at places that are data, and fold columns back into images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted, split
from tilth.ir.ops.table import op
from tilth.ir.types import i64
from tilth.onnx.build import concatenate, expand_dims, ints, scalar, slice_axis
from tilth.onnx.context import NodeContext
from tilth.onnx.ops.convolution import add_bias
from tilth.onnx.registry import onnx_op
from tilth.onnx.windows import split_pads


@onnx_op("Col2Im")
def col2im(cx: NodeContext, x: Value, image_shape: Value, block_shape: Value) -> Value:
    """Add up overlapping blocks [N, C k, L]: one strided, padded copy per block element."""
    image, block = cx.ints(image_shape, "the image shape"), cx.ints(block_shape, "the block shape")
    rank = len(image)
    ones = (1,) * rank
    strides, dilations = cx.attr("strides", ones), cx.attr("dilations", ones)
    pads = split_pads(cx.attr("pads", (0,) * 2 * rank), rank)
    counts = [
        (n + sum(p) - (k - 1) * d - 1) // s + 1
        for n, k, s, d, p in zip(image, block, strides, dilations, pads, strict=True)
    ]
    batch, rows, _ = x.shape
    channels = rows // math.prod(block)
    x = as_shape(x, (batch, channels, math.prod(block), *counts))
    total = None
    for i, offset in enumerate(itertools.product(*map(range, block))):
        part = as_shape(slice_axis(x, 2, i, i + 1), (batch, channels, *counts))
        low, high = [0, 0], [0, 0]
        for o, n, c, s, d, (before, _) in zip(
            offset, image, counts, strides, dilations, pads, strict=True
        ):
            low.append(o * d - before)
            high.append(n - (o * d - before) - ((c - 1) * s + 1))
        interior = (0, 0, *(s - 1 for s in strides))
        part = op.pad(part, scalar(0, x), low=tuple(low), high=tuple(high), interior=interior)
        total = part if total is None else op.add(total, part)
    assert total is not None
    return total


# Sampling at fractional places


def _gather_points(x: Value, index: Sequence[Value]) -> Value:
    """x [N, C, D..] at integer points [N, O..] (one tensor per axis, in bounds): [N, C, O..]."""
    rank = len(x.shape)
    vectors = concatenate([expand_dims(i, (len(i.shape),)) for i in index], len(index[0].shape))
    outputs = len(index[0].shape)
    return op.gather(
        x,
        vectors,
        offset_dims=(1,),
        collapsed_slice_dims=tuple(range(2, rank)),
        start_index_map=tuple(range(2, rank)),
        index_vector_dim=outputs,
        slice_sizes=(1, x.shape[1], *(1,) * (rank - 2)),
        operand_batching_dims=(0,),
        start_indices_batching_dims=(0,),
    )


def _inside(places: Sequence[Value], sizes: Sequence[int]) -> Value:
    """Whether integer places lie in the image."""
    tests = [
        op.and_(
            op.compare(p, scalar(0, p), direction="GE"),
            op.compare(p, scalar(n, p), direction="LT"),
        )
        for p, n in zip(places, sizes, strict=True)
    ]
    total = tests[0]
    for test in tests[1:]:
        total = op.and_(total, test)
    return total


def _clamped(place: Value, size: int) -> Value:
    return as_dtype(op.clamp(scalar(0, place), place, scalar(size - 1, place)), i64)


def pixels_at(x: Value, places: Sequence[Value], padding: str, align: bool) -> Value:
    """Pixels at integral places (floats); outside the image as `padding` says."""
    sizes = x.shape[2:]
    if padding == "reflection":
        places = [_reflected(p, n, align) for p, n in zip(places, sizes, strict=True)]
    points = _gather_points(x, [_clamped(p, n) for p, n in zip(places, sizes, strict=True)])
    if padding != "zeros":
        return points
    return op.select(expand_dims(_inside(places, sizes), (1,)), points, scalar(0, x))


def _reflected(place: Value, size: int, align: bool) -> Value:
    """Mirrored at the borders until it lies inside: a triangle wave."""
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return op.multiply(place, scalar(0, place))
    away = op.abs(op.subtract(place, scalar(low, place)))
    rest = op.remainder(away, scalar(2 * span, place))
    folded = op.minimum(rest, op.subtract(scalar(2 * span, place), rest))
    return op.add(folded, scalar(low, place))


@onnx_op("GridSample")
def grid_sample(cx: NodeContext, x: Value, grid: Value) -> Value:
    """Sample x [N, C, D..] at grid [N, O.., k], whose coordinates run from -1 to 1, last first."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(m := cx.attr("mode", "linear"), m)
    padding, align = cx.attr("padding_mode", "zeros"), bool(cx.attr("align_corners", 0))
    sizes = x.shape[2:]
    columns = split(as_dtype(grid, x.tensor.dtype), (1,) * len(sizes), len(grid.shape) - 1)
    places = []
    for column, size in zip(reversed(columns), sizes, strict=True):
        place = op.add(as_shape(column, grid.shape[:-1]), scalar(1, x))
        if align:
            place = op.multiply(place, scalar((size - 1) / 2, x))
        else:
            place = op.subtract(op.multiply(place, scalar(size / 2, x)), scalar(0.5, x))
        if mode == "nearest":
            place = op.round_nearest_even(place)
        elif padding == "border" and mode == "linear":
            place = op.clamp(scalar(0, x), place, scalar(size - 1, x))
        elif padding == "reflection" and mode == "linear":
            place = _reflected(place, size, align)
        places.append(place)
    if mode == "nearest":
        return pixels_at(x, places, padding, align)
    return interpolated(x, places, padding, align, cubic=mode == "cubic")


def interpolated(
    x: Value, places: Sequence[Value], padding: str, align: bool, cubic: bool = False
) -> Value:
    """The weighted sum over the surrounding pixels, 2 or 4 along each axis."""
    return reduce(op.add, _weighted_pixels(x, places, padding, align, cubic))


def _weighted_pixels(
    x: Value, places: Sequence[Value], padding: str, align: bool, cubic: bool = False
) -> Iterator[Value]:
    floors = [op.floor(p) for p in places]
    ratios = [op.subtract(p, f) for p, f in zip(places, floors, strict=True)]
    offsets = (-1, 0, 1, 2) if cubic else (0, 1)
    weights = [_cubic_weights(r) if cubic else _linear_weights(r) for r in ratios]
    for corner in itertools.product(range(len(offsets)), repeat=len(places)):
        points = [op.add(f, scalar(offsets[i], f)) for f, i in zip(floors, corner, strict=True)]
        weight = reduce(op.multiply, [w[i] for w, i in zip(weights, corner, strict=True)])
        yield op.multiply(pixels_at(x, points, padding, align), expand_dims(weight, (1,)))


def _linear_weights(ratio: Value) -> list[Value]:
    return [op.subtract(scalar(1, ratio), ratio), ratio]


def _cubic_weights(ratio: Value) -> list[Value]:
    """Keys' kernel with a = -0.75 at distances 1 + r, r, 1 - r, 2 - r."""
    a = -0.75
    one = scalar(1, ratio)

    def near(x: Value) -> Value:
        inner = op.subtract(op.multiply(scalar(a + 2, x), x), scalar(a + 3, x))
        return op.add(op.multiply(inner, op.multiply(x, x)), one)

    def far(x: Value) -> Value:
        step = op.add(op.multiply(scalar(a, x), x), scalar(-5 * a, x))
        step = op.add(op.multiply(step, x), scalar(8 * a, x))
        return op.add(op.multiply(step, x), scalar(-4 * a, x))

    other = op.subtract(one, ratio)
    return [far(op.add(ratio, one)), near(ratio), near(other), far(op.add(other, one))]


@onnx_op("DeformConv")
def deform_conv(
    cx: NodeContext,
    x: Value,
    w: Value,
    offset: Value,
    bias: Value | None = None,
    mask: Value | None = None,
) -> Value:
    """A convolution whose taps are moved by `offset` and weighted by `mask` (Dai et al., 2017)."""
    if len(x.shape) != 4:
        raise UnsupportedError(f"{cx.label}: only two spatial dimensions")
    kernel, groups, moved = w.shape[2:], cx.attr("group", 1), cx.attr("offset_group", 1)
    strides, dilations = cx.attr("strides", (1, 1)), cx.attr("dilations", (1, 1))
    pads = split_pads(cx.attr("pads", (0,) * 4), 2)
    (batch, channels), out, taps = x.shape[:2], offset.shape[2:], math.prod(kernel)
    offset = as_shape(offset, (batch * moved, taps, 2, *out))
    require_table(2, *kernel, *out)
    places = []
    for axis in range(2):
        tap, place = np.indices(kernel)[axis].reshape(-1, 1, 1), np.indices(out)[axis]
        base = tap * dilations[axis] + place * strides[axis] - pads[axis][0]
        shift = as_shape(slice_axis(offset, 2, axis, axis + 1), (batch * moved, taps, *out))
        places.append(op.add(shift, as_dtype(ints(base), x.tensor.dtype)))
    image = as_shape(x, (batch * moved, channels // moved, *x.shape[2:]))
    columns = interpolated(image, places, "zeros", align=True)
    if mask is not None:
        columns = op.multiply(columns, as_shape(mask, (batch * moved, 1, taps, *out)))
    per = channels // groups
    columns = as_shape(columns, (batch, groups, per * taps, math.prod(out)))
    weights = as_shape(w, (groups, w.shape[0] // groups, per * taps))
    result = op.dot_general(
        weights, columns, lhs_batch=(0,), rhs_batch=(1,), lhs_contract=(2,), rhs_contract=(2,)
    )  # groups, outputs per group, batch, places
    result = as_shape(permuted(result, (2, 0, 1, 3)), (batch, w.shape[0], *out))
    return add_bias(result, bias)


@onnx_op("RoiAlign")
def roi_align(cx: NodeContext, x: Value, rois: Value, batch_indices: Value) -> Value:
    """Average (or maximum) of bilinear samples in each cell of each region (He et al., 2017)."""
    ratio = cx.attr("sampling_ratio", 0)
    if ratio <= 0:
        raise UnsupportedError(f"{cx.label}: sampling_ratio 0, whose grid depends on the regions")
    out = cx.attr("output_height", 1), cx.attr("output_width", 1)
    half = (
        cx.version >= 16 and cx.attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    )
    regions = rois.shape[0]
    left, top, right, bottom = (
        op.subtract(op.multiply(v, scalar(cx.attr("spatial_scale", 1.0), v)), scalar(half / 2, v))
        for v in split(rois, (1,) * 4, 1)
    )
    images = op.gather(
        x,
        as_dtype(batch_indices, i64),
        offset_dims=(1, 2, 3),
        collapsed_slice_dims=(0,),
        start_index_map=(0,),
        index_vector_dim=1,
        slice_sizes=(1, *x.shape[1:]),
    )
    samples = [cells * ratio for cells in out]
    require_table(*samples)
    lines, inside = [], []
    for axis, (start, end) in enumerate(((top, bottom), (left, right))):
        length = op.subtract(end, start)
        if not half:
            length = op.maximum(length, scalar(1, x))
        steps = as_dtype(ints(np.arange(samples[axis])), x.tensor.dtype)
        fraction = op.divide(op.add(steps, scalar(0.5, x)), scalar(samples[axis], x))
        place = op.add(start, op.multiply(length, fraction))  # [R, samples]
        size = x.shape[2 + axis]
        inside.append(
            op.and_(
                op.compare(place, scalar(-1, x), direction="GE"),
                op.compare(place, scalar(size, x), direction="LE"),
            )
        )
        lines.append(op.clamp(scalar(0, x), place, scalar(size - 1, x)))
    shape = (regions, *samples)
    places = [
        op.broadcast_in_dim(line, shape=shape, dims=(0, 1 + axis))
        for axis, line in enumerate(lines)
    ]
    live = op.and_(expand_dims(inside[0], (2,)), expand_dims(inside[1], (1,)))
    return _pooled_samples(cx, images, places, live, out, ratio)


def _pooled_samples(
    cx: NodeContext,
    images: Value,
    places: Sequence[Value],
    live: Value,
    out: tuple[int, int],
    ratio: int,
) -> Value:
    """`ratio` x `ratio` samples per cell reduced to one; samples outside the image count as 0."""
    maximum = cx.attr("mode", "avg") == "max"
    pixels = _weighted_pixels(images, places, "border", align=True)
    # The operator's maximum is over the weighted pixels, not over their sums.
    values = reduce(op.maximum if maximum else op.add, pixels)
    values = op.select(expand_dims(live, (1,)), values, scalar(0, values))
    cells = as_shape(values, (*images.shape[:2], out[0], ratio, out[1], ratio))
    if maximum:
        return op.reduce(cells, kind="max", axes=(3, 5))
    return op.divide(op.reduce(cells, kind="sum", axes=(3, 5)), scalar(ratio * ratio, cells))
