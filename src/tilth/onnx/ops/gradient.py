"""Gradient of ai.onnx.preview.training: derivatives of a value of the same graph."""

from __future__ import annotations

from tilth.ir.errors import UnsupportedError
from tilth.ir.gradient import gradients
from tilth.ir.graph import Node, Value, toposort
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op


@onnx_op("Gradient", domain="ai.onnx.preview.training")
def gradient(cx: NodeContext, *operands: Value) -> list[Value]:
    """The derivatives of the value named `y` by those named `xs`, at the operands' values.

    Operands are the values of `xs`, then of `zs`, which together determine y.
    """
    names = (*cx.attr("xs"), *cx.attr("zs", ()))
    if len(operands) != len(names):
        raise ValueError(f"{len(operands)} operands for xs and zs, which are {', '.join(names)}")
    y = cx.scope.lookup(cx.attr("y"))
    places = [cx.scope.lookup(name) for name in names]
    above = set(toposort([y.node]))
    if lost := [n for n, v in zip(names, places, strict=True) if v.node not in above]:
        raise UnsupportedError(f"{cx.label}: '{cx.attr('y')}' does not follow from '{lost[0]}'")
    moved = _at(y, dict(zip(places, operands, strict=True)))
    return gradients(moved, operands[: len(cx.attr("xs"))])


def _at(y: Value, values: dict[Value, Value]) -> Value:
    """y, computed from other values."""
    new = dict(values)
    for node in toposort([y.node], [v.node for v in values]):
        inputs = tuple(new.get(v, v) for v in node.inputs)
        same = inputs == node.inputs
        moved = node if same else Node(node.op, inputs, node.attrs, node.types, node.name)
        new.update((v, r) for v, r in zip(node.outputs, moved.outputs, strict=True) if v not in new)
    return new[y]
