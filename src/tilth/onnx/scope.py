"""The names in sight while a graph is imported: ONNX looks them up from the inside out.

A function sees nothing of its caller but its operands and attributes; a sub-graph of a node sees
the graph around it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tilth.ir.errors import ModelError
from tilth.ir.graph import Value


@dataclass(frozen=True)
class Scope:
    """Names in sight: the values of one graph or function, and the scope around a sub-graph.

    `attributes` are those a function was called with. A function's parameter is None where the
    caller left it out; a sequence is a SequenceValue.
    """

    values: dict[str, Any]
    opsets: Mapping[str, int]
    parent: Scope | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    depth: int = 0

    def lookup(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        raise ModelError(f"'{name}' is used before it is made")

    def inner(self, values: dict[str, Value]) -> Scope:
        return Scope(values, self.opsets, self, self.attributes, self.depth + 1)
