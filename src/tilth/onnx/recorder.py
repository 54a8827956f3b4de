"""The clock of a traced call of a model in stages: records of compiled kernels and host operators.

Kernels are timed by instrumented code that runs beside the call, so the clock only counts what the
records last. What an operator on the host takes itself is one record at its end, after those of the
sub-graphs that it ran.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.onnx.importer import default_name
from tilth.runtime.executable import Executable
from tilth.runtime.target import KernelRecord
from tilth.runtime.trace import HOST, TracedRecord, shifted


@dataclass
class Recorder:
    """Collects `records`; times count from the start of the call, in seconds."""

    records: list[TracedRecord] = field(default_factory=list)
    _now: float = 0.0
    _since: float = 0.0  # when the operator that runs now started, or went on
    _own: list[float] = field(default_factory=list)  # seconds of operators, one inside the other

    def run(self, executable: Executable, arrays: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The results of a segment; its kernels are recorded in a run of their own."""
        self._pause()
        results = executable.run(arrays)
        feeds = {p.name: a for p, a in zip(executable.inputs, arrays, strict=True)}
        found = [shifted(r, self._now) for r in executable.trace(feeds)]
        self.records += found
        self._now = max([self._now, *(r.end for r in found)])
        self._since = time.perf_counter()
        return results

    @contextmanager
    def host(self, node: Any) -> Iterator[None]:
        """Record what runs inside as the time of a node on the host."""
        self._pause()
        self._own.append(0.0)
        self._since = time.perf_counter()
        try:
            yield
        finally:
            self._pause()
            self._record(node, self._own.pop())
            self._since = time.perf_counter()

    def _pause(self) -> None:
        """Count what the running operator, if there is one, took since it started or went on."""
        if self._own:
            self._own[-1] += time.perf_counter() - self._since

    def _record(self, node: Any, seconds: float) -> None:
        name = node.name or default_name(node)
        record = KernelRecord(node.op_type, name, "host operator", 0, self._now, seconds, 0, 0)
        self.records.append(TracedRecord(HOST, record))
        self._now += seconds
