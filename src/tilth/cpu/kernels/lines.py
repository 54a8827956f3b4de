"""Lines along one axis: how kernels walk that go through an axis in order (scan, search, sort).

A line is the elements along the axis; all other dimensions number the lines, which are the work
items. Where neighbouring lines are neighbours in memory, lanes are lines; else a line stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import Emitter, Val
from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.space import Access, Space, Split, advance, maskable, split, vector_loop
from tilth.ir.types import Shape

Limit = int | Val | None
Body = Callable[[Sequence[Val], int, Limit], None]


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of several views: `space` numbers them, `strides` lead along them, view by view.

    `across`: lanes are lines.
    """

    space: Space
    cut: Split
    strides: Shape
    across: bool

    def walk(self, e: Emitter, pointers: Sequence[Val], begin: Val, end: Val, body: Body) -> None:
        """Work items [begin, end): `body(pointers to the first elements, lines, limit)`.

        The body treats as many neighbouring lines at once, of which only `limit` count.
        """
        with e.loop(begin, end) as item:
            at, count = self.cut.enter(e, item, pointers, self.space.accesses)
            self._walk(e, self.cut.axis, at, count, body)

    def _walk(self, e: Emitter, axis: int, at: Sequence[Val], count: int | Val, body: Body) -> None:
        accesses, dims = self.space.accesses, self.space.dims
        if axis == len(dims) - 1 and self.across:

            def vector(position: int | Val, n: int, limit: Limit) -> None:
                body(advance(e, at, accesses, axis, position), n, limit)

            vector_loop(e, count, 2 * e.isa.lanes, maskable(accesses), vector)
            return
        with e.loop(0, count) as i:
            inner = advance(e, at, accesses, axis, i)
            if axis == len(dims) - 1:
                body(inner, 1, None)
            else:
                self._walk(e, axis + 1, inner, dims[axis + 1], body)

    def read(
        self, e: Emitter, at: Sequence[Val], view: int, place: int | Val, n: int, limit: Limit
    ) -> Val:
        """The register value of the elements at `place` along `n` lines."""
        access = self.space.accesses[view]
        pointer = address(e, at[view], access.dtype, (self.strides[view],), (place,))
        return load(e, pointer, access.dtype, n, access.inner, limit)

    def write(
        self,
        e: Emitter,
        value: Val,
        at: Sequence[Val],
        view: int,
        place: int | Val,
        limit: Limit = None,
    ) -> None:
        access = self.space.accesses[view]
        pointer = address(e, at[view], access.dtype, (self.strides[view],), (place,))
        store(e, value, pointer, access.dtype, access.inner, limit)


def lines_of(
    views: Sequence[Operand], axis: int, length: int, threads: int, alone: bool = False
) -> Lines:
    """The lines of `views`, which differ in size along `axis` only; `length` is the work per line.

    `alone` forbids lanes to be lines.
    """
    first = views[0]
    kept = sorted(
        (i for i in range(len(first.shape)) if i != axis), key=lambda i: -abs(first.strides[i])
    )
    accesses = tuple(Access(v.dtype, tuple(v.strides[i] for i in kept)) for v in views)
    space = Space(tuple(first.shape[i] for i in kept), accesses).merged()
    across = not alone and space.accesses[0].inner == 1 and first.strides[axis] != 1
    least, most = (max(1, n // max(1, length)) for n in (1024, 8192))
    cut = split(space.dims, threads, 16 if across else 1, least, most)
    return Lines(space, cut, tuple(v.strides[axis] for v in views), across)
