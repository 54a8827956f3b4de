"""What is inside a model, without compiling it: operators, parameters, FLOPs, interface."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from tilth.interface import Binding, complete
from tilth.ir.cost import graph_flops
from tilth.ir.errors import InputError, TilthError, UnsupportedError
from tilth.model import Model
from tilth.onnx.tensors import element_type
from tilth.runtime.report import HostOpReport


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of a model. `flops` is None when it is no static graph, or has a `problem`.

    `stages` says why it runs in stages if it does, and `host_ops` are the nodes that run on the
    host then, as far as that shows without running, with the reason.

    FLOPs are of one call at the shapes `shapes`, a multiply-add counting as two.
    """

    name: str
    opsets: dict[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: dict[str, int]
    parameters: int
    parameter_bytes: int
    shapes: Binding
    flops: int | None
    problem: str
    stages: str = ""
    host_ops: tuple[HostOpReport, ...] = ()

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(model: Model, wanted: Binding | None = None) -> Summary:
    """Look into `model`; symbols of its interface that `wanted` leaves open are taken as 1."""
    shapes = complete(model.inputs, wanted or {})
    source = model.source
    flops, problem, stages = None, "", ""
    host_ops: tuple[HostOpReport, ...] = ()
    try:
        flops = graph_flops(model.graph(shapes))
    except (UnsupportedError, InputError) as e:
        stages = str(e)
    except TilthError as e:
        problem = str(e)
    if stages:
        try:
            host_ops = model.foreseen(shapes)
        except TilthError as e:
            problem, stages = str(e), ""
    sizes = [_weight_size(t) for t in source.proto.graph.initializer]
    return Summary(
        name=model.name,
        opsets={domain or "ai.onnx": version for domain, version in source.opsets.items()},
        inputs=tuple(map(str, model.inputs)),
        outputs=tuple(map(str, model.outputs)),
        operators=dict(Counter(map(_operator, _nodes(source.proto.graph))).most_common()),
        parameters=sum(count for count, _ in sizes),
        parameter_bytes=sum(size for _, size in sizes),
        shapes=shapes,
        flops=flops,
        problem=problem,
        stages=stages,
        host_ops=host_ops,
    )


def _weight_size(tensor: Any) -> tuple[int, int]:
    """Elements and bytes of an initialiser, from its declaration alone."""
    count = math.prod(tensor.dims)
    return count, count * element_type(tensor.data_type, f"'{tensor.name}'").nbytes


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes, those of graphs inside nodes included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _nodes(body)


def _operator(node: Any) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
