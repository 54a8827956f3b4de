"""Primitives that order elements: sort and top_k. NaN counts as the greatest value."""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import check_axis, check_kind
from tilth.ir.ops.numerics import Array, widen
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import TensorType, i64

_SORTABLE = ("bool", "int", "uint", "float")


def _order(keys: Array, axis: int, descending: bool) -> Array:
    """The stable order of the keys along an axis, as positions."""
    keys = widen(keys)
    if not descending:
        return np.argsort(keys, axis=axis, kind="stable")
    # sorting the reversed keys and reversing the result keeps equal keys in their order
    order = np.argsort(np.flip(keys, axis), axis=axis, kind="stable")
    return keys.shape[axis] - 1 - np.flip(order, axis)


primitive("sort", "all operands in the stable order of the first along an axis")


@infer("sort")
def _(
    keys: TensorType, *more: TensorType, axis: int, descending: bool = False
) -> tuple[TensorType, ...]:
    check_kind(keys, *_SORTABLE)
    check_axis(axis, keys.rank)
    for x in more:
        if x.shape != keys.shape:
            raise ValueError(f"{x} has not the shape of the keys {keys}")
    return (keys, *more)


@reference("sort")
def _(keys: Array, *more: Array, axis: int, descending: bool) -> tuple[Array, ...]:
    order = _order(keys, axis, descending)
    return tuple(np.take_along_axis(x, order, axis) for x in (keys, *more))


primitive("top_k", "the k largest (or smallest) along an axis, in order, and i64 positions")


@infer("top_k")
def _(x: TensorType, *, k: int, axis: int, largest: bool = True) -> tuple[TensorType, TensorType]:
    check_kind(x, *_SORTABLE)
    check_axis(axis, x.rank)
    if type(k) is not int or not 0 <= k <= x.dims[axis]:
        raise ValueError(f"k {k!r} is not in [0, {x.dims[axis]}]")
    shape = (*x.dims[:axis], k, *x.dims[axis + 1 :])
    return x.with_shape(shape), TensorType(i64, shape)


@reference("top_k")
def _(x: Array, *, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
    """Of equal values the one at the lower position comes first."""
    order = _order(x, axis, largest)
    order = np.take(order, range(k), axis)
    return np.take_along_axis(x, order, axis), order
