"""Constant folding: nodes whose operands are all constants are computed now, by the interpreter.

Results that would be much bigger than what they are made from (a broadcast, an iota) stay nodes:
as strided views or kernels they cost less than as weights. So do loops of unknown length, and what
is left when a model's constants would grow, or take longer to compute, out of all proportion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tilth.compiler.match import is_constant
from tilth.ir.graph import Graph, Node, Value, clone, constant_of, make_constant
from tilth.ir.interpreter import evaluate, interpret
from tilth.ir.limits import cost, nbytes

_IN_ORDER = 1 << 16  # bytes: larger constants are not copied to transpose them, packing reads any
_ALWAYS = 1 << 20  # bytes: results up to this size are folded
_GROWTH = 4  # bigger ones only up to this many times their operands, as dequantised weights are
_ADDED = 1 << 28  # bytes by which folding may make the constants of a graph bigger in all
_KEPT = ("uniform_dequantize",)  # targets that multiply integers want them; others decompose it
_WIDENING = ("convert", "uniform_dequantize")  # as many elements as before: not counted there
_WORK = 1 << 30  # see `limits.cost`: a second or two, and as much again for ...
_WORK_PER_ELEMENT = 32  # ... each element of the graph's constants


def fold_constants(graph: Graph) -> Graph:
    """Replace every node that is computed from constants alone, unless its result explodes."""
    budget = _Budget(_ADDED, _WORK + _WORK_PER_ELEMENT * _elements(graph))

    def visit(node: Node, inputs: tuple[Value, ...]) -> Sequence[Value]:
        known = all(map(is_constant, inputs)) and node.op not in ("constant", *_KEPT)
        if not known or not budget.allows(node):
            return clone(node, inputs)
        arrays = evaluate(node, [v.node.attrs["value"] for v in inputs])
        name = next((v.node.name for v in inputs if v.node.name), node.name)
        strided = node.op == "transpose" and node.inputs[0].tensor.nbytes > _IN_ORDER
        return [make_constant(array, name, strided) for array in arrays]

    return graph.map(visit)


def folded(value: Value) -> Value:
    """A value that a pass built from constants, as one constant."""
    (array,) = interpret(Graph((), (value,)), [])
    return make_constant(array, value.node.name)


@dataclass(slots=True)
class _Budget:
    """What folding a graph may still cost, in bytes and in operations."""

    added: int
    work: float

    def allows(self, node: Node) -> bool:
        """Whether a node can be folded; what it costs is then taken off."""
        results, operands = nbytes(node.types), nbytes([v.type for v in set(node.inputs)])
        added = 0 if node.op in _WIDENING else max(0, results - operands)
        work = _work(node)
        explodes = results > max(_ALWAYS, _GROWTH * operands)
        if explodes or added > self.added or work > self.work:
            return False
        self.added -= added
        self.work -= work
        return True


def _work(node: Node) -> float:
    """Operations of interpreting a node, loops included; infinite where their length is unknown."""
    bodies = [a for a in node.attrs.values() if isinstance(a, Graph)]
    trips = node.inputs[node.attrs["carries"]].shape[0] if node.op == "scan" else 1
    if node.op == "while":
        return math.inf
    return cost(node) + trips * sum(_work(n) for body in bodies for n in body.nodes)


def _elements(graph: Graph) -> int:
    arrays = (constant_of(v) for node in graph.nodes for v in node.outputs)
    return sum(a.size for a in arrays if a is not None)
