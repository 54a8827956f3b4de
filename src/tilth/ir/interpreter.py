"""The reference interpreter: runs a graph node by node with NumPy.

It is the specification of the IR. Kernels of every target are tested against it, constant folding
uses it, and the `reference` target is it behind the common interface.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from tilth.ir.errors import InputError, VerifyError
from tilth.ir.graph import Graph, Node, Value, make_input
from tilth.ir.limits import spend
from tilth.ir.ops.table import DECOMPOSE, REFERENCE
from tilth.ir.types import TensorType, Type

Array = np.ndarray


def interpret(graph: Graph, inputs: Sequence[Array] | Mapping[str, Array]) -> list[Array]:
    """Run a graph on arrays of exactly its input types, in order or by name.

    Gives C-contiguous outputs in the graph's order. Raises InputError for wrong inputs, VerifyError
    when a rule gives something else than its node's type.
    """
    values = dict(zip(graph.inputs, _in_order(graph, inputs), strict=True))
    reads = Counter(v for node in graph.nodes for v in node.inputs)
    reads.update(graph.outputs)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = evaluate(node, [values[v] for v in node.inputs])
            values.update(zip(node.outputs, results, strict=True))
            reads.subtract(node.inputs)
            for value in {*node.inputs, *node.outputs}:
                if not reads[value]:
                    del values[value]
    return [np.ascontiguousarray(values[v]).reshape(v.shape) for v in graph.outputs]


def evaluate(node: Node, arrays: Sequence[Array]) -> list[Array]:
    """The results of one node. Raises VerifyError when they are not of its types, LimitError when
    a bound on work is set (see `limits`) and reached."""
    spend(node)
    rule = REFERENCE.get(node.op)
    if rule is None:
        return interpret(decomposition(node), arrays)
    with np.errstate(all="ignore"):
        results = rule(*arrays, **node.attrs)
    results = results if isinstance(results, tuple) else (results,)
    arrays = [np.asarray(r) for r in results]  # NumPy gives scalars for rank 0
    _check_results(node, arrays)
    return arrays


def decomposition(node: Node) -> Graph:
    """A composite node in terms of other ops, as a graph over its operands.

    Equal ops on equal types share one graph. Raises VerifyError when the rule is broken.
    """
    types = tuple(v.type for v in node.inputs)
    key = (node.op, types, tuple(node.attrs.items()))
    shareable = not any(isinstance(v, Array) for v in node.attrs.values())  # arrays have no hash
    graph = _decomposition(*key) if shareable else _decomposition.__wrapped__(*key)
    if tuple(v.type for v in graph.outputs) != node.types:
        raise VerifyError(f"{node!r} decomposes to {graph.outputs}")
    return graph


@lru_cache(maxsize=256)
def _decomposition(
    op_name: str, types: tuple[Type, ...], attrs: tuple[tuple[str, Any], ...]
) -> Graph:
    if op_name not in DECOMPOSE:
        raise VerifyError(f"op '{op_name}' has no reference and no decompose rule")
    inputs = tuple(make_input(t, f"operand{i}") for i, t in enumerate(types))
    results = DECOMPOSE[op_name](*inputs, **dict(attrs))
    outputs = (results,) if isinstance(results, Value) else tuple(results)
    return Graph(inputs, outputs, name=op_name)


def _in_order(graph: Graph, inputs: Sequence[Array] | Mapping[str, Array]) -> list[Array]:
    if isinstance(inputs, Mapping):
        names = set(graph.input_names)
        if names != set(inputs):
            raise InputError(f"inputs are {sorted(names)}, got {sorted(inputs)}")
        inputs = [inputs[name] for name in graph.input_names]
    if len(inputs) != len(graph.inputs):
        raise InputError(f"graph '{graph.name}' has {len(graph.inputs)} inputs, got {len(inputs)}")
    arrays = [np.asarray(x) for x in inputs]
    for value, array in zip(graph.inputs, arrays, strict=True):
        if not _has_type(array, value.type):
            shown = f"{array.dtype}{list(array.shape)}"
            raise InputError(f"input '{value.node.name}' is {value.type}, got {shown}")
    return arrays


def _has_type(array: Array, type_: Type) -> bool:
    return (
        isinstance(type_, TensorType)
        and array.dtype == type_.dtype.numpy
        and array.shape == type_.shape
    )


def _check_results(node: Node, results: list[Array]) -> None:
    if len(results) != len(node.types):
        raise VerifyError(f"{node!r} gave {len(results)} results")
    for result, type_ in zip(results, node.types, strict=True):
        if not _has_type(result, type_):
            shown = f"{result.dtype}{list(result.shape)}"
            raise VerifyError(f"{node!r} gave {shown} instead of {type_}")
