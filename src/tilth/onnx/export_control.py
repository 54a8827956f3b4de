"""Control flow as ONNX: If, Loop and Scan, whose bodies read outer values by their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilth.ir.graph import Graph, Node
from tilth.ir.types import TensorType, bool_, i64
from tilth.onnx.export_core import GraphExporter, Names, exports, info


@exports("if")
def _(e: GraphExporter, node: Node, pred: str, *captures: str) -> Names:
    branches = {}
    for name in ("then", "else"):
        graph = node.attrs[name]
        branches[f"{name}_branch"] = _branch(e, graph, captures, name)
    return e.op("If", pred, results=len(node.types), **branches)


def _branch(e: GraphExporter, graph: Graph, captures: Sequence[str], name: str) -> Any:
    """A branch as a GraphProto without inputs: it reads the captures by their outer names."""
    inner = GraphExporter(e.target, {})
    results = [inner.op("Identity", n) for n in inner.inline(graph, captures)]
    outputs = [info(n, v.type) for n, v in zip(results, graph.outputs, strict=True)]
    return inner.proto(name, [], outputs)


@exports("while")
def _(e: GraphExporter, node: Node, *state: str) -> Names:
    """A Loop: its condition is computed before it, and again at the end of each step."""
    cond, body = node.attrs["cond"], node.attrs["body"]
    (going,) = e.inline(cond, state)
    proto = _body(e, body, before=_STEP, cond=cond)
    return e.op("Loop", "", going, *state, results=len(node.types), body=proto)


@exports("scan")
def _(e: GraphExporter, node: Node, *operands: str) -> Names:
    body, carries, back = (node.attrs[k] for k in ("body", "carries", "reverse"))
    sequences, stacked = len(operands) - carries, len(node.types) - carries
    return e.op(
        "Scan", *operands, results=len(node.types), body=_body(e, body), num_scan_inputs=sequences,
        scan_input_directions=[1] * sequences if back else None,
        scan_output_directions=[1] * stacked if back and stacked else None,
    )  # fmt: skip


_STEP = (("step", TensorType(i64, ())), ("going", TensorType(bool_, ())))


def _body(
    e: GraphExporter,
    body: Graph,
    before: Sequence[tuple[str, TensorType]] = (),
    cond: Graph | None = None,
) -> Any:
    """The body of a loop as a GraphProto.

    `before` are inputs that ONNX passes first and the body does not read; `cond` on the body's
    results is its first output.
    """
    unread = [info(e.target.fresh(name), type_) for name, type_ in before]
    names = [e.target.fresh(v.node.name or "state") for v in body.inputs]
    inner = GraphExporter(e.target, {})
    results = inner.inline(body, names)
    values = list(body.outputs)
    if cond is not None:
        results = (*inner.inline(cond, results), *results)
        values = [*cond.outputs, *values]
    made = [inner.op("Identity", n) for n in results]
    inputs = [info(n, v.type) for n, v in zip(names, body.inputs, strict=True)]
    outputs = [info(n, v.type) for n, v in zip(made, values, strict=True)]
    return inner.proto("body", [*unread, *inputs], outputs)
