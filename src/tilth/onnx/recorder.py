"""The clock of a traced call of a model in stages: records of compiled kernels and host operators.

Kernels are timed by instrumented code that runs beside the call, so the clock only counts what the
records last. While a host operator runs a sub-graph, the sub-graph's stages are recorded in its
place: an operator's records are the time that it takes itself.
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
    _running: list[Any] = field(default_factory=list)  # nodes on the host, one inside the other

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
        self._running.append(node)
        self._since = time.perf_counter()
        try:
            yield
            self._pause()
        finally:
            self._running.pop()
            self._since = time.perf_counter()

    def _pause(self) -> None:
        """Record what the running operator, if there is one, took since it started or went on."""
        if not self._running:
            return
        node, seconds = self._running[-1], time.perf_counter() - self._since
        name = node.name or default_name(node)
        record = KernelRecord(node.op_type, name, "host operator", 0, self._now, seconds, 0, 0)
        self.records.append(TracedRecord(HOST, record))
        self._now += seconds
