"""What is known about the values of a tensor's elements, from the ops that made it."""

from __future__ import annotations

from tilth.compiler.match import is_constant
from tilth.ir.graph import Value, constant_of

_DEPTH = 12  # ops looked back; keeps the search small where values are read many times


def is_non_negative(value: Value, depth: int = _DEPTH) -> bool:
    """Whether no element is known to be below zero (NaN aside)."""

    def all_of(*values: Value) -> bool:
        return all(is_non_negative(v, depth - 1) for v in values)

    node = value.node
    if depth == 0 or not value.tensor.dtype.is_float:
        return False  # integers wrap
    match node.op:
        case "constant":
            return _is_above_zero(value, strictly=False)
        case "maximum":
            return any(is_constant(v) and all_of(v) for v in node.inputs)
        case "clamp":
            return is_constant(node.inputs[0]) and all_of(node.inputs[0])
        case "multiply":
            return node.inputs[0] == node.inputs[1] or all_of(*node.inputs)
        case "abs" | "exponential" | "logistic" | "relu":
            return True
        case "reduce_window":
            return node.attrs["kind"] in ("max", "sum") and all_of(*node.inputs)
        case "reshape" | "transpose" | "slice" | "reverse" | "broadcast_in_dim":
            return all_of(*node.inputs)
        case "add" | "divide" | "concatenate":
            return all_of(*node.inputs)
    return False


def is_positive(value: Value) -> bool:
    """Whether every element is known to be above zero (NaN aside)."""
    if value.op == "add":
        x, y = value.node.inputs
        terms = ((x, y), (y, x))
        return any(_is_above_zero(a, strictly=True) and is_non_negative(b) for a, b in terms)
    return _is_above_zero(value, strictly=True)


def _is_above_zero(value: Value, strictly: bool) -> bool:
    array = constant_of(value)
    if array is None or not value.tensor.dtype.is_float:
        return False
    return bool((array > 0).all() if strictly else (array >= 0).all())
