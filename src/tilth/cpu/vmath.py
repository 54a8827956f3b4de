"""Vector mathematics."""

from __future__ import annotations

from collections.abc import Callable

import llvmlite.ir as ll

from tilth.cpu.emit import F32, F64, I32, Emitter, Val, element, width

POLYNOMIALS: dict[str, Callable[..., Val]] = {}

_LIBM = {
    "exponential": "exp",
    "exponential_minus_one": "expm1",
    "log": "log",
    "log_plus_one": "log1p",
    "cbrt": "cbrt",
    "sine": "sin",
    "cosine": "cos",
    "tan": "tan",
    "asin": "asin",
    "acos": "acos",
    "atan": "atan",
    "sinh": "sinh",
    "cosh": "cosh",
    "tanh": "tanh",
    "asinh": "asinh",
    "acosh": "acosh",
    "atanh": "atanh",
    "erf": "erf",
    "power": "pow",
    "atan2": "atan2",
    "remainder": "fmod",
}


BINARY = frozenset({"power", "atan2", "remainder"})
UNARY = frozenset(_LIBM) - BINARY | {"logistic"}


def apply(e: Emitter, op: str, *args: Val) -> Val:
    """The float function `op` of the op table on f32 or f64 scalars or vectors."""
    if op == "logistic" and element(args[0].type) is not F32:
        one = e.const(args[0].type, 1.0)
        return e.b.fdiv(one, e.b.fadd(one, apply(e, "exponential", e.b.fneg(args[0]))))
    if element(args[0].type) == F32 and op in POLYNOMIALS:
        return POLYNOMIALS[op](e, *args)
    return _libm(e, _LIBM[op], *args)


def _libm(e: Emitter, name: str, *args: Val) -> Val:
    scalar = element(args[0].type)
    name = name if scalar == F64 else name + "f"
    fn = e.declare(name, scalar, [scalar] * len(args))
    if width(args[0].type) == 1:
        return e.b.call(fn, args)
    result: Val = ll.Constant(args[0].type, ll.Undefined)
    for lane in range(args[0].type.count):
        at = ll.Constant(I32, lane)
        value = e.b.call(fn, [e.b.extract_element(a, at) for a in args])
        result = e.b.insert_element(result, value, at)
    return result
