"""Sizes and byte strides that follow from a contraction and a plan: arithmetic, no code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

from tilth.cpu.kernel import Operand
from tilth.cpu.kernels.contraction_form import LHS, RHS, Loop
from tilth.cpu.kernels.contraction_plan import Plan, Shape
from tilth.cpu.kernels.microkernel import unrolling
from tilth.cpu.kernels.packing import conflict_free
from tilth.cpu.kernels.pairwise import Runs, cut
from tilth.cpu.kernels.tiles import Cover


def aligned(nbytes: int) -> int:
    return -(-nbytes // 64) * 64


class Geometry:
    """Sizes and byte strides that follow from a shape and a plan."""

    def __init__(self, shape: Shape, plan: Plan, operands: Sequence[Operand], result: Operand):
        self.shape, self.plan = shape, plan
        form = shape.form
        self.positions = (form.lhs, form.rhs, len(operands), *form.extras)
        views = (*operands, result)
        self.dtypes = tuple(views[i].dtype for i in self.positions)
        self.sizes = tuple(d.nbytes for d in self.dtypes)
        self.lane_bytes = form.accumulator.nbytes * shape.lanes

    def stride(self, loop: Loop, tensor: int) -> int:
        """Bytes per turn."""
        return loop.strides[tensor] * self.sizes[tensor]

    # -- depth -------------------------------------------------------------------------------
    @property
    def chunk(self) -> int:
        return self.plan.chunk or self.shape.inner.size

    @property
    def chunks(self) -> int:
        return -(-self.shape.inner.size // self.chunk) if self.shape.form.depth else 1

    @cached_property
    def block_dims(self) -> tuple[int, ...]:
        """Blocks of the depth: leading taps, then chunks of the innermost loop."""
        return (*(t.size for t in self.shape.taps[: self.plan.tap_loops]), self.chunks)

    @property
    def depth_blocks(self) -> int:
        return math.prod(self.block_dims)

    @property
    def inner_taps(self) -> tuple[Loop, ...]:
        return self.shape.taps[self.plan.tap_loops :]

    @property
    def uneven(self) -> bool:
        """Is the last chunk of the depth shorter?"""
        return self.chunks > 1 and self.shape.inner.size % self.chunk != 0

    @cached_property
    def runs(self) -> Runs | None:
        """How a block's products are added up in short runs; None when they are in one go."""
        sizes = [*(t.size for t in self.inner_taps), self.chunk]
        if self.plan.streams > 1:
            sizes = [self.shape.inner.size // self.plan.streams, self.plan.streams]
        return cut(sizes, self.plan.run) if self.plan.run else None

    # -- rows --------------------------------------------------------------------------------
    @cached_property
    def gaps(self) -> tuple[int, ...]:
        """Bytes that each tensor skips behind a line of the map, if rows are counted through."""
        return tuple(self.shape.gap(i) * size for i, size in enumerate(self.sizes))

    # -- left operand ------------------------------------------------------------------------
    @property
    def copied_taps(self) -> tuple[Loop, ...]:
        """Taps of which a copied row holds all turns."""
        return self.inner_taps if self.plan.depth_outside else self.shape.taps

    @property
    def copied_run(self) -> int:
        """Neighbouring elements of a copied row, per tap."""
        return self.chunk if self.plan.depth_outside else self.shape.inner.size

    @property
    def pitch(self) -> int:
        """Bytes from one copied row to the next."""
        taps = math.prod(t.size for t in self.copied_taps)
        return conflict_free(taps * self.copied_run * self.sizes[LHS])

    @property
    def row_strides(self) -> tuple[int, int]:
        """Bytes of the left operand per step along height and width, as micro-kernels see it."""
        if self.plan.copy_lhs:
            return self.pitch * self.shape.width.size, self.pitch
        return self.stride(self.shape.height, LHS), self.stride(self.shape.width, LHS)

    def lhs_taps(self) -> list[int]:
        """Bytes of the left operand per turn of each tap, as micro-kernels see it."""
        if not self.plan.copy_lhs:
            return [self.stride(t, LHS) for t in self.shape.taps]
        inside, strides = self.copied_run * self.sizes[LHS], []
        for tap in reversed(self.copied_taps):
            strides.append(inside)
            inside *= tap.size
        held = strides[::-1]
        return [0] * (len(self.shape.taps) - len(held)) + held

    # -- right operand -----------------------------------------------------------------------
    @property
    def unit(self) -> int:
        """Bytes of one vector of the packed right operand."""
        return self.shape.lanes * self.sizes[RHS]

    def rhs_depth(self, vectors: int) -> tuple[list[int], int]:
        """Bytes of the right operand per turn of each tap and per unit of innermost depth."""
        if self.plan.rhs == "direct":
            return [self.stride(t, RHS) for t in self.shape.taps], self.stride(
                self.shape.inner, RHS
            )
        inside, strides = self.shape.inner.size, []
        for tap in reversed(self.shape.taps):
            strides.append(inside * vectors * self.unit)
            inside *= tap.size
        return strides[::-1], vectors * self.unit

    # -- fetching ahead ----------------------------------------------------------------------
    @property
    def turns(self) -> int:
        """Turns that the inner loops of a micro-kernel take in one block of the depth."""
        tile = self.plan.tiling
        accumulators = tile.height.size * tile.width.size * tile.panels.width
        inner = max(1, self.chunk // unrolling(accumulators, fetching=True))
        return math.prod(t.size for t in self.inner_taps) * inner

    @property
    def pace(self) -> int:
        """Bytes that each of them fetches, so that a block's tiles fetch the next block once.

        More would be read again when its turn comes, and less would be missing.
        """
        taps = math.prod(t.size for t in self.inner_taps)
        block = taps * self.chunk * self.plan.tiling.panels.width * self.unit
        return -(-block // (16 * self.turns * self.block_tiles)) * 16

    # -- blocks of rows ----------------------------------------------------------------------
    @property
    def cut(self) -> Cover:
        """The row tiles that blocks divide among themselves."""
        tiling = self.plan.tiling
        return tiling.height if self.shape.height.size > 1 else tiling.width

    @property
    def block_tiles(self) -> int:
        """Register tiles in the largest block of rows."""
        across = self.plan.tiling.width.count if self.shape.height.size > 1 else 1
        return -(-self.cut.count // self.plan.row_blocks) * across

    @property
    def block_rows(self) -> int:
        """Rows in the largest block."""
        across = self.shape.width.size if self.shape.height.size > 1 else 1
        return -(-self.cut.count // self.plan.row_blocks) * self.cut.size * across

    # -- scratch -----------------------------------------------------------------------------
    @property
    def slot(self) -> int:
        """Bytes of the accumulators of one tile."""
        t = self.plan.tiling
        return t.height.size * t.width.size * t.panels.width * self.lane_bytes

    @property
    def slots(self) -> int:
        """Tiles whose accumulators wait in scratch at the same time."""
        if self.depth_blocks == 1 and not self.plan.deferred:
            return 0
        if self.depth_blocks == 1:
            return 1
        panels = -(-self.plan.tiling.panels.count // self.plan.panel_blocks)
        return self.block_tiles * (panels if self.plan.depth_outside else 1)

    @property
    def lhs_copy(self) -> int:
        """Bytes of the copied block of rows."""
        return self.block_rows * self.pitch if self.plan.copy_lhs else 0

    @property
    def rhs_copy(self) -> int:
        """Bytes of the packed block of panels."""
        if self.plan.rhs != "copied":
            return 0
        panels = self.plan.tiling.panels
        widest = min(-(-panels.count // self.plan.panel_blocks) * panels.width, panels.vectors)
        return widest * self.unit * self.shape.form.depth

    @property
    def scratch(self) -> int:
        """Slots come first, then copies of the left and of the right operand."""
        return self.rhs_at + self.rhs_copy

    @property
    def lhs_at(self) -> int:
        return aligned(self.slots * self.slot)

    @property
    def rhs_at(self) -> int:
        return self.lhs_at + aligned(self.lhs_copy)

    @property
    def items(self) -> int:
        outer = math.prod(loop.size for loop in self.shape.outer)
        return outer * self.plan.row_blocks * self.plan.panel_blocks
