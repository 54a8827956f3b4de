"""Algebraic identities on elementwise ops, as a table.

Only identities that hold for every value of the dtype are used: NaN, infinities and the sign of
zero are kept, so `x * 0` and `x + 0.0` stay for floats (`x + -0.0` goes).
"""

from __future__ import annotations

import math

import numpy as np

from tilth.compiler.match import is_elementwise, rebuild, splat_of
from tilth.compiler.ranges import is_positive
from tilth.ir.graph import Node, Value, make_constant
from tilth.ir.ops.helpers import broadcast_to
from tilth.ir.ops.table import op
from tilth.ir.rewrite import COMMUTATIVE, P, Rule, any_, constant, splat
from tilth.ir.types import DType

x, y = any_("x"), any_("y")


def neutral_operand(node: Node) -> Value | None:
    """x + 0, x - 0, x * 1, x / 1, x ** 1, and their like: the other operand."""
    first, second = node.inputs
    orders = [(first, second), (second, first)] if node.op in COMMUTATIVE else [(first, second)]
    for kept, other in orders:
        number = splat_of(other)
        if number is not None and _is_neutral(node.op, number, kept.tensor.dtype):
            return broadcast_to(kept, node.outputs[0].shape)
    return None


def _is_neutral(op_name: str, number: np.ndarray, dtype: DType) -> bool:
    if dtype.kind == "bool":
        return bool(number) == (op_name == "and") and op_name in ("and", "or", "xor")
    match op_name:
        case "add":  # -0.0 + 0.0 is 0.0, so only -0.0 is neutral for floats
            return number == 0 and (not dtype.is_float or math.copysign(1, number) < 0)
        case "subtract":
            return number == 0 and (not dtype.is_float or math.copysign(1, number) > 0)
        case "multiply" | "divide" | "power":
            return bool(number == 1)
        case "or" | "xor" | "shift_left" | "shift_right_arithmetic" | "shift_right_logical":
            return bool(number == 0)
        case "maximum":
            return dtype.is_float and number == -np.inf
        case "minimum":
            return dtype.is_float and number == np.inf
    return False


def absorbing_operand(node: Node) -> Value | None:
    """x * 0 of integers, x and false, x or true: the constant."""
    dtype = node.inputs[0].tensor.dtype
    for value in node.inputs:
        number = splat_of(value)
        if number is None:
            continue
        zero = node.op in ("multiply", "and") and number == 0
        exact = dtype.kind in ("int", "uint", "bool")
        if (zero and exact) or (node.op == "or" and dtype.kind == "bool" and number):
            return broadcast_to(make_constant(number), node.outputs[0].shape)
    return None


def small_power(node: Node, x: Value) -> Value | None:
    """x ** 2 and x ** 3 by multiplication (the cube rounds twice: within 1 ulp)."""
    exponent = splat_of(node.inputs[1])
    if exponent not in (2, 3) or x.shape != node.outputs[0].shape:
        return None
    squared = op.multiply(x, x)
    return squared if exponent == 2 else op.multiply(squared, x)


def quarter_power(node: Node, x: Value) -> Value | None:
    """x ** (k / 4) for positive x, by roots: no logarithm and exponential per element."""
    exponent = splat_of(node.inputs[1])
    if exponent is None or x.shape != node.outputs[0].shape or not is_positive(x):
        return None
    match float(exponent):
        case 0.5:
            return op.sqrt(x)
        case -0.5:
            return op.rsqrt(x)
        case 0.75:
            root = op.sqrt(x)
            return op.multiply(root, op.sqrt(root))
        case -0.75:
            root = op.rsqrt(x)
            return op.multiply(root, op.sqrt(root))
    return None


def negation(node: Node, x: Value) -> Value | None:
    return op.negate(x) if x.shape == node.outputs[0].shape else None


def same_dtype(node: Node, x: Value) -> Value | None:
    return x if x.type == node.types[0] else None


def convert_of_widened(node: Node, x: Value) -> Value | None:
    """Two conversions of which the first loses nothing: one."""
    if _widens(x.tensor.dtype, node.inputs[0].tensor.dtype):
        return op.convert(x, dtype=node.attrs["dtype"])
    return None


def _widens(narrow: DType, wide: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    simple = {"bool", "int", "uint", "float"}
    if not {narrow.kind, wide.kind} <= simple or min(narrow.bits, wide.bits) < 8:
        return False
    return bool(np.can_cast(narrow.numpy, wide.numpy, "safe"))


def known_predicate(node: Node) -> Value | None:
    """select with a constant predicate, or with equal branches."""
    predicate, on_true, on_false = node.inputs
    shape = node.outputs[0].shape
    if on_true == on_false and on_true.shape == shape:
        return on_true
    truth = splat_of(predicate)
    if truth is None:
        return None
    return broadcast_to(on_true if truth else on_false, shape)


def unbounded_clamp(node: Node, x: Value) -> Value | None:
    low, high = splat_of(node.inputs[0]), splat_of(node.inputs[2])
    if low is None or high is None or not x.tensor.dtype.is_float:
        return None
    unbounded = low == -np.inf and high == np.inf
    return broadcast_to(x, node.outputs[0].shape) if unbounded else None


def same_elements(node: Node) -> Value | None:
    """f(x, [c, c, c]) -> f(x, c) where the shape comes from x."""
    shape = node.outputs[0].shape
    for i, value in enumerate(node.inputs if len(node.inputs) > 1 else ()):
        others = [v.shape for v in (*node.inputs[:i], *node.inputs[i + 1 :])]
        if value.tensor.rank and np.broadcast_shapes(*others) == shape:
            element = splat_of(value)
            if element is not None:
                scalar = make_constant(element, value.node.name)
                return rebuild(node, (*node.inputs[:i], scalar, *node.inputs[i + 1 :]))[0]
    return None


_NEUTRAL = (
    *("add", "subtract", "multiply", "divide", "power", "maximum", "minimum"),
    *("and", "or", "xor", "shift_left", "shift_right_arithmetic", "shift_right_logical"),
)

RULES = (
    Rule("neutral operand", _NEUTRAL, neutral_operand),
    Rule("absorbing operand", ("multiply", "and", "or"), absorbing_operand),
    Rule("small powers by products", P.power(x, constant()), small_power),
    Rule("power by roots", P.power(x, constant()), quarter_power),
    Rule("x * -1 -> -x", P.multiply(x, splat(-1)), negation),
    Rule("-(-x) -> x", P.negate(P.negate(x)), lambda x: x),
    Rule("not(not(x)) -> x", P.not_(P.not_(x)), lambda x: x),
    Rule("max(x, x) -> x", P["maximum", "minimum", "and", "or"](x, x), lambda x: x),
    Rule(
        "convert to the same dtype",
        P.convert(x).where(lambda v: v.type == v.node.inputs[0].type),
        lambda x: x,
    ),
    Rule("convert of widened", P.convert(P.convert(x)), convert_of_widened),
    Rule("known predicate", ("select",), known_predicate),
    Rule("unbounded clamp", P.clamp(any_(), x, any_()), unbounded_clamp),
    Rule("constant of same elements", is_elementwise, same_elements),
)
