"""Convolutions: plain, transposed, and on quantised integers."""

from __future__ import annotations

import math

from tilth.ir.graph import Value
from tilth.ir.ops.helpers import as_dtype, as_shape, permuted
from tilth.ir.ops.table import op
from tilth.ir.types import i32
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op
from tilth.onnx.windows import Pads, same_padding, split_pads, windows_of


def add_bias(x: Value, bias: Value | None) -> Value:
    """A bias per channel of a channels-first tensor."""
    if bias is None:
        return x
    return op.add(x, as_shape(bias, (*bias.shape, *(1,) * (len(x.shape) - 2))))


def convolve(cx: NodeContext, x: Value, w: Value) -> Value:
    """The convolution that the node's attributes describe, without bias."""
    win = windows_of(cx, x.shape[2:], w.shape[2:])
    return op.convolution(
        x,
        w,
        strides=win.strides,
        padding=win.padding,
        lhs_dilation=(1,) * len(win.kernel),
        rhs_dilation=win.dilations,
        groups=cx.attr("group", 1),
        layout="channels_first",
    )


@onnx_op("Conv")
def conv(cx: NodeContext, x: Value, w: Value, bias: Value | None = None) -> Value:
    return add_bias(convolve(cx, x, w), bias)


def _without_zero_point(x: Value, zero_point: Value | None, channels_first: bool) -> Value:
    """x - zero_point in i32; a vector has one zero point per output channel."""
    wide = as_dtype(x, i32)
    if zero_point is None:
        return wide
    zero = as_dtype(zero_point, i32)
    if zero.shape not in ((), (1,)) and channels_first:
        zero = as_shape(zero, (*zero.shape, *(1,) * (len(x.shape) - 1)))
    return op.subtract(wide, as_shape(zero, ()) if zero.shape == (1,) else zero)


@onnx_op("ConvInteger")
def conv_integer(
    cx: NodeContext,
    x: Value,
    w: Value,
    x_zero: Value | None = None,
    w_zero: Value | None = None,
) -> Value:
    return convolve(cx, _without_zero_point(x, x_zero, False), _without_zero_point(w, w_zero, True))


@onnx_op("ConvTranspose")
def conv_transpose(cx: NodeContext, x: Value, w: Value, bias: Value | None = None) -> Value:
    return transposed_convolution(cx, x, w, bias)


def transposed_convolution(
    cx: NodeContext, x: Value, w: Value, bias: Value | None, pads: Pads | None = None
) -> Value:
    """A convolution of the input spread by the strides with the flipped, swapped kernel.

    `pads` take the place of the attribute's.
    """
    groups, kernel = cx.attr("group", 1), w.shape[2:]
    ones = (1,) * len(kernel)
    strides, dilations = cx.attr("strides", ones), cx.attr("dilations", ones)
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    crop, extra = _transposed_pads(cx, x.shape[2:], extents, strides)
    crop = crop if pads is None else pads
    padding = tuple(
        (e - 1 - low, e - 1 - high + more)
        for e, (low, high), more in zip(extents, crop, extra, strict=True)
    )
    out = op.convolution(
        x,
        _swapped_kernel(w, groups),
        strides=ones,
        padding=padding,
        lhs_dilation=tuple(strides),
        rhs_dilation=tuple(dilations),
        groups=groups,
        layout="channels_first",
    )
    return add_bias(out, bias)


def _swapped_kernel(w: Value, groups: int) -> Value:
    """[I, O/g, k...] to [O, I/g, k...] with the spatial dimensions reversed."""
    inputs, outputs, *kernel = w.shape
    w = as_shape(w, (groups, inputs // groups, outputs, *kernel))
    w = permuted(w, (0, 2, 1, *range(3, 3 + len(kernel))))
    w = as_shape(w, (groups * outputs, inputs // groups, *kernel))
    if math.prod(kernel) == 1:
        return w
    return op.reverse(w, axes=tuple(range(2, 2 + len(kernel))))


def _transposed_pads(
    cx: NodeContext, spatial: tuple[int, ...], extents: tuple[int, ...], strides: tuple[int, ...]
) -> tuple[Pads, tuple[int, ...]]:
    """What is cut off the full result on both sides, and what is added at the end."""
    rank = len(spatial)
    extra = tuple(cx.attr("output_padding", (0,) * rank))
    mode = cx.attr("auto_pad", "NOTSET")
    full = [
        s * (n - 1) + e + more
        for n, e, s, more in zip(spatial, extents, strides, extra, strict=True)
    ]
    if cx.has("output_shape"):
        wanted = cx.attr("output_shape")[-rank:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(n * s for n, s in zip(spatial, strides, strict=True))
    else:
        pads = cx.attr("pads", (0,) * 2 * rank) if mode == "NOTSET" else (0,) * 2 * rank
        return split_pads(pads, rank), extra
    lower = mode != "SAME_UPPER"
    crop = tuple(same_padding(f - w, lower) for f, w in zip(full, wanted, strict=True))
    missing = tuple(max(0, w - f) for f, w in zip(full, wanted, strict=True))
    return crop, tuple(a + b for a, b in zip(extra, missing, strict=True))
