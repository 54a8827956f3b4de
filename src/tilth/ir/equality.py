"""Structural equality of graphs: the same ops, attributes, types and names in the same places."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilth.ir.graph import Graph, Node, Value


def equal(a: Graph, b: Graph) -> bool:
    """Whether two graphs are the same but for the identity of their nodes (and `notes`)."""
    interfaces_equal = (a.name, a.input_names, a.output_names) == (
        b.name,
        b.input_names,
        b.output_names,
    )
    same_size = len(a.nodes) == len(b.nodes) and len(a.outputs) == len(b.outputs)
    if not (interfaces_equal and same_size):
        return False
    if [v.type for v in a.inputs] != [v.type for v in b.inputs]:
        return False
    same = dict(zip(a.inputs, b.inputs, strict=True))
    for x, y in zip(a.nodes, b.nodes, strict=True):
        if not _nodes_equal(x, y, same):
            return False
        same.update(zip(x.outputs, y.outputs, strict=True))
    return tuple(same[v] for v in a.outputs) == b.outputs


def _nodes_equal(x: Node, y: Node, same: dict[Value, Value]) -> bool:
    return (
        (x.op, x.name, x.source, x.types) == (y.op, y.name, y.source, y.types)
        and tuple(same[v] for v in x.inputs) == y.inputs
        and x.attrs.keys() == y.attrs.keys()
        and all(_attrs_equal(x.attrs[name], y.attrs[name]) for name in x.attrs)
    )


def _attrs_equal(x: Any, y: Any) -> bool:
    """Equal values of one type; NaN equals NaN, and zeros have one sign."""
    if type(x) is not type(y):
        return False
    if isinstance(x, Graph):
        return equal(x, y)
    if isinstance(x, tuple):
        return len(x) == len(y) and all(map(_attrs_equal, x, y))
    if isinstance(x, np.ndarray):
        return arrays_equal(x, y)
    if isinstance(x, float):
        return x.hex() == y.hex()
    return x == y


def arrays_equal(x: np.ndarray, y: np.ndarray) -> bool:
    """The same dtype, shape and bits, where any two NaN count as the same."""
    if x.dtype != y.dtype or x.shape != y.shape:
        return False
    if x.dtype == object:
        return bool((x == y).all())
    if x.tobytes() == y.tobytes():
        return True
    bits = f"u{x.dtype.itemsize}" if x.dtype.kind != "c" else f"u{x.dtype.itemsize // 2}"
    parts = f"f{x.dtype.itemsize // 2}" if x.dtype.kind == "c" else x.dtype
    x, y = np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(y).reshape(-1)
    x_parts, y_parts = x.view(parts), y.view(parts)
    both_nan = (x_parts != x_parts) & (y_parts != y_parts)
    return bool((both_nan | (x.view(bits) == y.view(bits))).all())
