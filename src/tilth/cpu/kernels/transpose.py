"""Tiles turned in registers, for operands that run along another dimension than the result.

A tile is `rows` x `columns` elements of the last two dimensions of a space, of which results run
along the last. Large tiles are square and transposed by shuffles; where one of the dimensions is
shorter than a register (the channels of an image), a tile holds all of it, and its elements are
interleaved or separated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ll

from tilth.cpu.access import address, load, store
from tilth.cpu.emit import I32, Emitter, Val
from tilth.cpu.expression import evaluate
from tilth.cpu.kernels.space import Access, Space, Split, advance
from tilth.ir.graph import Graph

_UNROLLED = 4  # nodes of a body that is written out for each vector of a tile


@dataclass(frozen=True, slots=True)
class Tiling:
    """A space cut into tiles: `space` counts elements, `tiles` counts whole tiles.

    The last two dimensions of both are those of the tiles, which are walked in the order `tiles`
    has them. `lanes` is what `rows` or `columns` or both are.
    """

    space: Space
    tiles: Space
    rows: int
    columns: int
    lanes: int

    def rest(self) -> list[tuple[tuple[int, int], Space]]:
        """What no tile covers: disjoint boxes, as where in the last dimensions they start."""
        *outer, height, width = self.space.dims
        low, right = height // self.rows * self.rows, width // self.columns * self.columns
        boxes = [((low, 0), (height - low, width)), ((0, right), (low, width - right))]
        return [
            (start, Space((*outer, *size), self.space.accesses))
            for start, size in boxes
            if size[0] and size[1]
        ]


def tiling(space: Space, operands: int, lanes: int) -> Tiling | None:
    """How to turn what runs across; None where nothing does, or no tile fits.

    The first `operands` accesses are read, the others written.
    """
    reads, writes = space.accesses[:operands], space.accesses[operands:]
    across = next((t for a in reads if (t := _own_dimension(a, space)) is not None), None)
    if across is None or any(w.inner != 1 for w in writes):
        return None
    others = [i for i in range(len(space.dims) - 1) if i != across]
    space = space.permuted([*others, across, len(space.dims) - 1])
    height, width = space.dims[-2:]
    if height >= lanes and width >= lanes:
        rows, columns = lanes, lanes
    elif height >= lanes and all(a.strides[-2] == width for a in space.accesses[operands:]):
        rows, columns = lanes, width
    elif width >= lanes and any(a.strides[-2:] == (1, height) for a in space.accesses[:operands]):
        rows, columns = height, lanes
    else:
        return None
    dims = (*space.dims[:-2], height // rows, width // columns)
    accesses = (
        Access(a.dtype, (*a.strides[:-2], a.strides[-2] * rows, a.strides[-1] * columns))
        for a in space.accesses
    )
    tiles = Space(dims, tuple(accesses))
    if dims[-1] > dims[-2]:  # what one tile leaves of a cache line, a near one uses
        tiles = tiles.permuted([*range(len(dims) - 2), len(dims) - 1, len(dims) - 2])
    return Tiling(space, tiles, rows, columns, lanes)


def _own_dimension(access: Access, space: Space) -> int | None:
    """The dimension that an operand runs along, if that is not the last."""
    if access.inner in (0, 1) or access.dtype.kind == "bool":
        return None
    pairs = enumerate(zip(space.dims, access.strides, strict=True))
    return next((i for i, (dim, stride) in pairs if stride == 1 and dim > 1), None)


def emit_tiles(
    e: Emitter,
    body: Graph,
    tiling: Tiling,
    cut: Split,
    pointers: Sequence[Val],
    begin: Val,
    end: Val,
) -> None:
    """Work items [begin, end) of an elementwise body over whole tiles."""
    accesses, dims = tiling.tiles.accesses, tiling.tiles.dims

    def walk(axis: int, at: Sequence[Val], count: int | Val) -> None:
        with e.loop(0, count) as i:
            inner = advance(e, at, accesses, axis, i)
            if axis == len(dims) - 1:
                _tile(e, body, tiling, inner)
            else:
                walk(axis + 1, inner, dims[axis + 1])

    with e.loop(begin, end) as item:
        at, count = cut.enter(e, item, pointers, accesses)
        walk(cut.axis, at, count)


def _tile(e: Emitter, body: Graph, tiling: Tiling, at: Sequence[Val]) -> None:
    """One tile: all operands are read before anything is written."""
    n, accesses = len(body.inputs), tiling.space.accesses
    tiles = [_read(e, tiling, a, p) for a, p in zip(accesses[:n], at, strict=False)]
    steps = [a.strides[-2] if tiling.columns == tiling.lanes else tiling.lanes for a in accesses]

    def finish(i: int | Val, vectors: Sequence[Val]) -> None:
        values = dict(zip(body.inputs, vectors, strict=True))
        outputs = evaluate(e, body.outputs, values, tiling.lanes)
        for value, access, step, pointer in zip(
            outputs, accesses[n:], steps[n:], at[n:], strict=True
        ):
            store(e, value, address(e, pointer, access.dtype, (step,), (i,)), access.dtype)

    count = tiling.rows if tiling.columns == tiling.lanes else tiling.columns
    if len(body.nodes) <= _UNROLLED:
        for i in range(count):
            finish(i, [tile[i] for tile in tiles])
        return
    slots = [_spilled(e, tile) for tile in tiles]
    with e.loop(0, count) as i:
        finish(i, [_reloaded(e, slot, i) for slot in slots])


def _spilled(e: Emitter, vectors: Sequence[Val]) -> Val:
    """Vectors of one type as an array on the stack."""
    slot = e.var(ll.ArrayType(vectors[0].type, len(vectors)))
    for i, vector in enumerate(vectors):
        e.b.store(vector, e.b.gep(slot, [I32(0), I32(i)]))
    return slot


def _reloaded(e: Emitter, slot: Val, i: Val) -> Val:
    return e.b.load(e.b.gep(slot, [I32(0), i]))


def _read(e: Emitter, tiling: Tiling, access: Access, pointer: Val) -> list[Val]:
    """The vectors of a tile as results want them: its rows, or if these are short all in a line."""
    down, right = access.strides[-2:]
    rows, columns, lanes = tiling.rows, tiling.columns, tiling.lanes

    def vectors(count: int, step: int, stride: int) -> list[Val]:
        places = (address(e, pointer, access.dtype, (step,), (i,)) for i in range(count))
        return [load(e, place, access.dtype, lanes, stride) for place in places]

    if columns < lanes:
        if (down, right) == (columns, 1):
            return vectors(columns, lanes, 1)
        return _interleaved(e, vectors(columns, right, down))
    if down == 1 and rows == lanes and right not in (0, 1):
        return _transposed(e, vectors(lanes, right, 1))
    if down == 1 and right == rows:
        return _separated(e, vectors(rows, lanes, 1))
    return vectors(rows, down, right)


# -- shuffles ------------------------------------------------------------------------------------
def _shuffle(e: Emitter, a: Val, b: Val, lanes: Sequence[int]) -> Val:
    """Lanes of `a`, and of `b` numbered after them."""
    return e.b.shuffle_vector(a, b, ll.Constant(ll.VectorType(I32, len(lanes)), list(lanes)))


def _picked(e: Emitter, sources: Sequence[Val], picks: Sequence[tuple[int, int]]) -> Val:
    """A vector whose lanes are (source, lane), merged from one source after the other."""
    n = len(picks)
    first, *others = sorted({source for source, _ in picks})
    lanes = [lane if source == first else k for k, (source, lane) in enumerate(picks)]
    result = _shuffle(e, sources[first], sources[first], lanes)
    for other in others:
        lanes = [n + lane if source == other else k for k, (source, lane) in enumerate(picks)]
        result = _shuffle(e, result, sources[other], lanes)
    return result


def _interleaved(e: Emitter, columns: Sequence[Val]) -> list[Val]:
    """Columns to the elements row after row, as as many vectors."""
    n, lanes = len(columns), columns[0].type.count
    flat = [(i % n, i // n) for i in range(n * lanes)]
    return [_picked(e, columns, flat[i * lanes : (i + 1) * lanes]) for i in range(n)]


def _separated(e: Emitter, flat: Sequence[Val]) -> list[Val]:
    """The inverse of `_interleaved`."""
    n, lanes = len(flat), flat[0].type.count
    places = [[k * n + row for k in range(lanes)] for row in range(n)]
    return [_picked(e, flat, [divmod(i, lanes) for i in line]) for line in places]


def _transposed(e: Emitter, rows: Sequence[Val]) -> list[Val]:
    """A square of n = 4 2^m rows: quadruples by interleaving, then blocks of four lanes change
    places. All but the last shuffles stay within 128 bits, where they cost one instruction."""
    n = len(rows)
    quads = range(0, n, 4)

    def interleave(a: Val, b: Val, width: int, half: int) -> Val:
        """Groups of `width` lanes from one half of each quadruple of a and b, by turns."""
        lanes = []
        for q in quads:
            starts = range(q + 2 * half, q + 2 * half + 2, width)
            lanes += [x + s + i for s in starts for x in (0, n) for i in range(width)]
        return _shuffle(e, a, b, lanes)

    columns: list[list[Val]] = [[], [], [], []]  # of the k-th lanes of all quadruples
    for q in quads:
        a, b, c, d = rows[q : q + 4]
        for half in (0, 1):
            ab, cd = interleave(a, b, 1, half), interleave(c, d, 1, half)
            columns[2 * half].append(interleave(ab, cd, 2, 0))
            columns[2 * half + 1].append(interleave(ab, cd, 2, 1))
    turned = [_blocks_transposed(e, column) for column in columns]
    return [turned[i % 4][i // 4] for i in range(n)]


def _blocks_transposed(e: Emitter, rows: list[Val]) -> list[Val]:
    """The same for a square of blocks of four lanes (Eklundh, 1972)."""
    rows, n = list(rows), 4 * len(rows)
    step = 1
    while step < len(rows):
        for i in range(len(rows)):
            if not i & step:
                a, b = rows[i], rows[i + step]
                low, high = [], []
                for q in range(len(rows)):
                    other = bool(q & step)
                    low.append(n + 4 * (q - step) if other else 4 * q)
                    high.append(n + 4 * q if other else 4 * (q + step))
                rows[i] = _shuffle(e, a, b, [s + k for s in low for k in range(4)])
                rows[i + step] = _shuffle(e, a, b, [s + k for s in high for k in range(4)])
        step *= 2
    return rows
