"""How a contraction runs on a matrix unit: tiles, blocks, work items, and what that costs.

All free loops of the left operand together are the rows, cut into tiles of 16; the columns are cut
into panels of two tiles. A work item is a block of row tiles times a part of the panels: what its
rows read is split into bf16 parts once, and stays in L2 while the right operand passes by.

What is split are lines of the left operand. Where its rows and the taps of a window lie on one grid
(matrix products, convolutions of stride 1), a line is a position of that grid and tiles are read
from where the taps say; positions between the rows of an image are computed too, and dropped.
Otherwise a line holds all that a row reads, tap after tap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from tilth.cpu.isa import Isa
from tilth.cpu.kernels.contraction_form import LHS, RHS, Contraction, Loop
from tilth.cpu.kernels.contraction_geometry import aligned
from tilth.cpu.kernels.packing import conflict_free

ROWS = COLUMNS = 16  # of a tile of the result
DEPTH = 32  # of a tile of either operand, in elements
PARTS = 2  # high and low
PANEL = 2  # tiles side by side, and one above the other
LINE = 64  # bytes
TILE = 1024  # bytes of any tile
STEP = PARTS * LINE  # bytes of a line per step along the depth
SUMS = PANEL * COLUMNS * 4  # bytes from one row of sums to the next
UNWANTED = -(1 << 63)  # in place of the bytes to a row
_MOST_FETCHED = 16  # cache lines on their way from memory leave none for lines from L2
_MOST_DEPTHS = 4  # parts of the depth
_MOST_DROPPED = 1.3  # rows computed for each row wanted


@dataclass(frozen=True)
class Problem:
    """A contraction as the matrix unit sees it."""

    form: Contraction

    # -- rows --------------------------------------------------------------------------------
    @cached_property
    def wanted(self) -> int:
        """Rows of the result."""
        return math.prod(loop.size for loop in self.form.m)

    @cached_property
    def on_grid(self) -> bool:
        """Are lines the positions of a grid?"""
        if not self.form.m:
            return False
        unit = self.form.m[-1].strides[LHS]
        loops = (*self.form.m, *self.taps)
        if unit <= 0 or any(lp.strides[LHS] < 0 or lp.strides[LHS] % unit for lp in loops):
            return False
        if any(a.strides[LHS] < b.strides[LHS] * b.size for a, b in self._nested()):
            return False
        return _span(self.form.m, unit) <= self.wanted * _MOST_DROPPED

    def _nested(self) -> zip[tuple[Loop, Loop]]:
        return zip(self.form.m[:-1], self.form.m[1:], strict=True)

    @property
    def rows(self) -> int:
        """Rows that are computed."""
        return _span(self.form.m, self.unit) if self.on_grid else self.wanted

    @property
    def unit(self) -> int:
        """Elements of the left operand from one position of the grid to the next."""
        return self.form.m[-1].strides[LHS]

    @property
    def row_tiles(self) -> int:
        return -(-self.rows // ROWS)

    # -- columns -----------------------------------------------------------------------------
    @property
    def columns(self) -> Loop:
        return self.form.n[-1]

    @property
    def column_tiles(self) -> int:
        return -(-self.columns.size // COLUMNS)

    @property
    def panels(self) -> int:
        return -(-self.column_tiles // PANEL)

    @property
    def last_panel(self) -> int:
        """Tiles of the last panel."""
        return self.column_tiles - (self.panels - 1) * PANEL

    @property
    def tail(self) -> int | None:
        """Columns of the last tile; None when it is full."""
        return self.columns.size % COLUMNS or None

    @property
    def outer(self) -> tuple[Loop, ...]:
        return (*self.form.batch, *self.form.n[:-1])

    # -- depth -------------------------------------------------------------------------------
    @property
    def taps(self) -> tuple[Loop, ...]:
        return self.form.k[:-1]

    @property
    def inner(self) -> Loop:
        return self.form.k[-1]

    @property
    def tap_steps(self) -> int:
        """Tiles along the depth of one tap."""
        return -(-self.inner.size // DEPTH)

    @property
    def steps(self) -> int:
        """Tiles along the depth."""
        return math.prod(loop.size for loop in self.taps) * self.tap_steps

    @property
    def runs(self) -> int:
        """Runs of neighbouring elements that a line holds."""
        return 1 if self.on_grid else math.prod(loop.size for loop in self.taps)

    @property
    def line_steps(self) -> int:
        """Tiles along the depth that a line takes part in."""
        return self.runs * self.tap_steps

    def divides(self, depths: int) -> bool:
        """Can a line be cut into so many parts, all of the same whole tiles?"""
        return not self.taps and self.inner.size % (depths * DEPTH) == 0

    # -- bytes -------------------------------------------------------------------------------
    @property
    def pitch(self) -> int:
        """From one line to the next."""
        return conflict_free(self.line_steps * STEP)

    @property
    def tap_pitches(self) -> list[tuple[int, int]]:
        """Sizes of the taps and bytes of lines per turn, as products see them."""
        if not self.on_grid:
            return []
        return [(tap.size, tap.strides[LHS] // self.unit * self.pitch) for tap in self.taps]

    @property
    def halo(self) -> int:
        """Lines that a block reads beyond its rows."""
        return _span(self.taps, self.unit) - 1 if self.on_grid else 0

    @property
    def panel(self) -> int:
        """Bytes of a full panel of the right operand, split."""
        return self.steps * PARTS * PANEL * TILE

    @property
    def right(self) -> int:
        """Bytes of all panels, for one turn of the outer loops."""
        return self.steps * PARTS * TILE * self.column_tiles

    @property
    def packed(self) -> int:
        """Bytes of the whole right operand, split."""
        return self.right * math.prod(loop.size for loop in self.outer if loop.strides[RHS])


def problem_of(form: Contraction) -> Problem:
    """The problem of a contraction, with an innermost depth of one position of the grid.

    Neighbouring pixels of a window, which the canonical form merges, are taps again, so that each
    pixel is split only once; unless that leaves tiles half empty.
    """
    inner, unit = form.k[-1], form.m[-1].strides[LHS] if form.m else 0
    if unit < DEPTH or unit % DEPTH or inner.size == unit or inner.size % unit:
        return Problem(form)
    apart = Loop(inner.size // unit, tuple(unit * stride for stride in inner.strides))
    return Problem(replace(form, k=(*form.k[:-1], apart, replace(inner, size=unit))))


def _span(loops: tuple[Loop, ...], unit: int) -> int:
    """Positions of the grid from the first to the last that these loops reach."""
    return 1 + sum((loop.size - 1) * loop.strides[LHS] // unit for loop in loops)


@dataclass(frozen=True)
class Plan:
    """The choices: work items, and whether the right operand is split at compile time."""

    problem: Problem
    constant: bool
    row_blocks: int
    panel_blocks: int
    streams: bool  # the right operand is too large to stay in L2
    depth_blocks: int = 1  # parts of the depth, between which sums wait in scratch

    @property
    def block_tiles(self) -> int:
        """Row tiles of the largest block."""
        return -(-self.problem.row_tiles // self.row_blocks)

    @property
    def block_steps(self) -> int:
        """Tiles along a part of the depth that a line takes part in."""
        return self.problem.line_steps // self.depth_blocks

    @property
    def pitch(self) -> int:
        """Bytes from one line to the next."""
        return (
            self.problem.pitch if self.depth_blocks == 1 else conflict_free(self.block_steps * STEP)
        )

    @property
    def lines(self) -> int:
        """Lines of the largest block."""
        return self.block_tiles * ROWS + self.problem.halo

    @property
    def blocks(self) -> tuple[int, int]:
        return self.row_blocks, self.panel_blocks

    @property
    def items(self) -> int:
        outer = math.prod(loop.size for loop in self.problem.outer)
        return outer * self.row_blocks * self.panel_blocks

    @property
    def fetched(self) -> int:
        """Cache lines of the next panel that each step of a product brings into L2."""
        if not (self.constant and self.streams):
            return 0
        products = max(1, self.problem.row_tiles // self.row_blocks // PANEL)
        return min(_MOST_FETCHED, -(-PARTS * PANEL * TILE // LINE // products))

    def describe(self) -> str:
        """For reports."""
        blocks = f"{self.row_blocks}x{self.panel_blocks}"
        depth = f"depth in {self.depth_blocks}, " if self.depth_blocks > 1 else ""
        return f"split bf16, {self.block_tiles} row tiles, {depth}items {blocks}"

    # -- scratch: sums, offsets of rows, lines of the left operand, and a panel of the right one
    # -- or sums that wait
    @property
    def tensors(self) -> int:
        """Tensors that rows are written to or read from at the end: result and extras."""
        return 1 + len(self.problem.form.extras)

    @property
    def offsets_at(self) -> int:
        return PANEL * ROWS * SUMS

    @property
    def left_at(self) -> int:
        return self.offsets_at + aligned(self.block_tiles * ROWS * self.tensors * 8)

    @property
    def right_at(self) -> int:
        return self.left_at + self.lines * self.pitch

    @property
    def panel_sums(self) -> int:
        """Bytes of the sums of a block and a panel."""
        return -(-self.block_tiles // PANEL) * PANEL * ROWS * SUMS

    @property
    def waiting(self) -> int:
        """Bytes of sums that wait for the next part of the depth."""
        panels = -(-self.problem.panels // self.panel_blocks)
        return 0 if self.depth_blocks == 1 else panels * self.panel_sums

    @property
    def scratch(self) -> int:
        return self.right_at + (self.waiting if self.constant else self.problem.panel)


# -- what it costs -------------------------------------------------------------------------------
# Fitted to measurements on two threads; cycles, and bytes per cycle.
_PRODUCT = 3 * 16 * 1.25  # of one tile by another: three products, and what stalls them
_FROM_L2 = 1.6  # times that, when each row tile reads a panel that has left L1
_LONE = 1.7  # a lone tile of rows or columns has too few sums in flight
_SPLIT = 15.0  # to split 32 elements of a line, half of which another core has written
_RUN = 15.0  # to find the elements of a tap that a line holds
_FINISH = 7.5  # to finish a vector of the result
_WAIT = 100.0  # to store and load a tile of sums that waits
_ITEM = 250.0
_STREAM = 6.2  # from beyond L2, which tiles from L2 leave no line buffers for


def ranked(form: Contraction, constant: bool, isa: Isa, threads: int) -> list[Plan]:
    """All plans worth considering, those with the fewest estimated cycles first."""
    found = dict.fromkeys(_candidates(problem_of(form), constant, isa, threads))
    return sorted(found, key=lambda plan: (cycles(plan, isa, threads), plan.blocks))


def _candidates(problem: Problem, constant: bool, isa: Isa, threads: int) -> Iterator[Plan]:
    tiles, streams = problem.row_tiles, problem.packed > isa.l2 // 2
    cuts = [d for d in range(2, _MOST_DEPTHS + 1) if constant and problem.divides(d)]
    for share, depths in ((3 / 8, 1), (3 / 4, 1), *((3 / 8, d) for d in cuts)):
        lines = int(isa.l2 * share) * depths // problem.pitch
        most = max(PANEL, (lines - problem.halo) // (ROWS * PANEL) * PANEL)
        fewest = -(-tiles // most)
        for row_blocks in {fewest, min(tiles, -(-fewest // threads) * threads)}:
            for panel_blocks in {1, min(problem.panels, threads)}:
                yield Plan(problem, constant, row_blocks, panel_blocks, streams, depths)


def cycles(plan: Plan, isa: Isa, threads: int) -> float:
    """Estimated cycles until the last thread is done."""
    p = plan.problem
    items = -(-plan.items // threads)
    pairs, lone = divmod(plan.block_tiles, PANEL)
    columns = p.column_tiles / plan.panel_blocks
    products = p.steps * columns * (pairs * PANEL + lone * _LONE) * _PRODUCT
    if not p.taps and p.panel > isa.l1:  # (the taps of a window share lines that stay in L1)
        products *= _FROM_L2
    split = plan.lines * (p.line_steps * _SPLIT + p.runs * _RUN)
    finish = plan.block_tiles * ROWS * columns * _FINISH
    if not plan.constant:
        split += p.panels / plan.panel_blocks * p.steps * DEPTH * _SPLIT
    stream = p.right / plan.panel_blocks / _STREAM if plan.streams else 0.0
    waiting = (plan.depth_blocks - 1) * plan.block_tiles * columns * _WAIT
    return items * (products + stream + waiting + split + finish + _ITEM)
