"""Gather and scatter with StableHLO's dimension numbers: slices at positions read at run time.

The space is the batch of index vectors followed by the window that each of them addresses; an
embedding lookup is one index and one contiguous row. Gathers clamp their starts, scatters leave out
what would fall outside, so no index reaches beyond the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.expression import combine
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels.elementwise import emit_items, storage_order
from tilth.cpu.kernels.movement import clamped_index
from tilth.cpu.kernels.space import (
    Access,
    Space,
    advance,
    as_bits,
    kernel_emitter,
    maskable,
    require_dtypes,
    space_of,
    split,
    touched_bytes,
    vector_loop,
)
from tilth.ir.graph import Graph, make_input
from tilth.ir.types import Shape, TensorType


@dataclass(frozen=True, slots=True)
class _Index:
    """Where slices start: the axes of the tensor that an index vector addresses, in its order."""

    operand: Operand
    axes: Shape
    component: int  # elements between the entries of an index vector

    def pointers(self, e: Emitter, vector: Val) -> list[Val]:
        """The addresses of an index vector's entries."""
        step = self.component * self.operand.dtype.nbytes
        return [e.offset(vector, i * step) for i in range(len(self.axes))]


def lower_gather(task: Task) -> Kernel:
    """The result is walked, batch first, then the window; nothing is ever out of bounds."""
    (x, view), indices = as_bits((task.operands[0], *task.results)), task.operands[1]
    attrs = task.node.attrs
    index = _index(indices, attrs["start_index_map"], attrs["index_vector_dim"])
    space, n_batch = _space(
        *(x, index, view, attrs["offset_dims"], attrs["index_vector_dim"]),
        dropped=attrs["collapsed_slice_dims"] + attrs["operand_batching_dims"],
        x_batch=attrs["operand_batching_dims"],
        index_batch=attrs["start_indices_batching_dims"],
    )
    window = space.merged(n_batch)
    n_window = len(window.dims) - n_batch
    space = window.merged(0, n_batch)
    n_batch = len(space.dims) - n_window
    cut = split(space.dims, task.threads)
    room = [x.shape[a] - attrs["slice_sizes"][a] for a in index.axes]
    steps = tuple(x.strides[a] for a in index.axes)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, 3)
        *_, begin, end, _step = e.args

        def walk(axis: int, at: Sequence[Val], count: int | Val, moved: bool) -> None:
            if axis >= n_batch and not moved:
                entries = zip(index.pointers(e, at[1]), room, strict=True)
                starts = [clamped_index(e, p, indices, most) for p, most in entries]
                at = [address(e, at[0], x.dtype, steps, starts), *at[1:]]
            if axis == len(space.dims) - 1:
                _copy_row(e, at, space, count)
                return
            with e.loop(0, count) as i:
                inner = advance(e, at, space.accesses, axis, i)
                walk(axis + 1, inner, space.dims[axis + 1], axis >= n_batch)

        with e.loop(begin, end) as item:
            at, count = cut.enter(e, item, pointers, space.accesses)
            walk(cut.axis, at, count, False)
        return e.finish()

    return Kernel(
        name="gather",
        key=("gather", x.layout, indices.layout, view.layout, index, space, cut, tuple(room)),
        emit=emit,
        items=cut.items,
        bytes=2 * touched_bytes(task.results) + touched_bytes((indices,)),
        algorithm="rows" if space.accesses[0].inner == 1 else "elements",
    )


def lower_scatter(task: Task) -> Kernel:
    """Copy the operand, then apply the updates in order, on one thread because they may meet."""
    require_dtypes(task.views)
    x, indices, updates, view = task.views
    attrs = task.node.attrs
    index = _index(indices, attrs["scatter_dims_to_operand_dims"], attrs["index_vector_dim"])
    dropped = attrs["inserted_window_dims"] + attrs["input_batching_dims"]
    space, n_batch = _space(
        *(view, index, updates, attrs["update_window_dims"], attrs["index_vector_dim"]),
        dropped=dropped,
        x_batch=attrs["input_batching_dims"],
        index_batch=attrs["scatter_indices_batching_dims"],
    )
    window_axes = [a for a in range(len(view.shape)) if a not in dropped]
    copy = storage_order(space_of(view.shape, (x, view)), 1)
    value = make_input(TensorType(view.dtype, view.shape), "x")
    cut = split(copy.dims, task.threads)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, 4)
        *_, begin, end, step = e.args
        with e.when(e.b.icmp_signed("==", step, e.i64(0))):
            body, at = Graph((value,), (value,)), [pointers[0], pointers[3]]
            emit_items(e, body, copy, cut, at, begin, end)
        applies = _Updates(e, attrs["kind"], space, n_batch, index, view, window_axes)
        first = e.b.icmp_signed("==", begin, e.i64(0))
        last_step = e.b.icmp_signed("==", step, e.i64(1))
        with e.when(e.b.and_(e.b.and_(first, last_step), e.b.icmp_signed("<", begin, end))):
            applies.batch(0, [pointers[3], pointers[1], pointers[2]])
        return e.finish()

    return Kernel(
        name="scatter",
        key=("scatter", attrs["kind"], x.layout, view.layout, index, space, dropped),
        emit=emit,
        items=cut.items,
        bytes=touched_bytes(task.views),
        steps=2,
        algorithm="copy, then updates in order",
    )


class _Updates:
    """The loops of a scatter: over the batch, then over the part of a window that lies inside."""

    def __init__(
        self,
        e: Emitter,
        kind: str,
        space: Space,
        n_batch: int,
        index: _Index,
        target: Operand,
        window_axes: Sequence[int],
    ):
        self.e, self.kind, self.space, self.n_batch = e, kind, space, n_batch
        self.index, self.target, self.window_axes = index, target, window_axes

    def batch(self, axis: int, at: list[Val]) -> None:
        e = self.e
        if axis < self.n_batch:
            with e.loop(0, self.space.dims[axis]) as i:
                self.batch(axis + 1, advance(e, at, self.space.accesses, axis, i))
            return
        entries = [_read_index(e, p, self.index.operand) for p in self.index.pointers(e, at[1])]
        starts = dict(zip(self.index.axes, entries, strict=True))
        inside: Val = ll.Constant(ll.IntType(1), 1)
        for a, start in starts.items():
            if a not in self.window_axes:
                fits = e.b.icmp_unsigned("<", start, e.i64(self.target.shape[a]))
                inside = e.b.and_(inside, fits)
        with e.when(inside):
            strides = tuple(self.target.strides[a] for a in starts)
            moved = address(e, at[0], self.target.dtype, strides, list(starts.values()))
            self.window(0, [moved, *at[1:]], starts)

    def window(self, position: int, at: list[Val], starts: dict[int, Val]) -> None:
        e = self.e
        if position == len(self.window_axes):
            self.element(at)
            return
        axis, dim = self.n_batch + position, self.window_axes[position]
        low, high = e.i64(0), e.i64(self.space.dims[axis])
        if dim in starts:
            low = e.intrinsic("smax", e.b.neg(starts[dim]), low)
            high = e.intrinsic("smin", e.b.sub(e.i64(self.target.shape[dim]), starts[dim]), high)
        with e.loop(low, high) as i:
            self.window(position + 1, advance(e, at, self.space.accesses, axis, i), starts)

    def element(self, at: list[Val]) -> None:
        e, dtype = self.e, self.target.dtype
        value = load(e, at[2], dtype, 1)
        if self.kind != "assign":
            kind = {"add": "sum", "multiply": "product"}.get(self.kind, self.kind)
            value = combine(e, kind, dtype, load(e, at[0], dtype, 1), value)
        store(e, value, at[0], dtype)


def _index(indices: Operand, axes: Shape, vector_dim: int) -> _Index:
    component = indices.strides[vector_dim] if vector_dim < len(indices.shape) else 0
    return _Index(indices, axes, component)


def _read_index(e: Emitter, pointer: Val, index: Operand) -> Val:
    """An index as an i64; those beyond its range become negative, which is as far outside."""
    raw = e.load(pointer, ll.IntType(index.dtype.bits))
    if index.dtype.bits == 64:
        return raw
    return (e.b.sext if index.dtype.kind == "int" else e.b.zext)(raw, I64)


def _space(
    x: Operand,
    index: _Index,
    slices: Operand,
    window_dims: Shape,
    vector_dim: int,
    dropped: Shape,
    x_batch: Shape,
    index_batch: Shape,
) -> tuple[Space, int]:
    """Batch dimensions, then the window's; accesses: the tensor, the indices, the slices.

    `slices` is the gathered result or the updates, whose `window_dims` belong to the window.
    """
    batch_dims = [i for i in range(len(slices.shape)) if i not in window_dims]
    index_dims = [i for i in range(len(index.operand.shape)) if i != vector_dim]
    window_axes = [a for a in range(len(x.shape)) if a not in dropped]
    batched = dict(zip(index_batch, x_batch, strict=True))
    x_strides = [x.strides[batched[i]] if i in batched else 0 for i in index_dims]
    accesses = (
        Access(x.dtype, (*x_strides, *(x.strides[a] for a in window_axes))),
        Access(
            index.operand.dtype,
            (*(index.operand.strides[i] for i in index_dims), *(0 for _ in window_axes)),
        ),
        Access(slices.dtype, tuple(slices.strides[i] for i in (*batch_dims, *window_dims))),
    )
    dims = tuple(slices.shape[i] for i in (*batch_dims, *window_dims))
    return Space(dims, accesses), len(batch_dims)


def _copy_row(e: Emitter, at: Sequence[Val], space: Space, count: int | Val) -> None:
    source, _, target = space.accesses

    def step(position: int | Val, n: int, limit: int | Val | None) -> None:
        source_at, _, target_at = advance(e, at, space.accesses, -1, position)
        value = load(e, source_at, source.dtype, n, source.inner, limit)
        store(e, value, target_at, target.dtype, target.inner, limit)

    vector_loop(e, count, 4 * e.isa.lanes, maskable((source, target)), step)
