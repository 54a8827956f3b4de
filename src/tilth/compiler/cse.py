"""Common subexpressions: nodes that compute the same from the same operands become one."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from tilth.ir.graph import Graph, Node, Value, clone

_DIGEST_LIMIT = 1 << 16  # bytes; bigger constants are the same only if they are one array


def merge_common_subexpressions(graph: Graph) -> Graph:
    """Keep the first of all nodes with equal op, operands and attributes (names may differ)."""
    first: dict[Hashable, tuple[Value, ...]] = {}

    def visit(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
        key = (node.op, inputs, _attributes_key(node.attrs))
        return first.setdefault(key, clone(node, inputs))

    return graph.map(visit)


def _attributes_key(attrs: Mapping[str, Any]) -> Hashable:
    return tuple((name, _key(attrs[name])) for name in sorted(attrs))


def _key(attribute: Any) -> Hashable:
    if isinstance(attribute, np.ndarray):
        return _array_key(attribute)
    if isinstance(attribute, Graph):
        return id(attribute)
    if isinstance(attribute, float):
        return repr(attribute)  # tells 0.0 from -0.0, and NaN equals itself
    return attribute


def _array_key(array: np.ndarray) -> Hashable:
    if array.nbytes > _DIGEST_LIMIT or array.dtype == object:
        return id(array)
    digest = hashlib.sha256(array.tobytes()).digest()
    return (array.dtype.name, array.shape, digest)
