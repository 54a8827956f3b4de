"""How one contraction is executed: register tile, cache blocks, operand copies, work items.

A plan costs or saves time and changes no more of a result than its rounding. `choose` makes one
without timing anything; a tuner may hand its own to `contraction.lower`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from tilth.cpu import vmath
from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.contraction_form import LHS, RESULT, RHS, Contraction, Loop
from tilth.cpu.kernels.pairwise import RUN
from tilth.cpu.kernels.tiles import Cover, Tiling
from tilth.ir.graph import Node

Rhs = Literal["packed", "direct", "copied"]
_LINE, _PAGE = 64, 4096
_CONFLICT_COST = 1.1  # of a tiling whose rows fight for cache lines, or must be copied
STREAM = 4.6  # bytes of weights per cycle from beyond L2
_BYTES_PER_CYCLE = 16  # that one core reads from beyond L2, while it computes
_REMOTE = 4  # bytes per cycle that it reads from what other cores wrote
_EVEN = 1.01  # of an equal share, that the busiest thread may have
_ROWS = 64  # that a block has at least, where weights are read once per block of rows
_FEW_ROWS = 4  # that wait for weights, so that sums in runs, which round less, cost no time
_STREAMS = 4  # of weights that are read once: more of their pages are fetched at a time
_DEEP = 64  # depth from which a tile's results can be fetched while it is computed
_MOST_TILINGS = 12  # that a tuner may try
_WRAP = 3  # cycles per row of a tile to find where it lies, if rows are counted through lines
_MOST_PLACES = 8  # of the left operand's rows, if each has its own: general registers hold them
_HEAVY_EPILOGUE = 9  # instructions per vector beyond which it becomes a loop of its own


@dataclass(frozen=True)
class Plan:
    """The choices. Blocks are counted, not sized: extents are split as evenly as they can be.

    `rhs`: read packed weights, the operand itself, or a copy packed into scratch. `copy_lhs`: rows
    are first copied side by side (against cache conflicts). The depth is cut into `tap_loops`
    leading loops times `chunk` of the innermost one; partial sums wait in scratch. `depth_outside`
    puts the loop over depth blocks outside that over panels. `deferred` runs the epilogue as a
    loop over finished tiles. `fetch_ahead` brings the next block of packed weights into L2 while
    this one is used, `fetch_results` the lines of a tile's results while it is computed. `run`, if
    not 0, is about how many products are added up in one go before such sums are added pairwise.
    `flat`: tiles are of rows counted through all lines of a map, see `Shape`. A tile reads
    weights in `streams` places of a depth that is one loop, and one block, in turn.
    """

    tiling: Tiling
    rhs: Rhs
    copy_lhs: bool = False
    tap_loops: int = 0
    chunk: int = 0  # 0: all of the innermost depth
    depth_outside: bool = False
    row_blocks: int = 1
    panel_blocks: int = 1
    panels_first: bool = False  # work items run over all panel blocks of a row block first
    interleaved: tuple[int, ...] = ()  # outer loops, such as groups, that run inside row blocks
    deferred: bool = False
    fetch_ahead: bool = False
    fetch_results: bool = False
    run: int = 0
    flat: bool = False
    streams: int = 1


@dataclass(frozen=True)
class Shape:
    """A contraction seen by the blocking: which loops are tiled, which stay outside.

    Its rows are a map, `height` lines of `width` pixels. If it is `flat` they are one long line,
    with gaps where a line of the map ends: tiles need not be rectangles, so those of small maps
    waste less, and each row of a tile has a place of its own.
    """

    form: Contraction
    lanes: int
    flat: bool = False

    @cached_property
    def columns(self) -> Loop:
        return self.form.n[-1] if self.form.n else self._still

    @cached_property
    def width(self) -> Loop:
        if self.flat:
            return replace(self.form.m[-1], size=self.form.m[-2].size * self.line)
        return self.form.m[-1] if self.form.m else self._still

    @cached_property
    def height(self) -> Loop:
        return self.form.m[-2] if len(self.form.m) > 1 and not self.flat else self._still

    @property
    def line(self) -> int:
        """Pixels of a line of the map."""
        return self.form.m[-1].size if self.form.m else 1

    def gap(self, tensor: int) -> int:
        """Elements that a tensor skips behind a line's last pixel; 0 if the shape is not flat."""
        if not self.flat:
            return 0
        lines, pixels = self.form.m[-2:]
        return lines.strides[tensor] - pixels.size * pixels.strides[tensor]

    @cached_property
    def outer(self) -> tuple[Loop, ...]:
        """Loops around everything: batch and whatever of m and n is not tiled."""
        return (*self.form.batch, *self.form.m[:-2], *self.form.n[:-1])

    @cached_property
    def taps(self) -> tuple[Loop, ...]:
        return self.form.k[:-1]

    @cached_property
    def inner(self) -> Loop:
        return self.form.k[-1] if self.form.k else self._still

    @property
    def rows(self) -> int:
        return self.height.size * self.width.size

    @property
    def vectors(self) -> int:
        return -(-self.columns.size // self.lanes)

    @property
    def tail(self) -> int | None:
        """Lanes used of the last vector; None when it is full."""
        return self.columns.size % self.lanes or None

    @cached_property
    def _still(self) -> Loop:
        loops = (*self.form.batch, *self.form.m, *self.form.n, *self.form.k)
        return Loop(1, (0,) * (len(loops[0].strides) if loops else 3 + len(self.form.extras)))


def shape_of(form: Contraction, isa: Isa) -> Shape:
    """The contraction with the vector width of its accumulators."""
    return Shape(form, max(1, min(isa.lanes, isa.vector_bytes // form.accumulator.nbytes)))


def choose(shape: Shape, rhs_is_constant: bool, isa: Isa, threads: int) -> Plan:
    """A good plan, from shapes and cache sizes alone."""
    best, tiling = min(
        _tilings(shape, rhs_is_constant, isa), key=_tiling_cost(rhs_is_constant, isa, threads)
    )
    return _around(tiling, best, rhs_is_constant, isa, threads)


def ranked(shape: Shape, rhs_is_constant: bool, isa: Isa, threads: int) -> list[Plan]:
    """The plan of `choose`, then others that may turn out faster: for other tiles, and the same
    one with another choice for one thing."""
    tilings = sorted(
        _tilings(shape, rhs_is_constant, isa), key=_tiling_cost(rhs_is_constant, isa, threads)
    )
    first, *others = (
        _around(t, s, rhs_is_constant, isa, threads) for s, t in tilings[:_MOST_TILINGS]
    )
    varied = _variations(first, tilings[0][0], rhs_is_constant, threads)
    taken = itertools.chain.from_iterable(itertools.zip_longest(others, varied))
    return list(dict.fromkeys([first, *(plan for plan in taken if plan is not None)]))


def _fetching(shape: Shape, rhs_is_constant: bool, isa: Isa) -> bool:
    """Do constant weights stream through L2 rather than stay there?"""
    weights = shape.form.depth * shape.vectors * shape.lanes * shape.form.rhs_dtype.nbytes
    return rhs_is_constant and weights > isa.l2 // 8


def _tilings(shape: Shape, rhs_is_constant: bool, isa: Isa) -> Iterator[tuple[Shape, Tiling]]:
    """Register tiles that are rectangles of the map, and those of its pixels in a row."""
    fetching = _fetching(shape, rhs_is_constant, isa)
    size = shape.height.size, shape.width.size
    for tiling in tiles.candidates(isa, *size, shape.vectors, fetching):
        yield shape, tiling
    if shape.height.size == 1:
        return
    flat = replace(shape, flat=True)
    for tiling in tiles.candidates(isa, 1, flat.width.size, shape.vectors, fetching):
        if tiling.width.size <= _MOST_PLACES or not flat.gap(LHS):
            yield flat, tiling


def _tiling_cost(
    rhs_is_constant: bool, isa: Isa, threads: int
) -> Callable[[tuple[Shape, Tiling]], float]:
    def cost(pair: tuple[Shape, Tiling]) -> float:
        shape, tiling = pair
        factor = _CONFLICT_COST if _conflicts(shape, tiling, isa) else 1.0
        weights = shape.form.depth * shape.vectors * isa.vector_bytes
        streams = _fetching(shape, rhs_is_constant, isa)
        reads = tiling.height.count * tiling.width.count * weights if streams else 0
        places = _WRAP * shape.rows * tiling.panels.count if shape.flat else 0
        work = factor * (
            tiles.cost(isa, tiling, shape.form.depth) + places + tiles.reading(isa, reads)
        )
        if math.prod(loop.size for loop in shape.outer) % threads == 0:
            return work / threads
        shares = _shares(shape, tiling, 1, 1, threads)
        return min(share.tiles * work + share.reading for share in shares)

    return cost


def _around(tiling: Tiling, shape: Shape, rhs_is_constant: bool, isa: Isa, threads: int) -> Plan:
    """The plan for these register tiles."""
    one_tile = tiling.height.count * tiling.width.count == 1  # panels are used only once
    fetching = _fetching(shape, rhs_is_constant, isa)
    chunk, tap_loops = (0, 0) if one_tile else _depth_block(shape, _l2_depth(shape, tiling, isa))
    depth_outside = bool(chunk) and _too_deep(shape, isa)
    rhs = _rhs_mode(shape, tiling, rhs_is_constant, isa)
    row_blocks, panel_blocks = _cache_blocks(shape, tiling, chunk if depth_outside else 0, rhs, isa)
    shared = interleaved(shape)
    if shared:
        row_blocks = max(row_blocks, _line_blocks(shape, shared, isa))
        row_blocks = min(_cut(shape, tiling).count, -(-row_blocks // threads) * threads)
    else:
        row_blocks, panel_blocks = _share(shape, tiling, row_blocks, panel_blocks, isa, threads)
    return Plan(
        tiling,
        rhs,
        copy_lhs=_conflicts(shape, tiling, isa) and tiling.panels.count >= 4,
        tap_loops=tap_loops,
        chunk=chunk,
        depth_outside=depth_outside,
        row_blocks=row_blocks,
        panel_blocks=panel_blocks,
        panels_first=panel_blocks % threads == 0 and not shared,
        interleaved=shared,
        deferred=_epilogue_weight(shape) > _HEAVY_EPILOGUE,
        fetch_ahead=fetching and not one_tile,
        fetch_results=shape.columns.strides[RESULT] == 1 and shape.form.depth >= _DEEP,
        run=RUN if shape.rows <= _FEW_ROWS and shape.form.accumulator.is_float else 0,
        flat=shape.flat,
        streams=_STREAMS if fetching and one_tile and _even(shape, _STREAMS) else 1,
    )


def _even(shape: Shape, streams: int) -> bool:
    """Is the depth one loop that so many streams share evenly?"""
    return not shape.taps and shape.inner.size % streams == 0


def by_rows(shape: Shape, rhs_is_constant: bool, isa: Isa) -> Plan:
    """A plan with one work item per row of pixels, for kernels that run it a few rows at a time."""
    tiling = tiles.choose(isa, 1, shape.width.size, shape.vectors, shape.form.depth)
    tiling = replace(tiling, height=tiles.cover(shape.height.size, 1))
    return Plan(
        tiling,
        _rhs_mode(shape, tiling, rhs_is_constant, isa),
        row_blocks=shape.height.size,
        deferred=_epilogue_weight(shape) > _HEAVY_EPILOGUE,
    )


def _variations(plan: Plan, shape: Shape, rhs_is_constant: bool, threads: int) -> Iterator[Plan]:
    """Plans that differ from this one in one thing."""
    rows, panels = _cut(shape, plan.tiling).count, plan.tiling.panels.count
    for row_blocks in {plan.row_blocks * 2, plan.row_blocks // 2, threads, 1}:
        if 1 <= row_blocks <= rows:
            yield replace(plan, row_blocks=row_blocks)
    for panel_blocks in {plan.panel_blocks * 2, plan.panel_blocks // 2, threads}:
        if 1 <= panel_blocks <= panels:
            yield replace(plan, row_blocks=1, panel_blocks=panel_blocks)
            yield replace(plan, panel_blocks=panel_blocks)
    yield replace(plan, panels_first=not plan.panels_first)
    if shape.inner.strides[LHS] == 1:
        yield replace(plan, copy_lhs=not plan.copy_lhs)
    yield replace(plan, deferred=not plan.deferred)
    if rhs_is_constant:
        yield replace(plan, fetch_ahead=not plan.fetch_ahead)
    elif shape.columns.strides[RHS] == 1:
        yield replace(plan, rhs="direct" if plan.rhs == "copied" else "copied")
    if plan.streams > 1:
        yield replace(plan, streams=1)
    if plan.chunk:
        yield replace(plan, chunk=-(-plan.chunk // 8) * 4)
        yield replace(plan, depth_outside=not plan.depth_outside)
    if plan.chunk or plan.tap_loops:
        yield replace(plan, chunk=0, tap_loops=0, depth_outside=False)


def _epilogue_weight(shape: Shape) -> int:
    """Roughly, instructions per vector of the result."""
    functions = vmath.UNARY | vmath.BINARY
    nodes = [n for n in shape.form.body.nodes if n.op not in ("constant", shape.form.hero.op)]
    return sum(10 if n.op in functions or _saturates(n) else 1 for n in nodes)


def _saturates(node: Node) -> bool:
    """Is it a conversion from float to integer, with clamps and what becomes of NaN?"""
    if node.op != "convert":
        return False
    return node.inputs[0].tensor.dtype.is_float and node.outputs[0].tensor.dtype.is_integer


def _rhs_mode(shape: Shape, tiling: Tiling, constant: bool, isa: Isa) -> Rhs:
    """Pack weights ahead; pack at run time what cannot be read well, if it is read often enough."""
    if constant:
        return "packed"
    if shape.columns.strides[RHS] != 1:
        return "copied"
    pitch = abs(shape.inner.strides[RHS]) * shape.form.rhs_dtype.nbytes
    bad = pitch % _PAGE == 0 or pitch * shape.form.depth > isa.l2 // 2
    return "copied" if bad and tiling.height.count * tiling.width.count >= 4 else "direct"


def _l2_depth(shape: Shape, tiling: Tiling, isa: Isa) -> int:
    """The depth at which a panel's block of the right operand takes little of L2.

    It need not stay in L1: reading it from L2 costs less than more rounds of partial sums.
    """
    per_unit = tiling.panels.width * shape.lanes * shape.form.accumulator.nbytes
    return max(32, isa.l2 // 8 // per_unit)


def _depth_block(shape: Shape, budget: int) -> tuple[int, int]:
    """(chunk, tap_loops) of blocks of about this depth; zeros where one block does."""
    if shape.form.depth <= budget * 3 // 2:
        return 0, 0
    inner = shape.inner.size
    if inner > budget:
        pieces = math.ceil(inner / budget)
        return -(-inner // (4 * pieces)) * 4, len(shape.taps)
    loops, inside = len(shape.taps), inner
    while loops and inside * shape.taps[loops - 1].size <= budget:
        loops -= 1
        inside *= shape.taps[loops].size
    return 0, loops


def _too_deep(shape: Shape, isa: Isa) -> bool:
    """Would all rows, or enough of them to reread weights seldom, overflow L2 at full depth?"""
    rows = min(shape.rows, _ROWS)
    return not shape.taps and rows * shape.form.depth * shape.form.lhs_dtype.nbytes > isa.l2 // 2


def _conflicts(shape: Shape, tiling: Tiling, isa: Isa) -> bool:
    """Do the rows of a tile compete for the same few lines of L1?"""
    if shape.inner.strides[LHS] != 1:
        return False
    nbytes = shape.form.lhs_dtype.nbytes
    sets = isa.l1 // isa.l1_ways // _LINE
    used: dict[int, int] = {}
    for h in range(tiling.height.size):
        for w in range(tiling.width.size):
            at = (h * shape.height.strides[LHS] + w * shape.width.strides[LHS]) * nbytes
            used[at // _LINE % sets] = used.get(at // _LINE % sets, 0) + 1
    return max(used.values()) >= isa.l1_ways * 2 // 3


def _cut(shape: Shape, tiling: Tiling) -> Cover:
    """The row tiles that blocks divide among themselves."""
    return tiling.height if shape.height.size > 1 else tiling.width


def _cache_blocks(shape: Shape, tiling: Tiling, chunk: int, rhs: Rhs, isa: Isa) -> tuple[int, int]:
    """(row_blocks, panel_blocks) so that what a block reads again stays in L2."""
    form, size = shape.form, shape.form.lhs_dtype.nbytes
    packed = form.depth * shape.columns.size * form.rhs_dtype.nbytes
    if rhs == "copied":
        return 1, min(tiling.panels.count, max(1, math.ceil(packed / (isa.l2 // 2))))
    if chunk:
        left = shape.rows * chunk * size
    else:  # windows overlap: what their rows span, if that is less
        span = max(lp.size * abs(lp.strides[LHS]) for lp in (shape.height, shape.width))
        left = min(shape.rows * form.depth, max(span, shape.rows)) * size
    results = shape.rows * shape.columns.size * form.accumulator.nbytes
    if packed <= isa.l2 // 4:  # rereading the weights is cheap: keep rows and results at hand
        touched, room = left + results, isa.l2 // 16
    else:
        touched = left + (results if chunk else 0)
        room = isa.l2 // 2 if chunk else max(isa.l2 // 4, _ROWS * left // shape.rows)
    return min(_cut(shape, tiling).count, max(1, math.ceil(touched / room))), 1


def interleaved(shape: Shape) -> tuple[int, ...]:
    """The outer loops, such as groups, of which different turns write into the same cache lines.

    Two threads that take different turns would pass those lines back and forth.
    """
    size = shape.form.accumulator.nbytes
    row = abs(shape.width.strides[RESULT]) * size
    steps = [abs(loop.strides[RESULT]) * size for loop in shape.outer]
    sizes = [loop.size for loop in shape.outer]
    shared = (n > 1 and step < row and step % _LINE for n, step in zip(sizes, steps, strict=True))
    return tuple(i for i, found in enumerate(shared) if found)


def _line_blocks(shape: Shape, interleaved: tuple[int, ...], isa: Isa) -> int:
    """Blocks of rows so small that lines stay in L1 until all turns have written into them.

    One where the weights of all turns would be in the way.
    """
    form = shape.form
    turns = math.prod(shape.outer[i].size for i in interleaved)
    weights = turns * form.depth * shape.columns.size * form.rhs_dtype.nbytes
    lines = turns * shape.rows * shape.columns.size * form.accumulator.nbytes
    return 1 if weights > isa.l1 // 2 else math.ceil(lines / (isa.l1 // 2))


def _share(
    shape: Shape, tiling: Tiling, row_blocks: int, panel_blocks: int, isa: Isa, threads: int
) -> tuple[int, int]:
    """More blocks, so that threads get equal shares: of rows, or of panels if that is cheaper.

    Sharing rows means that each thread reads all of the right operand, and the reverse.
    """
    outer = math.prod(loop.size for loop in shape.outer)
    by_rows = _busiest(_cut(shape, tiling).count, row_blocks, threads)
    if outer % threads == 0 or by_rows * threads < _EVEN:
        return row_blocks, panel_blocks
    rows, panels = _shares(shape, tiling, row_blocks, panel_blocks, threads)
    compute = shape.rows * shape.form.depth * shape.vectors / isa.fmas
    if rows.tiles * compute + rows.reading <= panels.tiles * compute + panels.reading:
        return rows.blocks, panel_blocks
    return row_blocks, panels.blocks


@dataclass(frozen=True)
class _Share:
    """What one thread has at most, if all share some blocks: of the tiles, cycles to read."""

    blocks: int
    tiles: float
    reading: float


def _shares(
    shape: Shape, tiling: Tiling, row_blocks: int, panel_blocks: int, threads: int
) -> tuple[_Share, _Share]:
    """Sharing rows, and sharing panels, when a thread reads rows that others have written."""
    form = shape.form
    lhs = shape.rows * form.depth * form.lhs_dtype.nbytes
    rhs = shape.columns.size * form.depth * form.rhs_dtype.nbytes
    remote = lhs * (1 - 1 / threads) / _REMOTE

    def share(tiles: int, blocks: int) -> tuple[int, float]:
        blocks = min(tiles, -(-blocks // threads) * threads)
        return blocks, _busiest(tiles, blocks, threads)

    rows, by_rows = share(_cut(shape, tiling).count, row_blocks)
    panels, by_panels = share(tiling.panels.count, panel_blocks)
    return (
        _Share(rows, by_rows, (lhs * by_rows + rhs) / _BYTES_PER_CYCLE),
        _Share(panels, by_panels, (lhs + rhs * by_panels) / _BYTES_PER_CYCLE + remote),
    )


def _busiest(tiles: int, blocks: int, threads: int) -> float:
    """The largest share of the tiles that a thread has, when they share the blocks."""
    first = [tiles * (blocks * t // threads) // blocks for t in range(threads + 1)]
    return max(stop - start for start, stop in itertools.pairwise(first)) / tiles


def cycles(shape: Shape, isa: Isa, threads: int) -> float:
    """Estimated cycles of the direct kernel until the last thread is done."""
    columns = shape.vectors * shape.lanes
    outer = math.prod(loop.size for loop in shape.outer)
    fmas = outer * shape.rows * shape.form.depth * shape.vectors
    products = fmas / (isa.fmas * isa.reached)
    weights = shape.form.depth * columns * shape.form.rhs_dtype.nbytes
    stream = weights / STREAM if weights > isa.l2 // 2 else 0.0
    longer, shorter = max(products, stream), min(products, stream)
    return (longer + (1 - isa.hidden) * shorter) / threads
