"""Elementwise fusions, strided copies and transposes: one loop nest over the result.

Dimensions are ordered by the result's strides so that stores run along memory. Where an operand
runs along another dimension, tiles are turned in registers (see `transpose`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import Emitter, Val
from tilth.cpu.expression import evaluate
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Task
from tilth.cpu.kernels.space import (
    Access,
    Space,
    Split,
    advance,
    as_bits,
    body_key,
    kernel_emitter,
    maskable,
    require_dtypes,
    space_of,
    split,
    touched_bytes,
    unroll,
    vector_loop,
)
from tilth.cpu.kernels.transpose import Tiling, emit_tiles, tiling
from tilth.ir.graph import Graph
from tilth.ir.types import Shape


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `elementwise`."""
    body, views, reads = task.body, task.views, len(task.operands)
    if body.outputs == body.inputs:  # a copy moves bytes, whatever they mean
        views = as_bits(views)
    require_dtypes(views)
    space = storage_order(space_of(views[reads].shape, views), reads)
    turned = tiling(space, reads, task.isa.lanes)
    parts, together = _parts(space, turned, reads, task.threads)

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, len(space.accesses))
        *_, begin, end, _step = e.args
        if together:
            with e.loop(begin, end) as item:
                for part in parts:
                    part.emit(e, body, pointers, item, e.b.add(item, e.i64(1)))
            return e.finish()
        first = 0
        for part in parts:
            start = e.intrinsic("smax", e.b.sub(begin, e.i64(first)), e.i64(0))
            stop = e.intrinsic("smin", e.b.sub(end, e.i64(first)), e.i64(part.cut.items))
            part.emit(e, body, pointers, start, stop)
            first += part.cut.items
        return e.finish()

    nodes = sum(n.op != "constant" for n in body.nodes)
    return Kernel(
        name="elementwise",
        key=("elementwise", body_key(body), tuple(parts), together),
        emit=emit,
        items=parts[0].cut.items if together else sum(part.cut.items for part in parts),
        flops=nodes * space.size,
        bytes=touched_bytes(views),
        algorithm="vector loop" if turned is None else "turned tiles",
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A box of the iteration space: where it starts in the last two dimensions, its work items.

    With a tiling, the box is what that covers.
    """

    space: Space
    cut: Split
    start: Shape = (0, 0)
    turned: Tiling | None = None

    def emit(self, e: Emitter, body: Graph, pointers: Sequence[Val], begin: Val, end: Val) -> None:
        at = [
            address(e, p, a.dtype, a.strides[-2:], self.start[-len(a.strides) :])
            for p, a in zip(pointers, self.space.accesses, strict=True)
        ]
        if self.turned is not None:
            emit_tiles(e, body, self.turned, self.cut, at, begin, end)
        else:
            emit_items(e, body, self.space, self.cut, at, begin, end)


def _parts(
    space: Space, turned: Tiling | None, operands: int, threads: int
) -> tuple[list[_Part], bool]:
    """The parts, and whether work items with the same number belong together.

    They do where there are enough of them before the dimensions of the tiles: a thread then has
    neighbouring memory in all parts.
    """
    if turned is None:
        return [_Part(space, split(space.dims, threads))], False
    *outer, height, width = turned.space.dims
    together = math.prod(outer) >= 8 * threads
    plane = height * width
    shared = split((*outer, 1), threads, 1, max(1, 1024 // plane), max(1, 8192 // plane))
    parts = []
    for start, box, tiles in _boxes(turned, operands):
        dims = box.dims if tiles is None else tiles.tiles.dims
        if together:
            cut = Split(dims, shared.axis, shared.chunk)
        elif tiles is None:
            cut = split(dims, threads)
        else:
            tile = tiles.rows * tiles.columns
            cut = split(dims, threads, 1, max(1, 1024 // tile), max(1, 8192 // tile))
        parts.append(_Part(box, cut, start, tiles))
    return parts, together


def _boxes(turned: Tiling, operands: int) -> list[tuple[Shape, Space, Tiling | None]]:
    """What tiles cover, and the rest: by smaller tiles where they fit, then without."""
    boxes: list[tuple[Shape, Space, Tiling | None]] = [((0, 0), turned.space, turned)]
    for start, box in turned.rest():
        smaller, lanes = None, turned.lanes
        while smaller is None and lanes > 4:
            lanes //= 2
            smaller = tiling(box, operands, lanes)
        if smaller is None or smaller.space != box:
            boxes.append((start, box, None))
            continue
        for (down, right), inner, tiles in _boxes(smaller, operands):
            boxes.append(((start[0] + down, start[1] + right), inner, tiles))
    return boxes


def storage_order(space: Space, lead: int) -> Space:
    """The space walked along the memory of access `lead`, dimensions merged where possible."""
    strides = space.accesses[lead].strides
    return space.permuted(sorted(range(len(strides)), key=lambda i: -abs(strides[i]))).merged()


def emit_items(
    e: Emitter,
    body: Graph,
    space: Space,
    cut: Split,
    pointers: Sequence[Val],
    begin: Val,
    end: Val,
) -> None:
    """Work items [begin, end) of an elementwise body: operands are the space's first accesses."""
    nest = _Nest(e, body, space)
    with e.loop(begin, end) as item:
        at, count = cut.enter(e, item, pointers, space.accesses)
        nest.walk(cut.axis, at, count)


class _Nest:
    """The loops inside one work item."""

    def __init__(self, e: Emitter, body: Graph, space: Space):
        self.e, self.body, self.space = e, body, space
        self.reads = space.accesses[: len(body.inputs)]
        self.writes = space.accesses[len(body.inputs) :]

    def walk(self, axis: int, pointers: Sequence[Val], count: int | Val) -> None:
        """Loop over `count` steps of dims[axis] and everything inside."""
        e, dims = self.e, self.space.dims
        if axis == len(dims) - 1:
            self.row(pointers, count)
            return
        with e.loop(0, count) as i:
            inner = advance(e, pointers, self.space.accesses, axis, i)
            self.walk(axis + 1, inner, dims[axis + 1])

    def row(self, pointers: Sequence[Val], count: int | Val) -> None:
        """The innermost dimension, in vectors."""
        e = self.e
        uniform = {
            value: load(e, pointer, access.dtype, 1)
            for value, pointer, access in zip(self.body.inputs, pointers, self.reads, strict=False)
            if access.inner == 0
        }

        def step(position: int | Val, n: int, limit: int | Val | None) -> None:
            at = advance(e, pointers, self.space.accesses, -1, position)
            values = {v: e.splat(x, n) for v, x in uniform.items()}
            for value, pointer, access in zip(self.body.inputs, at, self.reads, strict=False):
                if value not in values:
                    values[value] = load(e, pointer, access.dtype, n, access.inner, limit)
            outputs = evaluate(e, self.body.outputs, values, n)
            self.put(outputs, at[len(self.reads) :], self.writes, limit)

        n = e.isa.lanes * unroll(self.body)
        vector_loop(e, count, n, maskable(self.space.accesses), step)

    def put(
        self,
        values: Sequence[Val],
        pointers: Sequence[Val],
        accesses: Sequence[Access],
        limit: int | Val | None,
    ) -> None:
        for value, pointer, access in zip(values, pointers, accesses, strict=True):
            store(self.e, value, pointer, access.dtype, access.inner, limit)
