"""Elementwise primitives: each result element depends on one element of each operand.

Operands broadcast like NumPy and, unless an op says otherwise, share one dtype with the result.
An op is one row of a table: the kinds of elements it takes and its meaning.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np

from tilth.ir.ops.checks import (
    broadcast_shapes,
    check_choice,
    check_kind,
    check_predicate,
    check_same_dtype,
)
from tilth.ir.ops.numerics import Array, convert, exactly, narrow, precisely, widen
from tilth.ir.ops.special import erf
from tilth.ir.ops.table import infer, primitive, reference
from tilth.ir.ops.texts import as_text, from_text
from tilth.ir.types import DType, TensorType, bool_, c64, c128, dtype_of, f32, f64

INTEGER = ("int", "uint")
BITS = ("bool", *INTEGER)
FLOAT = ("float",)
SMOOTH = ("float", "complex")
ORDERED = (*INTEGER, "float")
NUMBER = (*ORDERED, "complex")
ANY = ("bool", *NUMBER)


def _logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _bits(x: Array) -> Array:
    """The bit patterns of integers, zero-extended to u64."""
    if x.dtype == np.bool_:
        return x.astype(np.uint64)
    mask = np.uint64((1 << dtype_of(x.dtype).bits) - 1)
    return widen(x).astype(np.uint64) & mask


def _invert(x: Array) -> Array:
    return narrow(np.invert(widen(x)), x.dtype)


def _popcnt(x: Array) -> Array:
    return narrow(np.bitwise_count(_bits(x)), x.dtype)


def _shift_left(x: Array, y: Array) -> Array:
    return _shift(_bits(x), y, np.left_shift, x.dtype)


def _shift_right_logical(x: Array, y: Array) -> Array:
    return _shift(_bits(x), y, np.right_shift, x.dtype)


def _shift_right_arithmetic(x: Array, y: Array) -> Array:
    if dtype_of(x.dtype).kind == "uint":
        return _shift_right_logical(x, y)
    amount = np.minimum(_bits(y), np.uint64(63)).astype(np.int64)
    return narrow(np.right_shift(x.astype(np.int64), amount), x.dtype)


def _shift(bits: Array, y: Array, shift: Callable[..., Array], dtype: np.dtype) -> Array:
    """Shifts by at least the width (negative amounts read as such) give 0."""
    amount = _bits(y)
    fits = amount < dtype_of(dtype).bits
    return narrow(np.where(fits, shift(bits, np.where(fits, amount, 0)), np.uint64(0)), dtype)


def _divide(x: Array, y: Array) -> Array:
    """Integers truncate toward zero, as in C; dividing them by zero gives 0."""
    if x.dtype.kind in "iu":
        return (x - np.fmod(x, y)) // y
    return np.divide(x, y)


def _power(x: Array, y: Array) -> Array:
    """Integers to a negative power give the truncated real result (0 unless x is 1 or -1)."""
    if x.dtype.kind != "i":
        return np.power(x, y)
    inverse = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y & 1), 0))
    return np.where(y < 0, inverse, np.power(x, np.maximum(y, 0))).astype(x.dtype)


# name: (kinds of elements, meaning, one line of documentation)
_UNARY: dict[str, tuple[tuple[str, ...], Callable[[Array], Array], str]] = {
    "negate": (NUMBER, exactly(np.negative), "-x; unsigned integers wrap"),
    "sign": (NUMBER, exactly(np.sign), "-1, 0 or 1; x / |x| for complex; NaN stays"),
    "ceil": (FLOAT, exactly(np.ceil), "the smallest integer not below x"),
    "floor": (FLOAT, exactly(np.floor), "the largest integer not above x"),
    "round_nearest_even": (FLOAT, exactly(np.rint), "the nearest integer, ties to even"),
    "exponential": (SMOOTH, precisely(np.exp), "e^x"),
    "exponential_minus_one": (SMOOTH, precisely(np.expm1), "e^x - 1"),
    "log": (SMOOTH, precisely(np.log), "ln x"),
    "log_plus_one": (SMOOTH, precisely(np.log1p), "ln(1 + x)"),
    "sqrt": (SMOOTH, exactly(np.sqrt), "the square root"),
    "rsqrt": (SMOOTH, precisely(lambda x: 1 / np.sqrt(x)), "1 / sqrt(x)"),
    "cbrt": (FLOAT, precisely(np.cbrt), "the real cube root"),
    "sine": (SMOOTH, precisely(np.sin), "sin x, in radians"),
    "cosine": (SMOOTH, precisely(np.cos), "cos x, in radians"),
    "tan": (SMOOTH, precisely(np.tan), "tan x, in radians"),
    "asin": (SMOOTH, precisely(np.arcsin), "arcsin x"),
    "acos": (SMOOTH, precisely(np.arccos), "arccos x"),
    "atan": (SMOOTH, precisely(np.arctan), "arctan x"),
    "sinh": (SMOOTH, precisely(np.sinh), "sinh x"),
    "cosh": (SMOOTH, precisely(np.cosh), "cosh x"),
    "tanh": (SMOOTH, precisely(np.tanh), "tanh x"),
    "asinh": (SMOOTH, precisely(np.arcsinh), "arsinh x"),
    "acosh": (SMOOTH, precisely(np.arccosh), "arcosh x"),
    "atanh": (SMOOTH, precisely(np.arctanh), "artanh x"),
    "erf": (FLOAT, precisely(erf), "the error function"),
    "logistic": (SMOOTH, precisely(_logistic), "1 / (1 + e^-x)"),
    "not": (BITS, _invert, "logical not of bool, bitwise not of integers"),
    "popcnt": (INTEGER, _popcnt, "the number of bits that are 1"),
}

_BINARY: dict[str, tuple[tuple[str, ...], Callable[[Array, Array], Array], str]] = {
    "add": (NUMBER, exactly(np.add), "x + y; integers wrap"),
    "subtract": (NUMBER, exactly(np.subtract), "x - y; integers wrap"),
    "multiply": (NUMBER, exactly(np.multiply), "x y; integers wrap"),
    "divide": (NUMBER, exactly(_divide), "x / y; integers truncate toward zero"),
    "remainder": (ORDERED, exactly(np.fmod), "x - y trunc(x / y): the sign of the dividend"),
    "power": (NUMBER, exactly(_power), "x^y"),
    "maximum": ((*BITS, "float"), exactly(np.maximum), "the larger; NaN if either is NaN"),
    "minimum": ((*BITS, "float"), exactly(np.minimum), "the smaller; NaN if either is NaN"),
    "and": (BITS, exactly(np.bitwise_and), "logical and of bool, bitwise and of integers"),
    "or": (BITS, exactly(np.bitwise_or), "logical or of bool, bitwise or of integers"),
    "xor": (BITS, exactly(np.bitwise_xor), "logical xor of bool, bitwise xor of integers"),
    "shift_left": (INTEGER, _shift_left, "x 2^y; 0 when y is at least the width"),
    "shift_right_arithmetic": (INTEGER, _shift_right_arithmetic, "x >> y keeping the sign"),
    "shift_right_logical": (INTEGER, _shift_right_logical, "x >> y filling with zeros"),
    "atan2": (
        FLOAT,
        precisely(np.arctan2),
        "the angle of the point (y, x), operands in that order",
    ),
}


def _infer_unary(kinds: tuple[str, ...]) -> Callable[[TensorType], TensorType]:
    def rule(x: TensorType) -> TensorType:
        check_kind(x, *kinds)
        return x

    return rule


def _infer_binary(kinds: tuple[str, ...]) -> Callable[[TensorType, TensorType], TensorType]:
    def rule(x: TensorType, y: TensorType) -> TensorType:
        check_kind(x, *kinds)
        check_same_dtype(x, y)
        return x if x.shape == y.shape else x.with_shape(broadcast_shapes(x.dims, y.dims))

    return rule


for _name, (_kinds, _meaning, _doc) in _UNARY.items():
    primitive(_name, _doc, "elementwise")
    infer(_name)(_infer_unary(_kinds))
    reference(_name)(_meaning)

for _name, (_kinds, _meaning2, _doc) in _BINARY.items():
    primitive(_name, _doc, "elementwise")
    infer(_name)(_infer_binary(_kinds))
    reference(_name)(_meaning2)


primitive("abs", "|x|; the modulus (real) of complex", "elementwise")


@infer("abs")
def _(x: TensorType) -> TensorType:
    check_kind(x, *NUMBER)
    return x.with_dtype({c64: f32, c128: f64}.get(x.dtype, x.dtype))


@reference("abs")
def _(x: Array) -> Array:
    return np.abs(x) if x.dtype.kind == "c" else narrow(np.abs(widen(x)), x.dtype)


primitive("is_finite", "neither infinite nor NaN, as bool", "elementwise")
primitive("is_inf", "plus or minus infinity, as bool", "elementwise")
primitive("is_nan", "NaN, as bool", "elementwise")


@infer("is_finite", "is_inf", "is_nan")
def _(x: TensorType) -> TensorType:
    check_kind(x, *FLOAT)
    return x.with_dtype(bool_)


reference("is_finite")(lambda x: np.isfinite(widen(x)))
reference("is_inf")(lambda x: np.isinf(widen(x)))
reference("is_nan")(lambda x: np.isnan(widen(x)))


primitive(
    "compare", "x (direction) y, as bool; comparisons with NaN are false but NE", "elementwise"
)

_COMPARE = {
    "EQ": operator.eq,
    "NE": operator.ne,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
}


@infer("compare")
def _(x: TensorType, y: TensorType, *, direction: str) -> TensorType:
    check_choice("direction", direction, _COMPARE)
    check_same_dtype(x, y)
    check_kind(x, *((*ANY, "string") if direction in ("EQ", "NE") else (*BITS, "float")))
    return TensorType(bool_, broadcast_shapes(x.dims, y.dims))


@reference("compare")
def _(x: Array, y: Array, *, direction: str) -> Array:
    return np.asarray(_COMPARE[direction](widen(x), widen(y)), np.bool_)


primitive("select", "on_true where pred holds, else on_false", "elementwise")


@infer("select")
def _(pred: TensorType, on_true: TensorType, on_false: TensorType) -> TensorType:
    check_predicate(pred)
    dtype = check_same_dtype(on_true, on_false)
    return TensorType(dtype, broadcast_shapes(pred.dims, on_true.dims, on_false.dims))


@reference("select")
def _(pred: Array, on_true: Array, on_false: Array) -> Array:
    return np.where(pred, on_true, on_false)


primitive("clamp", "minimum(maximum(x, low), high)", "elementwise")


@infer("clamp")
def _(low: TensorType, x: TensorType, high: TensorType) -> TensorType:
    check_kind(x, *ORDERED)
    dtype = check_same_dtype(low, x, high)
    return TensorType(dtype, broadcast_shapes(low.dims, x.dims, high.dims))


@reference("clamp")
def _(low: Array, x: Array, high: Array) -> Array:
    return narrow(np.minimum(np.maximum(widen(x), widen(low)), widen(high)), x.dtype)


primitive("convert", "x as another dtype; floats to integers truncate and saturate", "elementwise")


@infer("convert")
def _(x: TensorType, *, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


@reference("convert")
def _(x: Array, *, dtype: DType) -> Array:
    source = dtype_of(x.dtype)
    if source == dtype:
        return x
    if dtype.kind == "string":
        return as_text(x)
    return from_text(x, dtype) if source.kind == "string" else convert(x, dtype.numpy)


primitive("bitcast_convert", "the bits of x read as another dtype of the same width", "elementwise")


@infer("bitcast_convert")
def _(x: TensorType, *, dtype: DType) -> TensorType:
    check_kind(x, *NUMBER)
    check_kind(x.with_dtype(dtype), *NUMBER)
    if x.dtype.bits != dtype.bits:
        raise ValueError(f"{x.dtype} has {x.dtype.bits} bits, {dtype} has {dtype.bits}")
    return x.with_dtype(dtype)


@reference("bitcast_convert")
def _(x: Array, *, dtype: DType) -> Array:
    if dtype.bits >= 8:
        return np.ascontiguousarray(x).view(dtype.numpy).reshape(x.shape)
    # sub-byte elements lie in the low bits of a byte, sign-extended only by conversion
    if dtype_of(x.dtype).is_integer:
        x = _bits(x).astype(np.uint8)
    pattern = np.ascontiguousarray(x).view(np.uint8).reshape(x.shape)
    if dtype.is_integer:
        return narrow(pattern, dtype.numpy)
    return pattern.view(dtype.numpy)
