"""Composites that normalise: softmax and the family of norms.

Small floats are computed in f32 and rounded once. Variances are means of squared differences from
the mean (two passes), which stay accurate when the mean is large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tilth.ir.graph import Value
from tilth.ir.ops.checks import (
    check_axis,
    check_broadcasts_to,
    check_kind,
    check_same_dtype,
)
from tilth.ir.ops.helpers import align, as_shape, in_float32, mean, reduce_keepdims, scalar
from tilth.ir.ops.table import composite, decompose, infer, op
from tilth.ir.types import TensorType

composite("softmax", "e^x over its sum along an axis")
composite("log_softmax", "the logarithm of softmax")


@infer("softmax", "log_softmax")
def _(x: TensorType, *, axis: int) -> TensorType:
    check_kind(x, "float")
    check_axis(axis, x.rank)
    return x


def _below_max(x: Value, axis: int) -> Value:
    """x minus its largest value along the axis, so that the exponential cannot overflow."""
    return op.subtract(x, reduce_keepdims(x, "max", (axis,)))


@decompose("softmax")
@in_float32
def _(x: Value, *, axis: int) -> Value:
    powers = op.exponential(_below_max(x, axis))
    return op.divide(powers, reduce_keepdims(powers, "sum", (axis,)))


@decompose("log_softmax")
@in_float32
def _(x: Value, *, axis: int) -> Value:
    shifted = _below_max(x, axis)
    total = reduce_keepdims(op.exponential(shifted), "sum", (axis,))
    return op.subtract(shifted, op.log(total))


def _centered(x: Value, axes: Sequence[int]) -> Value:
    return op.subtract(x, mean(x, axes))


def _scaled_to_unit(x: Value, axes: Sequence[int], epsilon: float) -> Value:
    """x over the root of its mean square."""
    power = op.add(mean(op.multiply(x, x), axes), scalar(epsilon, x))
    return op.multiply(x, op.rsqrt(power))


composite("layer_norm", "zero mean and unit variance over axes from `axis` on, scaled, shifted")


@infer("layer_norm")
def _(
    x: TensorType, scale: TensorType, bias: TensorType, *, axis: int, epsilon: float = 1e-5
) -> TensorType:
    """scale and bias broadcast to x.shape[axis:]."""
    _check_norm(x, axis, scale, bias)
    return x


def _check_norm(x: TensorType, axis: int, *parameters: TensorType) -> None:
    check_kind(x, "float")
    check_axis(axis, x.rank)
    check_same_dtype(x, *parameters)
    for parameter in parameters:
        check_broadcasts_to(parameter, x.dims[axis:])


@decompose("layer_norm")
@in_float32
def _(x: Value, scale: Value, bias: Value, *, axis: int, epsilon: float) -> Value:
    axes = range(axis, len(x.shape))
    unit = _scaled_to_unit(_centered(x, axes), axes, epsilon)
    return op.add(op.multiply(unit, scale), bias)


composite("rms_norm", "unit mean square over axes from `axis` on, scaled")


@infer("rms_norm")
def _(x: TensorType, scale: TensorType, *, axis: int, epsilon: float = 1e-5) -> TensorType:
    """scale broadcasts to x.shape[axis:]."""
    _check_norm(x, axis, scale)
    return x


@decompose("rms_norm")
@in_float32
def _(x: Value, scale: Value, *, axis: int, epsilon: float) -> Value:
    return op.multiply(_scaled_to_unit(x, range(axis, len(x.shape)), epsilon), scale)


def _check_channels(x: TensorType, axis: int, *parameters: TensorType) -> None:
    check_kind(x, "float")
    check_axis(axis, x.rank)
    check_same_dtype(x, *parameters)
    for parameter in parameters:
        if parameter.shape != (x.dims[axis],):
            raise ValueError(f"{parameter} is not a vector over the {x.dims[axis]} channels of {x}")


composite("batch_norm", "(x - mean) / sqrt(variance + epsilon), scaled and shifted, per channel")


@infer("batch_norm")
def _(
    x: TensorType,
    scale: TensorType,
    bias: TensorType,
    mean: TensorType,
    variance: TensorType,
    *,
    epsilon: float = 1e-5,
    axis: int = 1,
) -> TensorType:
    """scale, bias, mean and variance are vectors over the channel axis."""
    _check_channels(x, axis, scale, bias, mean, variance)
    return x


@decompose("batch_norm")
@in_float32
def _(
    x: Value,
    scale: Value,
    bias: Value,
    mean: Value,
    variance: Value,
    *,
    epsilon: float,
    axis: int,
) -> Value:
    """As one multiply and one add per element: the rest is per channel."""
    factor = op.multiply(scale, op.rsqrt(op.add(variance, scalar(epsilon, variance))))
    offset = op.subtract(bias, op.multiply(mean, factor))
    rank = len(x.shape)
    return op.add(op.multiply(x, align(factor, axis, rank)), align(offset, axis, rank))


composite("instance_norm", "each channel of x [N, C, S..] normalised over S, scaled, shifted")


@infer("instance_norm")
def _(x: TensorType, scale: TensorType, bias: TensorType, *, epsilon: float = 1e-5) -> TensorType:
    """scale and bias are [C]."""
    _check_channels(x, 1, scale, bias)
    return x


@decompose("instance_norm")
@in_float32
def _(x: Value, scale: Value, bias: Value, *, epsilon: float) -> Value:
    rank = len(x.shape)
    axes = range(2, rank)
    unit = _scaled_to_unit(_centered(x, axes), axes, epsilon)
    return op.add(op.multiply(unit, align(scale, 1, rank)), align(bias, 1, rank))


composite("group_norm", "groups of channels of x [N, C, S..] normalised together")


@infer("group_norm")
def _(
    x: TensorType, scale: TensorType, bias: TensorType, *, groups: int, epsilon: float = 1e-5
) -> TensorType:
    """scale and bias are [C]; `groups` divides C."""
    _check_channels(x, 1, scale, bias)
    if type(groups) is not int or groups < 1 or x.dims[1] % groups:
        raise ValueError(f"{groups!r} groups do not divide {x.dims[1]} channels")
    return x


@decompose("group_norm")
@in_float32
def _(x: Value, scale: Value, bias: Value, *, groups: int, epsilon: float) -> Value:
    rank = len(x.shape)
    rows = as_shape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
    unit = as_shape(_scaled_to_unit(_centered(rows, (2,)), (2,), epsilon), x.shape)
    return op.add(op.multiply(unit, align(scale, 1, rank)), align(bias, 1, rank))


composite("lrn", "x over a power of the sum of squares of neighbouring channels")


@infer("lrn")
def _(
    x: TensorType,
    *,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    bias: float = 1.0,
    axis: int = 1,
) -> TensorType:
    check_kind(x, "float")
    check_axis(axis, x.rank)
    if type(size) is not int or size < 1:
        raise ValueError(f"size {size!r} is not a positive int")
    return x


@decompose("lrn")
@in_float32
def _(x: Value, *, size: int, alpha: float, beta: float, bias: float, axis: int) -> Value:
    """Krizhevsky et al., 2012, section 3.3, with alpha over `size` as in ONNX."""
    before = (size - 1) // 2
    squares = op.reduce_window(
        op.multiply(x, x),
        kind="sum",
        window=tuple(size if i == axis else 1 for i in range(len(x.shape))),
        padding=tuple(
            (before, size - 1 - before) if i == axis else (0, 0) for i in range(len(x.shape))
        ),
    )
    base = op.add(op.multiply(squares, scalar(alpha / size, x)), scalar(bias, x))
    return op.multiply(x, op.power(base, scalar(-beta, x)))
