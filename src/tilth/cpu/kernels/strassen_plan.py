"""How a product by Strassen's algorithm is executed, and what that costs.

A work item is a block of pairs of rows times a part of the pairs of panels. The sums of quarters of
the left operand that a block needs, and the products of a panel, should stay in L2 beside the
weights that stream by; a deep product is cut along its depth. `cycles` weighs this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.contraction_plan import STREAM, Shape
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.tiles import Tiling

FLOAT = 4
PRODUCTS = 7
LONGEST = 192  # products that are added up in one go, where that divides the depth: more round more
_DEEPEST = 512  # block of the depth
_TILINGS = 4  # whose divisions are considered
_PARTS = (1, 4)  # parts of the panels, for each thread
_BLOCKS = (1, 2, 4, 6, 8, 12, 20, 32)  # groups of pairs that a block of rows may have


@dataclass(frozen=True)
class Problem:
    """`rows` x 2 `taps` x `channels` times as many x `columns`, `outer` times.

    `channels` are half of the innermost depth: that is what is halved, for every tap.
    """

    outer: int
    rows: int
    taps: tuple[int, ...]
    channels: int
    columns: int
    lanes: int

    @property
    def pairs(self) -> int:
        """Rows of the upper half; the lower half may have one less."""
        return -(-self.rows // 2)

    @property
    def vectors(self) -> int:
        """Vectors of columns of the left half; the right half may have one less."""
        return -(-self.columns // (2 * self.lanes))

    @property
    def depth(self) -> int:
        """Of each of the seven products."""
        return math.prod(self.taps) * self.channels


@dataclass(frozen=True)
class Plan:
    """The choices: register tiles over (pairs of rows x vectors of the left half), work items, and
    blocks of the depth: `tap_loops` leading loops over taps times chunks of the channels."""

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
        """Register tiles in the largest block of pairs, for one panel."""
        return -(-self.tiling.width.count // self.row_blocks)

    @property
    def block_pairs(self) -> int:
        """Pairs of rows in the largest block."""
        return min(self.problem.pairs, self.block_groups * self.tiling.width.size)

    @property
    def block_panels(self) -> int:
        """Panels in the largest part of them."""
        return -(-self.tiling.panels.count // self.panel_blocks)

    def describe(self) -> str:
        """For reports."""
        words = [f"strassen {self.tiling.name}"]
        if self.depth_blocks > 1:
            words.append(f"depth {self.problem.depth}/{self.depth_blocks}")
        words.append(f"{self.block_pairs} pairs, items {self.row_blocks}x{self.panel_blocks}")
        return ", ".join(words)

    # -- bytes -------------------------------------------------------------------------------
    @property
    def vector(self) -> int:
        return self.problem.lanes * FLOAT

    @property
    def data_pitch(self) -> int:
        """From one pair's sums of the left operand to the next."""
        return conflict_free(self.depth * FLOAT)

    @property
    def data_plane(self) -> int:
        """From one product's sums of the left operand to the next one's."""
        return self.block_pairs * self.data_pitch

    @property
    def sum_plane(self) -> int:
        """From one product to the next, for one panel."""
        return conflict_free(self.block_pairs * self.tiling.panels.width * self.vector)

    @property
    def slots(self) -> int:
        """Panels whose products wait for more of the depth."""
        return self.block_panels if self.depth_blocks > 1 else 1

    @property
    def scratch(self) -> int:
        return PRODUCTS * (self.data_plane + self.slots * self.sum_plane)

    @property
    def weights(self) -> int:
        """Bytes of the seven sums of quarters of the right operand."""
        p = self.problem
        return PRODUCTS * p.depth * p.vectors * self.vector


def problem_of(shape: Shape) -> Problem:
    """Sizes of a contraction whose innermost depth is even."""
    return Problem(
        math.prod(loop.size for loop in shape.outer),
        shape.width.size,
        tuple(tap.size for tap in shape.taps),
        shape.inner.size // 2,
        shape.columns.size,
        shape.lanes,
    )


def ranked(problem: Problem, isa: Isa, threads: int) -> list[Plan]:
    """Plans, those with the fewest estimated cycles first, from shapes and cache sizes alone."""

    def cost(plan: Plan) -> float:
        """Tells tiles apart that read panels more or less often."""
        items = math.ceil(plan.items / threads)
        read = items * plan.block_groups * plan.weights / plan.panel_blocks
        return cycles(plan, isa, threads) + tiles.reading(isa, read)

    return sorted(dict.fromkeys(_candidates(problem, isa, threads)), key=cost)


def _candidates(problem: Problem, isa: Isa, threads: int) -> Iterator[Plan]:
    every = tiles.candidates(isa, 1, problem.pairs, problem.vectors, fetching=True)
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
# Fitted to 51 products and convolutions on two threads of a Zen 4, and to 30 of a Zen 3; what
# vectors cost is divided by the FMAs that a core starts per cycle. Cycles; bytes per cycle.
_AGAIN = 16  # bytes of weights that were read before
_HIDDEN = 0.9  # how much of the shorter of multiplying and streaming hides behind the longer
_EARLIER = 2  # a vector of sums of the depth before: a load and a store
_COMBINE = 14  # a vector of each quarter of two rows: 4 loads, 5 additions, 7 stores
_FAR = 32  # bytes of sums of what comes from beyond L2; of results that do not stay in L3
_FINISH = 18  # a vector of each quarter of two results: 7 loads, 8 additions, 4 epilogues
_ROOM = 0.6  # share of L2 that sums and products have
_SPILL = 16  # bytes of what is not there, read again for each panel
_ITEM = 400  # of a work item


def least_cycles(problem: Problem, isa: Isa, threads: int) -> float:
    """What no plan's `cycles` are below: work that all do, in equal shares."""
    every = tiles.candidates(isa, 1, problem.pairs, problem.vectors, fetching=True)
    products = PRODUCTS * min(tiles.cost(isa, tiling, problem.depth) for tiling in every)
    combine = _COMBINE / isa.fmas * problem.pairs * problem.depth / problem.lanes
    finish = _FINISH / isa.fmas * problem.pairs * problem.vectors
    return problem.outer * (products + combine + finish) / threads


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, t = plan.problem, plan.tiling
    items = math.ceil(plan.items / threads)  # of the busiest thread
    columns = min(1.0, plan.block_panels * t.panels.width / p.vectors)
    pairs = min(p.pairs, plan.block_groups * t.width.size)
    vectors = columns * p.vectors
    one = tiles.cost(isa, t, plan.depth) * plan.depth_blocks * columns * pairs / p.pairs
    earlier = (plan.depth_blocks * plan.runs - 1) * pairs * vectors * _EARLIER / isa.fmas
    products = items * PRODUCTS * (one + earlier)
    reads = items * plan.weights * columns
    first = min(reads, plan.weights) / (STREAM * min(plan.row_blocks, threads))
    stream = first + max(0, reads - plan.weights) / _AGAIN
    beside = max(products, stream) + (1 - _HIDDEN) * min(products, stream)
    left = PRODUCTS * pairs * p.depth * FLOAT
    far = left / _FAR if left * p.outer * p.pairs / pairs > isa.l2 else 0
    combine = _COMBINE / isa.fmas * pairs * p.depth / p.lanes + far
    finish = _FINISH / isa.fmas * pairs * vectors
    if p.outer * p.rows * p.columns * FLOAT > isa.l3_room:
        finish += 4 * pairs * vectors * p.lanes * FLOAT / _FAR
    beyond = max(0, plan.scratch - isa.l2 * _ROOM)
    spilled = beyond * plan.depth_blocks * plan.block_panels / _SPILL
    return beside + items * (_ITEM + combine + finish + spilled)
