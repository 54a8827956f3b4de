"""The graph: immutable nodes that refer to each other through typed values.

There is one node type. A node's results are `Value`s; a `Graph` is named inputs and named outputs,
and its nodes are whatever the outputs reach, in a stable topological order, so dead code cannot
exist. Passes never mutate: they build new nodes (see `rewrite`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from tilth.ir.types import TensorType, Type, dtype_of


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Node:
    """One operation: `op` names a row of the op table, `attrs` are its static arguments.

    Identity is equality; `types` are the result types, as computed by the op's `infer` rule.
    `name` and `source` say where the node came from (an ONNX node name, a source line).
    """

    op: str
    inputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    types: tuple[Type, ...]
    name: str = ""
    source: str = ""

    @property
    def outputs(self) -> tuple[Value, ...]:
        if len(self.types) == 1:  # nearly always
            return (Value(self),)
        return tuple(Value(self, i) for i in range(len(self.types)))

    def __repr__(self) -> str:
        return f"<{self.op} {self.name or hex(id(self))} : {', '.join(map(str, self.types))}>"


@dataclass(frozen=True, slots=True)
class Value:
    """The `index`-th result of `node`. Equal when node (by identity) and index are equal."""

    node: Node
    index: int = 0

    @property
    def type(self) -> Type:
        return self.node.types[self.index]

    @property
    def tensor(self) -> TensorType:
        """The type, known to be a tensor."""
        type_ = self.type
        if not isinstance(type_, TensorType):
            raise TypeError(f"{self.node!r} gives {type_}, not a tensor")
        return type_

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.dims

    @property
    def op(self) -> str:
        return self.node.op

    def __repr__(self) -> str:
        return f"{self.node!r}.{self.index}"


def freeze(attrs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes as a read-only mapping; lists become tuples."""

    def deep(x: Any) -> Any:
        if isinstance(x, (list, tuple)):
            return tuple(deep(e) for e in x)
        return x.item() if isinstance(x, np.generic) else x

    return MappingProxyType({k: deep(v) for k, v in attrs.items()})


def make_input(type_: Type, name: str) -> Value:
    """A graph input. Inputs are nodes with op "input" and no operands."""
    return Value(Node("input", (), freeze({}), (type_,), name))


def make_constant(array: Any, name: str = "", strided: bool = False) -> Value:
    """A constant tensor; the array must not be written afterwards.

    It is copied if its elements do not lie in order, unless it may stay `strided`.
    """
    array = np.asarray(array)
    if not strided and not array.flags.c_contiguous:
        array = np.ascontiguousarray(array)
    type_ = TensorType(dtype_of(array.dtype), array.shape)
    return Value(Node("constant", (), MappingProxyType({"value": array}), (type_,), name))


def constant_of(value: Value) -> np.ndarray | None:
    """The array of a constant, or None if `value` is not one."""
    return value.node.attrs["value"] if value.node.op == "constant" else None


@dataclass(frozen=True, eq=False)
class Graph:
    """Named inputs and outputs; nodes are what the outputs need, producers first."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...] = ()
    name: str = "main"
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.output_names:
            names = tuple(f"output{i}" for i in range(len(self.outputs)))
            object.__setattr__(self, "output_names", names)

    def __repr__(self) -> str:
        inputs = ", ".join(str(v.type) for v in self.inputs)
        outputs = ", ".join(str(v.type) for v in self.outputs)
        return f"<graph {self.name}({inputs}) -> ({outputs})>"

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(v.node.name for v in self.inputs)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes except inputs, in topological order (constants included)."""
        return tuple(n for n in toposort(v.node for v in self.outputs) if n.op != "input")

    @cached_property
    def users(self) -> Mapping[Value, tuple[Node, ...]]:
        """The nodes that read each value, in order (a node appears once per read)."""
        users: dict[Value, list[Node]] = defaultdict(list)
        for node in self.nodes:
            for value in node.inputs:
                users[value].append(node)
        return defaultdict(tuple, {v: tuple(ns) for v, ns in users.items()})

    def map(self, fn: Callable[[Node, tuple[Value, ...]], Sequence[Value]]) -> Graph:
        """Rebuild bottom-up: `fn(node, new_inputs)` gives the values that replace the node's.

        `clone(node, new_inputs)` is the identity. Inputs of the graph stay.
        """
        new: dict[Value, Value] = {}
        for node in self.nodes:
            results = fn(node, tuple(new.get(v, v) for v in node.inputs))
            for old, value in zip(node.outputs, results, strict=True):
                new[old] = value
        outputs = tuple(new.get(v, v) for v in self.outputs)
        return Graph(self.inputs, outputs, self.output_names, self.name, self.notes)


def clone(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """The node's results over other inputs of the same types; its own if nothing changed."""
    if inputs == node.inputs:
        return node.outputs
    return Node(node.op, inputs, node.attrs, node.types, node.name, node.source).outputs


def inline(graph: Graph, inputs: Sequence[Value]) -> tuple[Value, ...]:
    """The graph's outputs computed from other values instead of its own inputs."""
    new = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        results = clone(node, tuple(new.get(v, v) for v in node.inputs))
        new.update(zip(node.outputs, results, strict=True))
    return tuple(new[v] for v in graph.outputs)


def toposort(roots: Iterable[Node], known: Collection[Node] = ()) -> list[Node]:
    """Nodes reachable from `roots` without passing `known` ones: operands before users, stable."""
    order: list[Node] = []
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(n, False) for n in reversed(list(roots))]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen and node not in known:
            seen.add(node)
            stack.append((node, True))
            stack.extend((v.node, False) for v in reversed(node.inputs))
    return order
