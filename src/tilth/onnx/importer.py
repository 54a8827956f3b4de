"""From a checked model and exact input shapes to an IR graph.

The importer walks the nodes once, in order, and calls a handler for each. It evaluates while it
goes: whatever follows from constants and shapes alone becomes a constant at once, so that shape
arithmetic never enters the graph. Weights are left for the compiler's folding pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import zip_longest
from typing import Any

import numpy as np

from tilth.ir.errors import (
    InputError,
    LimitError,
    ModelError,
    TilthError,
    UnsupportedError,
    VerifyError,
)
from tilth.ir.graph import Graph, Value, constant_of, make_constant, make_input, toposort
from tilth.ir.interpreter import interpret
from tilth.ir.limits import memory_limit, nbytes, require_graph, require_tensor
from tilth.ir.ops.table import provenance
from tilth.ir.types import TensorType
from tilth.ir.work import bounded_work
from tilth.onnx.check import MAX_DEPTH, count_nodes, domain_of, node_label, ordered_nodes
from tilth.onnx.context import NodeContext
from tilth.onnx.load import ModelSource, OnnxModel, load_model
from tilth.onnx.registry import Handler
from tilth.onnx.resolve import ContextFunction, Function, Resolver
from tilth.onnx.scope import Scope
from tilth.onnx.tensors import ELEMENT_TYPES, sparse_array, tensor_array
from tilth.runtime.ports import bind_exactly

# Results up to this many elements are computed while importing when all operands are constants.
_FOLD_LIMIT = 1 << 14
# What building nodes and computing constants may cost (see `limits.cost`): for any model, more for
# each node of the file, and for one node whose result could stay a node.
_WORK_FLOOR = 1 << 30
_WORK_GROWTH = 1 << 19
_FOLD_WORK = 1 << 26
# Nodes after inlining functions and unrolling loops: functions that call functions can grow without
# end. So many for any model, and so many times those in the file.
_NODE_FLOOR = 10_000
_NODE_GROWTH = 16

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def import_graph(
    model: ModelSource,
    shapes: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> Graph:
    """The graph of a model for exact input shapes.

    `shapes` maps input names to shapes; inputs whose declared shape is static may be left out.
    `values` fixes inputs to arrays, so that shapes may depend on them; they stay inputs of the
    graph, which is right for these values only.

    Raises UnsupportedError (one, listing every operator that is missing), DataDependentError (a
    kind of it) when a shape depends on an input's value, InputError when the shapes contradict the
    model's interface or each other, ModelError when the model is broken, LimitError when it asks
    for more memory or work than makes sense.
    """
    return import_values(model, shapes, values)[0]


def import_values(
    model: ModelSource,
    shapes: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
) -> tuple[Graph, dict[str, Value]]:
    """`import_graph`, and what each name in the model's graph stands for (sequences left out)."""
    model = load_model(model)
    resolver = require_supported(model)
    bound = bind_exactly(model.inputs, shapes or {})
    inputs = {p.name: make_input(TensorType(p.dtype, bound[p.name]), p.name) for p in model.inputs}
    known = {name: make_constant(array, name) for name, array in (values or {}).items()}
    for name, value in known.items():
        if value.type != inputs[name].type:
            raise InputError(f"input '{name}' is {inputs[name].type}, its value is {value.type}")
    scope = Scope({**inputs, **known}, model.opsets or {"": 1})
    own = nbytes([v.type for v in inputs.values()]) + weight_bytes(model)
    nodes = count_nodes(model.proto)
    with import_work(nodes):
        importer = Importer(model, resolver, memory_limit(own), nodes)
        outputs = importer.graph_body(model.proto.graph, scope)
    for port, value in zip(model.outputs, outputs, strict=True):
        if not isinstance(value, Value) or value.tensor.dtype != port.dtype:
            raise ModelError(f"output '{port.name}' is declared as {port} but is {value.type}")
    names = tuple(p.name for p in model.outputs)
    graph = Graph(tuple(inputs.values()), tuple(outputs), names, model.proto.graph.name or "main")
    require_graph(graph, importer.memory)
    return graph, {name: v for name, v in scope.values.items() if isinstance(v, Value)}


def require_supported(model: OnnxModel) -> Resolver:
    """The meaning of every node. Raises UnsupportedError for all that has none at once, and for
    inputs and outputs that are no tensors."""
    resolver = Resolver(model)
    resolver.require_supported()
    ends = [("input", p) for p in model.inputs] + [("output", p) for p in model.outputs]
    for kind, port in ends:
        if port.container or port.dtype is None:
            raise UnsupportedError(f"{kind} {port}: only tensors can be compiled")
    return resolver


def import_work(nodes: int) -> AbstractContextManager[None]:
    """Bounds what importing a file of so many nodes may compute."""
    return bounded_work(_WORK_FLOOR + _WORK_GROWTH * nodes)


def weight_bytes(model: OnnxModel) -> int:
    """Bytes of all initialisers of the model's graph."""
    return sum(model.weight(name).nbytes for name in model.weight_names)


class Importer:
    """Walks over nodes and enters what they mean into a scope.

    `memory` are the bytes one tensor may take, `nodes` those of the file.
    """

    def __init__(self, model: OnnxModel, resolver: Resolver, memory: int, nodes: int) -> None:
        model.files.require_unchanged()
        self.model = model
        self.resolver = resolver
        self.memory = memory
        self.nodes_left = _NODE_FLOOR + _NODE_GROWTH * nodes

    def graph_body(self, graph: Any, scope: Scope) -> list[Value]:
        """Import a graph's weights and nodes into `scope`; gives its outputs."""
        top = graph is self.model.proto.graph
        for tensor in graph.initializer:
            array = (
                self.model.weight(tensor.name) if top else tensor_array(tensor, self.model.files)
            )
            scope.values[tensor.name] = make_constant(array, tensor.name)
        for sparse in graph.sparse_initializer:
            name = sparse.values.name
            array = self.model.weight(name) if top else sparse_array(sparse, self.model.files)
            scope.values[name] = make_constant(array, name)
        self.run(graph.node, scope)
        return [scope.lookup(o.name) for o in graph.output]

    def subgraph_body(self, graph: Any, scope: Scope, arguments: Sequence[Value]) -> list[Value]:
        """Import a sub-graph with its inputs bound to `arguments`."""
        if len(arguments) != len(graph.input):
            raise ModelError(
                f"sub-graph '{graph.name}' takes {len(graph.input)} values, gets {len(arguments)}"
            )
        for info, value in zip(graph.input, arguments, strict=True):
            scope.values[info.name] = value
        return self.graph_body(graph, scope)

    def run(self, nodes: Iterable[Any], scope: Scope) -> None:
        """Import nodes into `scope`, producers first."""
        if scope.depth > MAX_DEPTH:
            raise ModelError(f"functions and sub-graphs are nested deeper than {MAX_DEPTH}")
        for node in ordered_nodes(list(nodes)):
            node = with_attributes(node, scope.attributes)
            self.nodes_left -= 1
            if self.nodes_left < 0:
                raise LimitError("functions and loops expand to far more nodes than the file has")
            with provenance(node.name or default_name(node), source_line(node)):
                results = self._results(node, scope)
            for i, name in enumerate(node.output):
                if not name:
                    continue
                if i >= len(results) or results[i] is None:
                    raise UnsupportedError(f"{node_label(node)}: output {i} ('{name}')")
                scope.values[name] = results[i]

    def _results(self, node: Any, scope: Scope) -> Sequence[Value | None]:
        operands = [scope.lookup(n) if n else None for n in node.input]
        meaning = self.meaning(node, operands, scope.opsets)
        if isinstance(meaning, Function):
            return self._call(meaning, node, operands, scope)
        if meaning is None:
            raise UnsupportedError(f"{node_label(node)} is not supported for these operands")
        return self._handle(meaning, node, operands, scope)

    def meaning(
        self, node: Any, operands: Sequence[Value | None], opsets: Mapping[str, int]
    ) -> Handler | Function | None:
        """What stands behind a node with these operands, if anything does."""
        meaning = self.resolver.resolve(node, opsets)
        if isinstance(meaning, ContextFunction):
            return meaning.specialise(node, [type_proto(v) for v in operands], opsets)
        return meaning

    def _handle(
        self, handler: Handler, node: Any, operands: list[Value | None], scope: Scope
    ) -> Sequence[Value | None]:
        """Run a handler; whatever it stumbles over becomes an error that names the node."""
        context = NodeContext(
            self.model, node, scope.opsets[domain_of(node)], scope, static_value, self.subgraph_body
        )
        try:
            handler.signature.bind(context, *operands)
            with np.errstate(all="ignore"):
                results = handler.function(context, *operands)
            results = [results] if isinstance(results, Value) else list(results)
            for value in results:
                if isinstance(value, Value):
                    require_tensor(value.type, self.memory)
        except TilthError as e:
            if isinstance(e, (UnsupportedError, ModelError)) and "node '" in str(e):
                raise
            kind = ModelError if isinstance(e, VerifyError) else type(e)
            raise kind(f"{node_label(node)}: {e}") from e
        except MemoryError as e:
            raise LimitError(f"{node_label(node)} takes more memory than there is: {e}") from e
        except Exception as e:  # handlers rely on operands and attributes that make sense
            given = ", ".join("-" if v is None else str(v.type) for v in operands)
            raise ModelError(f"{node_label(node)} cannot take ({given}): {e}") from e
        return fold(results) if all(_is_small_constant(v) for v in operands) else results

    def _call(
        self, function: Function, node: Any, operands: list[Value | None], scope: Scope
    ) -> list[Value | None]:
        """Inline a function: its formal names are bound to the node's operands."""
        proto = function.proto
        if len(operands) > len(proto.input):
            raise ModelError(
                f"{node_label(node)}: {len(operands)} operands, not {len(proto.input)}"
            )
        attributes = {**function.defaults, **{a.name: a for a in node.attribute}}
        values = dict(zip_longest(proto.input, operands))
        inner = Scope(values, function.opsets, attributes=attributes, depth=scope.depth + 1)
        self.run(proto.node, inner)
        return [inner.values.get(name) for name in proto.output]


def fold(values: Sequence[Value | None]) -> list[Value | None]:
    """Small values that follow from constants alone, as constants; the others unchanged."""
    return [v if v is None or not _is_small(v) else _folded(v) for v in values]


def _folded(value: Value) -> Value:
    if value.op in ("constant", "uniform_dequantize"):  # quantised weights stay what they are
        return value
    try:
        with bounded_work(_FOLD_WORK):
            array = static_value(value)
    except LimitError:
        return value
    return value if array is None else make_constant(array, value.node.name)


def static_value(value: Value) -> np.ndarray | None:
    """The array of a value that follows from constants alone, else None."""
    array = constant_of(value)
    if array is not None:
        return array
    if any(n.op == "input" for n in toposort([value.node])):
        return None
    return interpret(Graph((), (value,)), ())[0]


def _is_small(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.size <= _FOLD_LIMIT


def _is_small_constant(value: Value | None) -> bool:
    return value is None or (_is_small(value) and value.op == "constant")


def with_attributes(node: Any, attributes: Mapping[str, Any]) -> Any:
    """A function's node with references to the function's attributes replaced by their values."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    resolved = type(node)()
    resolved.CopyFrom(node)
    del resolved.attribute[:]
    for attribute in node.attribute:
        value = attributes.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
        if value is not None:
            added = resolved.attribute.add()
            added.CopyFrom(value)
            added.name = attribute.name
    return resolved


def default_name(node: Any) -> str:
    return f"{node.op_type}_{next((o for o in node.output if o), '')}"


def source_line(node: Any) -> str:
    """`file:line` and the code of the innermost frame, where the exporter recorded a trace."""
    trace = next((p.value for p in node.metadata_props if p.key == _STACK_TRACE), "")
    frames = list(_FRAME.finditer(trace))
    if not frames:
        return ""
    code = trace.rstrip().rsplit("\n", 1)[-1].strip()
    return f"{frames[-1]['file']}:{frames[-1]['line']}: {code}"


def type_proto(value: Value | None) -> bytes:
    """A value's type as a serialised TypeProto, for ONNX's own function builders."""
    import onnx

    proto = onnx.TypeProto()
    if value is not None and isinstance(value.type, TensorType):
        number = next(n for n, d in ELEMENT_TYPES.items() if d == value.type.dtype)
        proto.tensor_type.elem_type = number
        proto.tensor_type.shape.SetInParent()
        for size in value.type.dims:
            proto.tensor_type.shape.dim.add().dim_value = size
    return proto.SerializeToString()
