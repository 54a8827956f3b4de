"""Contractions: sums of products over shared axes, dot_general and convolution.

Small floats accumulate in float32, integers in the result's dtype (they wrap). The references lean
on BLAS through `np.matmul`, so that whole models can be checked in seconds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilth.ir.ops.checks import (
    check_axes,
    check_choice,
    check_ints,
    check_kind,
    check_pairs,
    check_same_dtype,
    dilated,
    window_extent,
    without,
)
from tilth.ir.ops.movement import pad
from tilth.ir.ops.numerics import Array, narrow, widen
from tilth.ir.ops.table import Default, infer, primitive, reference
from tilth.ir.types import DType, Shape, TensorType, dtype_of

_NUMBER = ("int", "uint", "float", "complex")
_EXACT = 2.0**53  # integers below this are exact in float64
Pairs = tuple[tuple[int, int], ...]


def _matmul(lhs: Array, rhs: Array, dtype: np.dtype) -> Array:
    """`lhs @ rhs` with results of an accumulator dtype; integers go through float64 when exact."""
    if dtype.kind not in "iu":
        return np.matmul(lhs.astype(dtype, copy=False), rhs.astype(dtype, copy=False))
    bits = dtype_of(lhs.dtype).bits + dtype_of(rhs.dtype).bits
    if 2.0**bits * max(1, lhs.shape[-1]) < _EXACT:
        product = np.matmul(lhs.astype(np.float64), rhs.astype(np.float64))
        return product.astype(np.int64).astype(dtype)
    return np.matmul(lhs.astype(dtype, copy=False), rhs.astype(dtype, copy=False))


def _accumulated(lhs: TensorType, rhs: TensorType, dtype: DType | None) -> DType:
    """The element type of sums of products; only integers of two kinds may meet."""
    check_kind(lhs, *_NUMBER)
    if dtype is None or not (lhs.dtype.is_integer and rhs.dtype.is_integer):
        check_same_dtype(lhs, rhs)
    result = lhs.dtype if dtype is None else dtype
    if result.is_float != lhs.dtype.is_float or result.is_integer != lhs.dtype.is_integer:
        raise ValueError(f"{lhs.dtype} products cannot accumulate in {result}")
    return result


primitive(
    "dot_general",
    "sum over contracting axes, for each batch; result axes: batch, lhs free, rhs free",
    "contraction",
)


@infer("dot_general")
def _(
    lhs: TensorType,
    rhs: TensorType,
    *,
    lhs_contract: Shape,
    rhs_contract: Shape,
    lhs_batch: Shape = (),
    rhs_batch: Shape = (),
    dtype: DType | None = None,
) -> TensorType:
    result = _accumulated(lhs, rhs, dtype)
    check_axes(lhs_batch + lhs_contract, lhs.rank)
    check_axes(rhs_batch + rhs_contract, rhs.rank)
    for what, a, b in (
        ("batch", lhs_batch, rhs_batch),
        ("contracting", lhs_contract, rhs_contract),
    ):
        if [lhs.dims[i] for i in a] != [rhs.dims[i] for i in b]:
            raise ValueError(f"{what} axes {a} of {lhs} and {b} of {rhs} differ in size")
    batch = tuple(lhs.dims[i] for i in lhs_batch)
    lhs_free = without(lhs.dims, lhs_batch + lhs_contract)
    rhs_free = without(rhs.dims, rhs_batch + rhs_contract)
    return TensorType(result, batch + lhs_free + rhs_free)


@reference("dot_general")
def _(
    lhs: Array,
    rhs: Array,
    *,
    lhs_contract: Shape,
    rhs_contract: Shape,
    lhs_batch: Shape,
    rhs_batch: Shape,
    dtype: DType | None,
) -> Array:
    result = lhs.dtype if dtype is None else dtype.numpy
    lhs_free = without(range(lhs.ndim), lhs_batch + lhs_contract)
    rhs_free = without(range(rhs.ndim), rhs_batch + rhs_contract)
    batch = tuple(lhs.shape[i] for i in lhs_batch)
    m = tuple(lhs.shape[i] for i in lhs_free)
    n = tuple(rhs.shape[i] for i in rhs_free)
    k = math.prod(lhs.shape[i] for i in lhs_contract)
    a = lhs.transpose(lhs_batch + lhs_free + lhs_contract).reshape(*batch, math.prod(m), k)
    b = rhs.transpose(rhs_batch + rhs_contract + rhs_free).reshape(*batch, k, math.prod(n))
    accumulator = widen(np.empty(0, result)).dtype
    return narrow(_matmul(widen(a), widen(b), accumulator).reshape(batch + m + n), result)


primitive("convolution", "cross-correlation over spatial axes, in channel groups", "contraction")

_LAYOUTS = ("channels_first", "channels_last")


_SPATIAL_ONES: Any = Default(lambda x, w: (1,) * (x.rank - 2))
_SPATIAL_NO_PADDING: Any = Default(lambda x, w: ((0, 0),) * (x.rank - 2))


@infer("convolution")
def _(
    x: TensorType,
    w: TensorType,
    *,
    strides: Shape = _SPATIAL_ONES,
    padding: Pairs = _SPATIAL_NO_PADDING,
    lhs_dilation: Shape = _SPATIAL_ONES,
    rhs_dilation: Shape = _SPATIAL_ONES,
    groups: int = 1,
    layout: str = "channels_first",
    dtype: DType | None = None,
) -> TensorType:
    check_choice("layout", layout, _LAYOUTS)
    result = TensorType(_accumulated(x, w, dtype), ())
    rank = x.rank - 2
    if rank < 0 or w.rank != x.rank:
        raise ValueError(f"{x} and {w} must have one rank, at least 2")
    for what, xs in (
        ("strides", strides),
        ("lhs_dilation", lhs_dilation),
        ("rhs_dilation", rhs_dilation),
    ):
        check_ints(what, xs, rank, minimum=1)
    check_pairs("padding", padding, rank)
    if layout == "channels_first":
        batch, channels, *spatial = x.dims
        features, group, *window = w.dims
    else:
        batch, *spatial, channels = x.dims
        *window, group, features = w.dims
    if type(groups) is not int or groups < 1 or channels != group * groups or features % groups:
        raise ValueError(f"{groups} groups do not divide {channels} channels of {x} as {w} says")
    if 0 in window:
        raise ValueError(f"the window of {w} is empty")
    extents = tuple(
        window_extent(dilated(size, base), n, stride, low, high, dilation)
        for size, n, stride, (low, high), base, dilation in zip(
            spatial, window, strides, padding, lhs_dilation, rhs_dilation, strict=True
        )
    )
    if layout == "channels_first":
        return result.with_shape((batch, features, *extents))
    return result.with_shape((batch, *extents, features))


@reference("convolution")
def _(
    x: Array,
    w: Array,
    *,
    strides: Shape,
    padding: Pairs,
    lhs_dilation: Shape,
    rhs_dilation: Shape,
    groups: int,
    layout: str,
    dtype: DType | None,
) -> Array:
    wanted = x.dtype if dtype is None else dtype.numpy
    accumulator = widen(np.empty(0, wanted)).dtype
    x, w = widen(x), widen(w)
    if layout == "channels_first":
        x, w = np.moveaxis(x, 1, -1), np.moveaxis(w, (0, 1), (-1, -2))
    low, high = zip((0, 0), *padding, (0, 0), strict=True)
    x = pad(x, np.zeros((), x.dtype), low, high, (0, *(d - 1 for d in lhs_dilation), 0))
    total = _correlate(x, w, accumulator, strides, rhs_dilation, groups)
    result = narrow(total, wanted)
    return np.moveaxis(result, -1, 1) if layout == "channels_first" else result


def _correlate(
    x: Array, w: Array, dtype: np.dtype, strides: Shape, dilation: Shape, groups: int
) -> Array:
    """x [N, S.., C] padded, w [W.., C/g, O]: the sum over window offsets of one matmul each."""
    batch, *spatial, _ = x.shape
    *window, group, features = w.shape
    extents = tuple(
        window_extent(size, n, stride, 0, 0, d)
        for size, n, stride, d in zip(spatial, window, strides, dilation, strict=True)
    )
    positions = batch * math.prod(extents)
    # [G, positions, O/g]: each group is a batch of the matmul
    result = np.zeros((groups, positions, features // groups), dtype)
    if not result.size:
        return result.reshape(batch, *extents, features)
    for offset in np.ndindex(*window):
        corner = tuple(
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilation, extents, strides, strict=True)
        )
        shifted = x[(slice(None), *corner)].reshape(positions, groups, group).transpose(1, 0, 2)
        weights = w[offset].reshape(group, groups, features // groups).transpose(1, 0, 2)
        # depthwise: one channel a group, where a matmul would be an outer product
        if group == 1:
            result += shifted.astype(dtype, copy=False) * weights.astype(dtype, copy=False)
        else:
            result += _matmul(shifted, weights, dtype)
    return result.transpose(1, 0, 2).reshape(batch, *extents, features)
