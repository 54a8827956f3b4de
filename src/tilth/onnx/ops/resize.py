"""Resize and Upsample.

Interpolation is separable and its weights are known: each axis is one product with a constant
matrix [out, in]. Nearest neighbour is a gather with constant indices, or a repetition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_dtype, permuted, take
from tilth.ir.ops.table import op
from tilth.ir.types import f32
from tilth.onnx.build import ints, normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

Array = np.ndarray


@dataclass(frozen=True)
class Axis:
    """Resizing of one axis: sizes, the scale as given, and the region of interest."""

    size: int
    out: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)


@onnx_op("Resize", since=11)
def resize(
    cx: NodeContext,
    x: Value,
    roi: Value | None = None,
    scales: Value | None = None,
    sizes: Value | None = None,
) -> Value:
    rank = len(x.shape)
    axes = [normal_axis(a, rank) for a in cx.attr("axes", tuple(range(rank)))]
    dims = [x.shape[a] for a in axes]
    mode = cx.attr("coordinate_transformation_mode", "half_pixel")
    regions = [(0.0, 1.0)] * len(axes)
    if roi is not None and mode == "tf_crop_and_resize":
        values = cx.static(roi, "the region of interest").astype(float).reshape(2, -1).T
        regions = [(a, b) for a, b in values.tolist()]
    if scales is not None and scales.tensor.size:
        factors = cx.static(scales, "the scales").astype(float).tolist()
        outs = [
            math.floor(d * s * (end - start))
            for d, s, (start, end) in zip(dims, factors, regions, strict=True)
        ]
    elif sizes is not None:
        outs, factors = _from_sizes(cx, dims, cx.ints(sizes, "the sizes"))
    else:
        raise ValueError("neither scales nor sizes are given")
    plan = dict(zip(axes, map(Axis, dims, outs, factors, regions), strict=True))
    return _resize(cx, x, plan, mode, cx.choice("nearest_mode", NEAREST, "round_prefer_floor"))


@onnx_op("Resize", "Upsample", since=9)
def resize_by_scales(cx: NodeContext, x: Value, scales: Value) -> Value:
    return _upsample(cx, x, cx.static(scales, "the scales").astype(float).tolist())


@onnx_op("Upsample", since=7)
def upsample_attribute(cx: NodeContext, x: Value) -> Value:
    return _upsample(cx, x, list(cx.attr("scales")))


@onnx_op("Upsample", since=1)
def upsample_2d(cx: NodeContext, x: Value) -> Value:
    return _upsample(cx, x, [1.0, 1.0, cx.attr("height_scale"), cx.attr("width_scale")])


def _upsample(cx: NodeContext, x: Value, scales: Sequence[float]) -> Value:
    plan = {
        axis: Axis(size, math.floor(size * scale), scale)
        for axis, (size, scale) in enumerate(zip(x.shape, scales, strict=True))
    }
    return _resize(cx, x, plan, "asymmetric", np.floor)


def _from_sizes(
    cx: NodeContext, dims: Sequence[int], sizes: Sequence[int]
) -> tuple[list[int], list[float]]:
    """Output sizes and scales; one common scale when the aspect ratio is kept."""
    factors = [s / d for s, d in zip(sizes, dims, strict=True)]
    policy = cx.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return list(sizes), factors
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(factor * d + 0.5) for d in dims], [factor] * len(dims)


def _resize(
    cx: NodeContext,
    x: Value,
    plan: dict[int, Axis],
    mode: str,
    nearest: Callable[[Array], Array],
) -> Value:
    kind = cx.attr("mode", "nearest")
    changed = {
        axis: p for axis, p in plan.items() if p.size != p.out or p.scale != 1 or p.roi != (0, 1)
    }
    dtype, outside = x.tensor.dtype, []
    if kind != "nearest":
        x = as_dtype(x, f32) if not dtype.is_float else x
    for axis, p in changed.items():
        places = _coordinates(p, mode)
        if kind == "nearest":
            x = _pick(x, axis, nearest(places).clip(0, p.size - 1).astype(np.int64))
        else:
            x = _interpolate(x, axis, _weights(cx, p, places, kind))
        outside.append((axis, (places < 0) | (places > p.size - 1)))
    if mode == "tf_crop_and_resize":
        x = _extrapolated(x, outside, cx.attr("extrapolation_value", 0.0))
    return as_dtype(x, dtype)


def _coordinates(p: Axis, mode: str) -> Array:
    """Where each output element lies in the input, in elements."""
    require_table(p.out)
    x = np.arange(p.out, dtype=np.float64)
    width = p.scale * p.size  # the output's width before it was rounded down
    if mode == "align_corners":
        return x * 0 if width == 1 else x * (p.size - 1) / (width - 1)
    if mode == "asymmetric":
        return x / p.scale
    if mode == "tf_crop_and_resize":
        start, end = p.roi
        if p.out == 1:
            return x + (end + start) * (p.size - 1) / 2
        return x * (end - start) * (p.size - 1) / (p.out - 1) + start * (p.size - 1)
    centred = (x + 0.5) / p.scale - 0.5
    if mode == "pytorch_half_pixel":
        return x * 0 - 0.5 if width == 1 else centred
    if mode == "half_pixel_symmetric":
        return centred + p.size / 2 * (1 - p.out / width)
    if mode in ("half_pixel", "tf_half_pixel_for_nn"):
        return centred
    raise ValueError(f"coordinate_transformation_mode '{mode}'")


NEAREST: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _pick(x: Value, axis: int, indices: Array) -> Value:
    """Elements along an axis; whole repetitions need no gather."""
    repeats, rest = divmod(len(indices), x.shape[axis])
    if rest == 0 and (indices == np.arange(len(indices)) // max(repeats, 1)).all():
        shape = (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
        dims = tuple(i for i in range(len(shape)) if i != axis + 1)
        wide = op.broadcast_in_dim(x, shape=shape, dims=dims)
        return op.reshape(wide, shape=(*x.shape[:axis], len(indices), *x.shape[axis + 1 :]))
    return take(x, ints(indices), axis)


# Interpolation weights


def _linear(distance: Array) -> Array:
    return np.clip(1 - np.abs(distance), 0, 1)


def _cubic(a: float) -> Callable[[Array], Array]:
    """Keys' convolution kernel ("Cubic convolution interpolation", 1981)."""

    def kernel(distance: Array) -> Array:
        x = np.abs(distance)
        near = (a + 2) * x**3 - (a + 3) * x**2 + 1
        far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return kernel


def _weights(cx: NodeContext, p: Axis, places: Array, kind: str) -> Array:
    """The matrix [out, in]; taps outside the input fall on its edge, or are left out."""
    cubic = kind == "cubic"
    kernel = _cubic(cx.attr("cubic_coeff_a", -0.75)) if cubic else _linear
    reach = 2 if cubic else 1
    squeeze = min(p.scale, 1.0) if cx.attr("antialias", 0) else 1.0
    taps = 2 * (reach - math.floor(-reach / squeeze) - 1) if squeeze < 1 else 2 * reach
    require_table(p.out, max(taps, p.size))
    base = np.ceil(places) - 1
    index = base[:, None] + np.arange(1 - taps // 2, taps // 2 + 1)
    weight = kernel((index - places[:, None]) * squeeze)
    if cx.attr("exclude_outside", 0):
        weight = np.where((index < 0) | (index >= p.size), 0, weight)
    if squeeze < 1 or cx.attr("exclude_outside", 0):
        weight = weight / weight.sum(1, keepdims=True)
    matrix = np.zeros((p.out, p.size))
    rows = np.broadcast_to(np.arange(p.out)[:, None], index.shape)
    np.add.at(matrix, (rows, index.clip(0, p.size - 1).astype(int)), weight)
    return matrix


def _interpolate(x: Value, axis: int, matrix: Array) -> Value:
    weights = make_constant(matrix.astype(x.tensor.dtype.numpy))
    out = op.dot_general(x, weights, lhs_contract=(axis,), rhs_contract=(1,))
    order = list(range(len(x.shape) - 1))
    order.insert(axis, len(x.shape) - 1)
    return permuted(out, order)


def _extrapolated(x: Value, outside: list[tuple[int, Array]], value: float) -> Value:
    """Elements that lie outside the input along any axis become `value`."""
    for axis, mask in outside:
        if mask.any():
            shape = [-1 if i == axis else 1 for i in range(len(x.shape))]
            x = op.select(make_constant(mask.reshape(shape)), scalar(value, x), x)
    return x
