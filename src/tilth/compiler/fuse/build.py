"""Turning clusters into `fusion` nodes, with their bodies in canonical form.

Everything a kernel emitter would have to line up is lined up here: operands are reshaped outside to
the rank of the iteration space, alignment reshapes and broadcasts inside disappear, and one-element
constants move into the body. In a row fusion, values per row have 1 for the reduced axes; in a
reduce fusion they lack them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilth.compiler.fuse.clusters import Cluster
from tilth.compiler.match import is_scalar_constant, rebuild, reshaped
from tilth.ir.graph import Graph, Node, Value, clone, make_input
from tilth.ir.ops.helpers import as_shape
from tilth.ir.ops.table import make, op
from tilth.ir.types import Shape


def build_fusions(graph: Graph, clusters: Sequence[Cluster]) -> Graph:
    """Replace each cluster by one `fusion` node (and free reshapes of its operands)."""
    by_root = {cluster.root: cluster for cluster in clusters}
    inner = {node for cluster in clusters for node in cluster.members} - by_root.keys()
    new: dict[Value, Value] = {v: v for v in graph.inputs}
    for node in graph.nodes:
        if node in by_root:
            new[node.outputs[0]] = _Builder(by_root[node], new).fusion()
        elif node not in inner:
            results = clone(node, tuple(new[v] for v in node.inputs))
            new.update(zip(node.outputs, results, strict=True))
    outputs = tuple(new[v] for v in graph.outputs)
    return Graph(graph.inputs, outputs, graph.output_names, graph.name, graph.notes)


class _Builder:
    def __init__(self, cluster: Cluster, outside: Mapping[Value, Value]) -> None:
        self.cluster = cluster
        self.space = cluster.space
        self._outside = outside
        self._operands: list[Value] = []
        self._parameters: list[Value] = []
        self._by_operand: dict[tuple[Value, Shape], Value] = {}
        self._inside: dict[Value, Value] = {}  # values of members -> values of the body

    def fusion(self) -> Value:
        """The value that replaces the root's."""
        root = self.cluster.root
        if self.cluster.hero is not None:
            self._hero(self.cluster.hero)
        for node in self.cluster.members:
            if node is not self.cluster.hero:
                self._inside[node.outputs[0]] = self._member(node)
        result = self._inside[root.outputs[0]]
        if self.space.axes and result.shape == self.space.kept != self.space.full:
            result = as_shape(result, self.space.reduced)
        body = Graph(tuple(self._parameters), (result,), name=self.cluster.kind)
        named = self.cluster.hero or root
        (value,) = make(
            "fusion",
            *self._operands,
            kind=self.cluster.kind,
            body=body,
            name=named.name or root.name,
            source=named.source or root.source,
        ).outputs
        return as_shape(value, root.outputs[0].shape)

    def _hero(self, hero: Node) -> None:
        parameters = [self._new_parameter(self._outside[v]) for v in hero.inputs]
        (self._inside[hero.outputs[0]],) = rebuild(hero, parameters)

    def _new_parameter(self, operand: Value) -> Value:
        parameter = make_input(operand.type, f"p{len(self._parameters)}")
        self._operands.append(operand)
        self._parameters.append(parameter)
        return parameter

    def _member(self, node: Node) -> Value:
        if node.op == "reduce":
            (x,) = self._operands_of(node, self.space.full)
            (value,) = rebuild(node, (self._expanded(x, self.space.full),))
            return as_shape(value, self._canonical(value.shape))
        if node.op in ("reshape", "broadcast_in_dim"):
            return self._inside[node.inputs[0]]
        shape = self._canonical(node.outputs[0].shape)
        operands = self._operands_of(node, shape)
        (value,) = rebuild(node, operands)
        if value.shape != shape:
            (value,) = rebuild(node, (self._expanded(operands[0], shape), *operands[1:]))
        return value

    def _canonical(self, shape: Shape) -> Shape:
        """The form, in the body, of values of this shape: full, or one per reduction."""
        if shape == self.space.full or not self.space.axes:
            return shape
        return self.space.kept if self.cluster.kind == "row" else self.space.reduced

    def _operands_of(self, node: Node, shape: Shape) -> list[Value]:
        rank = node.inputs[0].tensor.rank if node.op == "reduce" else node.outputs[0].tensor.rank
        return [self._operand(v, rank, shape) for v in node.inputs]

    def _operand(self, value: Value, rank: int, shape: Shape) -> Value:
        """A member's operand: from inside, a scalar constant, or a parameter aligned to `shape`.

        `rank` is that of the space the operand was written for; it may have the reduced axes
        while `shape` has not, or the other way round.
        """
        if value in self._inside:
            return self._inside[value]
        if is_scalar_constant(value):
            return reshaped(value, ())
        aligned = (1,) * (rank - value.tensor.rank) + value.shape
        if len(aligned) > len(shape):
            aligned = tuple(n for d, n in enumerate(aligned) if d not in self.space.axes)
        elif len(aligned) < len(shape):
            sizes = iter(aligned)
            aligned = tuple(1 if d in self.space.axes else next(sizes) for d in range(len(shape)))
        if (value, aligned) not in self._by_operand:
            operand = reshaped(self._outside[value], aligned)
            self._by_operand[value, aligned] = self._new_parameter(operand)
        return self._by_operand[value, aligned]

    @staticmethod
    def _expanded(value: Value, shape: Shape) -> Value:
        if value.shape == shape:
            return value
        dims = tuple(range(len(shape) - value.tensor.rank, len(shape)))
        return op.broadcast_in_dim(value, shape=shape, dims=dims)
