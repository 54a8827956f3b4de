"""Register tiles for a contraction: which micro-kernel sizes waste least for an exact shape.

A micro-kernel holds `rows` x `vectors` accumulators and, per unit of depth, loads `vectors` vectors
of the right operand and broadcasts one element per row of the left one. Extents are cut into
pieces that differ by at most one, so each extent needs at most two micro-kernels. See Goto and van
de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008, for the names mr, nr, kc.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tilth.cpu.isa import Isa

# Cycles per unit of depth, fitted to products whose operands come from L2.
_LOADS = 1.6  # a core starts per cycle, sustained
_PANEL = 300  # bytes per cycle from L2 to the FMAs, beside them, if one starts per cycle
_TILE_OVERHEAD = 24  # cycles to call a micro-kernel and to fill and drain its pipeline


@dataclass(frozen=True, slots=True)
class Cover:
    """`extent` cut into `count` pieces: `large` pieces of `size`, the others one less."""

    extent: int
    count: int

    @property
    def size(self) -> int:
        return -(-self.extent // self.count)

    @property
    def large(self) -> int:
        return self.extent - self.count * (self.size - 1)

    def sizes(self) -> dict[int, int]:
        """How many pieces there are of each size."""
        small = self.count - self.large
        return {self.size: self.large} | ({self.size - 1: small} if small else {})


def cover(extent: int, at_most: int) -> Cover:
    """The fewest balanced pieces of at most this size."""
    return Cover(extent, -(-extent // at_most))


@dataclass(frozen=True, slots=True)
class Panels:
    """Vectors along n in panels of `width`; the last panel has what is left."""

    vectors: int
    width: int

    @property
    def count(self) -> int:
        return -(-self.vectors // self.width)

    @property
    def last(self) -> int:
        return self.vectors - (self.count - 1) * self.width

    def sizes(self) -> dict[int, int]:
        full = self.count if self.last == self.width else self.count - 1
        return {self.width: full} | ({self.last: 1} if self.last != self.width else {})


@dataclass(frozen=True, slots=True)
class Tiling:
    """How (height x width) rows and the vectors along n are cut into register tiles."""

    height: Cover
    width: Cover
    panels: Panels

    @property
    def name(self) -> str:
        """For reports: rows x vectors of the largest tile."""
        high = f"({self.height.size}x{self.width.size})" if self.height.size > 1 else ""
        return f"{high or self.width.size}x{self.panels.width}"


def cycles(isa: Isa, rows: int, vectors: int) -> float:
    """Estimated cycles of a rows x vectors micro-kernel per unit of depth."""
    loads = rows + vectors
    compute = rows * vectors / isa.fmas + rows * isa.broadcast_cycles + vectors * isa.vector_cycles
    return max(compute, loads / _LOADS, isa.chain_cycles)


def reading(isa: Isa, nbytes: float) -> float:
    """Estimated cycles that FMAs lose to reading so many bytes of the right operand from L2."""
    return nbytes * isa.fmas / _PANEL


def fits(isa: Isa, rows: int, vectors: int, fetching: bool = False) -> bool:
    """Do accumulators, a row of the right operand and one broadcast stay in registers?

    LLVM's scheduler loads ahead where it can, so that some registers must be left, more of them
    when the loop is `fetching` ahead: found by counting spills in the loops it makes.
    """
    if vectors == 1 and not isa.broadcast_operand and rows > isa.registers // 2:
        return False
    tight = isa.broadcast_operand and vectors <= 2 and not fetching
    roomy = isa.registers > 16 and not tight
    return rows * vectors + vectors + 1 <= isa.registers - (3 if roomy else 0)


def choose(
    isa: Isa,
    height: int,
    width: int,
    vectors: int,
    depth: int,
    fetching: bool = False,
    penalty: Callable[[Tiling], float] = lambda tiling: 1.0,
) -> Tiling:
    """The tiling with the fewest estimated cycles for one (height x width) x vectors result.

    `penalty` is a factor for what shapes alone do not show.
    """
    every = candidates(isa, height, width, vectors, fetching)
    return min(every, key=lambda t: cost(isa, t, depth) * penalty(t))


def candidates(
    isa: Isa, height: int, width: int, vectors: int, fetching: bool = False
) -> Iterator[Tiling]:
    """All tilings whose largest micro-kernel fits the registers."""
    for nv in range(1, min(vectors, isa.registers // 2) + 1):
        panels = Panels(vectors, nv)
        for tw in range(1, min(width, isa.registers - 2) + 1):
            if not fits(isa, tw, nv, fetching):
                break
            columns = cover(width, tw)
            if columns.size != tw:
                continue
            for th in range(1, min(height, isa.registers // tw) + 1):
                rows = cover(height, th)
                if rows.size == th and fits(isa, th * tw, nv, fetching):
                    yield Tiling(rows, columns, panels)


def cost(isa: Isa, tiling: Tiling, depth: int) -> float:
    """Estimated cycles of a whole result; a little is charged for each kind of micro-kernel."""
    total, kinds = 0.0, 0
    sizes = (tiling.height.sizes(), tiling.width.sizes(), tiling.panels.sizes())
    for (th, nh), (tw, nw), (nv, np_) in itertools.product(*(s.items() for s in sizes)):
        total += nh * nw * np_ * (depth * cycles(isa, th * tw, nv) + _TILE_OVERHEAD)
        kinds += 1
    # few kinds compile faster; neighbours along the width overlap or lie side by side
    return total * (1 + 0.004 * kinds + 0.002 * tiling.height.size)
