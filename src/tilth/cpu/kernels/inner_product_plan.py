"""How a product by Winograd's inner product is executed, and what that costs.

A work item is a block of rows times some of the panels of columns. Rows of a block are scaled and
copied side by side into scratch, which should stay in L2 beside the weights that stream by.
`cycles` weighs this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels.contraction_plan import STREAM, Shape
from tilth.cpu.kernels.inner_product_rows import FLOAT, Runs
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.tiles import Cover, Panels, Tiling

_BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16)  # register tiles that a block of rows may have
_PARTS = (1, 4)  # parts of the panels, for each thread
_TILINGS = 4  # whose divisions are considered
_WIDTH = 4  # vectors of a panel: results of a row that lie side by side


@dataclass(frozen=True)
class Problem:
    """`rows` x `depth` times `depth` x `columns`, `outer` times."""

    outer: int
    rows: int
    depth: int
    columns: int
    lanes: int

    @property
    def vectors(self) -> int:
        """Vectors of columns."""
        return -(-self.columns // self.lanes)


@dataclass(frozen=True)
class Plan:
    """The choices: register tiles, one vector wide, and work items.

    Panels of columns are a few vectors wide, so that results are finished side by side.
    """

    problem: Problem
    tiling: Tiling
    row_blocks: int
    panel_blocks: int

    @cached_property
    def runs(self) -> Runs:
        return Runs(self.problem.depth)

    @property
    def items(self) -> int:
        return self.problem.outer * self.row_blocks * self.panel_blocks

    @property
    def block_groups(self) -> int:
        """Register tiles in the largest block of rows, for one panel."""
        return -(-self.tiling.width.count // self.row_blocks)

    @property
    def block_rows(self) -> int:
        """Rows in the largest block."""
        return min(self.problem.rows, self.block_groups * self.tiling.width.size)

    @property
    def block_panels(self) -> int:
        """Panels in the largest part of them."""
        return -(-self.tiling.panels.count // self.panel_blocks)

    def describe(self) -> str:
        """For reports."""
        items = f"items {self.row_blocks}x{self.panel_blocks}"
        tile = f"{self.tiling.width.size}x1"
        return f"inner product {tile}, {self.block_rows} rows, {items}"

    # -- bytes -------------------------------------------------------------------------------
    @property
    def vector(self) -> int:
        return self.problem.lanes * FLOAT

    @property
    def data_pitch(self) -> int:
        """From one scaled row to the next."""
        return conflict_free(self.problem.depth * FLOAT)

    @property
    def fact_pitch(self) -> int:
        """From the facts of one row to those of the next."""
        return self.runs.facts * FLOAT

    @property
    def facts(self) -> int:
        """Of all rows of a block, whole vectors."""
        return -(-self.block_rows * self.fact_pitch // self.vector) * self.vector

    @property
    def sum_plane(self) -> int:
        """From the sums of one vector of columns to those of the next."""
        return self.block_rows * self.vector

    @property
    def scratch(self) -> int:
        """Scaled rows of a block, what is known of them, and sums of one panel."""
        sums = self.tiling.panels.width * self.sum_plane
        return self.block_rows * self.data_pitch + self.facts + sums

    @property
    def rows_of_weights(self) -> int:
        """Of each vector of columns: their scales, and each run behind the sums of its pairs."""
        return self.runs.facts + self.problem.depth

    @property
    def weights(self) -> int:
        """Bytes of packed weights."""
        return self.rows_of_weights * self.problem.vectors * self.vector


def problem_of(shape: Shape) -> Problem:
    """Sizes of a contraction."""
    depth = math.prod(loop.size for loop in (*shape.taps, shape.inner))
    outer = math.prod(loop.size for loop in shape.outer)
    return Problem(outer, shape.width.size, depth, shape.columns.size, shape.lanes)


def ranked(problem: Problem, isa: Isa, threads: int) -> list[Plan]:
    """Plans, those with the fewest estimated cycles first, from shapes and cache sizes alone."""
    every = dict.fromkeys(_candidates(problem, isa, threads))
    return sorted(every, key=lambda plan: cycles(plan, isa, threads))


def tilings(isa: Isa, rows: int, vectors: int, depth: int, width: int = 1) -> list[Tiling]:
    """The best register tiles, in panels of `width` vectors.

    They are one vector wide, so that elements of rows need no register: additions take them from
    memory; and as high as registers allow, or down to half of that.
    """
    high = isa.registers - 4
    panels = Panels(vectors, min(width, vectors))
    counts = {-(-rows // height) for height in range(high // 2, high + 1)}
    every = [Tiling(Cover(1, 1), Cover(rows, count), panels) for count in sorted(counts)]
    return sorted(every, key=lambda tiling: product(isa, tiling, depth))[:_TILINGS]


def _candidates(problem: Problem, isa: Isa, threads: int) -> Iterator[Plan]:
    for tiling in tilings(isa, problem.rows, problem.vectors, problem.depth, _WIDTH):
        groups, panels = tiling.width.count, tiling.panels.count
        for size in (*_BLOCKS, groups):
            blocks = -(-groups // size)
            for row_blocks in {blocks, min(groups, -(-blocks // threads) * threads)}:
                for panel_blocks in {1, *(min(threads * n, panels) for n in _PARTS)}:
                    yield Plan(problem, tiling, row_blocks, panel_blocks)


# -- what it costs -------------------------------------------------------------------------------
# Cycles; bytes per cycle.
_TURN = 3 / 2  # products of a row for each FMA
_COLUMN = 0.12  # of a unit of depth besides
_CALL = 40  # of a register tile and run
_SUM = 3.0  # of each sum of a run
_VARIANT = 0.01  # share of the time, for each height of register tiles: fewer compile faster
_SCALE = 3.2  # a vector of a row that is measured, scaled and copied
_LINE = 30  # of a row
_FINISH = 5  # a vector of results
_AGAIN = 16  # bytes of weights that were read before, if they are ...
_KEPT = 16 << 20  # ... no more bytes than L3 keeps
_HIDDEN = 0.7  # how much of the shorter of multiplying and streaming hides behind the longer
_FAR = 32  # bytes of a left operand from beyond L2; of results that do not stay in L3
_ROOM = 0.7  # share of L2 that scaled rows have
_SPILL = 16  # bytes of what is not there, read again for each panel
_ITEM = 300  # of a work item


def product(isa: Isa, tiling: Tiling, depth: int) -> float:
    """Estimated cycles of all register tiles of a product."""
    count, total = Runs(depth).count, 0.0
    for rows, many in tiling.width.sizes().items():
        unit = rows / _TURN / isa.fmas + _COLUMN
        total += many * (depth * unit + count * (_CALL + _SUM * rows / isa.fmas))
    return total * tiling.panels.vectors * (1 + _VARIANT * len(tiling.width.sizes()))


def scaling(isa: Isa, depth: int) -> float:
    """Estimated cycles to measure and scale one row."""
    return _SCALE / isa.fmas * depth / isa.lanes + _LINE


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, t = plan.problem, plan.tiling
    items = math.ceil(plan.items / threads)  # of the busiest thread
    blocks = math.ceil(items / plan.panel_blocks)  # whose rows it scales
    columns = min(1.0, plan.block_panels * t.panels.width / p.vectors)
    rows = plan.block_rows
    vectors = columns * p.vectors
    products = items * product(isa, t, p.depth) * columns * rows / p.rows
    reads = items * plan.weights * columns
    first = min(reads, plan.weights) / (STREAM * min(plan.row_blocks, threads))
    again = _AGAIN if plan.weights <= _KEPT else STREAM
    stream = first + max(0, reads - plan.weights) / again
    beside = max(products, stream) + (1 - _HIDDEN) * min(products, stream)
    nbytes = rows * p.depth * FLOAT
    scale = rows * scaling(isa, p.depth)
    scale += nbytes / _FAR if nbytes * p.outer * plan.row_blocks > isa.l2 else 0
    finish = _FINISH / isa.fmas * rows * vectors
    if p.outer * p.rows * p.columns * FLOAT > isa.l3_room:
        finish += rows * vectors * p.lanes * FLOAT / _FAR
    spilled = max(0, plan.scratch - isa.l2 * _ROOM) * plan.block_panels / _SPILL
    return beside + blocks * scale + items * (_ITEM + finish + spilled)


def least_cycles(problem: Problem, isa: Isa, threads: int) -> float:
    """What no plan's `cycles` are below: work that all do, in equal shares."""
    tiling = tilings(isa, problem.rows, problem.vectors, problem.depth, _WIDTH)[0]
    return problem.outer * product(isa, tiling, problem.depth) / threads
