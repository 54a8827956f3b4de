"""Static cost of a node: floating-point (or integer) operations, and bytes of operands and results.

A multiply-add counts as two; one elementwise operation of any kind as one per element. Movement
costs no operations. These are the counts that reports and FLOP/s figures are based on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tilth.ir.graph import Graph, Node
from tilth.ir.ops.table import DECOMPOSE, has_tag
from tilth.ir.types import TensorType


def flops(node: Node) -> int:
    """Operations of one execution of the node (a loop counts its body once)."""
    if node.op in _RULES:
        return _RULES[node.op](node)
    bodies = [a for a in node.attrs.values() if isinstance(a, Graph)]
    if bodies:
        return sum(graph_flops(body) for body in bodies)
    if has_tag(node.op, "elementwise") or node.op in DECOMPOSE:
        return sum(_size(t) for t in node.types)
    if has_tag(node.op, "reduction"):
        return _size(node.inputs[0].type)
    return 0


def graph_flops(graph: Graph) -> int:
    """Operations of one execution of the graph."""
    return sum(flops(node) for node in graph.nodes)


def traffic(node: Node) -> int:
    """Bytes of all operands and results, each counted once."""
    types = [v.type for v in dict.fromkeys(node.inputs)] + list(node.types)
    return sum(t.nbytes for t in types if isinstance(t, TensorType))


def _size(type_: object) -> int:
    return type_.size if isinstance(type_, TensorType) else 0


def _dot_general(node: Node) -> int:
    contracted = math.prod(node.inputs[0].shape[a] for a in node.attrs["lhs_contract"])
    return 2 * contracted * _size(node.types[0])


def _convolution(node: Node) -> int:
    """Each output element takes one multiply-add per weight of its channel."""
    weights = node.inputs[1].tensor
    last = node.attrs["layout"] == "channels_last"
    return 2 * _size(node.types[0]) * (weights.size // weights.dims[-1 if last else 0])


def _window(node: Node) -> int:
    return math.prod(node.attrs["window"]) * _size(node.types[0])


def _attention(node: Node) -> int:
    """Scores and mixing: two matrix products over every (query, key) pair."""
    query, key, value = (v.shape for v in node.inputs[:3])
    pairs = math.prod(query[:-1]) * key[-2]
    return 2 * pairs * (query[-1] + value[-1])


def _recurrence(node: Node) -> int:
    """A recurrent layer: the hidden-to-gates product of each step."""
    steps, batch = node.inputs[0].shape[:2]
    return 2 * steps * batch * node.inputs[1].tensor.size


_RULES: dict[str, Callable[[Node], int]] = {
    "dot_general": _dot_general,
    "convolution": _convolution,
    "reduce_window": _window,
    "average_pool": _window,
    "attention": _attention,
    "lstm_recurrence": _recurrence,
    "gru_recurrence": _recurrence,
}
