"""Layer by layer: every value inside a compiled model against the same value computed elsewhere.

Each side runs once, with all its intermediate values as outputs. That keeps the compiler from
fusing across them, so the default shows each operator on its own; `fused=True` compares what the
kernels of the code that users run write, which are fewer values (see `compare_fused`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tilth.compiler.driver import compile_graph
from tilth.interface import bind_shapes
from tilth.ir.errors import InputError, TilthError, UnsupportedError
from tilth.ir.graph import Graph, Value
from tilth.ir.interpreter import interpret
from tilth.ir.types import TensorType, dtype_of
from tilth.model import Model
from tilth.onnx.check import ordered_nodes
from tilth.onnx.importer import default_name, import_values, source_line
from tilth.runtime.devices import parse_device, usable_cores
from tilth.runtime.target import Options
from tilth.tools.compare_fused import fused_values
from tilth.tools.compare_onnxruntime import onnxruntime_values
from tilth.tools.compare_staged import staged_values
from tilth.tools.difference import Difference, difference, roundoff
from tilth.tools.engines import fed_shapes

Array = np.ndarray
Arrays = Mapping[str, Array]
_ROUNDOFFS = 8  # the tolerance is at least this many roundoffs of a value's dtype


@dataclass(frozen=True, slots=True)
class Row:
    """One value: the ONNX names of it and of the nodes behind it, and how far it is off.

    `operands_error` is the largest relative error among the values that its node reads: a value
    that is off although its operands are not shows where the trouble starts. None for what a fused
    kernel computes.
    """

    value: str
    node: str
    operator: str
    type: str
    source: str
    difference: Difference
    operands_error: float | None
    exceeds: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rows, in the order of the graph, and what was compared with what."""

    model: str
    device: str
    against: str
    fused: bool
    tolerance: float
    rows: tuple[Row, ...]
    staged: bool = False

    @property
    def mode(self) -> str:
        """What the rows stand for, in words."""
        if self.fused:
            what = "values between stages" if self.staged else "values that kernels write"
            return f"{what}, in the code as users run it"
        return "every value of every node; nothing is fused across them"

    @property
    def first_divergence(self) -> Row | None:
        """The first row beyond the tolerance."""
        return next((row for row in self.rows if row.exceeds), None)

    @property
    def worst_first(self) -> list[Row]:
        return sorted(self.rows, key=lambda row: -row.difference.relative_error)

    def as_json(self) -> dict[str, Any]:
        """JSON-able; infinite errors are the string "inf"."""
        first = self.first_divergence
        return {
            "model": self.model,
            "device": self.device,
            "against": self.against,
            "mode": "fused" if self.fused else "per node",
            "tolerance": self.tolerance,
            "first_divergence": first.value if first else None,
            "rows": [_finite(asdict(row)) for row in self.rows],
        }


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value comes from: its node in the file."""

    node: str
    operator: str
    source: str
    operands: tuple[str, ...]


def compare_layers(
    model: Model,
    feeds: Arrays,
    device: str = "cpu",
    against: str = "reference",
    tolerance: float = 1e-4,
    fused: bool = False,
    threads: int = 0,
) -> Comparison:
    """Compare a model on `device` with the reference interpreter or "onnxruntime".

    A value is beyond the tolerance when its relative error is, or eight times the roundoff of its
    dtype if that is more. Raises what compiling raises, and TilthError when `against` is unknown or
    not installed.
    """
    if against not in ("reference", "onnxruntime"):
        raise TilthError(f"cannot compare with '{against}', only reference and onnxruntime")
    options = Options(threads or usable_cores())
    places = _places(model)
    try:
        graph, named = import_values(model.source, bind_shapes(model.inputs, fed_shapes(feeds)))
    except (UnsupportedError, InputError):  # no static graph, unless the feeds are wrong
        found = staged_values(model.source, feeds, parse_device(device), options, not fused)
        expected = _expected_in_stages(model, list(found), feeds, against, options)
        rows = _rows(found, expected, tolerance, places)
        return Comparison(model.name, device, against, fused, tolerance, tuple(rows), staged=True)
    computed = {n: v for n, v in named.items() if _is_computed(v)}
    if against == "reference":
        expected = _interpreted(graph, computed, feeds)
    else:
        expected = onnxruntime_values(model.source, list(computed), feeds)
    if fused:
        rows = _fused_rows(graph, expected, feeds, device, options, tolerance, places)
    else:
        found = _compiled(graph, computed, feeds, device, options)
        rows = _rows(found, expected, tolerance, places)
    return Comparison(model.name, device, against, fused, tolerance, tuple(rows))


def _expected_in_stages(
    model: Model, names: Sequence[str], feeds: Arrays, against: str, options: Options
) -> dict[str, Array]:
    if against == "onnxruntime":
        return onnxruntime_values(model.source, names, feeds)
    return staged_values(model.source, feeds, parse_device("reference"), options, True)


def _is_computed(value: Value) -> bool:
    """What code is made for: no inputs, weights or folded constants."""
    return isinstance(value.type, TensorType) and value.op not in ("input", "constant")


def _with_outputs(graph: Graph, values: Mapping[str, Value]) -> tuple[Graph, list[str]]:
    """The graph with these values as its outputs, and which of them stands for each name."""
    distinct = list(dict.fromkeys(values.values()))
    labels = {v: f"value{i}" for i, v in enumerate(distinct)}
    exposed = Graph(graph.inputs, tuple(distinct), tuple(labels.values()), graph.name)
    return exposed, [labels[v] for v in values.values()]


def _interpreted(graph: Graph, values: Mapping[str, Value], feeds: Arrays) -> dict[str, np.ndarray]:
    exposed, labels = _with_outputs(graph, values)
    found = dict(zip(exposed.output_names, interpret(exposed, feeds), strict=True))
    return {name: found[label] for name, label in zip(values, labels, strict=True)}


def _compiled(
    graph: Graph, values: Mapping[str, Value], feeds: Arrays, device: str, options: Options
) -> dict[str, np.ndarray]:
    exposed, labels = _with_outputs(graph, values)
    found = compile_graph(exposed, parse_device(device), options)(feeds)
    return {name: found[label] for name, label in zip(values, labels, strict=True)}


def _places(model: Model) -> dict[str, _Place]:
    """The node that makes each value, in the order of execution."""
    places = {}
    for node in ordered_nodes(list(model.source.proto.graph.node)):
        domain = f"{node.domain}." if node.domain else ""
        name = node.name or default_name(node)
        place = _Place(name, domain + node.op_type, source_line(node), tuple(node.input))
        places.update(dict.fromkeys(filter(None, node.output), place))
    return places


def _rows(
    found: Arrays, expected: Arrays, tolerance: float, places: Mapping[str, _Place]
) -> list[Row]:
    rows: dict[str, Row] = {}
    for name, place in places.items():
        if name in found and name in expected:
            before = [rows[n].difference.relative_error for n in place.operands if n in rows]
            worst = max(before, default=0.0)
            rows[name] = _row(name, place, found[name], expected[name], tolerance, worst)
    return list(rows.values())


def _row(
    name: str,
    place: _Place,
    found: np.ndarray,
    expected: np.ndarray,
    tolerance: float,
    before: float | None,
) -> Row:
    far = difference(found, expected)
    allowed = max(tolerance, _ROUNDOFFS * roundoff(expected.dtype))
    return Row(
        value=name,
        node=place.node,
        operator=place.operator,
        type=str(TensorType(dtype_of(expected.dtype), expected.shape)),
        source=place.source,
        difference=far,
        operands_error=before,
        exceeds=not far.relative_error <= allowed,
    )


def _fused_rows(
    graph: Graph,
    expected: Arrays,
    feeds: Arrays,
    device: str,
    options: Options,
    tolerance: float,
    places: Mapping[str, _Place],
) -> list[Row]:
    by_node: dict[str, list[str]] = {}
    for name, place in places.items():
        by_node.setdefault(place.node, []).append(name)
    candidates = {
        node: {n: expected[n] for n in names if n in expected} for node, names in by_node.items()
    }
    rows = []
    for value in fused_values(graph, feeds, device, options, candidates):
        place = _Place(" + ".join(value.nodes), value.kernel, value.source, ())
        name = value.name or f"({value.kernel})"
        rows.append(_row(name, place, value.found, value.expected, tolerance, None))
    return rows


def _finite(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _finite(v) for k, v in tree.items()}
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
