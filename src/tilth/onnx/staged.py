"""Models that cannot be one static graph, run in stages (see `tilth.onnx.program`).

A staged model takes and gives what ONNX has: arrays, object arrays of `str`, lists for sequences,
dictionaries for maps, None for empty optionals. What it compiles it keeps, for the latest shapes of
each stage; its report lists these segments and the nodes that run on the host, with the reason.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from tilth.ir.errors import InputError
from tilth.ir.graph import make_constant
from tilth.ir.types import Shape
from tilth.onnx.compile import Compiler
from tilth.onnx.program import Program
from tilth.onnx.resolve import Resolver
from tilth.onnx.values import owned
from tilth.onnx.workshop import Observer, Workshop
from tilth.runtime.executable import VARIANTS_KEPT
from tilth.runtime.ports import Port
from tilth.runtime.profile import Profile, measured, merged
from tilth.runtime.report import HostOpReport, Report
from tilth.runtime.trace import TracedRecord


class StagedModel:
    """A model that runs in stages on one device; thread-safe. It takes values that were checked.

    Raises UnsupportedError, listing every operator without a meaning here, when it is made. For
    `observer` and `exposes` see `Workshop`.
    """

    def __init__(
        self,
        compiler: Compiler,
        most: int = VARIANTS_KEPT,
        observer: Observer | None = None,
        exposes: bool = False,
    ) -> None:
        self._compiler = compiler
        self.source = source = compiler.origin.model
        resolver = Resolver(source)
        resolver.require_supported()
        self._workshop = Workshop(compiler, resolver, most, observer, exposes)
        self._lock = threading.RLock()
        graph = source.proto.graph
        self._program = Program(
            self._workshop,
            graph.node,
            [o.name for o in graph.output],
            source.opsets or {"": 1},
            {name: make_constant(source.weight(name), name) for name in source.weight_names},
        )

    @property
    def report(self) -> Report:
        """What is compiled and kept now, why it was, and what runs on the host."""
        with self._lock:
            segments = [s for s in self._program.segments() if s.executable is not None]
        reports = [s.executable.report for s in segments if s.executable is not None]
        seconds: Counter[str] = Counter()
        for report in reports:
            seconds.update(dict(report.seconds))
        options = self._compiler.options
        return Report(
            model=self.source.name,
            device=str(self._compiler.device),
            threads=options.threads,
            precision=options.precision,
            regions=tuple(region for report in reports for region in report.regions),
            host_ops=tuple(self._workshop.host.values()),
            copies=sum(report.copies for report in reports),
            fused=tuple(line for report in reports for line in report.fused),
            missed=tuple(line for report in reports for line in report.missed),
            rewrites=tuple(line for report in reports for line in report.rewrites),
            seconds=tuple(seconds.items()),
            from_cache=bool(reports) and all(report.from_cache for report in reports),
            variants=tuple(s.why for s in segments),
        )

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Run on checked values, by name of the input; compiles when shapes are new."""
        with self._lock:
            fed = sum(v.nbytes for v in values.values() if isinstance(v, np.ndarray))
            self._workshop.fed(fed)
            with np.errstate(all="ignore"):
                results = self._program(values)
        names = (p.name for p in self.source.outputs)
        return {name: owned(r) for name, r in zip(names, results, strict=True)}

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Compile what these shapes of all inputs decide: the first segment."""
        with self._lock:
            self._program.prepare(self._stand_ins(shapes))

    def foreseen(self, shapes: Mapping[str, Shape]) -> tuple[HostOpReport, ...]:
        """The nodes that will run on the host, as far as that shows without running."""
        with self._lock:
            self._program.foresee(self._stand_ins(shapes))
            return tuple(self._workshop.host.values())

    def trace(self, values: Mapping[str, Any]) -> list[TracedRecord]:
        """The records of kernels and host operators of one instrumented call."""
        with self._lock, self._workshop.traced() as recorder:
            self(values)
            return recorder.records

    def profile(self, values: Mapping[str, Any], runs: int = 10) -> Profile:
        """Time each kernel and each host operator over `runs` instrumented calls."""
        kind = self._compiler.device.kind
        found = measured(
            self.source.name, kind, lambda: self(values), lambda: self.trace(values), runs
        )
        return merged(found)

    def _stand_ins(self, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """Values of these shapes that take no memory; what is no tensor is an empty list."""
        return {p.name: _stand_in(p, shapes) for p in self.source.inputs}


def _stand_in(port: Port, shapes: Mapping[str, Shape]) -> Any:
    if port.dtype is None or port.container:
        return []
    try:
        return np.broadcast_to(np.zeros((), port.dtype.numpy), shapes[port.name])
    except ValueError as e:  # more elements than addresses
        raise InputError(f"input {port}: no array has the shape {shapes[port.name]}") from e
