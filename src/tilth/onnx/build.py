"""Small builders that many handlers share: typed scalars, shapes, axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.helpers import as_shape, broadcast_to
from tilth.ir.ops.table import op
from tilth.ir.types import DType, bool_


def scalar(value: float | bool, like: Value | DType) -> Value:
    """A rank-0 constant of a value's element type (or a dtype)."""
    dtype = like if isinstance(like, DType) else like.tensor.dtype
    return make_constant(np.array(value).astype(dtype.numpy))


def ints(values: Sequence[int] | np.ndarray, dtype: type = np.int64) -> Value:
    """A constant of integers."""
    return make_constant(np.array(values, dtype))


def normal_axis(axis: int, rank: int) -> int:
    """An axis counted from the front; ValueError when it is outside [-rank, rank)."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} is outside [-{rank}, {rank})")
    return axis % rank if rank else 0


def normal_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return tuple(sorted({normal_axis(a, rank) for a in axes}))


def full(value: float | bool, shape: Sequence[int], dtype: DType) -> Value:
    """A tensor of one value."""
    return broadcast_to(scalar(value, dtype), shape)


def expand_dims(x: Value, axes: Sequence[int]) -> Value:
    """Insert dimensions of size 1 at these positions of the result."""
    axes = normal_axes(axes, len(x.shape) + len(axes))
    shape = list(x.shape)
    for axis in axes:
        shape.insert(axis, 1)
    return as_shape(x, shape)


def slice_axis(x: Value, axis: int, start: int, limit: int, stride: int = 1) -> Value:
    """`x[..., start:limit:stride, ...]` along one axis."""
    starts, limits, strides = [0] * len(x.shape), list(x.shape), [1] * len(x.shape)
    starts[axis], limits[axis], strides[axis] = start, limit, stride
    if (start, limit, stride) == (0, x.shape[axis], 1):
        return x
    return op.slice(x, start=tuple(starts), limit=tuple(limits), strides=tuple(strides))


def concatenate(xs: Sequence[Value], axis: int) -> Value:
    return xs[0] if len(xs) == 1 else op.concatenate(*xs, axis=axis)


def pad_axes(x: Value, pads: Sequence[tuple[int, int]], value: Value | None = None) -> Value:
    """Pad each dimension by (low, high); negative entries crop."""
    if not any(low or high for low, high in pads):
        return x
    low, high = zip(*pads, strict=True)
    fill = scalar(0, x) if value is None else value
    return op.pad(x, fill, low=low, high=high, interior=(0,) * len(pads))


def iota(shape: Sequence[int], axis: int, dtype: DType) -> Value:
    return op.iota(dtype=dtype, shape=tuple(shape), axis=axis)


def matmul(lhs: Value, rhs: Value, dtype: DType | None = None) -> Value:
    """NumPy's `matmul` with its rank-1 and broadcasting rules."""
    a = expand_dims(lhs, (0,)) if len(lhs.shape) == 1 else lhs
    b = expand_dims(rhs, (1,)) if len(rhs.shape) == 1 else rhs
    if len(b.shape) == 2:  # one matrix for every batch: a single product
        out = op.dot_general(
            a, b, lhs_batch=(), rhs_batch=(), lhs_contract=(len(a.shape) - 1,),
            rhs_contract=(0,), dtype=dtype,
        )  # fmt: skip
    else:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        a = broadcast_to(a, (*batch, *a.shape[-2:]))
        b = broadcast_to(b, (*batch, *b.shape[-2:]))
        dims, last = tuple(range(len(batch))), len(batch)
        out = op.dot_general(
            a, b, lhs_batch=dims, rhs_batch=dims, lhs_contract=(last + 1,),
            rhs_contract=(last,), dtype=dtype,
        )  # fmt: skip
    shape = list(out.shape)
    if len(rhs.shape) == 1:
        del shape[-1]
    if len(lhs.shape) == 1:
        del shape[-1 if len(rhs.shape) == 1 else -2]
    return as_shape(out, shape)


def wrap_negative(index: Value, size: int) -> Value:
    """Indices where negative ones count from the end of a dimension of `size`."""
    if index.tensor.dtype.kind != "int":
        return index
    wrapped = op.add(index, scalar(size, index))
    return op.select(op.compare(index, scalar(0, index), direction="LT"), wrapped, index)


def as_bool(x: Value) -> Value:
    return x if x.tensor.dtype == bool_ else op.compare(x, scalar(0, x), direction="NE")


def flatten(x: Value, axis: int) -> Value:
    """Rank 2: the dimensions before `axis` times those from it on."""
    return as_shape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))
