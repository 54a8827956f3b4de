"""Elementwise operations of a fusion body, evaluated at one vector position.

A kernel loads (or accumulates) the leaves it has at hand, calls `evaluate`, and stores the results.
Small floats are computed in f32 and rounded where they are stored or explicitly converted; integer
division never traps and no conversion is undefined. Source of the meaning: the StableHLO spec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llvmlite.ir as ll
import numpy as np

from tilth.cpu import vmath
from tilth.cpu.access import (
    is_packed_integer,
    is_small_float,
    memory_type,
    register_type,
    to_memory,
    to_register,
    wrapped,
)
from tilth.cpu.emit import F32, F64, I32, Emitter, Val, element, vector, width
from tilth.ir.errors import CompileError
from tilth.ir.graph import Node, Value, constant_of
from tilth.ir.types import DType, f32

Rule = Callable[..., Val]
IDENTITY = frozenset({"reshape", "broadcast_in_dim"})  # on aligned operands nothing moves


def evaluate(e: Emitter, outputs: Sequence[Value], values: dict[Value, Val], n: int) -> list[Val]:
    """The register values of `outputs`, `n` lanes each.

    `values` holds the leaves (body inputs, a hero's result, finished reductions), `n` lanes each;
    everything computed on the way is added to it. Raises CompileError for an op that is not
    elementwise.
    """

    def visit(value: Value) -> Val:
        if value not in values:
            args = [visit(v) for v in value.node.inputs]
            values[value] = _apply(e, value.node, args, n)
        return values[value]

    return [visit(v) for v in outputs]


def is_elementwise(op: str) -> bool:
    """Can `evaluate` compute this op?"""
    return op in IDENTITY or op == "constant" or op in _RULES


def unsupported_dtype(node: Node) -> str | None:
    """Why no register holds an operand or result of this node; None if all are fine."""
    for type_ in (*(v.type for v in node.inputs), *node.types):
        try:
            register_type(type_.dtype)  # type: ignore[union-attr]
        except (CompileError, AttributeError):
            return f"no machine type for {type_}"
    return None


def constant(e: Emitter, dtype: DType, value: float | int | bool, n: int) -> Val:
    """`n` lanes of one value of an IR dtype, in register form."""
    number = float(value) if dtype.is_float else int(value)
    return e.const(register_type(dtype, n), number)


def combine(e: Emitter, kind: str, dtype: DType, x: Val, y: Val) -> Val:
    """One step of a reduction: `kind` is sum, product, max, min, and, or."""
    op = {"sum": "add", "product": "multiply", "max": "maximum", "min": "minimum"}.get(kind, kind)
    return _BINARY[op](e, dtype, x, y)


def identity_of(kind: str, dtype: DType) -> float | int:
    """The value that leaves every other unchanged under `combine`."""
    if kind in ("sum", "or"):
        return 0
    if kind == "product":
        return 1
    if kind == "and":
        return 1 if dtype.kind == "bool" else -1
    if dtype.is_float:
        return float("-inf") if kind == "max" else float("inf")
    signed, bits = dtype.kind == "int", 1 if dtype.kind == "bool" else dtype.bits
    lowest, highest = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return lowest if kind == "max" else highest


def convert(e: Emitter, x: Val, source: DType, target: DType) -> Val:
    """StableHLO `convert` on register values; out-of-range floats saturate to integers."""
    n = width(x.type)
    type_ = register_type(target, n)
    if source == target:
        return x
    if target.kind == "bool":
        zero = e.const(x.type, 0)
        compare = e.b.fcmp_unordered if source.is_float else e.b.icmp_unsigned
        return compare("!=", x, zero)
    if source.is_float and target.is_float:
        return _round_to(e, _resize_float(e, x, type_), target)
    if source.is_float:
        return _float_to_integer(e, x, target)
    if target.is_float:
        signed = source.kind == "int"
        return _round_to(e, (e.b.sitofp if signed else e.b.uitofp)(x, type_), target)
    if element(type_).width <= element(x.type).width:
        return wrapped(e, e.b.trunc(x, type_) if type_ != x.type else x, target)
    return (e.b.sext if source.kind == "int" else e.b.zext)(x, type_)


def _apply(e: Emitter, node: Node, args: list[Val], n: int) -> Val:
    if node.op == "constant":
        array = constant_of(node.outputs[0])
        assert array is not None
        if array.size != 1:
            raise CompileError(f"{node!r}: only scalar constants may stand inside a fusion")
        return constant(e, node.outputs[0].tensor.dtype, array.reshape(()).item(), n)
    if node.op in IDENTITY:
        return args[0]
    if node.op not in _RULES:
        raise CompileError(f"{node!r} is not elementwise and cannot stand here in a fusion")
    return wrapped(e, _RULES[node.op](e, node, *args), node.outputs[0].tensor.dtype)


# -- floats and integers -------------------------------------------------------------------------
def _resize_float(e: Emitter, x: Val, type_: ll.Type) -> Val:
    if x.type == type_:
        return x
    return e.b.fpext(x, type_) if element(type_) == F64 else e.b.fptrunc(x, type_)


def _round_to(e: Emitter, x: Val, dtype: DType) -> Val:
    """Drop the precision that a small float does not have."""
    if not is_small_float(dtype):
        return x
    return to_register(e, to_memory(e, x, dtype), dtype)


def _float_to_integer(e: Emitter, x: Val, target: DType) -> Val:
    """Truncated and saturated; NaN gives 0. Narrow integers come by way of i32, which is fast."""
    n = width(x.type)
    low, high = identity_of("max", target), identity_of("min", target)
    most = _greatest_float(element(x.type), int(high))
    inside = e.b.select(_is_nan(e, x), e.const(x.type, 0.0), x)
    inside = _maximum(e, f32, inside, e.const(x.type, float(low)))
    inside = _minimum(e, f32, inside, e.const(x.type, most))
    if target.bits < 32:
        return e.b.trunc(e.b.fptosi(inside, vector(I32, n)), register_type(target, n))
    to_integer = e.b.fptosi if target.kind == "int" else e.b.fptoui
    result = to_integer(inside, register_type(target, n))
    above = e.b.fcmp_ordered(">", x, e.const(x.type, most))
    return e.b.select(above, e.const(result.type, high), result) if most < high else result


def _greatest_float(type_: ll.Type, limit: int) -> float:
    """The greatest f32 or f64 that is not above an integer."""
    dtype = np.float32 if type_ == F32 else np.float64
    nearest = dtype(limit)
    return float(nearest if int(nearest) <= limit else np.nextafter(nearest, dtype(0)))


def _is_nan(e: Emitter, x: Val) -> Val:
    return e.b.fcmp_unordered("uno", x, x)


def _add(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.is_float:
        return e.b.fadd(x, y, flags=["contract"])
    return e.b.or_(x, y) if dtype.kind == "bool" else e.b.add(x, y)


def _subtract(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.is_float:
        return e.b.fsub(x, y, flags=["contract"])
    return e.b.xor(x, y) if dtype.kind == "bool" else e.b.sub(x, y)


def _multiply(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.is_float:
        return e.b.fmul(x, y, flags=["contract"])
    return e.b.and_(x, y) if dtype.kind == "bool" else e.b.mul(x, y)


def _divide(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.is_float:
        return e.b.fdiv(x, y)
    nonzero = _replace(e, y, 0, 1)
    if dtype.kind == "uint":
        quotient = e.b.udiv(x, nonzero)
    else:  # x / -1 is -x, which wraps for the smallest integer where the machine's division traps
        quotient = e.b.sdiv(x, _replace(e, nonzero, -1, 1))
        quotient = e.b.select(_equals(e, y, -1), e.b.neg(x), quotient)
    return e.b.select(_equals(e, y, 0), e.const(x.type, 0), quotient)


def _remainder(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    if dtype.is_float:
        return vmath.apply(e, "remainder", x, y)
    if dtype.kind == "uint":
        return e.b.urem(x, _replace(e, y, 0, 1))
    return e.b.srem(x, _replace(e, _replace(e, y, 0, 1), -1, 1))


def _equals(e: Emitter, x: Val, value: int) -> Val:
    return e.b.icmp_signed("==", x, e.const(x.type, value))


def _replace(e: Emitter, x: Val, old: int, new: int) -> Val:
    return e.b.select(_equals(e, x, old), e.const(x.type, new), x)


def _maximum(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    return _extremum(e, dtype, x, y, ">", "max")


def _minimum(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    return _extremum(e, dtype, x, y, "<", "min")


def _extremum(e: Emitter, dtype: DType, x: Val, y: Val, wins: str, name: str) -> Val:
    if not dtype.is_float:
        return e.intrinsic(f"{'s' if dtype.kind == 'int' else 'u'}{name}", x, y)
    if isinstance(y, ll.Constant):
        x, y = y, x
    # one instruction, which gives y when either is NaN
    result = e.b.select(e.b.fcmp_ordered(wins, x, y), x, y)
    if isinstance(x, ll.Constant):
        return result
    return e.b.select(_is_nan(e, x), x, result)


def _power(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    return vmath.apply(e, "power", x, y) if dtype.is_float else _integer_power(e, dtype, x, y)


def _integer_power(e: Emitter, dtype: DType, x: Val, y: Val) -> Val:
    """By squaring, modulo 2^bits; negative exponents give the truncated quotient 1 / x^|y|."""
    one, zero = e.const(x.type, 1), e.const(x.type, 0)
    result, base, rest = e.var(x.type, one), e.var(x.type, x), e.var(x.type, y)
    with e.loop(0, dtype.bits):
        square, exponent = e.b.load(base), e.b.load(rest)
        odd = e.b.icmp_unsigned("!=", e.b.and_(exponent, one), zero)
        factor = e.b.select(odd, square, one)
        e.b.store(e.b.mul(e.b.load(result), factor), result)
        e.b.store(e.b.mul(square, square), base)
        e.b.store(e.b.lshr(exponent, one), rest)
    power = e.b.load(result)
    if dtype.kind == "uint":
        return power
    odd = e.b.icmp_unsigned("!=", e.b.and_(y, one), zero)
    unit = e.b.select(_equals(e, x, -1), e.b.select(odd, x, one), zero)
    unit = e.b.select(_equals(e, x, 1), one, unit)
    return e.b.select(e.b.icmp_signed("<", y, zero), unit, power)


def _shift(e: Emitter, dtype: DType, x: Val, y: Val, name: str) -> Val:
    """Shifts by the width or more push everything out, as StableHLO says."""
    name = "lshr" if dtype.kind == "uint" and name == "ashr" else name
    fits = e.b.icmp_unsigned("<", y, e.const(y.type, dtype.bits))
    if name == "ashr":
        return e.b.ashr(x, e.b.select(fits, y, e.const(y.type, dtype.bits - 1)))
    amount = e.b.select(fits, y, e.const(y.type, 0))
    shifted = e.b.shl(x, amount) if name == "shl" else e.b.lshr(_pattern(e, dtype, x), amount)
    return e.b.select(fits, shifted, e.const(x.type, 0))


def _pattern(e: Emitter, dtype: DType, x: Val) -> Val:
    """The bits that an integer has, without its sign extension."""
    return to_memory(e, x, dtype) if is_packed_integer(dtype) else x


_BINARY: dict[str, Rule] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "divide": _divide,
    "remainder": _remainder,
    "power": _power,
    "maximum": _maximum,
    "minimum": _minimum,
    "and": lambda e, dtype, x, y: e.b.and_(x, y),
    "or": lambda e, dtype, x, y: e.b.or_(x, y),
    "xor": lambda e, dtype, x, y: e.b.xor(x, y),
    "shift_left": lambda e, dtype, x, y: _shift(e, dtype, x, y, "shl"),
    "shift_right_logical": lambda e, dtype, x, y: _shift(e, dtype, x, y, "lshr"),
    "shift_right_arithmetic": lambda e, dtype, x, y: _shift(e, dtype, x, y, "ashr"),
    "atan2": lambda e, dtype, x, y: vmath.apply(e, "atan2", x, y),
}


def _negate(e: Emitter, dtype: DType, x: Val) -> Val:
    return e.b.fneg(x) if dtype.is_float else e.b.neg(x)


def _abs(e: Emitter, dtype: DType, x: Val) -> Val:
    if dtype.is_float:
        return e.intrinsic("fabs", x)
    return x if dtype.kind == "uint" else _maximum(e, dtype, x, e.b.neg(x))


def _sign(e: Emitter, dtype: DType, x: Val) -> Val:
    zero, one = e.const(x.type, 0), e.const(x.type, 1)
    if dtype.is_float:  # zeros and NaN are their own sign
        unit = e.intrinsic("copysign", one, x)
        return e.b.select(e.b.fcmp_ordered("!=", x, zero), unit, x)
    positive = e.b.select(e.b.icmp_signed("!=", x, zero), one, zero)
    if dtype.kind == "uint":
        return positive
    return e.b.select(e.b.icmp_signed("<", x, zero), e.const(x.type, -1), positive)


def _rsqrt(e: Emitter, dtype: DType, x: Val) -> Val:
    return e.b.fdiv(e.const(x.type, 1.0), e.intrinsic("sqrt", x))


def _not(e: Emitter, dtype: DType, x: Val) -> Val:
    return e.b.not_(x)


def _is_finite(e: Emitter, dtype: DType, x: Val) -> Val:
    return e.b.fcmp_ordered("<", e.intrinsic("fabs", x), e.const(x.type, float("inf")))


def _is_inf(e: Emitter, dtype: DType, x: Val) -> Val:
    return e.b.fcmp_ordered("==", e.intrinsic("fabs", x), e.const(x.type, float("inf")))


def _intrinsic(name: str) -> Rule:
    return lambda e, dtype, x: e.intrinsic(name, x)


def _function(op: str) -> Rule:
    return lambda e, dtype, x: vmath.apply(e, op, x)


_UNARY: dict[str, Rule] = {
    "negate": _negate,
    "abs": _abs,
    "sign": _sign,
    "ceil": _intrinsic("ceil"),
    "floor": _intrinsic("floor"),
    "round_nearest_even": _intrinsic("roundeven"),
    "sqrt": _intrinsic("sqrt"),
    "rsqrt": _rsqrt,
    "not": _not,
    "is_finite": _is_finite,
    "is_inf": _is_inf,
    "is_nan": lambda e, dtype, x: _is_nan(e, x),
    "popcnt": lambda e, dtype, x: e.intrinsic("ctpop", _pattern(e, dtype, x)),
    **{op: _function(op) for op in vmath.UNARY},
}


# -- rules that look at the node -----------------------------------------------------------------
def _unary(rule: Rule) -> Rule:
    return lambda e, node, x: rule(e, node.inputs[0].tensor.dtype, x)


def _binary(rule: Rule) -> Rule:
    return lambda e, node, x, y: rule(e, node.inputs[0].tensor.dtype, x, y)


_PREDICATES = {"EQ": "==", "NE": "!=", "LT": "<", "LE": "<=", "GT": ">", "GE": ">="}


def _compare(e: Emitter, node: Node, x: Val, y: Val) -> Val:
    dtype, predicate = node.inputs[0].tensor.dtype, _PREDICATES[node.attrs["direction"]]
    if dtype.is_float:
        return (e.b.fcmp_unordered if predicate == "!=" else e.b.fcmp_ordered)(predicate, x, y)
    return (e.b.icmp_signed if dtype.kind == "int" else e.b.icmp_unsigned)(predicate, x, y)


def _select(e: Emitter, node: Node, predicate: Val, on_true: Val, on_false: Val) -> Val:
    return e.b.select(predicate, on_true, on_false)


def _clamp(e: Emitter, node: Node, low: Val, x: Val, high: Val) -> Val:
    dtype = node.inputs[1].tensor.dtype
    return _minimum(e, dtype, _maximum(e, dtype, x, low), high)


def _convert(e: Emitter, node: Node, x: Val) -> Val:
    return convert(e, x, node.inputs[0].tensor.dtype, node.attrs["dtype"])


def _bitcast_convert(e: Emitter, node: Node, x: Val) -> Val:
    source, target = node.inputs[0].tensor.dtype, node.attrs["dtype"]
    if source.nbytes != target.nbytes:
        raise CompileError(f"{node!r}: bitcast_convert between widths changes the shape")
    bits = e.b.bitcast(to_memory(e, x, source), memory_type(target, width(x.type)))
    return to_register(e, bits, target)


_RULES: dict[str, Rule] = {
    **{op: _unary(rule) for op, rule in _UNARY.items()},
    **{op: _binary(rule) for op, rule in _BINARY.items()},
    "compare": _compare,
    "select": _select,
    "clamp": _clamp,
    "convert": _convert,
    "bitcast_convert": _bitcast_convert,
}
