"""How a Winograd convolution is executed, what that costs, and what a direct one would cost.

A work item is a block of tiles times a part of the output channels. The larger the block, the more
often each transformed weight is used while it is in cache, but the transformed data and products
of a block should stay in L2. `cycles` weighs this, and whether Winograd pays at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.tiles import Tiling
from tilth.cpu.kernels.winograd_transform import F2, F4, Transform

FLOAT = 4
_MOST_SCRATCH = 6 << 20  # bytes for each thread, which should stay in a shared L3


@dataclass(frozen=True)
class Problem:
    """A 3x3 convolution: result [batch, height, width, filters] from `channels` input channels."""

    batch: int
    height: int
    width: int
    channels: int
    filters: int
    lanes: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct convolution."""
        return self.batch * self.height * self.width * 9 * self.channels * self.filters

    @property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return -(-self.filters // self.lanes)

    @property
    def depth_vectors(self) -> int:
        """Vectors of input channels."""
        return -(-self.channels // self.lanes)

    def cut(self, transform: Transform) -> bool:
        """Do tiles hang over the border?"""
        return bool(self.height % transform.outputs or self.width % transform.outputs)

    def grid(self, transform: Transform) -> tuple[int, int, int]:
        """Tiles: (batch, down, across)."""
        m = transform.outputs
        return self.batch, -(-self.height // m), -(-self.width // m)


@dataclass(frozen=True)
class Plan:
    """The choices: which F(m, 3), register tiles over (tiles x output channels), work items."""

    problem: Problem
    transform: Transform
    tiling: Tiling
    tile_blocks: int
    panel_blocks: int

    @cached_property
    def tiles(self) -> int:
        return math.prod(self.problem.grid(self.transform))

    @property
    def products(self) -> int:
        """Matrix products, one for each element of a patch."""
        return self.transform.size**2

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
        blocks = f"{self.tile_blocks}x{self.panel_blocks}"
        return f"winograd F({m}x{m}) {self.tiling.name}, {self.block_tiles} tiles, items {blocks}"

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

    @property
    def scratch(self) -> int:
        """Transformed data, products, and one patch."""
        return self.products * (self.data_plane + self.sum_plane + self.vector)

    @property
    def weights(self) -> int:
        """Bytes of transformed weights."""
        return self.products * self.problem.channels * self.problem.vectors * self.vector


def ranked(
    problem: Problem, isa: Isa, threads: int, transforms: Sequence[Transform] = (F4, F2)
) -> list[Plan]:
    """All plans, those with the fewest estimated cycles first, from sizes alone."""
    plans = itertools.chain(*(_candidates(problem, t, isa, threads) for t in transforms))
    return sorted(dict.fromkeys(plans), key=lambda plan: cycles(plan, isa, threads))


def _candidates(problem: Problem, transform: Transform, isa: Isa, threads: int) -> Iterator[Plan]:
    """Divisions into work items, in which all threads get a share where that is possible."""
    total = math.prod(problem.grid(transform))
    tiling = tiles.choose(
        *(isa, 1, total, problem.vectors, problem.channels),
        fetching=True,
        penalty=lambda t: 1 + _ROW * t.width.size,
    )
    groups, panels = tiling.width.count, tiling.panels.count
    for tile_blocks in sorted({-(-groups // size) for size in range(1, groups + 1)}):
        for blocks in {tile_blocks, min(groups, -(-tile_blocks // threads) * threads)}:
            for panel_blocks in {1, min(threads, panels)}:
                plan = Plan(problem, transform, tiling, blocks, panel_blocks)
                if blocks == groups or plan.scratch <= _MOST_SCRATCH:
                    yield plan


# -- what it costs -------------------------------------------------------------------------------
# Fitted to measurements on two threads, with weights that are not in L2. Cycles; bytes per cycle.
_ROW = 0.02  # share of time that each row of a register tile costs, as its data come from L2
_DIRECT = 0.71  # share of the FMA peak that direct kernels reach
_STREAM = 3.7  # weights from memory or L3
_ROOM = 0.42  # share of L2 that transformed data and products have
_SPILL = 4.0  # what of them is not there
_TRANSFORM = 0.25  # cycles per byte of a patch


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p, elements, panels = plan.problem, plan.products, plan.tiling.panels
    items = math.ceil(plan.tile_blocks * plan.panel_blocks / threads)
    rows = plan.block_tiles / plan.tiles  # of an item
    columns = min(1.0, math.ceil(panels.count / plan.panel_blocks) * panels.width / p.vectors)
    share = min(1.0, items * rows * columns)
    blocks = math.ceil(items / plan.panel_blocks)  # whose data the thread transforms
    per_vector = elements * isa.vector_bytes * _TRANSFORM  # to transform one vector of a patch
    transforms = per_vector * plan.tiles * (blocks * rows * p.depth_vectors + share * p.vectors)
    part = plan.weights * columns
    again = items - min(items, plan.panel_blocks)  # times that it reads weights which it has read
    resident = part if again and part <= isa.l2 // 2 else 0
    spilled = 2 * items * max(0, plan.scratch + resident - isa.l2 * _ROOM) / _SPILL
    products = share * elements * tiles.cost(isa, plan.tiling, p.channels)
    weights = (items - again + (0 if resident else again)) * part
    return transforms + spilled + max(products, weights / _STREAM)


def direct_cycles(problem: Problem, isa: Isa, threads: int) -> float:
    """Estimated cycles of the direct kernel, which shares out columns where rows are few."""
    columns = problem.vectors * isa.lanes
    products = problem.macs * columns / problem.filters / (2 * isa.lanes * _DIRECT)
    weights = 9 * problem.channels * columns * FLOAT
    return max(products, weights / _STREAM) / threads
