"""Timing a few candidates for a contraction once, and remembering the fastest.

Candidates run as they would in a model: on all threads, and with weights that were not touched
lately. What won is kept in the on-disk cache by all that it depends on: the fused operations,
shapes and strides, the processor, the threads, and Tilth's own code. Without a tuner, compiling is
deterministic; with one, the same model may be compiled to different code on different days.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilth.cpu.choices import Choice, candidates, lower
from tilth.cpu.jit import compile_objects
from tilth.cpu.kernel import Kernel, Operand, Task
from tilth.cpu.kernels import elementwise
from tilth.cpu.memory import assign
from tilth.cpu.program import emit_program, scratch_bytes
from tilth.cpu.region import CpuRegion
from tilth.cpu.steps import Step
from tilth.cpu.view import Buffer, View
from tilth.ir.graph import Graph, Node, make_input
from tilth.ir.types import DType, TensorType, u8
from tilth.runtime.cache import Cache
from tilth.runtime.keys import cache_key
from tilth.runtime.memory import aligned_bytes
from tilth.runtime.target import KernelInfo

TIMED = 6  # candidates that are timed
WORTH = 0.95  # of the estimated plan's time that another one must stay below
ROUNDS = 6
_ROUND_SECONDS = 0.002  # each candidate runs at least this long in a round
_COLD_BYTES = 64 << 20  # of weights of calls that follow each other: they come from memory
_MOST_COPIES = 32
_NODE = Node("trial", (), {}, ())


@dataclass(frozen=True, slots=True)
class Tuner:
    """Lowers contractions as was found to be fastest; without a `cache`, found again each time."""

    cache: Cache | None = None

    def __call__(self, task: Task) -> Kernel:
        """A `Lower`. Raises CompileError."""
        estimated, found = lower(task), candidates(task)[:TIMED]
        if not found:
            return estimated
        key = cache_key(tuned=repr(estimated.key), isa=repr(task.isa), threads=task.threads)
        known = self.cache.load(key) if self.cache else None
        if known is not None:
            return lower(task, found[known["choice"]])
        seconds = measure(task, found)
        best = seconds.index(min(seconds))
        if seconds[best] > WORTH * seconds[0]:  # no more than noise
            best = 0
        if self.cache:
            self.cache.store(key, {"choice": best, "seconds": seconds})
        return lower(task, found[best])


def measure(task: Task, choices: Sequence[Choice]) -> list[float]:
    """Seconds of a call for each choice: the best of some rounds, in which they take turns."""
    return timed([Trial(task, choice) for choice in choices])


def timed(trials: Sequence[Trial], rounds: int = ROUNDS) -> list[float]:
    """Seconds of a call for each trial, as `measure` does."""
    best = [math.inf] * len(trials)
    data = [trial.data() for trial in trials]
    for _ in range(rounds):
        for i, trial in enumerate(trials):
            best[i] = min(best[i], trial.seconds(data[i]))
    return best


class Trial:
    """A kernel in a program that first writes what it reads, as the kernels before it would.

    So data lie in the caches of the threads that a model's previous kernel would leave them in.
    """

    def __init__(self, task: Task, choice: Choice | None = None):
        self.kernel = lower(task, choice)
        views = (*task.operands, *task.results)
        packed = [self.kernel.packed.get(i) for i in range(len(views))]
        sizes = [p.nbytes if p else _span(v) for v, p in zip(views, packed, strict=True)]
        places = [
            View(Buffer("input", size, i), v.dtype, v.shape, v.strides, 0 if p else _start(v))
            for i, (v, p, size) in enumerate(zip(views, packed, sizes, strict=True))
        ]
        reads, writes = places[: len(task.operands)], places[len(task.operands) :]
        constant = [v.constant is not None for v in views]
        steps = [_written(v, task) for v in reads if not constant[v.buffer.index]]
        steps.append(Step(self.kernel, tuple(reads), tuple(writes), _NODE))
        memory = assign(steps)
        modules = emit_program(steps, memory, len(views), task.isa, task.threads)
        info = KernelInfo(self.kernel.name, (), "", 0, 0)
        self._region = CpuRegion(
            code=compile_objects(modules, task.isa),
            weights=memory.pack_weights(),
            inputs=tuple(TensorType(u8, (size,)) for size in sizes),
            outputs=(),
            kernels=(info,) * len(steps),
            arena_bytes=memory.arena_bytes,
            scratch_bytes=scratch_bytes(steps),
            threads=task.threads,
        )
        self._held = [(n, v.dtype, c) for n, v, c in zip(sizes, views, constant, strict=True)]

    def data(self) -> list[list[np.ndarray]]:
        """Arguments of calls that follow each other.

        Weights were last used a whole call ago, in a model: there are so many copies of them that
        they push each other out of L2. All values are ones, in packed weights as well; time does
        not depend on them.
        """
        weights = sum(size for size, _, constant in self._held if constant)
        copies = min(_MOST_COPIES, -(-_COLD_BYTES // max(1, weights))) if weights else 1
        kept = [None if constant else _ones(size, dtype) for size, dtype, constant in self._held]
        return [
            [_ones(*held[:2]) if k is None else k for k, held in zip(kept, self._held, strict=True)]
            for _ in range(copies)
        ]

    def seconds(self, data: Sequence[Sequence[np.ndarray]]) -> float:
        """Of the kernel, from the first thread that starts to the last that ends: the median over
        some calls that take their arguments from `data` in turn."""
        found: list[float] = []
        arguments = itertools.cycle(data)
        while len(found) < len(data) or sum(found) < _ROUND_SECONDS:
            records = self._region.profile(next(arguments))[-self._region.threads :]
            end = max(r.start + r.seconds for r in records)
            found.append(end - min(r.start for r in records))
        return statistics.median(found)


def _written(view: View, task: Task) -> Step:
    """The step in which the threads write again what a view sees, each its part."""
    x = make_input(TensorType(view.dtype, view.shape), "x")
    operands = (replace(view.operand, constant=None),)
    copy = Task(Graph((x,), (x,)), operands, operands, task.isa, task.threads)
    return Step(elementwise.lower(copy), (view,), (view,), _NODE)


def _reach(view: Operand) -> tuple[int, int]:
    """The lowest and the highest element, counted from the first."""
    ends = [(d - 1) * s for d, s in zip(view.shape, view.strides, strict=True)]
    return sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)


def _span(view: Operand) -> int:
    """Bytes from the lowest element to the end of the highest."""
    low, high = _reach(view)
    return (high - low + 1) * view.dtype.nbytes


def _start(view: Operand) -> int:
    """Bytes before the first element."""
    return -_reach(view)[0] * view.dtype.nbytes


def _ones(nbytes: int, dtype: DType) -> np.ndarray:
    room = aligned_bytes(nbytes)
    whole = nbytes // dtype.nbytes * dtype.nbytes
    room[:whole].view(dtype.numpy)[:] = 1
    return room
