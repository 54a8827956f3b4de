"""What the kernels of production code write, next to what they should.

The graph goes through exactly the passes it always goes through; then the result of each kernel
becomes an output, which changes where it is written but not the code that computes it. A value that
is one of the model's own (up to the position of its channels) is compared with that; any other with
the interpreter's result for the same optimised graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilth.compiler.driver import FALLBACK, unsupported
from tilth.compiler.pipeline import run_shared, run_target
from tilth.compiler.place import Region, place
from tilth.ir.graph import Graph, Node, Value
from tilth.ir.interpreter import interpret
from tilth.ir.ops.table import has_tag
from tilth.runtime.devices import parse_device
from tilth.runtime.target import Options, target
from tilth.tools.difference import difference

_SAME = 1e-2  # relative error up to which a value is taken for one of the model's

Candidates = Mapping[str, Mapping[str, np.ndarray]]  # ONNX node -> its values by name


@dataclass(frozen=True, slots=True)
class FusedValue:
    """A kernel's result: the ONNX nodes in it, and its ONNX name if it is a value of the model."""

    kernel: str
    nodes: tuple[str, ...]
    source: str
    name: str
    found: np.ndarray
    expected: np.ndarray


def fused_values(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    device: str,
    options: Options,
    candidates: Candidates,
) -> Iterator[FusedValue]:
    """Compile and run the graph on `device`; the values that its kernels write, in order."""
    shared = run_shared(graph, options).graph
    devices = list(dict.fromkeys([device, FALLBACK]))
    fed = {v: np.ascontiguousarray(feeds[v.node.name]) for v in shared.inputs}
    found, expected = dict(fed), dict(fed)
    for region in place(shared, devices, unsupported).regions:
        if region.outputs:
            final = _optimised(region, options)
            results = [v for node in final.nodes if _is_kernel(node) for v in node.outputs]
            wanted = (*final.outputs, *results)
            exposed = Graph(final.inputs, wanted, name=final.name)
            code = target(parse_device(region.device).kind).compile(exposed, options)
            ours = code([found[v] for v in region.inputs])
            theirs = interpret(exposed, [expected[v] for v in region.inputs])
            found.update(zip(region.outputs, ours, strict=False))
            expected.update(zip(region.outputs, theirs, strict=False))
            start = len(final.outputs)
            for value, a, b in zip(results, ours[start:], theirs[start:], strict=True):
                yield _matched(value, a, b, candidates)


def _optimised(region: Region, options: Options) -> Graph:
    traits = target(parse_device(region.device).kind).traits
    return run_target(region.graph, traits, options).graph


def _is_kernel(node: Node) -> bool:
    return node.op not in ("constant", "input") and not has_tag(node.op, "movement")


def _matched(
    value: Value, found: np.ndarray, expected: np.ndarray, candidates: Candidates
) -> FusedValue:
    """The value next to the model's own, if it is one of those that its nodes make."""
    nodes = _nodes_of(value.node)
    kernel = value.node.attrs.get("kind", value.op)
    source = next((n.source for n in reversed(nodes) if n.source), "")
    names = tuple(dict.fromkeys(n.name for n in nodes if n.name))
    for node in reversed(names):
        for name, own in candidates.get(node, {}).items():
            for order in _orders(expected, own):
                if difference(expected.transpose(order), own).relative_error <= _SAME:
                    moved = found.transpose(order)
                    return FusedValue(kernel, names, source, name, moved, own)
    return FusedValue(kernel, names, source, "", found, expected)


def _nodes_of(node: Node) -> list[Node]:
    """The nodes that a kernel computes, constants left out."""
    body = node.attrs.get("body") if node.op == "fusion" else None
    return [n for n in body.nodes if n.op != "constant"] if body is not None else [node]


def _orders(array: np.ndarray, own: np.ndarray) -> Sequence[tuple[int, ...]]:
    """How the axes may have to be put to give the model's shape: as they are, channels first."""
    rank = array.ndim
    channels_first = (0, rank - 1, *range(1, rank - 1))
    orders = dict.fromkeys([tuple(range(rank)), channels_first if rank > 2 else ()])
    if array.dtype != own.dtype:
        return []
    return [o for o in orders if len(o) == rank and own.shape == tuple(array.shape[i] for i in o)]
