"""What export rules are written with: names, constants, and nodes of the ONNX graph that is made.

A rule gets a `GraphExporter`, the IR node, and the names of its operands, emits ONNX nodes, and
gives the names of the results; None when ONNX has no such thing, so that the node is exported in
parts if it is a composite. Shapes are exact, so every extent is a constant::

    @exports("reverse")
    def _(e, node, x): ...
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Graph, Node, Value, constant_of
from tilth.ir.interpreter import decomposition
from tilth.ir.ops.table import DECOMPOSE
from tilth.ir.types import DType, TensorType, Type
from tilth.onnx.tensors import ELEMENT_TYPES

Names = str | tuple[str, ...]
Rule = Callable[..., Names | None]
RULES: dict[str, Rule] = {}
NUMBERS = {dtype: number for number, dtype in ELEMENT_TYPES.items()}  # TensorProto.DataType
_STACK_TRACE = "pkg.torch.onnx.stack_trace"  # the key under which PyTorch keeps source lines


def exports(*ops: str) -> Callable[[Rule], Rule]:
    """Register the decorated rule for these ops."""

    def add(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, rule))
        return rule

    return add


@dataclass(eq=False)
class Target:
    """What all graphs of a model share: the opset, the names in use, and the weights."""

    opset: int
    used: set[str] = field(default_factory=set)
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    _by_content: dict[tuple[str, tuple[int, ...], bytes], str] = field(default_factory=dict)
    _by_identity: dict[int, str] = field(default_factory=dict)

    def fresh(self, wanted: str) -> str:
        """A name like `wanted` that nothing has yet."""
        name, count = wanted, 1
        while name in self.used or not name:
            name, count = f"{wanted or 'value'}_{count}", count + 1
        self.used.add(name)
        return name

    def weight(self, array: np.ndarray, wanted: str) -> str:
        """The name of a constant; equal small ones, and one array used twice, share it."""
        if id(array) in self._by_identity:
            return self._by_identity[id(array)]
        small = array.size <= 64 and array.dtype != object
        key = (array.dtype.name, array.shape, array.tobytes() if small else b"")
        if small and key in self._by_content:
            return self._by_content[key]
        name = self.fresh(wanted)
        self.weights[name] = array
        self._by_identity[id(array)] = name
        if small:
            self._by_content[key] = name
        return name


class GraphExporter:
    """Builds one ONNX graph. Bodies of control flow read the names of the graphs around them."""

    def __init__(self, target: Target, known: Mapping[Value, str]) -> None:
        self.target = target
        self.names = dict(known)
        self.nodes: list[Any] = []
        self.infos: list[Any] = []
        self._makers: dict[str, Any] = {}
        self._read_once: set[Value] = set()
        self._origin: Node | None = None

    # For rules

    def op(self, op_type: str, *inputs: str, results: int = 1, **attributes: Any) -> Any:
        """Emit a node; gives the name of its result, or a tuple of names when it has several."""
        import onnx.helper

        base = self._origin.name if self._origin is not None else ""
        outputs = [self.target.fresh(base or op_type) for _ in range(results)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        node = onnx.helper.make_node(op_type, inputs, outputs, outputs[0])
        for key, value in sorted(attributes.items()):
            empty = isinstance(value, (list, tuple)) and not value  # has no type of its own
            kind = onnx.AttributeProto.INTS if empty else None
            node.attribute.append(onnx.helper.make_attribute(key, value, attr_type=kind))
        if self._origin is not None and self._origin.source:
            node.metadata_props.add(key=_STACK_TRACE, value=_trace(self._origin.source))
        self.nodes.append(node)
        self._makers.update(dict.fromkeys(outputs, node))
        return outputs[0] if results == 1 else tuple(outputs)

    def constant(self, array: Any, dtype: DType | None = None) -> str:
        """The name of a constant array."""
        array = np.asarray(array, None if dtype is None else dtype.numpy)
        return self.target.weight(array, "constant")

    def ints(self, values: Sequence[int]) -> str:
        """The name of a constant i64 vector: shapes, axes."""
        return self.constant(np.array(values, np.int64))

    def like(self, number: Any, value: Value) -> str:
        """The name of a scalar constant with the dtype of a value."""
        return self.constant(np.array(number).astype(value.tensor.dtype.numpy))

    def cast(self, x: str, dtype: DType) -> str:
        return self.op("Cast", x, to=NUMBERS[dtype])

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", x, self.ints(shape), allowzero=int(0 in shape) or None)

    def transpose(self, x: str, permutation: Sequence[int]) -> str:
        if list(permutation) == list(range(len(permutation))):
            return x
        return self.op("Transpose", x, perm=list(permutation))

    def add_operand(self, op_type: str, value: Value, operand: str) -> str | None:
        """Give the node that makes `value` one more operand, if nothing else reads that value.

        Gives the value's name; None when it is read elsewhere or made by another operator.
        """
        node = self._makers.get(self.names[value])
        if node is None or node.op_type != op_type or value not in self._read_once:
            return None
        node.input.append(operand)
        return self.names[value]

    def slice(
        self, x: str, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int] = ()
    ) -> str:
        """Slice along the first axes."""
        axes = range(len(starts))
        steps = steps or [1] * len(starts)
        return self.op("Slice", x, *map(self.ints, (starts, ends, axes, steps)))

    def inline(self, graph: Graph, inputs: Sequence[str]) -> tuple[str, ...]:
        """Emit the nodes of a graph over these names; gives its outputs."""
        outer, outer_once = self.names, self._read_once
        reads = Counter([*(v for node in graph.nodes for v in node.inputs), *graph.outputs])
        self._read_once = {v for v, count in reads.items() if count == 1} - {*graph.outputs}
        self.names = {**outer, **dict(zip(graph.inputs, inputs, strict=True))}
        origin = self._origin
        for node in graph.nodes:
            self.node(node)
        outputs = tuple(self.name_of(v) for v in graph.outputs)
        self.names, self._read_once, self._origin = outer, outer_once, origin
        return outputs

    # For the exporter

    def name_of(self, value: Value) -> str:
        """The name of a value; a constant becomes a weight the first time it is read."""
        if value not in self.names:
            array = constant_of(value)
            if array is None:
                raise UnsupportedError(f"{value!r} cannot be exported: it is not in the graph")
            self.names[value] = self.target.weight(array, value.node.name or "constant")
        return self.names[value]

    def node(self, node: Node) -> None:
        """Emit what an IR node means. Raises UnsupportedError."""
        if node.op == "constant":
            return
        inputs = tuple(self.name_of(v) for v in node.inputs)
        before = self._origin
        self._origin = node if node.name or before is None else before  # part of a composite
        results = RULES[node.op](self, node, *inputs) if node.op in RULES else None
        if results is None and node.op in DECOMPOSE:
            results = self.inline(decomposition(node), inputs)
        elif results is None and node.op == "fusion":
            results = self.inline(node.attrs["body"], inputs)
        if results is None:
            raise UnsupportedError(f"node '{node.name}': ONNX has no counterpart of {node!r}")
        self._origin = before
        results = (results,) if isinstance(results, str) else results
        for value, name in zip(node.outputs, results, strict=True):
            self.names[value] = name
            if name not in self.target.weights:
                self.infos.append(info(name, value.type))

    def proto(self, name: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """The GraphProto of all that was emitted."""
        import onnx.helper

        ends = {i.name for i in (*inputs, *outputs)}
        infos = {i.name: i for i in self.infos if i.name not in ends}
        return onnx.helper.make_graph(
            self.nodes, name, inputs, outputs, value_info=list(infos.values())
        )


def info(name: str, type_: Type) -> Any:
    """A ValueInfoProto."""
    import onnx.helper

    if not isinstance(type_, TensorType):
        raise UnsupportedError(f"'{name}' is {type_}; only tensors can be exported")
    return onnx.helper.make_tensor_value_info(name, NUMBERS[type_.dtype], type_.dims)


def _trace(source: str) -> str:
    """A source line in the form in which PyTorch writes it."""
    place, _, code = source.partition(": ")
    file, _, line = place.rpartition(":")
    return f'File "{file}", line {line}\n    {code}'
