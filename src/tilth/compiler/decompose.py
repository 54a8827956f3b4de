"""Composites become primitives, except those that the target lowers itself."""

from __future__ import annotations

from collections.abc import Collection

from tilth.ir.graph import Graph, Node, Value, clone
from tilth.ir.ops.table import DECOMPOSE, OPS, provenance


def decompose(graph: Graph, kept: Collection[str]) -> Graph:
    """Replace composites whose op is not in `kept` by their decompositions, to a fixed point."""

    def is_left(node: Node) -> bool:
        return OPS[node.op].kind == "composite" and node.op not in kept

    def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        if not is_left(node):
            return clone(node, inputs)
        with provenance(node.name, node.source):
            results = DECOMPOSE[node.op](*inputs, **node.attrs)
        return results if isinstance(results, tuple) else (results,)

    while any(is_left(node) for node in graph.nodes):
        graph = graph.map(visit)
    return graph
