"""One kernel alone: compile it and run it on NumPy arrays, for tests and benchmarks.

Arrays may be strided views; a kernel writes into its result arrays in place.
"""

from __future__ import annotations

import ctypes
import itertools
import time
from collections.abc import Sequence

import numpy as np

from tilth.cpu.isa import Isa, host_isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.kernel import Kernel, Operand
from tilth.cpu.loader import LoadedCode
from tilth.ir.types import dtype_of


def operand(array: np.ndarray, constant: bool = False) -> Operand:
    """The description of an array; with `constant` the kernel may look at its values."""
    strides = tuple(s // array.itemsize for s in array.strides)
    return Operand(dtype_of(array.dtype), array.shape, strides, array if constant else None)


def aligned(array: np.ndarray, alignment: int = 64) -> np.ndarray:
    """A row-major copy whose first element lies at a multiple of `alignment` bytes."""
    room = np.empty(array.nbytes + alignment, np.uint8)
    start = -room.ctypes.data % alignment
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


class CompiledKernel:
    """Machine code of one kernel in this process."""

    def __init__(self, kernel: Kernel, isa: Isa | None = None):
        isa = isa or host_isa()
        module = new_module(isa, "harness")
        kernel.emit(module, isa, "kernel")
        self.kernel = kernel
        self._code = LoadedCode((compile_object(module, isa),), ("kernel",))
        self._packed = {i: aligned(p.make()) for i, p in kernel.packed.items()}
        self._scratch = aligned(np.zeros(max(64, kernel.scratch), np.uint8))

    def __call__(
        self,
        inputs: Sequence[np.ndarray],
        results: Sequence[np.ndarray],
        cuts: Sequence[int] = (),
    ) -> None:
        """Run all steps and items; `cuts` are item numbers where one range ends and one begins."""
        call = self._bind(inputs, results)
        edges = [0, *cuts, self.kernel.items]
        for step in range(self.kernel.steps):
            for begin, end in itertools.pairwise(edges):
                call(begin, end, step)

    def seconds(
        self, inputs: Sequence[np.ndarray], results: Sequence[np.ndarray], budget: float = 0.1
    ) -> float:
        """The fastest of the runs (all items, one thread) that fit into `budget` seconds."""
        call, best = self._bind(inputs, results), float("inf")
        stop = time.perf_counter() + budget
        while time.perf_counter() < stop:
            start = time.perf_counter()
            for step in range(self.kernel.steps):
                call(0, self.kernel.items, step)
            best = min(best, time.perf_counter() - start)
        return best

    def _bind(self, inputs: Sequence[np.ndarray], results: Sequence[np.ndarray]):
        arrays = [self._packed.get(i, a) for i, a in enumerate(inputs)] + list(results)
        pointers = [a.ctypes.data for a in (*arrays, self._scratch)]
        types = [ctypes.c_void_p] * len(pointers) + [ctypes.c_int64] * 3
        function = ctypes.CFUNCTYPE(None, *types)(self._code.address("kernel"))
        return lambda begin, end, step: function(*pointers, begin, end, step)
