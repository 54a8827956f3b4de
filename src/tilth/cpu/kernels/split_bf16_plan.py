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

import itertools
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property

from tilth.cpu.kernels.contraction_form import LHS, RHS, Contraction, Loop
from tilth.cpu.kernels.contraction_geometry import aligned
from tilth.cpu.kernels.matrix_unit import COLUMNS, DEPTH, LINE, ROWS, TILE
from tilth.cpu.kernels.packing import conflict_free

PARTS = 3  # of a number
PANEL = 2  # tiles side by side, and one above the other
STEP = PARTS * LINE  # bytes of a line per step along the depth
TURN = PARTS * PANEL * TILE  # bytes of a full panel per step
PAIR = 2 * PANEL * COLUMNS * 4  # bytes of two rows of the same before it is split
PLAIN = DEPTH // 2 * PAIR  # ... of all its rows
SUMS = PANEL * COLUMNS * 4  # bytes from one row of sums to the next
UNWANTED = -(1 << 63)  # in place of the bytes to a row
_MOST_PIECES = 24  # of code to split lines beside a step of a product
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
        """Can the depth be cut into so many equal parts of whole taps or, without any, tiles?"""
        if self.taps:
            return self.taps[0].size % depths == 0
        return self.inner.size % (depths * DEPTH) == 0

    # -- bytes -------------------------------------------------------------------------------
    @property
    def pitch(self) -> int:
        """From one line to the next."""
        return conflict_free(self.line_steps * STEP)

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
    def matrices(self) -> int:
        """Right operands that differ, for all turns of the outer loops."""
        return math.prod(loop.size for loop in self.outer if loop.strides[RHS])


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
    """The choices: work items, and how the right operand is packed, if it is constant."""

    problem: Problem
    constant: bool
    row_blocks: int
    panel_blocks: int
    plain: bool = False  # it is packed as f32, and each panel split beside earlier products
    depth_blocks: int = 1  # parts of the depth, between which sums wait in scratch

    @property
    def block_tiles(self) -> int:
        """Row tiles of the largest block."""
        return -(-self.problem.row_tiles // self.row_blocks)

    @property
    def taps(self) -> list[Loop]:
        """The taps of a part of the depth."""
        first = [replace(tap, size=tap.size // self.depth_blocks) for tap in self.problem.taps[:1]]
        return [*first, *self.problem.taps[1:]]

    @property
    def line_cuts(self) -> int:
        """Parts of a line; on a grid, taps are cut without cutting lines."""
        return 1 if self.problem.taps and self.problem.on_grid else self.depth_blocks

    @property
    def line_steps(self) -> int:
        """Tiles along a part of the depth that a line takes part in."""
        return self.problem.line_steps // self.line_cuts

    @property
    def run_elements(self) -> int:
        """Elements of a run."""
        return self.problem.inner.size // (1 if self.problem.taps else self.line_cuts)

    @property
    def run_steps(self) -> int:
        """Tiles along a run."""
        return -(-self.run_elements // DEPTH)

    @property
    def run_distances(self) -> list[int]:
        """Elements of the left operand from the first run of a line's part to each run."""
        taps = [] if self.problem.on_grid else self.taps
        places = itertools.product(*(range(0, tap.size) for tap in taps))
        return [sum(i * tap.strides[LHS] for i, tap in zip(at, taps, strict=True)) for at in places]

    @property
    def part_distance(self) -> int:
        """Elements of the left operand from one part of its lines to the next."""
        if self.line_cuts == 1:
            return 0
        tap = self.taps[0] if self.problem.taps else None
        return tap.size * tap.strides[LHS] if tap else self.run_elements

    @property
    def tap_pitches(self) -> list[tuple[int, int]]:
        """Sizes of the taps and bytes of lines per turn, as products see them."""
        problem = self.problem
        if not problem.on_grid:
            return []
        return [(tap.size, tap.strides[LHS] // problem.unit * self.pitch) for tap in self.taps]

    @property
    def product_steps(self) -> int:
        """Tiles along the depth that one call of a product takes."""
        return self.problem.steps // self.depth_blocks

    @property
    def pitch(self) -> int:
        """Bytes from one line to the next."""
        return conflict_free(self.line_steps * STEP)

    @property
    def lines(self) -> int:
        """Lines of the largest block."""
        return self.block_tiles * ROWS + self.problem.halo

    @property
    def choices(self) -> tuple[int, ...]:
        """All but the problem."""
        return tuple(int(getattr(self, f.name)) for f in fields(self) if f.name != "problem")

    @property
    def items(self) -> int:
        outer = math.prod(loop.size for loop in self.problem.outer)
        return outer * self.row_blocks * self.panel_blocks

    @property
    def panel(self) -> int:
        """Bytes from one packed panel to the next."""
        return self.problem.steps * PLAIN if self.plain else self.problem.panel

    @property
    def right(self) -> int:
        """Bytes of all packed panels, for one turn of the outer loops."""
        return self.problem.panels * self.panel if self.plain else self.problem.right

    @property
    def packed(self) -> int:
        """Bytes of the whole packed operand."""
        return self.right * self.problem.matrices

    # -- work beside products ----------------------------------------------------------------
    @property
    def calls(self) -> int:
        """Products of a panel in the smallest block."""
        return max(1, -(-(self.problem.row_tiles // self.row_blocks) // PANEL))

    @property
    def lines_beside(self) -> int:
        """Lines that each step of a product splits; 0 if all are split before."""
        lines = -(-PANEL * ROWS // self.product_steps)
        return lines if lines * len(self.run_distances) <= _MOST_PIECES else 0

    @property
    def pairs_beside(self) -> int:
        """Pairs of rows of a plain panel that each step of a product splits: a slice of it, which
        lies in one piece, so that the hardware sees a stream. Products share a panel evenly."""
        return 1 << (-(-DEPTH // 2 // self.calls) - 1).bit_length()

    def describe(self) -> str:
        """For reports."""
        blocks = f"{self.row_blocks}x{self.panel_blocks}"
        depth = f"depth in {self.depth_blocks}, " if self.depth_blocks > 1 else ""
        late = "weights in f32, " if self.plain else ""
        return f"split bf16, {self.block_tiles} row tiles, {depth}{late}items {blocks}"

    # -- scratch: sums, offsets of rows, lines of the left operand, and a panel of the right one
    # -- or sums that wait
    @property
    def tensors(self) -> int:
        """Tensors that rows are written to or read from at the end: result and extras."""
        return 1 + len(self.problem.form.extras)

    @property
    def offsets_at(self) -> int:
        """Behind three rooms for sums: of this product, the one before, and a spare one."""
        return 3 * PANEL * ROWS * SUMS

    @property
    def left_at(self) -> int:
        return self.offsets_at + aligned(self.block_tiles * ROWS * self.tensors * 8)

    @property
    def waiting_at(self) -> int:
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
    def panel_at(self) -> int:
        """Where panels go that are split in the kernel."""
        return self.waiting_at + self.waiting

    @property
    def split_panel(self) -> int:
        """Bytes of such a panel, or its part of the depth."""
        return self.product_steps * TURN

    @property
    def panels_held(self) -> int:
        """Bytes of panels that are in use at a time."""
        return 2 * self.split_panel if self.plain else self.split_panel

    @property
    def scratch(self) -> int:
        return self.panel_at + (self.panels_held if self.plain or not self.constant else 0)
