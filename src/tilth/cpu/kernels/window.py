"""Sliding windows: pooling and depthwise convolution, with an elementwise epilogue.

Channels lie in lanes. A step computes several neighbouring output pixels at once, so that they
share the loads where their windows overlap and the filter, which stays in registers. Padding has
been made explicit before, so every tap of every window is a fixed distance from its first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import Emitter, Val
from tilth.cpu.expression import combine, constant, evaluate, identity_of
from tilth.cpu.isa import Isa
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels.space import (
    Access,
    Space,
    Split,
    advance,
    body_key,
    kernel_emitter,
    maskable,
    require_dtypes,
    space_of,
    split,
    touched_bytes,
    vector_loop,
)
from tilth.ir.errors import CompileError
from tilth.ir.graph import Graph, Node
from tilth.ir.types import Shape

Index = int | Val
Limit = int | Val | None
Row = Callable[[Sequence[Val], Index], None]  # emits so many pixels, from these pointers on
MOST_UNROLLED = 64  # taps; larger windows loop over their outer dimensions


@dataclass(frozen=True, slots=True)
class Window:
    """The taps of a window: how many along each dimension of the space, and the distance between
    neighbours in elements of x and of the filter."""

    kind: str  # "sum", "max", ... or "dot" for a filter
    sizes: Shape
    x_steps: Shape
    filter_steps: Shape

    @property
    def taps(self) -> int:
        return math.prod(self.sizes)

    def expanded(self) -> Window:
        """With an outermost dimension of size 1."""
        return Window(self.kind, (1, *self.sizes), (0, *self.x_steps), (0, *self.filter_steps))

    def permuted(self, order: Sequence[int]) -> Window:
        rows = (self.sizes, self.x_steps, self.filter_steps)
        return Window(self.kind, *(tuple(row[i] for i in order) for row in rows))


def lower(task: Task) -> Kernel:
    """A kernel for a fusion of kind `window`."""
    hero, space, window = _problem(task)
    weight = max(1, window.taps * space.dims[-1])
    least, most = max(1, 8192 // weight), max(1, 65536 // weight)
    pixels = split(space.dims[:-1], 2 * task.threads, 4, least, most)
    return _kernel(task, hero, space, window, pixels)


def lower_rows(task: Task) -> Kernel:
    """As `lower`, with the rows of the result (batch x height) as work items.

    It goes through all rows it is given with one vector of channels before it takes the next. When
    these rows lie in L2, those that neighbouring windows share then stay in L1.
    """
    hero, space, window = _problem(task)
    rows = Split(space.dims[:-1], len(space.dims) - 3, 1)
    return _kernel(task, hero, space, window, rows, together=True)


def _problem(task: Task) -> tuple[Node, Space, Window]:
    """The hero, the space with pixels and channels innermost, the window over it."""
    require_dtypes(task.views)
    hero = next(n for n in task.body.nodes if n.op in ("reduce_window", "convolution"))
    geometry = _depthwise if hero.op == "convolution" else _pooling
    space, window = geometry(hero, task.operands, task.results)
    if len(space.dims) == 1:
        space, window = space.expanded(), window.expanded()
    order = _order(space, window)
    return hero, space.permuted(order), window.permuted(order)


def _kernel(
    task: Task, hero: Node, space: Space, window: Window, cut: Split, together: bool = False
) -> Kernel:
    """`together`: all items of a call with one vector of channels, then with the next."""
    body = task.body

    def emit(module: ll.Module, isa: Isa, name: str) -> ll.Function:
        e, pointers = kernel_emitter(module, isa, name, len(space.accesses))
        *_, begin, end, _step = e.args
        nest = _Nest(e, body, hero, space, window, together)
        walk = nest.items_together if together else nest.items
        walk(cut, pointers, begin, end)
        return e.finish()

    per_tap = 2 if window.kind == "dot" else 1
    return Kernel(
        name="depthwise" if window.kind == "dot" else "pool",
        key=("window", body_key(body), space, window, cut, together),
        emit=emit,
        items=cut.items,
        flops=space.size * (per_tap * window.taps + len(body.nodes) - 1),
        bytes=touched_bytes(task.views),
        algorithm=f"{'x'.join(str(s) for s in window.sizes if s > 1) or 1} window",
    )


def _order(space: Space, window: Window) -> list[int]:
    """Dimensions by the result's strides: the last is the vector, the one before the pixels that
    share a filter; size-1 dimensions and further channels stand outermost."""
    *front, last = sorted(
        range(len(space.dims)),
        key=lambda i: (space.dims[i] != 1, -abs(space.accesses[-1].strides[i])),
    )
    filtered = space.accesses[1].strides if window.kind == "dot" else (0,) * len(space.dims)
    return [*sorted(front, key=lambda i: (space.dims[i] != 1, filtered[i] == 0)), last]


def _pooling(
    hero: Node, operands: Sequence[Operand], results: Sequence[Operand]
) -> tuple[Space, Window]:
    attrs = hero.attrs
    if any(map(any, attrs["padding"])) or any(d != 1 for d in attrs["base_dilation"]):
        raise CompileError(f"{hero!r}: padding and base dilation must be made explicit before")
    x = operands[0]
    moving = Access(x.dtype, tuple(s * t for s, t in zip(x.strides, attrs["strides"], strict=True)))
    around = space_of(hero.outputs[0].shape, (*operands[1:], *results))
    steps = tuple(s * d for s, d in zip(x.strides, attrs["window_dilation"], strict=True))
    window = Window(attrs["kind"], attrs["window"], steps, (0,) * len(steps))
    return Space(around.dims, (moving, *around.accesses)), window


def _depthwise(
    hero: Node, operands: Sequence[Operand], results: Sequence[Operand]
) -> tuple[Space, Window]:
    """Channels become two dimensions, input channels and the multiplier."""
    attrs = hero.attrs
    x, w = operands[:2]
    channels = x.shape[-1]
    if attrs["layout"] != "channels_last" or attrs["groups"] != channels:
        raise CompileError(f"{hero!r}: only depthwise convolutions of channels_last are windows")
    if any(map(any, attrs["padding"])) or any(d != 1 for d in attrs["lhs_dilation"]):
        raise CompileError(f"{hero!r}: padding and lhs dilation must be made explicit before")
    multiplier = w.shape[-1] // channels
    around = space_of(hero.outputs[0].shape, (*operands[2:], *results))
    dims = (*around.dims[:-1], channels, multiplier)
    strides = (1, *attrs["strides"], 1)
    moving = tuple(s * t for s, t in zip(x.strides, strides, strict=True))
    still = (0,) * (len(dims) - 2)
    per_channel = w.strides[-1]
    accesses = (
        Access(x.dtype, (*moving, 0)),
        Access(w.dtype, (*still, per_channel * multiplier, per_channel)),
        *(
            Access(a.dtype, (*a.strides[:-1], a.strides[-1] * multiplier, a.strides[-1]))
            for a in around.accesses
        ),
    )
    steps = [s * d for s, d in zip(x.strides[1:-1], attrs["rhs_dilation"], strict=True)]
    window = Window("dot", (1, *w.shape[:-2], 1, 1), (0, *steps, 0, 0), (0, *w.strides[:-2], 0, 0))
    return Space(dims, accesses), window


class _Nest:
    """The loops around a row of pixels: work items, vectors of channels, outer dimensions."""

    def __init__(
        self,
        e: Emitter,
        body: Graph,
        hero: Node,
        space: Space,
        window: Window,
        together: bool,
    ):
        self.e, self.body, self.space, self.window = e, body, space, window
        self.hero = hero.outputs[0]
        self.n_operands = len(space.accesses) - len(body.outputs)
        self.has_filter = window.kind == "dot"
        self.epilogue = list(enumerate(body.inputs))[2 if self.has_filter else 1 :]
        # is all that one row of pixels shares, such as the filter, the same for every row?
        self.holds = not any(
            any(access.strides[:-2])
            for access in space.accesses[1 : self.n_operands]
            if access.strides[-2] == 0
        )
        # held in registers, a filter leaves fewer for pixels; from row to row it stays in L1
        registers = e.isa.registers
        self.most_held = registers // 3 if together else registers - 6
        self.looped = 0  # leading window dimensions that are loops at run time
        while math.prod(window.sizes[self.looped :]) > MOST_UNROLLED:
            self.looped += 1

    def items(self, cut: Split, pointers: Sequence[Val], begin: Val, end: Val) -> None:
        """Work items [begin, end), one after the other."""
        with self.e.loop(begin, end) as item:
            at, count = cut.enter(self.e, item, pointers, self.space.accesses)
            self.vectors(at, lambda here, row: self.walk(cut.axis, here, count, row))

    def items_together(self, cut: Split, pointers: Sequence[Val], begin: Val, end: Val) -> None:
        """Work items [begin, end), one vector of channels after the other."""

        def all_items(here: Sequence[Val], row: Row) -> None:
            with self.e.loop(begin, end) as item:
                at, count = cut.enter(self.e, item, here, self.space.accesses)
                self.walk(cut.axis, at, count, row)

        self.vectors(pointers, all_items)

    def vectors(self, pointers: Sequence[Val], body: Callable[[Sequence[Val], Row], None]) -> None:
        """Emit `body(pointers, row)` for each vector of channels."""
        e, accesses = self.e, self.space.accesses

        def vector(position: Index, n: int, limit: Limit) -> None:
            at = advance(e, pointers, accesses, -1, position)
            held = _Channels(self, at, n, limit) if self.holds else None

            def row(first: Sequence[Val], count: Index) -> None:
                (held or _Channels(self, first, n, limit)).pixels(first, count)

            body(at, row)

        wide = 1 if self.has_filter else 2
        vector_loop(e, self.space.dims[-1], wide * e.isa.lanes, maskable(accesses), vector)

    def walk(self, axis: int, pointers: Sequence[Val], count: Index, row: Row) -> None:
        """Loop over `count` steps of dims[axis] and everything inside; dims[-2] are the pixels."""
        dims = self.space.dims
        if axis == len(dims) - 2:
            row(pointers, count)
            return
        with self.e.loop(0, count) as i:
            inner = advance(self.e, pointers, self.space.accesses, axis, i)
            self.walk(axis + 1, inner, dims[axis + 1], row)


class _Channels:
    """One vector of channels: the filter and what else is the same for all pixels of a row, loaded
    from `pointers`."""

    def __init__(self, nest: _Nest, pointers: Sequence[Val], n: int, limit: Limit):
        self.nest, self.n, self.limit = nest, n, limit
        self.e, self.accesses, self.window = nest.e, nest.space.accesses, nest.window
        self.uniform = {
            value: self.fetch(i, pointers)
            for i, value in nest.epilogue
            if self.accesses[i].strides[-2] == 0
        }
        sizes = [1] * nest.looped + list(self.window.sizes[nest.looped :])
        self.taps = list(itertools.product(*map(range, sizes)))
        self.filters: dict[Shape, Val] = {}
        if nest.has_filter and not nest.looped and len(self.taps) <= nest.most_held:
            self.filters = {tap: self.filter(pointers[1], tap) for tap in self.taps}

    def fetch(self, i: int, pointers: Sequence[Val], distance: int = 0) -> Val:
        """Operand `i`, `distance` elements from its pointer."""
        access = self.accesses[i]
        at = self.e.offset(pointers[i], distance * access.dtype.nbytes)
        return load(self.e, at, access.dtype, self.n, access.inner, self.limit)

    def pixels(self, pointers: Sequence[Val], count: Index) -> None:
        """`count` pixels from `pointers` on, in blocks of about equal size."""
        e, most = self.e, self.pixels_per_block()
        if isinstance(count, int):
            most = -(-count // -(-count // most))  # 14 are 7 + 7, not 8 + 6
            whole: Index = count // most * most
        else:
            whole = e.b.sub(count, e.b.urem(count, e.i64(most)))
        with e.loop(0, whole, most) as i:
            self.block(pointers, i, most)
        if isinstance(count, int) and isinstance(whole, int):
            if whole < count:
                self.block(pointers, whole, count - whole)
            return
        with e.loop(whole, count) as i:
            self.block(pointers, i, 1)

    def pixels_per_block(self) -> int:
        """As many as leave the filter, the accumulators and as many loads in registers."""
        parts = max(1, self.n // self.e.isa.lanes)
        free = self.e.isa.registers - len(self.filters) - 2
        return max(2, min(14, free // (2 * parts)))

    def block(self, pointers: Sequence[Val], first: Index, size: int) -> None:
        """`size` neighbouring pixels: their windows, the epilogue, the stores."""
        e, nest = self.e, self.nest
        pointers = advance(e, pointers, self.accesses, -2, first)
        for pixel, total in enumerate(self.windows(pointers, size)):
            at = advance(e, pointers, self.accesses, -2, pixel)
            values = {nest.hero: total, **self.uniform}
            for i, value in nest.epilogue:
                if value not in values:
                    values[value] = self.fetch(i, at)
            outputs = evaluate(e, nest.body.outputs, values, self.n)
            for i, result in enumerate(outputs, start=nest.n_operands):
                access = self.accesses[i]
                store(e, result, at[i], access.dtype, access.inner, self.limit)

    def windows(self, pointers: Sequence[Val], size: int) -> list[Val]:
        """The hero's value at `size` neighbouring pixels."""
        step = self.dots if self.nest.has_filter else self.folds
        if not self.nest.looped:
            return step(pointers, size, [None] * size)
        e, dtype = self.e, self.nest.hero.tensor.dtype
        kind = "sum" if self.nest.has_filter else self.window.kind
        neutral = constant(e, dtype, identity_of(kind, dtype), self.n)
        slots = [e.var(neutral.type, neutral) for _ in range(size)]

        def loops(axis: int, at: list[Val]) -> None:
            if axis == self.nest.looped:
                totals = step(at, size, [e.b.load(s) for s in slots])
                for slot, total in zip(slots, totals, strict=True):
                    e.b.store(total, slot)
                return
            steps = (self.window.x_steps[axis],), (self.window.filter_steps[axis],)
            with e.loop(0, self.window.sizes[axis]) as i:
                moved = [
                    address(e, p, a.dtype, s, (i,))
                    for p, a, s in zip(at, self.accesses, steps, strict=False)
                ]
                loops(axis + 1, moved)

        loops(0, list(pointers[:2]))
        return [e.b.load(s) for s in slots]

    def dots(self, pointers: Sequence[Val], size: int, totals: Sequence[Val | None]) -> list[Val]:
        """Windows times the filter, added to `totals`."""
        loaded: dict[int, Val] = {}  # by distance: overlapping windows share loads
        totals = list(totals)
        for tap in self.taps:
            weight = self.filters.get(tap) or self.filter(pointers[1], tap)
            for pixel in range(size):
                distance = pixel * self.accesses[0].strides[-2] + _dot(tap, self.window.x_steps)
                if distance not in loaded:
                    loaded[distance] = self.fetch(0, pointers, distance)
                totals[pixel] = self.multiply_add(loaded[distance], weight, totals[pixel])
        return totals

    def filter(self, pointer: Val, tap: Shape) -> Val:
        return self.fetch(1, [pointer, pointer], _dot(tap, self.window.filter_steps))

    def multiply_add(self, x: Val, y: Val, total: Val | None) -> Val:
        dtype = self.nest.hero.tensor.dtype
        if total is not None and dtype.is_float:
            return self.e.fma(x, y, total)
        product = combine(self.e, "product", dtype, x, y)
        return product if total is None else combine(self.e, "sum", dtype, total, product)

    def folds(self, pointers: Sequence[Val], size: int, totals: Sequence[Val | None]) -> list[Val]:
        """Windows combined into `totals`: columns first, which overlapping windows share."""
        along = [tap[-2] for tap in self.taps if not any(tap[:-2]) and not tap[-1]]
        across = [tap for tap in self.taps if not tap[-2]]
        columns: dict[int, Val] = {}
        results = []
        for pixel in range(size):
            total = totals[pixel]
            for i in along:
                distance = pixel * self.accesses[0].strides[-2] + i * self.window.x_steps[-2]
                if distance not in columns:
                    columns[distance] = self.column(pointers, distance, across)
                total = self.combine(total, columns[distance])
            results.append(total)
        return results

    def column(self, pointers: Sequence[Val], distance: int, taps: Sequence[Shape]) -> Val:
        total: Val | None = None
        for tap in taps:
            x = self.fetch(0, pointers, distance + _dot(tap, self.window.x_steps))
            total = self.combine(total, x)
        return total

    def combine(self, total: Val | None, value: Val) -> Val:
        if total is None:
            return value
        return combine(self.e, self.window.kind, self.nest.hero.tensor.dtype, total, value)


def _dot(x: Sequence[int], y: Sequence[int]) -> int:
    return sum(a * b for a, b in zip(x, y, strict=True))
