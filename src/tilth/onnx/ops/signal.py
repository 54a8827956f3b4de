"""Fourier transforms: of short real signals as products with matrices of roots of unity, which
suits matrix units best, and fast ones of all others. Also windows of frames, and determinants.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.limits import require_table
from tilth.ir.ops.helpers import as_shape, permuted, take
from tilth.ir.ops.table import op
from tilth.onnx.build import (
    concatenate,
    expand_dims,
    full,
    ints,
    normal_axis,
    pad_axes,
    scalar,
    slice_axis,
)
from tilth.onnx.context import NodeContext
from tilth.onnx.fft import fft
from tilth.onnx.registry import onnx_op

_LONGEST_TABLE = 512  # real signals up to this length


def complex_parts(x: Value) -> list[Value]:
    """Real (and imaginary) part of a tensor whose last dimension holds them."""
    if x.shape[-1] > 2:
        raise ValueError("the last dimension holds a real part and perhaps an imaginary one")
    return [
        as_shape(slice_axis(x, len(x.shape) - 1, i, i + 1), x.shape[:-1])
        for i in range(x.shape[-1])
    ]


def transform(parts: list[Value], axis: int, length: int, bins: int, inverse: bool) -> list[Value]:
    """The first `bins` of a transform of `length` (a power of nothing in particular) along axis."""
    size = parts[0].shape[axis]
    fit = [(0, 0)] * len(parts[0].shape)
    fit[axis] = (0, length - size)
    parts = [pad_axes(p, fit) for p in parts]
    if len(parts) == 2 or length > _LONGEST_TABLE:
        return _fast(parts, axis, bins, inverse)
    sign = 1 if inverse else -1
    require_table(bins, length)
    angles = sign * 2 * np.pi * (np.outer(np.arange(bins), np.arange(length)) % length) / length
    scale = 1 / length if inverse else 1
    dtype = parts[0].tensor.dtype.numpy
    cosines, sines = (
        make_constant((table * scale).astype(dtype)) for table in (np.cos(angles), np.sin(angles))
    )
    real = [_along(p, axis, cosines) for p in parts]
    turned = [_along(p, axis, sines) for p in parts]
    if len(parts) == 1:
        return [real[0], turned[0]]
    return [op.subtract(real[0], turned[1]), op.add(turned[0], real[1])]


def _fast(parts: list[Value], axis: int, bins: int, inverse: bool) -> list[Value]:
    """The same by a fast transform, along the last axis."""
    length = parts[0].shape[axis]
    if len(parts) == 1:
        parts = [parts[0], full(0, parts[0].shape, parts[0].tensor.dtype)]
    order = [i for i in range(len(parts[0].shape)) if i != axis]
    real, imaginary = (permuted(p, [*order, axis]) for p in parts)
    result = [slice_axis(v, len(order), 0, bins) for v in fft((real, imaginary), inverse)]
    if inverse:
        result = [op.multiply(v, scalar(1 / length, v)) for v in result]
    back = list(range(len(order)))
    back.insert(axis, len(order))
    return [permuted(v, back) for v in result]


def _along(x: Value, axis: int, matrix: Value) -> Value:
    out = op.dot_general(x, matrix, lhs_contract=(axis,), rhs_contract=(1,))
    order = list(range(len(x.shape) - 1))
    order.insert(axis, len(x.shape) - 1)
    return permuted(out, order)


def joined_parts(parts: list[Value]) -> Value:
    rank = len(parts[0].shape)
    return concatenate([expand_dims(p, (rank,)) for p in parts], rank)


@onnx_op("DFT", since=20)
def dft(cx: NodeContext, x: Value, length: Value | None = None, axis: Value | None = None) -> Value:
    along = -2 if axis is None else cx.ints(axis, "the axis")[0]
    return _dft(cx, x, length, normal_axis(along, len(x.shape)))


@onnx_op("DFT", since=17)
def dft_attribute(cx: NodeContext, x: Value, length: Value | None = None) -> Value:
    return _dft(cx, x, length, normal_axis(cx.attr("axis", 1), len(x.shape)))


def _dft(cx: NodeContext, x: Value, length: Value | None, axis: int) -> Value:
    """A transform along `axis`; `onesided` keeps (or, inverse, is given) half of the spectrum."""
    onesided, inverse = bool(cx.attr("onesided", 0)), bool(cx.attr("inverse", 0))
    size = x.shape[axis] if length is None else cx.ints(length, "the transform length")[0]
    if onesided and inverse:
        return real_inverse(x, axis, 2 * (x.shape[axis] - 1) if length is None else size)
    bins = size // 2 + 1 if onesided else size
    return joined_parts(transform(complex_parts(x), axis, size, bins, inverse))


def real_inverse(x: Value, axis: int, length: int) -> Value:
    """A real signal from the first half of its spectrum; the other half is its conjugate."""
    half = length // 2 + 1
    x = slice_axis(x, axis, 0, min(half, x.shape[axis]))
    mirror = (length - half) and slice_axis(x, axis, 1, 1 + length - half)
    parts = complex_parts(x)
    if mirror:
        real, imaginary = (op.reverse(p, axes=(axis,)) for p in complex_parts(mirror))
        parts = [
            concatenate([parts[0], real], axis),
            concatenate([parts[1], op.negate(imaginary)], axis),
        ]
    return joined_parts(transform(parts, axis, length, length, inverse=True)[:1])


@onnx_op("STFT")
def stft(
    cx: NodeContext,
    signal: Value,
    step: Value,
    window: Value | None = None,
    length: Value | None = None,
) -> Value:
    """Overlapping frames of [B, L, 1 or 2], windowed and transformed: [B, frames, bins, 2]."""
    (hop,) = cx.ints(step, "the frame step")
    if length is not None:
        (size,) = cx.ints(length, "the frame length")
    elif window is not None:
        size = window.shape[0]
    else:
        raise ValueError("neither a window nor a frame length is given")
    count = (signal.shape[1] - size) // hop + 1
    require_table(count, size)
    frames = np.arange(count)[:, None] * hop + np.arange(size)
    parts = [take(p, ints(frames), 1) for p in complex_parts(signal)]  # [B, frames, size]
    if window is not None:
        parts = [op.multiply(p, window) for p in parts]
    bins = size // 2 + 1 if cx.attr("onesided", 1) else size
    return joined_parts(transform(parts, 2, size, bins, inverse=False))


@onnx_op("Det")
def det(cx: NodeContext, x: Value) -> Value:
    """The determinant of [..., n, n] by elimination, largest pivot first."""
    n = x.shape[-1]
    batch = x.shape[:-2]
    rows = as_shape(x, (int(np.prod(batch)), n, n))
    result = None
    for k in range(n):
        size = n - k
        rows, pivot = _eliminated(rows, size)
        result = pivot if result is None else op.multiply(result, pivot)
    result = scalar(1, x) if result is None else result
    return as_shape(result, batch)


def _eliminated(a: Value, size: int) -> tuple[Value, Value]:
    """One step on [B, size, size]: the remaining matrix and the signed pivot [B]."""
    batch = a.shape[0]
    column = as_shape(slice_axis(a, 2, 0, 1), (batch, size))
    best = op.arg_reduce(op.abs(column), kind="max", axis=1)
    place = op.iota(dtype=best.tensor.dtype, shape=(batch, size), axis=1)
    chosen = op.compare(place, expand_dims(best, (1,)), direction="EQ")
    zero = scalar(0, a)
    row = op.reduce(op.select(expand_dims(chosen, (2,)), a, zero), kind="sum", axes=(1,))
    pivot = as_shape(slice_axis(row, 1, 0, 1), (batch,))
    moved = op.compare(best, scalar(0, best), direction="NE")
    signed = op.select(moved, op.negate(pivot), pivot)
    # The first row takes the place of the pivot row; then only rows 1.. are kept.
    first = slice_axis(a, 1, 0, 1)
    swapped = slice_axis(op.select(expand_dims(chosen, (2,)), first, a), 1, 1, size)
    safe = op.select(op.compare(pivot, zero, direction="EQ"), scalar(1, a), pivot)
    factor = op.divide(slice_axis(swapped, 2, 0, 1), as_shape(safe, (batch, 1, 1)))
    rest = op.subtract(swapped, op.multiply(factor, expand_dims(row, (1,))))
    return slice_axis(rest, 2, 1, size), signed
