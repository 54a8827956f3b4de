"""What all programs of one model in stages share: importers, the compiler, notes, and observers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tilth.ir.limits import memory_limit, require_graph
from tilth.onnx.check import count_nodes
from tilth.onnx.compile import Compiler
from tilth.onnx.importer import Importer, default_name, import_work, weight_bytes
from tilth.onnx.recorder import Recorder
from tilth.onnx.resolve import Resolver
from tilth.onnx.segments import Draft, Segment
from tilth.runtime.report import HostOpReport

log = logging.getLogger("tilth")
Observer = Callable[[Mapping[str, Any]], None]


@dataclass
class Workshop:
    """For one model on one device. `most` segments are kept per stage, for different shapes.

    `observer` is called with what is there after each stage of the model's graph; `exposes`: every
    value of the graph is then among it, which keeps kernels from fusing across values.
    """

    compiler: Compiler
    resolver: Resolver
    most: int
    observer: Observer | None = None
    exposes: bool = False
    host: dict[str, HostOpReport] = field(default_factory=dict)
    recorder: Recorder | None = None

    def __post_init__(self) -> None:
        self.model = self.compiler.origin.model
        self._nodes = count_nodes(self.model.proto)
        self._own_bytes = weight_bytes(self.model)

    def fed(self, nbytes: int) -> None:
        """So many bytes are fed: results may be that much larger (see `memory_limit`)."""
        self._own_bytes = max(self._own_bytes, nbytes)

    @property
    def memory(self) -> int:
        """Bytes that one tensor may take."""
        return memory_limit(self._own_bytes)

    def importer(self) -> Importer:
        """A new one for each use: an importer counts what it does."""
        return Importer(self.model, self.resolver, self.memory, self._nodes)

    def import_work(self) -> AbstractContextManager[None]:
        return import_work(self._nodes)

    def segment(self, draft: Draft, compiled: bool, why: str) -> Segment:
        """The draft with code for it, by the interpreter if `compiled` is false."""
        if draft.graph is None:
            return Segment(draft, None, why)
        require_graph(draft.graph, self.memory)
        make = self.compiler.segment if compiled else self.compiler.interpreted
        executable = make(draft.graph)
        for told in executable.report.host_ops:
            self.host[told.node] = told
        return Segment(draft, executable, why, not compiled)

    def tell(self, node: Any, why: str) -> None:
        """Note that a node runs on the host."""
        name = node.name or default_name(node)
        self.host[name] = HostOpReport(name, node.op_type, why)

    @contextmanager
    def traced(self) -> Iterator[Recorder]:
        """Record what runs inside."""
        self.recorder = Recorder()
        try:
            yield self.recorder
        finally:
            self.recorder = None
