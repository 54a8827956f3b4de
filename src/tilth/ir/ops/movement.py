"""Primitives that move elements to places known at compile time and compute nothing."""

from __future__ import annotations

import math

import numpy as np

from tilth.ir.ops.checks import (
    ONE_EACH,
    ZERO_EACH,
    check_axes,
    check_axis,
    check_ints,
    check_same_dtype,
    check_scalar,
    dilated,
)
from tilth.ir.ops.numerics import Array
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import Shape, TensorType

primitive("reshape", "the same elements, in row-major order, under another shape", "movement")


@infer("reshape")
def _(x: TensorType, *, shape: Shape) -> TensorType:
    check_ints("shape", shape, minimum=0)
    if math.prod(shape) != x.size:
        raise ValueError(f"{x} has {x.size} elements, shape {shape} has {math.prod(shape)}")
    return x.with_shape(shape)


@reference("reshape")
def _(x: Array, *, shape: Shape) -> Array:
    return x.reshape(shape)


primitive("transpose", "axis i of the result is axis permutation[i] of x", "movement")


@infer("transpose")
def _(x: TensorType, *, permutation: Shape) -> TensorType:
    check_axes(permutation, x.rank)
    check_ints("permutation", permutation, x.rank)
    return x.with_shape(tuple(x.shape[p] for p in permutation))


@reference("transpose")
def _(x: Array, *, permutation: Shape) -> Array:
    return x.transpose(permutation)


primitive("broadcast_in_dim", "axis i of x becomes axis dims[i]; size 1 expands", "movement")


@infer("broadcast_in_dim")
def _(x: TensorType, *, shape: Shape, dims: Shape) -> TensorType:
    check_ints("shape", shape, minimum=0)
    check_axes(dims, len(shape))
    check_ints("dims", dims, x.rank)
    for size, dim in zip(x.dims, dims, strict=True):
        if size not in (1, shape[dim]):
            raise ValueError(f"size {size} of {x} cannot become size {shape[dim]} of axis {dim}")
    return x.with_shape(shape)


@reference("broadcast_in_dim")
def _(x: Array, *, shape: Shape, dims: Shape) -> Array:
    order = sorted(range(x.ndim), key=dims.__getitem__)
    aligned = [1] * len(shape)
    for i, dim in enumerate(dims):
        aligned[dim] = x.shape[i]
    return np.broadcast_to(x.transpose(order).reshape(aligned), shape)


primitive("slice", "elements start, start + stride, ... below limit, per axis", "movement")


@infer("slice")
def _(x: TensorType, *, start: Shape, limit: Shape, strides: Shape = ONE_EACH) -> TensorType:
    check_ints("start", start, x.rank, minimum=0)
    check_ints("limit", limit, x.rank)
    check_ints("strides", strides, x.rank, minimum=1)
    for a, b, size in zip(start, limit, x.dims, strict=True):
        if not a <= b <= size:
            raise ValueError(f"[{a}, {b}) is not a range of a dimension of {size}")
    return x.with_shape(
        tuple(-((a - b) // s) for a, b, s in zip(start, limit, strides, strict=True))
    )


@reference("slice")
def _(x: Array, *, start: Shape, limit: Shape, strides: Shape) -> Array:
    return x[tuple(map(slice, start, limit, strides))]


primitive("reverse", "the order of elements turned round along some axes", "movement")


@infer("reverse")
def _(x: TensorType, *, axes: Shape) -> TensorType:
    check_axes(axes, x.rank)
    return x


@reference("reverse")
def _(x: Array, *, axes: Shape) -> Array:
    return np.flip(x, axes)


primitive("pad", "x framed (cropped where negative) and spaced out with a scalar", "movement")


@infer("pad")
def _(
    x: TensorType,
    value: TensorType,
    *,
    low: Shape = ZERO_EACH,
    high: Shape = ZERO_EACH,
    interior: Shape = ZERO_EACH,
) -> TensorType:
    check_same_dtype(x, value)
    check_scalar(value, value.dtype.kind)
    check_ints("low", low, x.rank)
    check_ints("high", high, x.rank)
    check_ints("interior", interior, x.rank, minimum=0)
    shape = tuple(
        a + dilated(size, i + 1) + b
        for size, a, b, i in zip(x.dims, low, high, interior, strict=True)
    )
    check_ints("padded shape", shape, minimum=0)
    return x.with_shape(shape)


@reference("pad")
def _(x: Array, value: Array, *, low: Shape, high: Shape, interior: Shape) -> Array:
    return pad(x, value, low, high, interior)


def pad(x: Array, value: Array, low: Shape, high: Shape, interior: Shape) -> Array:
    """StableHLO pad: first `interior` holes between elements, then edges, which may be negative."""
    if not any(low) and not any(high) and not any(interior):
        return x
    spread = [dilated(size, i + 1) for size, i in zip(x.shape, interior, strict=True)]
    shape = [size + max(a, 0) + max(b, 0) for size, a, b in zip(spread, low, high, strict=True)]
    result = np.full(shape, value, dtype=x.dtype)
    inside = (
        slice(max(a, 0), max(a, 0) + n, i + 1)
        for a, n, i in zip(low, spread, interior, strict=True)
    )
    result[tuple(inside)] = x
    crop = (slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(low, high, shape, strict=True))
    return result[tuple(crop)]


primitive("concatenate", "operands one after another along an axis", "movement")


@infer("concatenate")
def _(*xs: TensorType, axis: int) -> TensorType:
    if not xs:
        raise ValueError("needs at least one operand")
    check_same_dtype(*xs)
    first = xs[0]
    check_axis(axis, first.rank)
    around = first.dims[:axis] + first.dims[axis + 1 :]
    for x in xs:
        if x.rank != first.rank or x.dims[:axis] + x.dims[axis + 1 :] != around:
            raise ValueError(f"{first} and {x} differ off axis {axis}")
    total = sum(x.dims[axis] for x in xs)
    return first.with_shape((*first.dims[:axis], total, *first.dims[axis + 1 :]))


@reference("concatenate")
def _(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis=axis)
