"""The verifier: checks that a graph keeps the rules of the IR.

In tests it runs after every pass, so that a bug is found where it is made. Each error names the
node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tilth.ir.errors import VerifyError
from tilth.ir.graph import Graph, Node, Value, toposort
from tilth.ir.ops import OPS
from tilth.ir.ops.table import infer_types
from tilth.ir.types import DType


def verify(graph: Graph) -> None:
    """Raise VerifyError unless the graph and its sub-graphs are well formed.

    Producers come before users and are in the graph, attributes are legal and complete, types are
    what the ops infer, constants match theirs, names are unique.
    """
    _verify_interface(graph)
    seen = {v.node for v in graph.inputs}
    for node in toposort(v.node for v in graph.outputs):
        try:
            if node.op == "input":
                _require(node in seen, "it is an input of another graph")
            else:
                _verify_node(node, seen)
        except VerifyError as e:
            raise VerifyError(f"in graph '{graph.name}', {node!r}: {e}") from e
        seen.add(node)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise VerifyError(message)


def _verify_interface(graph: Graph) -> None:
    where = f"graph '{graph.name}'"
    for value in graph.inputs:
        known = value.node.op == "input" and value.index == 0 and not value.node.inputs
        _require(known, f"{where}: input {value} is the result of an op")
    _require_unique(graph.input_names, f"{where}: input names")
    _require_unique(graph.output_names, f"{where}: output names")
    names, outputs = len(graph.output_names), len(graph.outputs)
    _require(names == outputs, f"{where}: {outputs} outputs have {names} names")
    for value in graph.outputs:
        _require(_exists(value), f"{where}: output {value} is no result of its node")


def _require_unique(names: Iterable[str], what: str) -> None:
    names = list(names)
    _require(len(set(names)) == len(names), f"{what} repeat: {', '.join(names)}")


def _exists(value: Value) -> bool:
    return 0 <= value.index < len(value.node.types)


def _verify_node(node: Node, seen: set[Node]) -> None:
    _require(node.op in OPS, f"unknown op '{node.op}'")
    for value in node.inputs:
        _require(_exists(value), f"operand {value} is no result of its node")
        _require(value.node in seen, f"operand {value} comes later: the graph has a cycle")
    for name, attr in node.attrs.items():
        if isinstance(attr, Graph):
            verify(attr)
        elif not (node.op == "constant" and isinstance(attr, np.ndarray)):
            _require(_is_legal(attr), f"attribute {name} = {attr!r} is no attribute value")
    attrs, types = infer_types(node.op, node.inputs, dict(node.attrs))
    missing = ", ".join(attrs.keys() - node.attrs.keys())
    _require(not missing, f"attributes are missing: {missing}")
    _require(types == node.types, f"the op gives {types}")
    if node.op == "fusion":
        _verify_fusion_body(node.attrs["body"], nested=node.attrs["kind"] in ("chain", "attention"))


def _is_legal(attr: Any) -> bool:
    if isinstance(attr, tuple):
        return all(map(_is_legal, attr))
    return attr is None or isinstance(attr, DType) or type(attr) in (bool, int, float, str)


def _verify_fusion_body(body: Graph, nested: bool) -> None:
    """Kernels rely on this: every input is read, and large constants are operands."""
    read = {v for node in body.nodes for v in node.inputs} | set(body.outputs)
    for value in body.inputs:
        _require(value in read, f"the body does not read its input '{value.node.name}'")
    for node in body.nodes:
        _require(node.op != "fusion" or nested, f"{node!r} is a fusion inside a fusion")
        if node.op == "constant":
            size = node.attrs["value"].size
            _require(size == 1, f"constant {node!r} must be an operand of the fusion")
