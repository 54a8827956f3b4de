"""Movement that is not a view: padding, and slices whose start is known only at run time.

Each kernel is a list of boxes to fill or to copy, in one or two steps; a box is an elementwise loop
over a part of a tensor. Elements are moved as bits, so any dtype will do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.access import address
from tilth.cpu.emit import I64, Emitter, Val
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels.elementwise import emit_items, storage_order
from tilth.cpu.kernels.space import (
    Space,
    Split,
    as_bits,
    bits_of,
    body_key,
    kernel_emitter,
    space_of,
    split,
    touched_bytes,
)
from tilth.ir.graph import Graph, constant_of, make_constant, make_input
from tilth.ir.types import Shape, TensorType

Place = Callable[[Emitter, list[Val]], list[Val]]


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor to write: `place` gives the pointers of the space's accesses."""

    body: Graph
    space: Space
    cut: Split
    place: Place


def lower_pad_halo(task: Task) -> Kernel:
    """Fill the border of a pad whose interior is written by someone else; no operands."""
    node, [view] = task.node, as_bits(task.results)
    value = constant_of(node.inputs[1])
    assert value is not None
    low, size = node.attrs["low"], node.inputs[0].shape
    boxes = [
        _fill_constant(view, start, shape, value, task.threads)
        for start, shape in _border(view.shape, low, size)
    ]
    key = ("pad_halo", view.layout, low, size, value.tobytes())
    return _kernel("pad_halo", key, [boxes], (view,))


def lower_pad(task: Task) -> Kernel:
    """Any pad: fill all of the result, then copy what of the operand lies inside."""
    x, value, view = as_bits(task.views)
    low, interior = task.node.attrs["low"], task.node.attrs["interior"]
    everything = _box((replace(value, shape=(), strides=()),), view, task.threads, _take(1, 2))
    spread = tuple(i + 1 for i in interior)
    first = tuple(max(0, -(a // s)) for a, s in zip(low, spread, strict=True))
    last = tuple(
        min(n, -((a - d) // s)) for n, a, d, s in zip(x.shape, low, view.shape, spread, strict=True)
    )
    shape = tuple(max(0, b - a) for a, b in zip(first, last, strict=True))
    at = tuple(a + f * s for a, f, s in zip(low, first, spread, strict=True))
    source = replace(x, shape=shape)
    steps = tuple(a * b for a, b in zip(view.strides, spread, strict=True))
    target = replace(view, shape=shape, strides=steps)

    def place(e: Emitter, pointers: list[Val]) -> list[Val]:
        return [
            address(e, pointers[0], x.dtype, x.strides, first),
            address(e, pointers[2], view.dtype, view.strides, at),
        ]

    inside = _box((source,), target, task.threads, place)
    key = ("pad", x.layout, value.layout, view.layout, low, interior)
    return _kernel("pad", key, [[everything], [inside]], (x, value, view))


def lower_dynamic_slice(task: Task) -> Kernel:
    """A slice at starts read at run time, clamped so that it lies inside."""
    (x, view), starts = as_bits((task.operands[0], *task.results)), task.operands[1:]
    room = tuple(d - s for d, s in zip(x.shape, view.shape, strict=True))

    def place(e: Emitter, pointers: list[Val]) -> list[Val]:
        at = [
            clamped_index(e, p, o, r) for p, o, r in zip(pointers[1:-1], starts, room, strict=True)
        ]
        return [address(e, pointers[0], x.dtype, x.strides, at), pointers[-1]]

    box = _box((replace(x, shape=view.shape),), view, task.threads, place)
    views = (x, *starts, view)
    key = ("dynamic_slice", tuple(v.layout for v in views))
    return _kernel("dynamic_slice", key, [[box]], views)


def lower_dynamic_update_slice(task: Task) -> Kernel:
    """Copy the operand, then write the update over it at starts read at run time."""
    (x, update, view), starts = as_bits((*task.operands[:2], *task.results)), task.operands[2:]
    room = tuple(d - s for d, s in zip(x.shape, update.shape, strict=True))

    def place(e: Emitter, pointers: list[Val]) -> list[Val]:
        at = [
            clamped_index(e, p, o, r) for p, o, r in zip(pointers[2:-1], starts, room, strict=True)
        ]
        return [pointers[1], address(e, pointers[-1], view.dtype, view.strides, at)]

    copy = _box((x,), view, task.threads, _take(0, -1))
    write = _box((update,), replace(view, shape=update.shape), task.threads, place)
    views = (x, update, *starts, view)
    key = ("dynamic_update_slice", tuple(v.layout for v in views))
    return _kernel("dynamic_update_slice", key, [[copy], [write]], views)


def clamped_index(e: Emitter, pointer: Val, index: Operand, most: int) -> Val:
    """The integer at `pointer` as an i64 within [0, most]."""
    raw = e.load(pointer, ll.IntType(index.dtype.bits))
    if index.dtype.kind == "uint":
        wide = e.b.zext(raw, I64) if index.dtype.bits < 64 else raw
        return e.intrinsic("umin", wide, e.i64(most))
    wide = e.b.sext(raw, I64) if index.dtype.bits < 64 else raw
    return e.intrinsic("smin", e.intrinsic("smax", wide, e.i64(0)), e.i64(most))


# -- boxes ---------------------------------------------------------------------------------------
def _border(shape: Shape, low: Shape, size: Shape) -> list[tuple[Shape, Shape]]:
    """Disjoint boxes (start, shape) that cover everything but the interior."""
    boxes = []
    start, extent = [0] * len(shape), list(shape)
    for axis, (dim, a, n) in enumerate(zip(shape, low, size, strict=True)):
        for edge, thickness in ((0, a), (a + n, dim - a - n)):
            if thickness:
                corner, box = list(start), list(extent)
                corner[axis], box[axis] = edge, thickness
                boxes.append((tuple(corner), tuple(box)))
        start[axis], extent[axis] = a, n
    return boxes


def _fill_constant(
    view: Operand, start: Shape, shape: Shape, value: np.ndarray, threads: int
) -> Box:
    bits = value.reshape(()).view(bits_of(view.dtype).numpy)
    constant = make_constant(bits)
    space = storage_order(space_of(shape, (replace(view, shape=shape),)), 0)

    def place(e: Emitter, pointers: list[Val]) -> list[Val]:
        return [address(e, pointers[-1], view.dtype, view.strides, start)]

    return Box(Graph((), (constant,)), space, split(space.dims, threads), place)


def _box(sources: Sequence[Operand], target: Operand, threads: int, place: Place) -> Box:
    """Copy one source, which may broadcast, to a target."""
    x = make_input(TensorType(target.dtype, target.shape), "x")
    space = storage_order(space_of(target.shape, (*sources, target)), 1)
    return Box(Graph((x,), (x,)), space, split(space.dims, threads), place)


def _take(*positions: int) -> Place:
    return lambda e, pointers: [pointers[i] for i in positions]


def _kernel(name: str, key: Hashable, steps: list[list[Box]], views: Sequence[Operand]) -> Kernel:
    """Boxes of one step are one after another in the numbering of its items."""

    def emit(module: ll.Module, isa: Isa, function: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, function, len(views))
        *_, begin, end, step = e.args
        for number, boxes in enumerate(steps):
            with e.when(e.b.icmp_signed("==", step, e.i64(number))):
                first = 0
                for box in boxes:
                    start = e.intrinsic("smax", e.b.sub(begin, e.i64(first)), e.i64(0))
                    rest = e.b.sub(end, e.i64(first))
                    stop = e.intrinsic("smin", rest, e.i64(box.cut.items))
                    at = box.place(e, pointers)
                    emit_items(e, box.body, box.space, box.cut, at, start, stop)
                    first += box.cut.items
        return e.finish()

    cuts = tuple((b.space, b.cut, body_key(b.body)) for boxes in steps for b in boxes)
    return Kernel(
        name=name,
        key=(key, cuts),
        emit=emit,
        items=max(sum(b.cut.items for b in boxes) for boxes in steps),
        bytes=touched_bytes(views),
        steps=len(steps),
        algorithm="boxes",
    )
