"""Dense layers that read the same value become one wider layer, followed by slices.

The query, key and value projections of attention are the case in mind: one pass over the input,
one kernel with more columns to share out. Slices of the result are strided views. A bias is merged
along; a layer with more elementwise ops behind it is left alone, for they fuse with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from tilth.compiler.match import is_constant, is_elementwise
from tilth.ir.graph import Graph, Node, Value, clone
from tilth.ir.ops.helpers import broadcast_to, split
from tilth.ir.ops.table import make, op


@dataclass(frozen=True)
class _Layer:
    """x @ weights, weights [K, N] or [N, K], and the bias addition behind it if there is one."""

    dot: Node
    bias: Value | None
    result: Value

    @property
    def columns(self) -> int:
        return self.result.shape[-1]


def merge_dots(graph: Graph) -> Graph:
    """Merge layers with the same input, contraction and kind of bias."""
    siblings: dict[Hashable, list[_Layer]] = defaultdict(list)
    for node in graph.nodes:
        layer = _layer(node, graph)
        if layer is not None:
            kind = node.attrs["rhs_contract"], node.attrs["dtype"], layer.bias is None
            siblings[node.inputs[0], kind].append(layer)
    layers_of = {
        layer.result: layers for layers in siblings.values() if len(layers) > 1 for layer in layers
    }
    new_lhs: dict[Value, Value] = {}
    merged: dict[Value, Value] = {}

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        if node.op == "dot_general":
            new_lhs[node.inputs[0]] = inputs[0]
        if len(node.types) != 1 or node.outputs[0] not in layers_of:
            return clone(node, inputs)
        (result,) = node.outputs
        if result not in merged:
            layers = layers_of[result]
            parts = _merge(new_lhs[layers[0].dot.inputs[0]], layers)
            merged.update(zip((layer.result for layer in layers), parts, strict=True))
        return (merged[result],)

    return graph.map(visit)


def _layer(node: Node, graph: Graph) -> _Layer | None:
    """The dense layer that a dot_general starts; None if it is something else."""
    if node.op != "dot_general" or not is_constant(node.inputs[1]):
        return None
    lhs, weights = node.inputs
    last = (lhs.tensor.rank - 1,)
    if weights.tensor.rank != 2 or node.attrs["lhs_batch"] or node.attrs["lhs_contract"] != last:
        return None
    (y,) = node.outputs
    layer = _Layer(node, None, y)
    users = graph.users[y]
    if len(users) == 1 and users[0].op == "add" and y not in graph.outputs:
        bias = next((v for v in users[0].inputs if v != y), y)
        if is_constant(bias) and bias.tensor.rank <= 1:
            layer = _Layer(node, bias, users[0].outputs[0])
    has_epilogue = any(is_elementwise(user) for user in graph.users[layer.result])
    return None if has_epilogue else layer


def _merge(lhs: Value, layers: Sequence[_Layer]) -> tuple[Value, ...]:
    first = layers[0].dot
    columns = 1 - first.attrs["rhs_contract"][0]
    weights = op.concatenate(*(layer.dot.inputs[1] for layer in layers), axis=columns)
    name = "+".join(layer.dot.name for layer in layers)
    (y,) = make(first.op, lhs, weights, name=name, source=first.source, **first.attrs).outputs
    sizes = [layer.columns for layer in layers]
    biases = [
        broadcast_to(layer.bias, (layer.columns,)) for layer in layers if layer.bias is not None
    ]
    if biases:
        y = op.add(y, op.concatenate(*biases, axis=0), name=name)
    return split(y, sizes, y.tensor.rank - 1)
