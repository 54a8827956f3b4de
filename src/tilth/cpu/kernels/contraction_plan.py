"""How one contraction is executed: register tile, cache blocks, operand copies, work items.

A plan costs or saves time and never changes results. `choose` makes one without timing anything;
a tuner may hand its own to `contraction.lower`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from tilth.cpu.isa import Isa
from tilth.cpu.kernels import tiles
from tilth.cpu.kernels.contraction_form import LHS, RHS, Contraction, Loop
from tilth.cpu.kernels.tiles import Tiling

Rhs = Literal["packed", "direct", "copied"]
_HEAVY_EPILOGUE = 12  # elementwise nodes beyond which an epilogue becomes a loop of its own


@dataclass(frozen=True)
class Plan:
    """The choices. Blocks are counted, not sized: extents are split as evenly as they can be.

    `rhs`: read packed weights, the operand itself, or a copy packed into scratch. `copy_lhs`: rows
    are first copied side by side (against cache conflicts). The depth is cut into `tap_loops`
    leading loops times `chunk` of the innermost one; partial sums wait in scratch. `depth_outside`
    puts the loop over depth blocks outside that over panels. `deferred` runs the epilogue as a
    loop over finished tiles.
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
    deferred: bool = False


@dataclass(frozen=True)
class Shape:
    """A contraction seen by the blocking: which loops are tiled, which stay outside."""

    form: Contraction
    lanes: int

    @cached_property
    def columns(self) -> Loop:
        return self.form.n[-1] if self.form.n else self._still

    @cached_property
    def width(self) -> Loop:
        return self.form.m[-1] if self.form.m else self._still

    @cached_property
    def height(self) -> Loop:
        return self.form.m[-2] if len(self.form.m) > 1 else self._still

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
    form = shape.form
    tiling = tiles.choose(isa, shape.height.size, shape.width.size, shape.vectors, form.depth)
    plan = Plan(tiling, _rhs_mode(shape, rhs_is_constant))
    epilogue = sum(n.op != "constant" for n in form.body.nodes) - 1
    chunk, tap_loops = _depth_block(shape, tiling, isa)
    rows, panels = _blocks(shape, plan, isa, threads)
    return Plan(
        tiling,
        plan.rhs,
        copy_lhs=_conflicts(shape, tiling, isa),
        tap_loops=tap_loops,
        chunk=chunk,
        row_blocks=rows,
        panel_blocks=panels,
        deferred=epilogue > _HEAVY_EPILOGUE,
    )


def _rhs_mode(shape: Shape, constant: bool) -> Rhs:
    if constant:
        return "packed"
    return "direct" if shape.columns.strides[RHS] == 1 else "copied"


def _depth_block(shape: Shape, tiling: Tiling, isa: Isa) -> tuple[int, int]:
    """(chunk, tap_loops) so that a panel's block of the right operand stays in L1."""
    per_unit = tiling.panels.width * shape.lanes * shape.form.accumulator.nbytes
    budget = max(32, isa.l1 * 3 // 4 // per_unit)
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


def _conflicts(shape: Shape, tiling: Tiling, isa: Isa) -> bool:
    """Do the rows of a tile compete for the same few lines of L1?"""
    if shape.inner.strides[LHS] != 1 or tiling.panels.count < 4:
        return False
    nbytes = shape.form.lhs_dtype.nbytes
    sets = isa.l1 // isa.l1_ways // 64
    used: dict[int, int] = {}
    for h in range(tiling.height.size):
        for w in range(tiling.width.size):
            at = (h * shape.height.strides[LHS] + w * shape.width.strides[LHS]) * nbytes
            used[at // 64 % sets] = used.get(at // 64 % sets, 0) + 1
    return max(used.values()) > isa.l1_ways * 3 // 4


def _blocks(shape: Shape, plan: Plan, isa: Isa, threads: int) -> tuple[int, int]:
    """(row_blocks, panel_blocks)."""
    tiling = plan.tiling
    nbytes = shape.form.lhs_dtype.nbytes
    cut = tiling.height if shape.height.size > 1 else tiling.width
    left = shape.rows * shape.form.depth * nbytes
    row_blocks = min(cut.count, max(1, math.ceil(left / (isa.l2 // 2))))
    outer = math.prod(loop.size for loop in shape.outer)
    while row_blocks * outer % threads and row_blocks < cut.count:
        row_blocks += 1
    panel_blocks = 1
    if row_blocks * outer % threads:
        panel_blocks = min(threads, tiling.panels.count)
    return row_blocks, panel_blocks
