"""The instructions of a matrix unit for bf16 (AMX): eight tile registers, of 16 rows of 64 bytes.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

import llvmlite.ir as ll

from tilth.cpu.emit import I8, I64, VOID, Emitter, Val, vector

ROWS = COLUMNS = 16  # of a tile of sums
DEPTH = 32  # of a tile of either operand, in elements
LINE = 64  # bytes of a row of a tile, and of a cache line
TILE = 1024  # bytes of any tile


class Tiles:
    """Emits instructions; registers go by their numbers, 0 to 7."""

    def __init__(self, e: Emitter):
        self.e = e

    def configure(self, memory: Val) -> None:
        """Set the shape of all tiles, by way of 64 bytes of memory (palette 1)."""
        e = self.e
        settings = [1, *[0] * 15, *[LINE, 0] * 8, *[0] * 16, *[ROWS] * 8, *[0] * 8]
        e.store(ll.Constant(vector(I8, 64), settings), memory)
        self._call("ldtilecfg", [memory])

    def release(self) -> None:
        """Give the registers back, so that nobody has to save them."""
        self._call("tilerelease", [])

    def zero(self, tile: int) -> None:
        self._call("tilezero", [I8(tile)])

    def load(self, tile: int, memory: Val, pitch: int) -> None:
        self._call("tileloadd64", [I8(tile), memory, I64(pitch)])

    def store(self, tile: int, memory: Val, pitch: int) -> None:
        self._call("tilestored64", [I8(tile), memory, I64(pitch)])

    def multiply(self, sums: int, left: int, right: int) -> None:
        """sums += left x right, pairs of bf16 summed in f32."""
        self._call("tdpbf16ps", [I8(sums), I8(left), I8(right)])

    def _call(self, name: str, args: list[Val]) -> None:
        fn = self.e.declare(f"llvm.x86.{name}", VOID, [a.type for a in args])
        self.e.b.call(fn, args)
