"""Runs AArch64 code on a machine of another kind: linked with a driver in C, under QEMU.

Needs Debian's `qemu-user` and `gcc-aarch64-linux-gnu`; `MISSING` says what is not there.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import llvmlite.ir as ll
import numpy as np

from tilth.cpu.emit import I64, PTR, Emitter
from tilth.cpu.harness import aligned
from tilth.cpu.isa import ISAS, Isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.kernel import Kernel

COMPILER, EMULATOR = "aarch64-linux-gnu-gcc", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
ARM = ISAS["neon"]


class Emulator:
    """Links and runs programs in a folder of its own."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbers = itertools.count()
        self._driver = folder / "driver.o"
        source = Path(__file__).with_suffix(".c")
        _run(COMPILER, "-O1", "-c", source, "-o", self._driver)

    def run(
        self, code: Sequence[bytes], table: Sequence[np.ndarray | None], threads: int = 1
    ) -> None:
        """Call the objects' `tilth_run` with pointers to these arrays, which it may write."""
        stem = self._folder / str(next(self._numbers))
        memory = stem.with_suffix(".bin")
        objects = [stem.with_suffix(f".{i}.o") for i in range(len(code))]
        for file, content in zip(objects, code, strict=True):
            file.write_bytes(content)
        _run(COMPILER, "-static", self._driver, *objects, "-lm", "-lpthread", "-o", stem)
        places, end = [], 0
        for array in table:
            places.append(end)
            end += 0 if array is None else -(-_bytes_of(array).size // 64) * 64
        mapped = np.memmap(memory, np.uint8, "w+", shape=(end + 64,))
        pointers = []
        for array, place in zip(table, places, strict=True):
            if array is None:
                pointers.append(-1)
                continue
            block = _bytes_of(array)
            mapped[place : place + block.size] = block
            pointers.append(place + array.ctypes.data - block.ctypes.data)
        mapped.flush()
        _run(EMULATOR, stem, memory, threads, *pointers)
        for array, place in zip(table, places, strict=True):
            if array is not None and array.flags.writeable:
                block = _bytes_of(array)
                block[...] = mapped[place : place + block.size]
        for file in (stem, *objects, memory):
            file.unlink()


class EmulatedKernel:
    """What `CompiledKernel` is for the machine at hand."""

    def __init__(self, emulator: Emulator, kernel: Kernel, isa: Isa = ARM):
        self._emulator, self._kernel, self._isa = emulator, kernel, isa

    def __call__(
        self,
        inputs: Sequence[np.ndarray],
        results: Sequence[np.ndarray],
        cuts: Sequence[int] = (),
    ) -> None:
        packed = {i: aligned(p.make()) for i, p in self._kernel.packed.items()}
        arrays = [packed.get(i, a) for i, a in enumerate(inputs)] + list(results)
        scratch = np.zeros(max(64, self._kernel.scratch), np.uint8)
        module = new_module(self._isa, "emulated")
        kernel = self._kernel.emit(module, self._isa, "kernel")
        self._emit_calls(module, kernel, len(arrays) + 1, [0, *cuts, self._kernel.items])
        self._emulator.run([compile_object(module, self._isa)], [*arrays, scratch])

    def _emit_calls(
        self, module: ll.Module, kernel: ll.Function, pointers: int, edges: Sequence[int]
    ) -> None:
        """`tilth_run`: all steps of the kernel, each range of items by its own call."""
        e = Emitter(module, self._isa, "tilth_run", [PTR, PTR])
        table = [e.load(e.offset(e.args[1], 8 * i), PTR) for i in range(pointers)]
        for step in range(self._kernel.steps):
            for begin, end in itertools.pairwise(edges):
                e.b.call(kernel, [*table, I64(begin), I64(end), I64(step)])
        e.finish()


def _bytes_of(array: np.ndarray) -> np.ndarray:
    """The memory from an array's lowest byte to its highest, holes included."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return np.ctypeslib.as_array((ctypes.c_uint8 * (high - low)).from_address(low))


def _run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]} failed ({done.returncode}): {done.stderr}"
