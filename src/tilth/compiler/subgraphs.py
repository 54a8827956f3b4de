"""The graphs inside control flow: finding them, rewriting them, and giving them their constants.

Sub-graphs see only what is passed to them. What is passed and known is better inside, where it can
be folded and packed like any weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from tilth.compiler.match import is_constant
from tilth.ir.graph import Graph, Node, Value, clone, freeze, inline
from tilth.ir.ops.table import has_tag, make


def subgraphs(node: Node) -> tuple[Graph, ...]:
    """The branches of an `if`, condition and body of a `while`, the body of a `scan`."""
    if not has_tag(node.op, "control"):
        return ()
    return tuple(graph for graph in node.attrs.values() if isinstance(graph, Graph))


def map_subgraphs(graph: Graph, fn: Callable[[Graph], Graph]) -> Graph:
    """Replace each sub-graph by one with the same signature."""

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        if not subgraphs(node):
            return clone(node, inputs)
        attrs = {k: fn(v) if isinstance(v, Graph) else v for k, v in node.attrs.items()}
        return replace(node, inputs=inputs, attrs=freeze(attrs)).outputs

    return graph.map(visit)


def sink_constants(graph: Graph) -> Graph:
    """Constant captures, and constant states that a loop leaves alone, move into sub-graphs."""

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        match node.op:
            case "if":
                known = [i for i, v in enumerate(inputs) if i and is_constant(v)]
                dropped: Collection[int] = ()
            case "while" | "scan":
                body, carries = node.attrs["body"], node.attrs.get("carries", len(inputs))
                pairs = list(zip(body.inputs, body.outputs, strict=False))[:carries]
                unchanged = (i for i, (before, after) in enumerate(pairs) if before == after)
                dropped = known = [i for i in unchanged if is_constant(inputs[i])]
            case _:
                known = []
        return _sunk(node, inputs, known, dropped) if known else clone(node, inputs)

    return graph.map(visit)


def _sunk(
    node: Node, inputs: Sequence[Value], known: Collection[int], dropped: Collection[int]
) -> list[Value]:
    """The node without its known operands, and without the results `dropped`, which equal them."""
    first = 1 if node.op == "if" else 0  # operand of the sub-graphs' first input
    attrs = dict(node.attrs)
    for name, graph in node.attrs.items():
        if not isinstance(graph, Graph):
            continue
        values = [inputs[i] if i in known else v for i, v in enumerate(graph.inputs, first)]
        kept = tuple(v for i, v in enumerate(graph.inputs, first) if i not in known)
        outputs = inline(graph, values)
        if name == "body":
            outputs = tuple(v for i, v in enumerate(outputs) if i not in dropped)
        attrs[name] = Graph(kept, outputs, name=graph.name)
    if node.op == "scan":
        attrs["carries"] -= len(known)
    operands = [v for i, v in enumerate(inputs) if i not in known]
    made = make(node.op, *operands, name=node.name, source=node.source, **attrs)
    results = iter(made.outputs)
    return [inputs[i] if i in dropped else next(results) for i in range(len(node.types))]
