"""Primitives that read or write at places known only at run time.

Dimension numbers and their meaning are StableHLO's: gathers and dynamic slices clamp their start
so that the slice lies inside, scatters leave out updates that would fall outside.
"""

from __future__ import annotations

import numpy as np

from tilth.ir.ops.checks import (
    check_axes,
    check_choice,
    check_ints,
    check_kind,
    check_same_dtype,
    check_scalar,
    without,
)
from tilth.ir.ops.numerics import Array, narrow, widen
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.types import Shape, TensorType

_INDEX = ("int", "uint")


def _check_index_vector(
    x: TensorType, indices: TensorType, index_vector_dim: int, start_index_map: Shape
) -> tuple[int, ...]:
    """The batch shape of the indices: all axes but the index vector's."""
    check_kind(indices, *_INDEX)
    check_ints("index_vector_dim", (index_vector_dim,), minimum=0)
    if index_vector_dim > indices.rank:
        raise ValueError(f"index_vector_dim {index_vector_dim} is beyond {indices}")
    length = indices.dims[index_vector_dim] if index_vector_dim < indices.rank else 1
    check_axes(start_index_map, x.rank)
    if len(start_index_map) != length:
        raise ValueError(f"index vectors of {length} entries, but {start_index_map} to address")
    return without(indices.dims, (index_vector_dim,))


def _check_batching(
    x: TensorType, batch: Shape, index_vector_dim: int, x_dims: Shape, index_dims: Shape
) -> None:
    """Batching axes of the operand and the indices pair up."""
    if index_vector_dim in index_dims:
        raise ValueError(f"index_vector_dim {index_vector_dim} cannot be a batching axis")
    positions = _batch_positions(index_dims, index_vector_dim)
    check_axes(positions, len(batch))
    if [x.dims[d] for d in x_dims] != [batch[p] for p in positions]:
        raise ValueError(f"batching axes {x_dims} of {x} do not match {index_dims} of the indices")


def _batch_positions(index_dims: Shape, index_vector_dim: int) -> Shape:
    """Axes of the indices as axes of their batch shape, which lacks the index vector."""
    return tuple(d - (d > index_vector_dim) for d in index_dims)


def _starts(
    x: Array,
    indices: Array,
    index_vector_dim: int,
    index_map: Shape,
    x_batch: Shape,
    index_batch: Shape,
) -> list[Array]:
    """For each axis of x, the start positions: arrays of the indices' batch shape, i64."""
    indices = widen(indices)
    if indices.dtype == np.uint64:  # beyond i64 is beyond any axis
        indices = np.minimum(indices, np.uint64(np.iinfo(np.int64).max))
    if index_vector_dim == indices.ndim:
        indices = indices[..., None]
    vectors = np.moveaxis(indices, index_vector_dim, -1).astype(np.int64)
    batch = vectors.shape[:-1]
    starts = [np.zeros((1,) * len(batch), np.int64) for _ in x.shape]
    for i, axis in enumerate(index_map):
        starts[axis] = vectors[..., i]
    for axis, position in zip(
        x_batch, _batch_positions(index_batch, index_vector_dim), strict=True
    ):
        line = np.arange(batch[position])
        starts[axis] = line.reshape([-1 if i == position else 1 for i in range(len(batch))])
    return starts


def _grid(starts: list[Array], sizes: Shape, dropped: Shape) -> list[Array]:
    """Index arrays that broadcast to batch + window: start + offset in each window axis."""
    window_axes = without(range(len(sizes)), dropped)
    grid = []
    for axis, start in enumerate(starts):
        index = start.reshape(start.shape + (1,) * len(window_axes))
        if axis in window_axes:
            place = window_axes.index(axis)
            shape = [-1 if i == place else 1 for i in range(len(window_axes))]
            index = index + np.arange(sizes[axis]).reshape(shape)
        grid.append(index)
    return grid


primitive("gather", "slices of x at run-time positions (StableHLO gather)", "indexing")


@infer("gather")
def _(
    x: TensorType,
    indices: TensorType,
    *,
    offset_dims: Shape,
    collapsed_slice_dims: Shape,
    start_index_map: Shape,
    index_vector_dim: int,
    slice_sizes: Shape,
    operand_batching_dims: Shape = (),
    start_indices_batching_dims: Shape = (),
) -> TensorType:
    batch = _check_index_vector(x, indices, index_vector_dim, start_index_map)
    check_ints("slice_sizes", slice_sizes, x.rank, minimum=0)
    for size, dim in zip(slice_sizes, x.dims, strict=True):
        if size > dim:
            raise ValueError(f"a slice of {slice_sizes} does not fit into {x}")
    dropped = collapsed_slice_dims + operand_batching_dims
    check_axes(dropped, x.rank)
    check_axes(start_index_map + operand_batching_dims, x.rank)
    if any(slice_sizes[d] != 1 for d in dropped):
        raise ValueError(f"axes {dropped} are dropped, but slices of {slice_sizes} are not 1 there")
    _check_batching(x, batch, index_vector_dim, operand_batching_dims, start_indices_batching_dims)
    offsets = without(slice_sizes, dropped)
    check_axes(offset_dims, len(batch) + len(offsets))
    check_ints("offset_dims", offset_dims, len(offsets))
    if offset_dims != tuple(sorted(offset_dims)):
        raise ValueError(f"offset_dims {offset_dims} are not in order")
    sizes = dict(zip(offset_dims, offsets, strict=True))
    others = iter(batch)
    rank = len(batch) + len(offsets)
    return x.with_shape(tuple(sizes[i] if i in sizes else next(others) for i in range(rank)))


@reference("gather")
def _(
    x: Array,
    indices: Array,
    *,
    offset_dims: Shape,
    collapsed_slice_dims: Shape,
    start_index_map: Shape,
    index_vector_dim: int,
    slice_sizes: Shape,
    operand_batching_dims: Shape,
    start_indices_batching_dims: Shape,
) -> Array:
    starts = _starts(
        x,
        indices,
        index_vector_dim,
        start_index_map,
        operand_batching_dims,
        start_indices_batching_dims,
    )
    clamped = [
        np.clip(s, 0, dim - size) for s, dim, size in zip(starts, x.shape, slice_sizes, strict=True)
    ]
    grid = _grid(clamped, slice_sizes, collapsed_slice_dims + operand_batching_dims)
    result = np.asarray(x[tuple(grid)])
    # axes of the batch have size 1 where no start depends on them
    batch = without(indices.shape, (index_vector_dim,))
    result = np.broadcast_to(result, batch + result.shape[len(batch) :])
    return np.moveaxis(result, range(len(batch), result.ndim), offset_dims)


primitive("scatter", "x with updates written at run-time positions (StableHLO)", "indexing")

_SCATTER = {
    "add": np.add,
    "multiply": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


@infer("scatter")
def _(
    x: TensorType,
    indices: TensorType,
    updates: TensorType,
    *,
    update_window_dims: Shape,
    inserted_window_dims: Shape,
    scatter_dims_to_operand_dims: Shape,
    index_vector_dim: int,
    kind: str = "assign",
    input_batching_dims: Shape = (),
    scatter_indices_batching_dims: Shape = (),
) -> TensorType:
    check_choice("kind", kind, ("assign", *_SCATTER))
    check_same_dtype(x, updates)
    if kind != "assign":
        check_kind(
            x, "int", "uint", "float", *(("complex",) if kind in ("add", "multiply") else ())
        )
    batch = _check_index_vector(x, indices, index_vector_dim, scatter_dims_to_operand_dims)
    dropped = inserted_window_dims + input_batching_dims
    check_axes(dropped, x.rank)
    check_axes(scatter_dims_to_operand_dims + input_batching_dims, x.rank)
    _check_batching(x, batch, index_vector_dim, input_batching_dims, scatter_indices_batching_dims)
    check_axes(update_window_dims, updates.rank)
    check_ints("update_window_dims", update_window_dims, x.rank - len(dropped))
    if update_window_dims != tuple(sorted(update_window_dims)):
        raise ValueError(f"update_window_dims {update_window_dims} are not in order")
    if without(updates.dims, update_window_dims) != batch:
        raise ValueError(f"{updates} has not the batch shape {batch} of the indices")
    limits = without(x.dims, dropped)
    for axis, limit in zip(update_window_dims, limits, strict=True):
        if updates.dims[axis] > limit:
            raise ValueError(f"the windows of {updates} do not fit into {x}")
    return x


@reference("scatter")
def _(
    x: Array,
    indices: Array,
    updates: Array,
    *,
    update_window_dims: Shape,
    inserted_window_dims: Shape,
    scatter_dims_to_operand_dims: Shape,
    index_vector_dim: int,
    kind: str,
    input_batching_dims: Shape,
    scatter_indices_batching_dims: Shape,
) -> Array:
    """Where updates meet, `assign` keeps the last in row-major order of the updates."""
    starts = _starts(
        x,
        indices,
        index_vector_dim,
        scatter_dims_to_operand_dims,
        input_batching_dims,
        scatter_indices_batching_dims,
    )
    dropped = inserted_window_dims + input_batching_dims
    window_sizes = iter(updates.shape[d] for d in update_window_dims)
    sizes = tuple(1 if axis in dropped else next(window_sizes) for axis in range(x.ndim))
    rank = updates.ndim - len(update_window_dims)
    values = np.moveaxis(updates, update_window_dims, range(rank, updates.ndim))
    inside, position = np.ones(values.shape, bool), np.zeros(values.shape, np.int64)
    for index, dim in zip(_grid(starts, sizes, dropped), x.shape, strict=True):
        inside &= (index >= 0) & (index < dim)
        position = position * dim + index
    flat = widen(x).flatten()
    if kind == "assign":
        flat[position[inside]] = widen(values)[inside]
    else:
        _SCATTER[kind].at(flat, position[inside], widen(values)[inside])
    return narrow(flat.reshape(x.shape), x.dtype)


primitive("dynamic_slice", "a slice whose start is given at run time (clamped)", "indexing")


@infer("dynamic_slice")
def _(x: TensorType, *starts: TensorType, sizes: Shape) -> TensorType:
    _check_starts(x, starts)
    check_ints("sizes", sizes, x.rank, minimum=0)
    if any(size > dim for size, dim in zip(sizes, x.dims, strict=True)):
        raise ValueError(f"a slice of {sizes} does not fit into {x}")
    return x.with_shape(sizes)


def _check_starts(x: TensorType, starts: tuple[TensorType, ...]) -> None:
    if len(starts) != x.rank:
        raise ValueError(f"{x} needs {x.rank} starts, got {len(starts)}")
    for start in starts:
        check_scalar(start, *_INDEX)


def _region(x: Array, starts: tuple[Array, ...], sizes: Shape) -> tuple[slice, ...]:
    """The slices of x, moved inside it."""
    clamped = (
        max(0, min(int(start), dim - size))
        for start, dim, size in zip(starts, x.shape, sizes, strict=True)
    )
    return tuple(slice(c, c + size) for c, size in zip(clamped, sizes, strict=True))


@reference("dynamic_slice")
def _(x: Array, *starts: Array, sizes: Shape) -> Array:
    return x[_region(x, starts, sizes)]


primitive("dynamic_update_slice", "x with a slice at run-time starts replaced", "indexing")


@infer("dynamic_update_slice")
def _(x: TensorType, update: TensorType, *starts: TensorType) -> TensorType:
    check_same_dtype(x, update)
    _check_starts(x, starts)
    if update.rank != x.rank or any(u > d for u, d in zip(update.dims, x.dims, strict=True)):
        raise ValueError(f"{update} does not fit into {x}")
    return x


@reference("dynamic_update_slice")
def _(x: Array, update: Array, *starts: Array) -> Array:
    result = x.copy()
    result[_region(x, starts, update.shape)] = update
    return result
