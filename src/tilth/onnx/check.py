"""Structure checks on a model proto: versions, opset imports, names, order.

Every value must be defined exactly once per graph and before it is needed; nodes that are merely
listed out of order are put in order. Nothing here recurses deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tilth.ir.errors import ModelError

NEWEST_IR = 14
MAX_DEPTH = 64  # sub-graphs within sub-graphs; real models stay below 10
_FIRST_IR_WITH_OPSETS = 3


def opset_imports(proto: Any) -> dict[str, int]:
    """Domain to version of a ModelProto or FunctionProto; "ai.onnx" is written ""."""
    return {domain_of(o): o.version for o in proto.opset_import}


def domain_of(item: Any) -> str:
    """The domain of a node, function or opset import; the standard one is ""."""
    return "" if item.domain == "ai.onnx" else item.domain


def node_label(node: Any) -> str:
    """How messages name a node."""
    name = node.name or next((f"-> {o}" for o in node.output if o), "")
    domain = f"{domain_of(node)}::" if domain_of(node) else ""
    return f"node '{name}' ({domain}{node.op_type})"


def subgraphs(node: Any) -> Iterator[Any]:
    """The GraphProtos among a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def count_nodes(proto: Any) -> int:
    """Nodes of a ModelProto: of its graph and its functions, and of graphs inside nodes."""
    return count_body_nodes(proto.graph, *proto.functions)


def count_body_nodes(*bodies: Any) -> int:
    """Nodes of graphs and functions, and of graphs inside these nodes."""
    waiting, count = list(bodies), 0
    while waiting:
        nodes = waiting.pop().node
        count += len(nodes)
        waiting += [graph for node in nodes for graph in subgraphs(node)]
    return count


def free_names(graph: Any) -> list[str]:
    """Names a sub-graph reads from outside, in order of first use."""
    own = _definitions(graph)
    reads = [n for node in graph.node for n in node_reads(node)]
    reads += [o.name for o in graph.output]
    return list(dict.fromkeys(n for n in reads if n not in own))


def node_reads(node: Any) -> Iterator[str]:
    """Names a node needs: its operands, what its sub-graphs capture, and what it derives."""
    yield from (n for n in node.input if n)
    if node.op_type == "Gradient":  # names values of the graph in its attributes
        yield from (a.s.decode("utf-8", "replace") for a in node.attribute if a.name == "y")
    for graph in subgraphs(node):
        yield from free_names(graph)


def ordered_nodes(nodes: Sequence[Any]) -> list[Any]:
    """The nodes, producers first, otherwise in the given order. ModelError on a cycle."""
    return _ordered(nodes, [list(node_reads(node)) for node in nodes])


def _ordered(nodes: Sequence[Any], reads: Sequence[Iterable[str]]) -> list[Any]:
    producer = {o: i for i, node in enumerate(nodes) for o in node.output if o}
    needs = [{producer[n] for n in names if n in producer} for names in reads]
    if all(max(need, default=-1) < i for i, need in enumerate(needs)):
        return list(nodes)
    users: list[list[int]] = [[] for _ in nodes]
    for i, need in enumerate(needs):
        for j in need:
            users[j].append(i)
    waiting = [len(need) for need in needs]
    ready = [i for i, n in enumerate(waiting) if n == 0]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for user in users[i]:
            waiting[user] -= 1
            if waiting[user] == 0:
                heapq.heappush(ready, user)
    if len(order) < len(nodes):
        stuck = [node_label(nodes[i]) for i, n in enumerate(waiting) if n]
        raise ModelError(f"the graph has a cycle; it goes through some of: {_some(stuck)}")
    return order


def check_model(proto: Any) -> None:
    """Raise ModelError for the first structural fault of a ModelProto."""
    if not proto.HasField("graph"):
        raise ModelError("not an ONNX model: it has no graph; the file may be of another format")
    if proto.ir_version > NEWEST_IR:
        raise ModelError(
            f"the model has IR version {proto.ir_version}; the newest known here is {NEWEST_IR}"
        )
    for name, version in opset_imports(proto).items():
        _check_version(name, version)
    if not proto.opset_import and proto.ir_version >= _FIRST_IR_WITH_OPSETS:
        raise ModelError("the model imports no operator set (opset_import is empty)")
    seen = set()
    for function in proto.functions:
        key = (domain_of(function), function.name, function.overload)
        if key in seen:
            raise ModelError(f"function '{function.name}' is defined twice")
        seen.add(key)
        for name, version in opset_imports(function).items():
            _check_version(name, version)
        names = set(function.input)
        _check_body(function.node, names, function.output, (), f"function '{function.name}'", 0)
    _check_graph(proto.graph, (), "the graph", 0)


def _check_version(domain: str, version: int) -> None:
    if not 0 < version < 2**31:
        raise ModelError(f"version {version} of operator set '{domain or 'ai.onnx'}' is impossible")


def _check_graph(graph: Any, outer: tuple[set[str], ...], where: str, depth: int) -> list[str]:
    """Check a graph and all below it; gives the names it reads from outside."""
    if depth > MAX_DEPTH:
        raise ModelError(f"{where}: sub-graphs are nested deeper than {MAX_DEPTH}")
    inputs = [v.name for v in graph.input]
    weights = [t.name for t in graph.initializer]
    weights += [t.values.name for t in graph.sparse_initializer]
    for kind, names in (("input", inputs), ("initialiser", weights)):
        check_text(names, where)
        if twice := _duplicate(names):
            raise ModelError(f"{where}: {kind} '{twice}' is defined twice")
    outputs = [v.name for v in graph.output]
    if depth == 0 and (twice := _duplicate(outputs)):
        raise ModelError(f"{where}: output '{twice}' is listed twice")
    return _check_body(graph.node, {*inputs, *weights}, outputs, outer, where, depth)


def _check_body(
    nodes: Sequence[Any],
    defined: set[str],
    outputs: Sequence[str],
    outer: tuple[set[str], ...],
    where: str,
    depth: int,
) -> list[str]:
    """One level of nodes: single definitions, no dangling reads, an order; then their bodies."""
    names = set(defined)
    for node in nodes:
        check_text((node.op_type, node.domain, node.name, *node.input, *node.output), where)
        for output in node.output:
            if output in names:
                raise ModelError(f"{where}: {node_label(node)} defines '{output}' a second time")
            if output:
                names.add(output)
    visible = (names, *outer)

    def known(name: str) -> bool:
        return any(name in scope for scope in visible)

    reads = [[n for n in node.input if n] for node in nodes]
    for node, own in zip(nodes, reads, strict=True):
        for name in own:
            if not known(name):
                raise ModelError(f"{where}: {node_label(node)} reads '{name}', which nothing makes")
        for graph in subgraphs(node):
            place = f"{node_label(node)}, sub-graph '{graph.name}'"
            own += _check_graph(graph, visible, place, depth + 1)
    for name in outputs:
        if not known(name):
            raise ModelError(f"{where}: output '{name}' is made by nothing")
    _ordered(nodes, reads)
    all_reads = dict.fromkeys([*(n for own in reads for n in own), *outputs])
    return [n for n in all_reads if n not in names]


def check_text(texts: Iterable[Any], where: str) -> None:
    """Names must be text: protobuf hands over as bytes what is not valid UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"{where}: the name {text!r} is not valid UTF-8")


def _definitions(graph: Any) -> set[str]:
    return {
        *(v.name for v in graph.input),
        *(t.name for t in graph.initializer),
        *(t.values.name for t in graph.sparse_initializer),
        *(o for node in graph.node for o in node.output),
    }


def _duplicate(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _some(items: Sequence[str], most: int = 5) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
