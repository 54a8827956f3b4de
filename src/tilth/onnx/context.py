"""What a handler can ask about the ONNX node it translates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilth.ir.errors import ModelError, UnsupportedError
from tilth.ir.graph import Value, toposort
from tilth.onnx.check import free_names, node_label
from tilth.onnx.scope import Scope
from tilth.onnx.sequences import SequenceValue
from tilth.onnx.tensors import sparse_array, tensor_array

if TYPE_CHECKING:
    from tilth.onnx.load import OnnxModel

# AttributeProto.AttributeType
_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS = range(1, 9)
_SPARSE_TENSOR = 11

_REQUIRED = object()
T = TypeVar("T")


class DataDependentError(UnsupportedError):
    """A value is needed while importing that follows from data.

    `inputs` names the graph inputs it follows from: importing succeeds when their values are given.
    That is worth it only where it is `fixable`: for a parameter, not for a whole computation.
    """

    def __init__(self, message: str, inputs: tuple[str, ...], fixable: bool = True) -> None:
        super().__init__(message)
        self.inputs = inputs
        self.fixable = fixable


def _kind(value: Any) -> str:
    """What an attribute's value is, in words."""
    kinds = ((str, "text"), ((bool, int, float), "a number"), (tuple, "a list"))
    return next((kind for types, kind in kinds if isinstance(value, types)), "a tensor or a graph")


@dataclass(frozen=True, eq=False)
class NodeContext:
    """A node, the version of its operator set, and the scope its names live in."""

    model: OnnxModel
    node: Any
    version: int
    scope: Scope
    evaluate: Callable[[Value], np.ndarray | None]
    import_body: Callable[[Any, Scope, Sequence[Value]], list[Value]]

    @property
    def label(self) -> str:
        return node_label(self.node)

    @property
    def op_type(self) -> str:
        return self.node.op_type

    @property
    def output_count(self) -> int:
        """Outputs listed by the node, named or not."""
        return len(self.node.output)

    def wants(self, index: int) -> bool:
        """Whether the node's `index`-th output has a name, that is, may be used."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def has(self, name: str) -> bool:
        return self._attribute(name) is not None

    def attr(self, name: str, default: Any = _REQUIRED) -> Any:
        """An attribute as int, float, str, tuple or array.

        ModelError if it is required and missing, or of another kind than its default.
        """
        attribute = self._attribute(name)
        if attribute is not None:
            value = self._decode(attribute)
            if default is not _REQUIRED and default is not None and _kind(value) != _kind(default):
                raise ModelError(f"attribute '{name}' must be {_kind(default)}")
            return value
        if default is _REQUIRED:
            raise ModelError(f"attribute '{name}' is required")
        return default

    def attributes(self) -> dict[str, Any]:
        """All attributes of the node."""
        return {a.name: self._decode(a) for a in self.node.attribute}

    def choice(self, name: str, choices: Mapping[str, T], default: str) -> T:
        """What a string attribute stands for; ModelError when it is none of `choices`."""
        given = self.attr(name, default)
        if given not in choices:
            raise ModelError(f"attribute '{name}' is '{given}', not one of {', '.join(choices)}")
        return choices[given]

    def static(self, value: Value, what: str) -> np.ndarray:
        """The array of an operand that must be known while compiling, such as a shape."""
        array = self.evaluate(value)
        if array is None:
            sources = tuple(n.name for n in toposort([value.node]) if n.op == "input")
            raise DataDependentError(
                f"{self.label}: {what} depends on what is fed to {', '.join(sources)}; only "
                f"constants and arithmetic on shapes can be compiled here",
                sources,
            )
        return array

    def ints(self, value: Value, what: str) -> tuple[int, ...]:
        """`static` for a vector of integers (a scalar gives one)."""
        return tuple(int(x) for x in self.static(value, what).reshape(-1))

    def captures(self, *attributes: str) -> dict[str, Value]:
        """Outer values that the sub-graphs in these attributes read; constants need no capture."""
        names = dict.fromkeys(n for a in attributes for n in free_names(self.attr(a)))
        values = {n: self.scope.lookup(n) for n in names}
        if any(isinstance(v, SequenceValue) for v in values.values()):
            raise UnsupportedError(f"{self.label}: a sequence used inside a sub-graph")
        return {n: v for n, v in values.items() if v.op != "constant"}

    def body(
        self,
        attribute: str,
        arguments: Sequence[Value] = (),
        captured: Mapping[str, Value] | None = None,
    ) -> list[Value]:
        """Import a sub-graph on `arguments`; gives its outputs.

        `captured` replaces outer values by name; without it the sub-graph is placed right here.
        """
        inner = self.scope.inner(dict(captured or {}))
        return self.import_body(self.attr(attribute), inner, arguments)

    def _attribute(self, name: str) -> Any:
        return next((a for a in self.node.attribute if a.name == name), None)

    def _decode(self, attribute: Any) -> Any:
        kind = attribute.type
        if kind == _FLOAT:
            return float(attribute.f)
        if kind == _INT:
            return int(attribute.i)
        if kind == _STRING:
            return attribute.s.decode("utf-8", "replace")
        if kind == _TENSOR:
            where = f"{self.label}, attribute '{attribute.name}'"
            return tensor_array(attribute.t, self.model.files, where)
        if kind == _GRAPH:
            return attribute.g
        if kind == _FLOATS:
            return tuple(attribute.floats)
        if kind == _INTS:
            return tuple(attribute.ints)
        if kind == _STRINGS:
            return tuple(s.decode("utf-8", "replace") for s in attribute.strings)
        if kind == _SPARSE_TENSOR:
            return sparse_array(attribute.sparse_tensor, self.model.files)
        raise ModelError(f"attribute '{attribute.name}' has type {kind}, which no operator takes")
