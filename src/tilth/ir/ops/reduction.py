"""Reductions over whole axes, over sliding windows, and running ones.

Float sums and products accumulate in float64 and round once, so they are the answer a kernel with
any order of additions is measured against. Empty reductions give the neutral element.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import (
    NO_PADDING,
    ONE_EACH,
    check_axes,
    check_axis,
    check_choice,
    check_ints,
    check_kind,
    check_pairs,
    dilated,
    window_extent,
    without,
)
from tilth.ir.ops.movement import pad
from tilth.ir.ops.numerics import Array, double, identity, narrow, widen
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import Shape, TensorType, i64

_UFUNC = {
    "sum": np.add,
    "product": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
}
_OPERANDS = {
    "sum": ("int", "uint", "float", "complex"),
    "product": ("int", "uint", "float", "complex"),
    "max": ("bool", "int", "uint", "float"),
    "min": ("bool", "int", "uint", "float"),
    "and": ("bool", "int", "uint"),
    "or": ("bool", "int", "uint"),
}
Pairs = tuple[tuple[int, int], ...]


def _check_kind(kind: str, x: TensorType) -> None:
    check_choice("kind", kind, _UFUNC)
    check_kind(x, *_OPERANDS[kind])


def _accumulator(kind: str, x: Array) -> Array:
    return double(x) if kind in ("sum", "product") else widen(x)


primitive("reduce", "sum, product, max, min, and, or over axes, which are dropped", "reduction")


@infer("reduce")
def _(x: TensorType, *, kind: str, axes: Shape) -> TensorType:
    _check_kind(kind, x)
    check_axes(axes, x.rank)
    return x.with_shape(without(x.dims, axes))


@reference("reduce")
def _(x: Array, *, kind: str, axes: Shape) -> Array:
    wide = _accumulator(kind, x)
    initial = identity(kind, x.dtype).astype(wide.dtype)
    return narrow(_UFUNC[kind].reduce(wide, axes, dtype=wide.dtype, initial=initial), x.dtype)


primitive("arg_reduce", "the i64 position of the max or min along an axis (dropped)", "reduction")


@infer("arg_reduce")
def _(x: TensorType, *, kind: str, axis: int, last: bool = False) -> TensorType:
    check_choice("kind", kind, ("max", "min"))
    check_kind(x, *_OPERANDS[kind])
    check_axis(axis, x.rank)
    if x.dims[axis] == 0:
        raise ValueError(f"axis {axis} of {x} is empty")
    return TensorType(i64, without(x.dims, (axis,)))


@reference("arg_reduce")
def _(x: Array, *, kind: str, axis: int, last: bool) -> Array:
    """NaN counts as the extreme; of equals the first position wins, or the last."""
    find = np.argmax if kind == "max" else np.argmin
    if last:
        return np.asarray(x.shape[axis] - 1 - find(widen(np.flip(x, axis)), axis=axis))
    return np.asarray(find(widen(x), axis=axis))


primitive("reduce_window", "a reduction over each position of a sliding window", "window")


@infer("reduce_window")
def _(
    x: TensorType,
    *,
    kind: str,
    window: Shape,
    strides: Shape = ONE_EACH,
    padding: Pairs = NO_PADDING,
    base_dilation: Shape = ONE_EACH,
    window_dilation: Shape = ONE_EACH,
) -> TensorType:
    _check_kind(kind, x)
    for what, xs in (
        ("window", window),
        ("strides", strides),
        ("base_dilation", base_dilation),
        ("window_dilation", window_dilation),
    ):
        check_ints(what, xs, x.rank, minimum=1)
    check_pairs("padding", padding, x.rank)
    return x.with_shape(
        tuple(
            window_extent(dilated(size, base), w, stride, low, high, dilation)
            for size, w, stride, (low, high), base, dilation in zip(
                x.dims, window, strides, padding, base_dilation, window_dilation, strict=True
            )
        )
    )


@reference("reduce_window")
def _(
    x: Array,
    *,
    kind: str,
    window: Shape,
    strides: Shape,
    padding: Pairs,
    base_dilation: Shape,
    window_dilation: Shape,
) -> Array:
    """Padding and holes hold the neutral element. Separable, so one axis after the other."""
    low, high = zip(*padding, strict=True) if padding else ((), ())
    padded = pad(x, identity(kind, x.dtype), low, high, tuple(d - 1 for d in base_dilation))
    result = _accumulator(kind, padded)
    for axis in range(x.ndim):
        result = _slide(result, kind, axis, window[axis], strides[axis], window_dilation[axis])
    return narrow(result, x.dtype)


def _slide(x: Array, kind: str, axis: int, window: int, stride: int, dilation: int) -> Array:
    count = window_extent(x.shape[axis], window, stride, 0, 0, dilation)
    lines = np.moveaxis(x, axis, 0)
    if not count:
        return np.moveaxis(lines[:0], 0, axis)
    shifted = (
        lines[k * dilation : k * dilation + (count - 1) * stride + 1 : stride]
        for k in range(window)
    )
    result = next(shifted)
    for other in shifted:
        result = _UFUNC[kind](result, other)
    return np.moveaxis(result, 0, axis)


primitive("cumulative", "a running reduction along an axis", "reduction")


@infer("cumulative")
def _(
    x: TensorType, *, kind: str, axis: int, exclusive: bool = False, reverse: bool = False
) -> TensorType:
    _check_kind(kind, x)
    check_axis(axis, x.rank)
    return x


@reference("cumulative")
def _(x: Array, *, kind: str, axis: int, exclusive: bool, reverse: bool) -> Array:
    """`exclusive` leaves the element itself out; `reverse` runs from the end."""
    lines = np.moveaxis(_accumulator(kind, x), axis, 0)
    lines = lines[::-1] if reverse else lines
    if exclusive:
        first = np.full_like(lines[:1], identity(kind, x.dtype))
        lines = np.concatenate([first, lines[:-1]])
    result = _UFUNC[kind].accumulate(lines, axis=0, dtype=lines.dtype)
    return narrow(np.moveaxis(result[::-1] if reverse else result, 0, axis), x.dtype)
