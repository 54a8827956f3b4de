"""A compiled region on the CPU: machine code, packed weights, and the memory one call needs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tilth.cpu.loader import LoadedCode
from tilth.cpu.table import ARENA, EXPORTS, FIRST_INPUT, PROFILE, WEIGHTS, pool_memory
from tilth.ir.types import DTYPES, TensorType
from tilth.runtime.memory import aligned, aligned_bytes
from tilth.runtime.target import KernelInfo, KernelRecord
from tilth.runtime.threads import pool

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class CpuRegion:
    """Implements `runtime.target.CompiledRegion`.

    `code` are relocatable objects; `weights` is one block of bytes that the code reads at static
    offsets and may be a read-only memory map. Calls take turns: threads and arena are shared.
    """

    code: tuple[bytes, ...]
    weights: np.ndarray
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    kernels: tuple[KernelInfo, ...]
    arena_bytes: int
    scratch_bytes: int
    threads: int
    _engine: _Engine = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_engine", _Engine(self))

    @property
    def weight_bytes(self) -> int:
        return self.weights.nbytes

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = [np.empty(shape, dtype) for shape, dtype in self._engine.results]
        self._engine.run(inputs, outputs, 0)
        return outputs

    def profile(self, inputs: Sequence[np.ndarray]) -> list[KernelRecord]:
        outputs = [np.empty(shape, dtype) for shape, dtype in self._engine.results]
        times = np.zeros((self.threads, len(self.kernels), 2), np.int64)
        self._engine.run(inputs, outputs, times.ctypes.data)
        times -= times[:, :, 0].min(initial=times.max(initial=0))
        return [
            KernelRecord(
                name=kernel.name,
                node=" + ".join(kernel.nodes),
                algorithm=kernel.algorithm,
                thread=thread,
                start=float(times[thread, i, 0]) * 1e-9,
                seconds=float(times[thread, i, 1] - times[thread, i, 0]) * 1e-9,
                flops=kernel.flops,
                bytes=kernel.bytes,
            )
            for i, kernel in enumerate(self.kernels)
            for thread in range(self.threads)
        ]

    def state(self) -> Mapping[str, Any]:
        return {
            "code": list(self.code),
            "weights": self.weights,
            "inputs": [[t.dtype.name, list(t.dims)] for t in self.inputs],
            "outputs": [[t.dtype.name, list(t.dims)] for t in self.outputs],
            "kernels": [asdict(k) for k in self.kernels],
            "arena_bytes": self.arena_bytes,
            "scratch_bytes": self.scratch_bytes,
            "threads": self.threads,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> CpuRegion:
        def types(rows: list[list[Any]]) -> tuple[TensorType, ...]:
            return tuple(TensorType(DTYPES[name], tuple(shape)) for name, shape in rows)

        return cls(
            code=tuple(map(bytes, state["code"])),
            weights=state["weights"],
            inputs=types(state["inputs"]),
            outputs=types(state["outputs"]),
            kernels=tuple(
                KernelInfo(**{**k, "nodes": tuple(k["nodes"])}) for k in state["kernels"]
            ),
            arena_bytes=state["arena_bytes"],
            scratch_bytes=state["scratch_bytes"],
            threads=state["threads"],
        )


class _Engine:
    """The process-bound half of a region: linked code, arena, pointer table, pool."""

    def __init__(self, region: CpuRegion):
        self._object = LoadedCode(region.code, EXPORTS)
        self._run = _RUN(self._object.address("tilth_run"))
        self._threads = region.threads
        self.results = tuple((t.dims, t.dtype.numpy) for t in region.outputs)
        total = aligned(region.arena_bytes) + region.threads * region.scratch_bytes
        self._arena = aligned_bytes(total)
        self._weights = region.weights
        self._table = (ctypes.c_void_p * (FIRST_INPUT + len(region.inputs) + len(region.outputs)))()
        self._table_address = ctypes.addressof(self._table)
        self._table[ARENA] = self._arena.ctypes.data
        self._table[WEIGHTS] = self._weights.ctypes.data
        self._own_lock = threading.Lock()

    def run(
        self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], profile: int
    ) -> None:
        """One call. A region with one thread needs no pool, only its own turn."""
        if self._threads == 1:
            with self._own_lock:
                self._call(inputs, outputs, profile, 0)
            return
        lent = pool(
            *(self._threads, self._object.address("tilth_worker"), pool_memory),
            keep_alive=self._object,
        )
        with lent.lock:
            lent.place()
            self._call(inputs, outputs, profile, lent.address)

    def _call(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        profile: int,
        pool_address: int,
    ) -> None:
        table, slot = self._table, FIRST_INPUT
        table[PROFILE] = profile
        for array in inputs:
            table[slot] = array.__array_interface__["data"][0]
            slot += 1
        for array in outputs:
            table[slot] = array.__array_interface__["data"][0]
            slot += 1
        self._run(pool_address, self._table_address)
