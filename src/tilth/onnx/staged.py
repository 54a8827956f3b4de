"""Models that cannot be one static graph, run in stages (see `tilth.onnx.program`).

A staged model takes and gives what ONNX has: arrays, object arrays of `str`, lists for sequences,
None for empty optionals. What it compiles it keeps, for the latest shapes of each stage; its report
lists the compiled segments so far and the nodes that run on the host, with the reason.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tilth.compiler.driver import FALLBACK, compile_graph
from tilth.ir.errors import InputError
from tilth.ir.graph import make_constant
from tilth.ir.limits import memory_limit, require_graph
from tilth.ir.types import TensorType
from tilth.onnx.check import count_nodes
from tilth.onnx.importer import Importer, default_name, import_work, weight_bytes
from tilth.onnx.load import ModelSource, Port, load_model
from tilth.onnx.program import SEGMENTS_KEPT, Program, Workshop
from tilth.onnx.resolve import Resolver
from tilth.onnx.segments import Draft, Segment
from tilth.runtime import feeds as dense
from tilth.runtime.devices import parse_device
from tilth.runtime.report import HostOpReport, RegionReport, Report
from tilth.runtime.stages import Stages
from tilth.runtime.target import Device, Options

log = logging.getLogger("tilth")


class StagedModel:
    """A model that runs in stages on one device; thread-safe.

    Raises UnsupportedError, listing every operator without a meaning here, when it is made.
    """

    def __init__(self, source: ModelSource, device: Device, options: Options) -> None:
        self.source = load_model(source)
        self._resolver = Resolver(self.source)
        self._resolver.require_supported()
        self._device, self._options = device, options
        self._nodes = count_nodes(self.source.proto)
        self._own_bytes = weight_bytes(self.source)
        self._lock = threading.RLock()
        self._regions: list[RegionReport] = []
        self._host: dict[str, HostOpReport] = {}
        self._stages = Stages()
        graph = self.source.proto.graph
        names = self.source.weight_names
        self._program = Program(
            Workshop(self._importer, self._compile, self._tell, lambda: import_work(self._nodes)),
            graph.node,
            [o.name for o in graph.output],
            self.source.opsets or {"": 1},
            {name: make_constant(self.source.weight(name), name) for name in names},
        )

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.source.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.source.outputs

    @property
    def report(self) -> Report:
        """What was compiled so far, and what runs on the host."""
        return Report(
            model=self.source.proto.graph.name,
            device=str(self._device),
            threads=self._options.threads,
            precision=self._options.precision,
            regions=tuple(self._regions),
            host_ops=tuple(self._host.values()),
            seconds=self._stages.seconds,
        )

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """Run on `feeds` (input name to value); output name to value, in the model's order.

        Compiles when shapes are new. Raises InputError for wrong feeds.
        """
        values = check_values(self.inputs, feeds)
        with self._lock:
            fed = sum(v.nbytes for v in values.values() if isinstance(v, np.ndarray))
            self._own_bytes = max(self._own_bytes, fed)
            with np.errstate(all="ignore"):
                results = self._program(values)
        return {p.name: _owned(r) for p, r in zip(self.outputs, results, strict=True)}

    def _importer(self) -> Importer:
        return Importer(self.source, self._resolver, memory_limit(self._own_bytes), self._nodes)

    def _compile(self, draft: Draft, compiled: bool) -> Segment:
        if draft.graph is None:
            return Segment(draft, None)
        require_graph(draft.graph, memory_limit(self._own_bytes))
        device = self._device
        if not compiled:
            device = parse_device(FALLBACK)
            log.warning(
                "%s: shapes changed over %d times; from now on a stage of %d nodes is interpreted "
                "for new ones",
                *(self.source.proto.graph.name, SEGMENTS_KEPT, len(draft.graph.nodes)),
            )
        executable = compile_graph(draft.graph, device, self._options, self._stages)
        self._regions += executable.report.regions
        for told in executable.report.host_ops:
            self._host[told.node] = told
        return Segment(draft, executable)

    def _tell(self, node: Any, why: str) -> None:
        name = node.name or default_name(node)
        self._host[name] = HostOpReport(name, node.op_type, why)


def check_values(ports: Sequence[Port], feeds: Mapping[str, Any]) -> dict[str, Any]:
    """What is fed, by name: tensors checked against their ports, sequences as lists of arrays.

    Raises InputError for missing or unknown names, and for values of another kind.
    """
    names = [p.name for p in ports]
    if unknown := [n for n in feeds if n not in names]:
        raise InputError(f"the model has no input '{unknown[0]}'; its inputs are {names}")
    if missing := [p for p in ports if p.name not in feeds]:
        raise InputError(f"missing input {', '.join(map(str, missing))}")
    plain = [p for p in ports if not p.container]
    typed = [dense.Port(p.name, _type(p, feeds[p.name])) for p in plain]
    arrays = dense.check_feeds(typed, {p.name: feeds[p.name] for p in plain})
    values = dict(zip((p.name for p in plain), arrays, strict=True))
    return {p.name: _nested(p, feeds[p.name], values) for p in ports}


def _type(port: Port, fed: Any) -> TensorType:
    """A tensor port's type; an unknown rank takes the rank of what is fed."""
    assert port.dtype is not None, "only maps have no element type"
    shape = port.shape
    if shape is None:
        shape = tuple(f"{port.name}.{i}" for i in range(np.ndim(fed)))
    return TensorType(port.dtype, shape)


def _nested(port: Port, fed: Any, values: Mapping[str, Any]) -> Any:
    if port.name in values:
        return values[port.name]
    return _nested_value(port, port.container.split(" of "), fed)


def _nested_value(port: Port, containers: Sequence[str], fed: Any) -> Any:
    """A sequence or an optional, whose elements are arrays in the end."""
    kind, inner = containers[0] if containers else "", containers[1:]
    if kind == "optional":
        return None if fed is None else _nested_value(port, inner, fed)
    if kind == "sequence" and isinstance(fed, (list, tuple)):
        return [_nested_value(port, inner, item) for item in fed]
    if not kind and port.dtype is not None:
        rank = tuple(f"{port.name}.{i}" for i in range(np.ndim(fed)))
        typed = dense.Port(port.name, TensorType(port.dtype, rank))
        return dense.check_feeds([typed], {port.name: fed})[0]
    raise InputError(f"input {port}: cannot take a {type(fed).__name__}")


def _owned(value: Any) -> Any:
    """A result in memory of its own: it may be a feed or a weight."""
    if isinstance(value, list):
        return [_owned(v) for v in value]
    return value.copy() if isinstance(value, np.ndarray) else value
