"""Building blocks for decompositions, importers and passes: small nets of primitives.

Nothing here is an op; each helper makes the nodes one would write by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from tilth.ir.graph import Value, make_constant
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32


def scalar(number: complex, like: Value) -> Value:
    """A rank-0 constant with the dtype of `like`; it broadcasts in elementwise ops."""
    return make_constant(np.array(number).astype(like.tensor.dtype.numpy))


def as_dtype(x: Value, dtype: DType) -> Value:
    """x converted, or x itself when it has the dtype already."""
    return x if x.tensor.dtype == dtype else op.convert(x, dtype=dtype)


def as_shape(x: Value, shape: Sequence[int]) -> Value:
    """x reshaped, or x itself when it has the shape already."""
    return x if x.shape == tuple(shape) else op.reshape(x, shape=tuple(shape))


def permuted(x: Value, permutation: Sequence[int]) -> Value:
    """x transposed, or x itself when the permutation is the identity."""
    identity = tuple(permutation) == tuple(range(len(x.shape)))
    return x if identity else op.transpose(x, permutation=tuple(permutation))


def broadcast_to(x: Value, shape: Sequence[int]) -> Value:
    """x broadcast like NumPy to a shape."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    offset = len(shape) - len(x.shape)
    return op.broadcast_in_dim(x, shape=shape, dims=tuple(range(offset, len(shape))))


def align(vector: Value, axis: int, rank: int) -> Value:
    """A vector shaped so that it broadcasts along one axis of tensors of this rank."""
    return as_shape(vector, tuple(vector.shape[0] if i == axis else 1 for i in range(rank)))


def reduce_keepdims(x: Value, kind: str, axes: Sequence[int]) -> Value:
    """A reduction whose axes stay, with size 1."""
    shape = tuple(1 if i in axes else d for i, d in enumerate(x.shape))
    return as_shape(op.reduce(x, kind=kind, axes=tuple(axes)), shape)


def mean(x: Value, axes: Sequence[int]) -> Value:
    """The mean over axes, which stay with size 1."""
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return op.divide(reduce_keepdims(x, "sum", axes), scalar(count, x))


def take(x: Value, indices: Value, axis: int) -> Value:
    """`numpy.take`: slices of x along one axis, at indices of any shape (clamped, not wrapped)."""
    rank = len(x.shape)
    rank_indices = len(indices.shape)
    others = [i for i in range(rank) if i != axis]
    if x.shape[axis] == 0 and indices.tensor.size == 0:  # no slice to take, and none is wanted
        return as_shape(x, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return op.gather(
        x,
        indices,
        offset_dims=tuple(i if i < axis else i + rank_indices - 1 for i in others),
        collapsed_slice_dims=(axis,),
        start_index_map=(axis,),
        index_vector_dim=rank_indices,
        slice_sizes=tuple(1 if i == axis else d for i, d in enumerate(x.shape)),
    )


def split(x: Value, sizes: Sequence[int], axis: int) -> tuple[Value, ...]:
    """Consecutive slices of these sizes along an axis."""
    parts, begin = [], 0
    for size in sizes:
        start = tuple(begin if i == axis else 0 for i in range(len(x.shape)))
        limit = tuple(begin + size if i == axis else d for i, d in enumerate(x.shape))
        parts.append(op.slice(x, start=start, limit=limit))
        begin += size
    return tuple(parts)


def matmul(x: Value, y: Value) -> Value:
    """`x @ y` for equal leading (batch) axes and at least two axes each."""
    rank = len(x.shape)
    batch = tuple(range(rank - 2))
    return op.dot_general(
        x,
        y,
        lhs_batch=batch,
        rhs_batch=batch,
        lhs_contract=(rank - 1,),
        rhs_contract=(rank - 2,),
    )


def in_float32(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A decomposition that computes small floats in f32 and rounds its results once.

    The results have the dtype of the first operand; f32 and f64 are computed as they are.
    """

    @wraps(rule)
    def wrapped(*xs: Value, **attrs: Any) -> Any:
        dtype = xs[0].tensor.dtype
        if not dtype.is_float or dtype.bits >= 32:
            return rule(*xs, **attrs)
        results = rule(*(as_dtype(x, f32) for x in xs), **attrs)
        if isinstance(results, tuple):
            return tuple(as_dtype(r, dtype) for r in results)
        return as_dtype(results, dtype)

    return wrapped
