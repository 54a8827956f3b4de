"""How a product by Strassen's algorithm is executed, and what that costs.

Rows, columns and the innermost depth are cut into 2 parts, or into 4 where Strassen's scheme is
applied twice. A work item is a block of rows, taken from all parts alike, times some of the panels
of columns. The sums of parts of the left operand that a block needs, and the products of a panel,
should stay in L2 beside the weights that stream by; a deep product is cut along its depth. `cycles`
weighs this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.contraction_plan import STREAM, Shape
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.strassen_scheme import PRODUCTS
from tilth.cpu.kernels.tiles import Tiling

FLOAT = 4
LEVELS = (1, 2)  # how often the scheme may be applied
LONGEST = 192  # products that are added up in one go, where that divides the depth: more round more
_DEEPEST = 512  # block of the depth
_TILINGS = 4  # whose divisions are considered
_PARTS = (1, 4)  # parts of the panels, for each thread
_BLOCKS = (1, 2, 4, 6, 8, 12, 20, 32)  # register tiles that a block of rows may have


@dataclass(frozen=True)
class Problem:
    """`rows` x the depth, times the depth x `columns`, `outer` times; Strassen's scheme is applied
    `levels` times.

    The depth is that of `taps`, times `parts` of `channels`: that is what is cut, for every tap.
    """

    outer: int
    rows: int
    taps: tuple[int, ...]
    channels: int
    columns: int
    lanes: int
    levels: int

    @property
    def parts(self) -> int:
        """Into which rows, columns and channels are cut."""
        return 2**self.levels

    @property
    def products(self) -> int:
        return PRODUCTS**self.levels

    @property
    def height(self) -> int:
        """Rows of a part; the last one may have less."""
        return -(-self.rows // self.parts)

    @property
    def vectors(self) -> int:
        """Vectors of columns of a part; the last one may have less."""
        return -(-self.columns // (self.parts * self.lanes))

    @property
    def depth(self) -> int:
        """Of each product."""
        return math.prod(self.taps) * self.channels

    @property
    def weights(self) -> int:
        """Bytes of all sums of parts of the right operand."""
        return self.products * self.depth * self.vectors * self.lanes * FLOAT


@dataclass(frozen=True)
class Plan:
    """The choices: register tiles over (rows x vectors of a part), work items, and blocks of the
    depth: `tap_loops` leading loops over taps times chunks of the channels."""

    problem: Problem
    tiling: Tiling
    row_blocks: int
    panel_blocks: int
    tap_loops: int = 0
    chunk: int = 0  # 0: all channels

    @cached_property
    def depth_dims(self) -> tuple[int, ...]:
        """Blocks of the depth: leading taps, then chunks of the channels."""
        p = self.problem
        chunks = p.channels // self.chunk if self.chunk else 1
        return (*p.taps[: self.tap_loops], chunks)

    @property
    def depth_blocks(self) -> int:
        return math.prod(self.depth_dims)

    @property
    def depth(self) -> int:
        """Of a block."""
        return self.problem.depth // self.depth_blocks

    @cached_property
    def runs(self) -> int:
        """Equal pieces of a block of the depth, whose products are added up one after the other."""
        least = -(-self.depth // LONGEST)
        return next((n for n in range(least, 2 * least + 1) if self.depth % n == 0), 1)

    @property
    def run(self) -> int:
        """Products of such a piece."""
        return self.depth // self.runs

    @property
    def items(self) -> int:
        return self.problem.outer * self.row_blocks * self.panel_blocks

    @property
    def block_groups(self) -> int:
        """Register tiles in the largest block of rows, for one panel."""
        return -(-self.tiling.width.count // self.row_blocks)

    @property
    def block_height(self) -> int:
        """Rows of a part in the largest block."""
        return min(self.problem.height, self.block_groups * self.tiling.width.size)

    @property
    def block_panels(self) -> int:
        """Panels in the largest part of them."""
        return -(-self.tiling.panels.count // self.panel_blocks)

    def describe(self) -> str:
        """For reports."""
        words = [f"strassen {'twice ' * (self.problem.levels - 1)}{self.tiling.name}"]
        if self.depth_blocks > 1:
            words.append(f"depth {self.problem.depth}/{self.depth_blocks}")
        rows = f"{self.problem.parts} x {self.block_height} rows"
        words.append(f"{rows}, items {self.row_blocks}x{self.panel_blocks}")
        return ", ".join(words)

    # -- bytes -------------------------------------------------------------------------------
    @property
    def vector(self) -> int:
        return self.problem.lanes * FLOAT

    @property
    def data_pitch(self) -> int:
        """From one row of sums of the left operand to the next."""
        return conflict_free(self.depth * FLOAT)

    @property
    def data_plane(self) -> int:
        """From one product's sums of the left operand to the next one's."""
        return self.block_height * self.data_pitch

    @property
    def sum_plane(self) -> int:
        """From one product to the next, for one panel."""
        return conflict_free(self.block_height * self.tiling.panels.width * self.vector)

    @property
    def slots(self) -> int:
        """Panels whose products wait for more of the depth."""
        return self.block_panels if self.depth_blocks > 1 else 1

    @property
    def scratch(self) -> int:
        return self.problem.products * (self.data_plane + self.slots * self.sum_plane)

    @property
    def weights(self) -> int:
        return self.problem.weights


def problem_of(shape: Shape, levels: int) -> Problem:
    """Sizes of a contraction whose innermost depth can be cut so often."""
    return Problem(
        math.prod(loop.size for loop in shape.outer),
        shape.width.size,
        tuple(tap.size for tap in shape.taps),
        shape.inner.size >> levels,
        shape.columns.size,
        shape.lanes,
        levels,
    )


def ranked(problems: Sequence[Problem], isa: Isa, threads: int) -> list[Plan]:
    """Plans, those with the fewest estimated cycles first, from shapes and cache sizes alone."""

    def cost(plan: Plan) -> float:
        """Tells tiles apart that read panels more or less often."""
        items = math.ceil(plan.items / threads)
        read = items * plan.block_groups * plan.weights / plan.panel_blocks
        return cycles(plan, isa, threads) + tiles.reading(isa, read)

    every = (plan for problem in problems for plan in _candidates(problem, isa, threads))
    return sorted(dict.fromkeys(every), key=cost)


def _candidates(problem: Problem, isa: Isa, threads: int) -> Iterator[Plan]:
    every = tiles.candidates(isa, 1, problem.height, problem.vectors, fetching=True)
    for tiling in sorted(every, key=lambda t: tiles.cost(isa, t, problem.depth))[:_TILINGS]:
        groups, panels = tiling.width.count, tiling.panels.count
        for size, cut in itertools.product((*_BLOCKS, groups), _cuts(problem)):
            blocks = -(-groups // size)
            for row_blocks in {blocks, min(groups, -(-blocks // threads) * threads)}:
                for panel_blocks in {1, *(min(threads * n, panels) for n in _PARTS)}:
                    yield Plan(problem, tiling, row_blocks, panel_blocks, *cut)


def _cuts(problem: Problem) -> Iterator[tuple[int, int]]:
    """Ways to cut the depth into blocks of at most `_DEEPEST`: `tap_loops` and `chunk`."""
    taps, most = problem.taps, 4
    for loops in range(len(taps) + 1):
        depth = math.prod(taps[loops:]) * problem.channels
        if depth <= _DEEPEST and most:
            yield loops, 0
            most -= 1
    for chunks in range(2, problem.channels // problem.lanes + 1):
        chunk = problem.channels // chunks
        if problem.channels % (chunks * problem.lanes) == 0 and chunk <= _DEEPEST and most:
            yield len(taps), chunk
            most -= 1


# -- what it costs -------------------------------------------------------------------------------
# Fitted to 51 products and convolutions on two threads of a Zen 4, and to 30 of a Zen 3, with two
# levels to 14 of a Zen 4; what vectors cost is divided by the FMAs that a core starts per cycle.
# Cycles; bytes per cycle.
_AGAIN = (16, 8)  # bytes of weights that were read before, of one level and of two, if they are ...
_KEPT = 16 << 20  # ... no more bytes than L3 keeps
_HIDDEN = 0.9  # how much of the shorter of multiplying and streaming hides behind the longer
_EARLIER = 2  # a vector of sums of the depth before: a load and a store
_COMBINE = 14  # a vector of each quarter of two rows, for one level: 4 loads, 5 additions, 7 stores
_SECOND = 5  # times as much cost the sums of two levels as those of one
_FAR = 32  # bytes of sums of what comes from beyond L2; of results that do not stay in L3
_FINISH = 18  # a vector of each quarter of two results: 7 loads, 8 additions, 4 epilogues
_ROOM = (0.6, 0.8)  # share of L2 that sums and products have, of one level and of two
_SPILL = 16  # bytes of what is not there, read again for each panel
_ITEM = 400  # of a work item


def least_cycles(problem: Problem, isa: Isa, threads: int) -> float:
    """What no plan's `cycles` are below: work that all do, in equal shares."""
    every = tiles.candidates(isa, 1, problem.height, problem.vectors, fetching=True)
    one = min(tiles.cost(isa, tiling, problem.depth) for tiling in every)
    combine = _COMBINE / isa.fmas * problem.height * problem.depth / problem.lanes
    finish = _FINISH / isa.fmas * problem.height * problem.vectors
    sums = (combine + finish) * _SECOND ** (problem.levels - 1)
    return problem.outer * (problem.products * one + sums) / threads


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, t = plan.problem, plan.tiling
    items = math.ceil(plan.items / threads)  # of the busiest thread
    columns = min(1.0, plan.block_panels * t.panels.width / p.vectors)
    rows = min(p.height, plan.block_groups * t.width.size)
    vectors = columns * p.vectors
    one = tiles.cost(isa, t, plan.depth) * plan.depth_blocks * columns * rows / p.height
    earlier = (plan.depth_blocks * plan.runs - 1) * rows * vectors * _EARLIER / isa.fmas
    products = items * p.products * (one + earlier)
    reads = items * plan.weights * columns
    first = min(reads, plan.weights) / (STREAM * min(plan.row_blocks, threads))
    again = _AGAIN[p.levels - 1] if plan.weights <= _KEPT else STREAM
    stream = first + max(0, reads - plan.weights) / again
    beside = max(products, stream) + (1 - _HIDDEN) * min(products, stream)
    inner = _SECOND ** (p.levels - 1)
    left = p.products * rows * p.depth * FLOAT
    far = left / _FAR if left * p.outer * p.height / rows > isa.l2 else 0
    combine = inner * _COMBINE / isa.fmas * rows * p.depth / p.lanes + far
    finish = inner * _FINISH / isa.fmas * rows * vectors
    if p.outer * p.rows * p.columns * FLOAT > isa.l3_room:
        finish += p.parts**2 * rows * vectors * p.lanes * FLOAT / _FAR
    beyond = max(0, plan.scratch - isa.l2 * _ROOM[p.levels - 1])
    spilled = beyond * plan.depth_blocks * plan.block_panels / _SPILL
    return beside + items * (_ITEM + combine + finish + spilled)
