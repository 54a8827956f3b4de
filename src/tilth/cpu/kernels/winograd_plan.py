"""How a Winograd convolution is executed, and what that costs.

A work item is a block of tiles times a part of the output channels. The larger the block, the more
often each transformed weight is used while it is in cache, but the transformed data and products
of a block should stay in L2. `cycles` weighs this.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import inner_product_plan, tiles
from tilth.cpu.kernels.inner_product_rows import Runs
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.tiles import Tiling
from tilth.cpu.kernels.winograd_transform import (
    F2,
    F2_STRIDED,
    F4,
    F4_STRIDED,
    Transform,
)

FLOAT = 4
_MOST_SCRATCH = 6 << 20  # bytes for each thread, which should stay in a shared L3
_BLOCK_GROUPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # groups of tiles that a block may have
TRANSFORMS = (F4, F2, F4_STRIDED, F2_STRIDED)
_TILINGS = 8  # for each transform, whose divisions are considered


@dataclass(frozen=True)
class Problem:
    """A 3x3 convolution: result [batch, height, width, filters] from `channels` input channels."""

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    lanes: int
    stride: int = 1

    @property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return -(-self.filters // self.lanes)

    @property
    def depth_vectors(self) -> int:
        """Vectors of input channels."""
        return -(-self.channels // self.lanes)

    def cut_share(self, transform: Transform) -> float:
        """The share of tiles that hang over the border."""
        whole = (self.height // transform.outputs) * (self.width // transform.outputs)
        return 1 - self.batch * whole / math.prod(self.grid(transform))

    def grid(self, transform: Transform) -> tuple[int, int, int]:
        """Tiles: (batch, down, across)."""
        m = transform.outputs
        return self.batch, -(-self.height // m), -(-self.width // m)


@dataclass(frozen=True)
class Plan:
    """The choices: which F(m, 3), register tiles over (tiles x output channels), work items, and
    whether products are `paired`, as in `inner_product_rows`; then a panel is a strip."""

    problem: Problem
    transform: Transform
    tiling: Tiling
    tile_blocks: int
    panel_blocks: int
    paired: bool = False

    @cached_property
    def tiles(self) -> int:
        return math.prod(self.problem.grid(self.transform))

    @property
    def products(self) -> int:
        """Matrix products, one for each element of a patch."""
        return self.transform.size**2

    @property
    def factors(self) -> int:
        """Matrices of transformed weights: fewer than products where these share them."""
        return self.transform.factors**2

    @property
    def block_groups(self) -> int:
        """Register tiles in the largest block, for one panel."""
        return -(-self.tiling.width.count // self.tile_blocks)

    @property
    def block_tiles(self) -> int:
        """Tiles in the largest block."""
        return min(self.tiles, self.block_groups * self.tiling.width.size)

    def describe(self) -> str:
        """For reports."""
        m = self.transform.outputs
        stride = f", stride {self.problem.stride}" if self.problem.stride > 1 else ""
        blocks = f"{self.tile_blocks}x{self.panel_blocks}"
        pairs = " in pairs" if self.paired else ""
        tiles = f"{self.tiling.name}{pairs}, {self.block_tiles} tiles, items {blocks}"
        return f"winograd F({m}x{m}{stride}) {tiles}"

    # -- bytes -------------------------------------------------------------------------------
    @property
    def vector(self) -> int:
        return self.problem.lanes * FLOAT

    @property
    def data_pitch(self) -> int:
        """From one tile's transformed data to the next."""
        return conflict_free(self.problem.depth_vectors * self.vector)

    @property
    def data_plane(self) -> int:
        """From one element of the patch to the next; spread over the sets of the caches."""
        return conflict_free(self.block_tiles * self.data_pitch)

    @property
    def sum_pitch(self) -> int:
        """From one tile's products to the next."""
        panels = self.tiling.panels
        widest = -(-panels.count // self.panel_blocks) * panels.width
        return conflict_free(min(widest, panels.vectors) * self.vector)

    @property
    def sum_plane(self) -> int:
        return conflict_free(self.block_tiles * self.sum_pitch)

    @cached_property
    def runs(self) -> Runs:
        """Of paired products."""
        return Runs(self.problem.channels)

    @property
    def fact_pitch(self) -> int:
        """From the facts of one row of transformed data to those of the next."""
        return self.runs.facts * FLOAT if self.paired else 0

    @property
    def facts(self) -> int:
        """Of all rows of transformed data."""
        return self.products * self.block_tiles * self.fact_pitch

    @property
    def scratch(self) -> int:
        """Transformed data, products, one patch, and what is known of rows."""
        return self.products * (self.data_plane + self.sum_plane + self.vector) + self.facts

    @property
    def rows_of_weights(self) -> int:
        """Of each product, of one panel."""
        return self.problem.channels + (self.runs.facts if self.paired else 0)

    @property
    def weights(self) -> int:
        """Bytes of transformed weights."""
        return self.factors * self.rows_of_weights * self.problem.vectors * self.vector


def ranked(
    problem: Problem, isa: Isa, threads: int, transforms: Sequence[Transform] = TRANSFORMS
) -> list[Plan]:
    """Plans, those with the fewest estimated cycles first, from shapes and cache sizes alone."""
    fitting = (t for t in transforms if t.stride == problem.stride)
    plans = itertools.chain(*(_candidates(problem, t, isa, threads) for t in fitting))
    return sorted(dict.fromkeys(plans), key=lambda plan: cycles(plan, isa, threads))


def _candidates(problem: Problem, transform: Transform, isa: Isa, threads: int) -> Iterator[Plan]:
    """The best register tiles with all divisions into work items, in which all threads get a share
    where that is possible."""
    total = math.prod(problem.grid(transform))
    for tiling, paired in _tilings(problem, total, isa):
        groups, panels = tiling.width.count, tiling.panels.count
        for tile_blocks in sorted({-(-groups // size) for size in (*_BLOCK_GROUPS, groups)}):
            for blocks in {tile_blocks, min(groups, -(-tile_blocks // threads) * threads)}:
                for panel_blocks in {1, min(threads, panels)}:
                    plan = Plan(problem, transform, tiling, blocks, panel_blocks, paired)
                    if blocks == groups or plan.scratch <= _MOST_SCRATCH:
                        yield plan


def _tilings(problem: Problem, total: int, isa: Isa) -> Iterator[tuple[Tiling, bool]]:
    """The best register tiles for so many tiles of the map, and those of paired products."""
    every = tiles.candidates(isa, 1, total, problem.vectors, fetching=True)
    for tiling in sorted(every, key=lambda t: _product(problem, t, isa, False))[:_TILINGS]:
        yield tiling, False
    if isa.adds_beside:
        for tiling in inner_product_plan.tilings(isa, total, problem.vectors, problem.channels):
            yield tiling, True


# -- what it costs -------------------------------------------------------------------------------
# Fitted to measurements on two threads, with weights from memory; where products are not paired,
# without counting what threads read together. Cycles; bytes per cycle.
_STREAM = 4.4  # weights, from memory or L3
_HELD = 0.75  # of L1: larger panels of weights are not held there
_HIDDEN = 0.8  # how much of the shorter of multiplying and streaming hides behind the longer
_DATA = 0.1  # cycles per byte of a patch that is transformed
_CROWDED = 1.06  # times as long are products whose sums leave at most `_FREE` registers
_FREE = 4
_RESULT = 0.06  # cycles per byte of products that are transformed
_SPILL = 11  # transformed data and products that have no room in L2
_FARTHER = 3  # and none in L3
_ITEM = 400  # cycles of a work item


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, elements, panels = plan.problem, plan.products, plan.tiling.panels
    items = math.ceil(plan.tile_blocks * plan.panel_blocks / threads)
    rows = plan.block_tiles / plan.tiles  # of an item
    columns = min(1.0, math.ceil(panels.count / plan.panel_blocks) * panels.width / p.vectors)
    share = min(1.0, items * rows * columns)
    blocks = math.ceil(items / plan.panel_blocks)  # whose data the thread transforms
    patches = elements * isa.vector_bytes * plan.tiles  # bytes, of one vector of channels
    data = _DATA * blocks * rows * p.depth_vectors
    transforms = patches * (data + _RESULT * share * p.vectors)
    part = plan.weights * columns
    again = items - min(items, plan.panel_blocks)  # times that it reads weights which it has read
    resident = part if again and part <= isa.l2 // 2 else 0
    spilled = max(0, plan.scratch + resident - isa.l2 * isa.l2_room) / _SPILL
    spilled += max(0, plan.scratch - isa.l3_room) / _FARTHER
    product = _product(p, plan.tiling, isa, plan.paired) + (0 if again else _reread(plan, isa))
    if plan.paired:
        scaled = blocks * rows * plan.tiles * elements
        transforms += scaled * inner_product_plan.scaling(isa, p.channels)
    products = share * elements * product
    first = items - again  # times that it reads weights from memory, some with the other threads
    together = min(plan.tile_blocks, threads) if plan.paired else 1
    stream = (first / together + (0 if resident else again)) * part / _STREAM
    beside = max(products, stream) + (1 - _HIDDEN) * min(products, stream)
    return items * (_ITEM + 2 * spilled) + transforms + beside


def _product(problem: Problem, tiling: Tiling, isa: Isa, paired: bool) -> float:
    """Estimated cycles of one product of all tiles; rows of register tiles read all weights."""
    if paired:
        return inner_product_plan.product(isa, tiling, problem.channels)
    weights = problem.channels * problem.vectors * isa.vector_bytes * tiling.width.count
    free = isa.registers - tiling.width.size * tiling.panels.width
    factor = _CROWDED if free <= _FREE else 1.0
    return factor * tiles.cost(isa, tiling, problem.channels) + tiles.reading(isa, weights)


def _reread(plan: Plan, isa: Isa) -> float:
    """Estimated cycles of a product that register tiles lose to reading weights from L2 again while
    others come from memory, where L1 does not hold a panel of them."""
    p, panels = plan.problem, plan.tiling.panels
    column = p.channels * isa.vector_bytes
    held = column * panels.width <= _HELD * isa.l1
    return 0.0 if held else column * p.vectors * plan.tiling.width.count * isa.reread_cycles
