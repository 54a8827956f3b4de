"""Which fusions are attention: a softmax of rows between two products, read by nobody else.

The three become one fusion of kind `attention` (see `kernels.attention`). Whether it pays to
compute it as one depends on where its operands lie, so that is asked when it is planned.
"""

from __future__ import annotations

from tilth.cpu.kernels.stages import reduced_axes
from tilth.ir.graph import Graph, Node, Value, clone, make_input
from tilth.ir.ops.table import make
from tilth.ir.types import f32


def join_attention(graph: Graph) -> Graph:
    """The graph with one fusion of kind `attention` in place of the members of each."""
    found = {node: scores for node in graph.nodes if (scores := _scores(graph, node)) is not None}

    def rebuilt(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        results = clone(node, inputs)
        return _joined(found[node], node, results[0].node) if node in found else results

    return graph.map(rebuilt) if found else graph


def _scores(graph: Graph, values: Node) -> int | None:
    """Which operand of the softmax are the scores, if `values` is the last member of attention."""
    if not _is_product(values):
        return None
    shares = _operand(values, 0)
    softmax = shares.node
    rank = shares.tensor.rank
    if not _is_fusion(softmax, "row") or reduced_axes(softmax.attrs["body"]) != (rank - 1,):
        return None
    found = [i for i, v in enumerate(softmax.inputs) if _is_product(v.node)]
    if len(found) != 1 or softmax.inputs[found[0]].shape != shares.shape:
        return None
    scores = softmax.inputs[found[0]]
    alone = all(len(graph.users[v]) == 1 and v not in graph.outputs for v in (shares, scores))
    once = values.inputs.count(shares) == 1 and softmax.inputs.count(scores) == 1
    in_f32 = {v.tensor.dtype for v in (shares, scores)} == {f32}
    return found[0] if alone and once and in_f32 else None


def _is_fusion(node: Node, kind: str) -> bool:
    return node.op == "fusion" and node.attrs["kind"] == kind and len(node.outputs) == 1


def _is_product(node: Node) -> bool:
    """Is it a matrix product of rows, with all other dimensions as a batch?"""
    if not _is_fusion(node, "contraction"):
        return False
    body = node.attrs["body"]
    heroes = [n for n in body.nodes if n.op == "dot_general"]
    if not heroes or heroes[0].outputs[0].shape != node.outputs[0].shape:
        return False
    leading = tuple(range(node.outputs[0].tensor.rank - 2))
    attrs = heroes[0].attrs
    return (attrs["lhs_batch"], attrs["rhs_batch"]) == (leading, leading)


def _operand(product: Node, side: int) -> Value:
    """What the product multiplies from this side."""
    body = product.attrs["body"]
    (hero,) = (n for n in body.nodes if n.op == "dot_general")
    return product.inputs[body.inputs.index(hero.inputs[side])]


def _joined(place: int, values: Node, end: Node) -> tuple[Value, ...]:
    """The members as one node; `end` is the last of them, over new operands."""
    operands: list[Value] = []
    parameters: list[Value] = []

    def member(node: Node, inner: int | None = None, given: Value | None = None) -> Value:
        inputs = list(node.inputs)
        for i, value in enumerate(inputs):
            if i == inner and given is not None:
                inputs[i] = given
                continue
            operands.append(value)
            parameters.append(make_input(value.type, f"p{len(parameters)}"))
            inputs[i] = parameters[-1]
        return clone(node, tuple(inputs))[0]

    shares = values.inputs.index(_operand(values, 0))
    softmax = end.inputs[shares].node
    result = member(softmax.inputs[place].node)
    result = member(softmax, place, result)
    result = member(end, shares, result)
    body = Graph(tuple(parameters), (result,), name="attention")
    names = {"name": softmax.name, "source": softmax.source}
    return make("fusion", *operands, kind="attention", body=body, **names).outputs
