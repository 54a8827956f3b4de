"""How a Winograd convolution is executed, what that costs, and what a direct one would cost.

A work item is a block of tiles times a block of panels of output channels. The block's transformed
data stay in L2 while the transformed weights stream by, so a block should be as large as L2 allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.tiles import Tiling
from tilth.cpu.kernels.winograd_transform import F2, F4, Transform

FLOAT = 4


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
    streamed: bool  # transformed weights come from behind L2 and are fetched ahead

    @cached_property
    def tiles(self) -> int:
        return math.prod(self.problem.grid(self.transform))

    @property
    def products(self) -> int:
        """Matrix products, one for each element of a patch."""
        return self.transform.size**2

    @property
    def block_tiles(self) -> int:
        """Tiles in the largest block."""
        groups = self.tiling.width
        return min(self.tiles, -(-groups.count // self.tile_blocks) * groups.size)

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
        return self.problem.depth_vectors * self.vector

    @property
    def data_plane(self) -> int:
        """From one element of the patch to the next; spread over the sets of the caches."""
        return conflict_free(self.block_tiles * self.data_pitch)

    @property
    def sum_pitch(self) -> int:
        return self.tiling.panels.width * self.vector

    @property
    def sum_plane(self) -> int:
        return conflict_free(self.block_tiles * self.sum_pitch)

    @property
    def scratch(self) -> int:
        """Transformed data, the products of one panel, and one patch."""
        return self.products * (self.data_plane + self.sum_plane + self.vector)

    @property
    def weights_of_vector(self) -> int:
        """Bytes of transformed weights for one vector of output channels."""
        return self.products * self.problem.channels * self.vector

    @property
    def weights(self) -> int:
        """Bytes of transformed weights."""
        return self.problem.vectors * self.weights_of_vector


def choose(problem: Problem, isa: Isa, threads: int) -> Plan:
    """A good plan, from shapes and cache sizes alone."""
    plans = (blocked(problem, transform, isa, threads) for transform in (F4, F2))
    return min(plans, key=lambda plan: cycles(plan, isa, threads))


def blocked(problem: Problem, transform: Transform, isa: Isa, threads: int) -> Plan:
    """The plan for one transform."""
    total = math.prod(problem.grid(transform))
    tiling = tiles.choose(isa, 1, total, problem.vectors, problem.channels)
    groups, panels = tiling.width.count, tiling.panels.count
    smallest = Plan(problem, transform, tiling, groups, 1, False)
    streamed = smallest.weights > isa.l2 // 2
    budget = isa.l2 * 5 // 8 if streamed else isa.l2 // 4
    tile_blocks = min(groups, max(1, math.ceil(groups * smallest.scratch / budget)))
    while tile_blocks % threads and tile_blocks < groups:
        tile_blocks += 1
    panel_blocks = 1 if tile_blocks % threads == 0 else min(threads, panels)
    return Plan(problem, transform, tiling, tile_blocks, panel_blocks, streamed)


# -- what it costs -------------------------------------------------------------------------------
# Cycles of one core, fitted to measurements; bytes per cycle of weights fetched ahead in order.
_DATA = {6: 95.0, 4: 40.0}  # to transform one vector of channels of a patch, by its width
_RESULT = {6: 110.0, 4: 45.0}  # the same for results, with a short epilogue
_STREAM = 9.0
_DIRECT = 0.85  # share of the FMA peak that direct kernels reach


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles from the first to the last thread's end."""
    p, size = plan.problem, plan.transform.size
    shares = math.ceil(plan.tile_blocks * plan.panel_blocks / threads) / plan.panel_blocks
    data = math.ceil(shares) * plan.tiles / plan.tile_blocks * p.depth_vectors * _DATA[size]
    part = shares / plan.tile_blocks
    results = part * plan.tiles * p.vectors * _RESULT[size]
    products = part * size**2 * tiles.cost(isa, plan.tiling, p.channels)
    weights = shares * plan.weights / _STREAM if plan.streamed else 0
    return data + results + max(products, weights)


def direct_cycles(problem: Problem, isa: Isa, threads: int) -> float:
    """Estimated cycles of the direct kernel."""
    products = problem.macs / (2 * isa.lanes * _DIRECT)
    weights = 9 * problem.channels * problem.filters * FLOAT / _STREAM
    return max(products, weights) / threads
