"""Constant folding: nodes whose operands are all constants are computed now, by the interpreter.

Results that would be much bigger than what they are made from (a broadcast, an iota) stay nodes:
as strided views or kernels they cost less than as weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from tilth.compiler.match import is_constant
from tilth.ir.graph import Graph, Node, Value, clone, make_constant
from tilth.ir.interpreter import evaluate, interpret
from tilth.ir.types import TensorType

_ALWAYS = 1 << 20  # bytes: results up to this size are folded
_GROWTH = 4  # bigger ones only up to this many times their operands, as dequantised weights are


def fold_constants(graph: Graph) -> Graph:
    """Replace every node that is computed from constants alone, unless its result explodes."""

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        if node.op == "constant" or not all(map(is_constant, inputs)) or _explodes(node):
            return clone(node, inputs)
        arrays = evaluate(node, [v.node.attrs["value"] for v in inputs])
        name = next((v.node.name for v in inputs if v.node.name), node.name)
        return [make_constant(array, name) for array in arrays]

    return graph.map(visit)


def folded(value: Value) -> Value:
    """A value that a pass built from constants, as one constant."""
    (array,) = interpret(Graph((), (value,)), [])
    return make_constant(array, value.node.name)


def _explodes(node: Node) -> bool:
    sizes = [t.nbytes if isinstance(t, TensorType) else 0 for t in node.types]
    operands = sum(v.tensor.nbytes for v in node.inputs)
    return sum(sizes) > max(_ALWAYS, _GROWTH * operands)
