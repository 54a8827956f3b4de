"""Vector mathematics for f32 as branch-free polynomials; the rest through libm, lane by lane.

The polynomials are near-minimax fits of our own (Lawson-weighted least squares on Chebyshev nodes,
in the variable each function names), on the classic range reductions of Cody and Waite, "Software
Manual for the Elementary Functions" (1980). Largest errors against float64, in units in the last
place (ulp), held by tests: exponential 2, exponential_minus_one 3, log 2, log_plus_one 3,
tanh 3, erf 2, logistic 3. NaN, infinities, zeros and denormals follow IEEE 754, but exponentials
that are no normal number are 0: each product with a denormal traps into microcode, and masks make
a softmax full of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import llvmlite.ir as ll

from tilth.cpu.emit import F32, F64, I32, Emitter, Val, element, vector, width

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
    if element(args[0].type) == F32 and op in POLYNOMIALS:
        return POLYNOMIALS[op](e, *args)
    if op == "logistic":
        return _logistic(e, args[0])
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


# -- building blocks -----------------------------------------------------------------------------
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first has 9 bits
_MAGIC = 12582912.0  # 1.5 * 2**23: adding it rounds to an integer, left in the low bits
_MAGIC_BITS = 0x4B400000

_LEAST_EXPONENT = -87.336544  # e to it is the least normal number
_INFINITE_EXPONENT = 88.7228394  # e to it is infinite in f32, to the number before it is not

# descending powers; (e**r - 1 - r) / r**2 on |r| <= ln(2) / 2
_EXP = (0.000199193804, 0.00139472249, 0.00833326299, 0.0416662544, 0.166666672, 0.5)
# (log(1 + m) - m + m**2 / 2) / m**3 on sqrt(1/2) - 1 <= m <= sqrt(2) - 1
_LOG = (
    *(0.06915126, -0.117896847, 0.118730202, -0.123843722, 0.142186552),
    *(-0.166692495, 0.200022265, -0.249999866, 0.333333105),
)
# erf(x) / x - 1 in x**2 on |x| <= 0.93
_ERF = (
    *(8.34522507e-05, -0.00081374374, 0.00520063424, -0.0268592704),
    *(0.112836942, -0.376126349, 0.128379166),
)
# log(erfc(x)) on 0.9 <= x <= 4
_LOG_ERFC = (
    *(0.000197182628, -0.00305561558, 0.0222771168, -0.104037419),
    *(-0.637059689, -1.12774956, -0.000177487251),
)


def _polynomial(e: Emitter, x: Val, coefficients: Sequence[float]) -> Val:
    """Horner's rule, highest power first."""
    result = e.const(x.type, coefficients[0])
    for coefficient in coefficients[1:]:
        result = e.fma(result, x, e.const(x.type, coefficient))
    return result


def _ints(x: Val) -> ll.Type:
    return vector(I32, width(x.type))


def _power_of_two(e: Emitter, n: Val, floats: ll.Type) -> Val:
    """2**n for integers n in the range of normal exponents."""
    biased = e.b.add(n, e.const(n.type, 127))
    return e.b.bitcast(e.b.shl(biased, e.const(n.type, 23)), floats)


def _reduce_exponent(e: Emitter, x: Val) -> tuple[Val, Val]:
    """(n, r) with x = n ln 2 + r and |r| <= ln(2) / 2; n as i32 plus _MAGIC_BITS."""
    type_ = x.type
    shifted = e.fma(x, e.const(type_, 1 / math.log(2)), e.const(type_, _MAGIC))
    n = e.b.fsub(shifted, e.const(type_, _MAGIC))
    r = e.fma(n, e.const(type_, -_LN2_HIGH), x)
    r = e.fma(n, e.const(type_, -_LN2_LOW), r)
    return e.b.bitcast(shifted, _ints(x)), r


def _at_most(e: Emitter, x: Val, high: float) -> Val:
    """min(x, high); NaN stays NaN."""
    limit = e.const(x.type, high)
    return e.b.select(e.b.fcmp_ordered(">", x, limit), limit, x)


def _at_least(e: Emitter, x: Val, low: float) -> Val:
    """max(x, low); NaN stays NaN."""
    limit = e.const(x.type, low)
    return e.b.select(e.b.fcmp_ordered("<", x, limit), limit, x)


def _copysign(e: Emitter, magnitude: Val, sign: Val) -> Val:
    return e.intrinsic("copysign", magnitude, sign)


# -- functions -----------------------------------------------------------------------------------
def _exponential(e: Emitter, x: Val) -> Val:
    one = e.const(x.type, 1.0)
    vanishes = e.b.fcmp_ordered("<", x, e.const(x.type, _LEAST_EXPONENT))
    n, r = _reduce_exponent(e, x)
    mantissa = e.fma(e.fma(_polynomial(e, r, _EXP), r, one), r, one)
    # between these bounds adding n to the exponent, all else is shifted out, gives a normal number
    exponent = e.b.shl(n, e.const(n.type, 23))
    scaled = e.b.bitcast(e.b.add(e.b.bitcast(mantissa, n.type), exponent), x.type)
    finite = e.b.fcmp_ordered("<", x, e.const(x.type, _INFINITE_EXPONENT))
    result = e.b.select(finite, scaled, e.b.fadd(x, e.const(x.type, math.inf)))
    return e.b.select(vanishes, e.const(x.type, 0.0), result)


def _grown(e: Emitter, x: Val) -> Val:
    """exp(x) - 1 without cancellation around 0, for x from -80 to 60."""
    n, r = _reduce_exponent(e, x)
    growth = e.fma(_polynomial(e, r, _EXP), e.b.fmul(r, r), r)
    scale = _power_of_two(e, e.b.sub(n, e.const(n.type, _MAGIC_BITS)), x.type)
    return e.fma(scale, growth, e.b.fsub(scale, e.const(x.type, 1.0)))


def _exponential_minus_one(e: Emitter, x: Val) -> Val:
    one = e.const(x.type, 1.0)
    near = _grown(e, _at_least(e, _at_most(e, x, 60.0), -80.0))
    large = e.b.fcmp_ordered(">", x, e.const(x.type, 60.0))
    result = e.b.select(large, e.b.fsub(_exponential(e, x), one), near)
    zero = e.b.fcmp_ordered("==", x, e.const(x.type, 0.0))  # keeps its sign
    return e.b.select(zero, x, result)


def _log(e: Emitter, x: Val) -> Val:
    type_, ints = x.type, _ints(x)
    zero, infinity = e.const(type_, 0.0), e.const(type_, math.inf)
    denormal = e.b.fcmp_ordered("<", x, e.const(type_, 2.0**-126))
    normal = e.b.select(denormal, e.b.fmul(x, e.const(type_, 2.0**23)), x)
    # split so that the mantissa lies in [sqrt(1/2), sqrt(2))
    bits = e.b.sub(e.b.bitcast(normal, ints), e.const(ints, 0x3F3504F3))
    n = e.b.ashr(bits, e.const(ints, 23))
    mantissa_bits = e.b.add(e.b.and_(bits, e.const(ints, 0x7FFFFF)), e.const(ints, 0x3F3504F3))
    m = e.b.fsub(e.b.bitcast(mantissa_bits, type_), e.const(type_, 1.0))
    exponent = e.b.sitofp(n, type_)
    exponent = e.b.select(denormal, e.b.fsub(exponent, e.const(type_, 23.0)), exponent)
    square = e.b.fmul(m, m)
    tail = e.b.fmul(e.b.fmul(_polynomial(e, m, _LOG), m), square)
    tail = e.fma(exponent, e.const(type_, _LN2_LOW), tail)
    tail = e.fma(square, e.const(type_, -0.5), tail)
    result = e.fma(exponent, e.const(type_, _LN2_HIGH), e.b.fadd(m, tail))
    result = e.b.select(e.b.fcmp_ordered("<", x, infinity), result, x)  # infinity and NaN
    result = e.b.select(e.b.fcmp_ordered("<", x, zero), e.const(type_, math.nan), result)
    return e.b.select(e.b.fcmp_ordered("==", x, zero), e.const(type_, -math.inf), result)


def _log_plus_one(e: Emitter, x: Val) -> Val:
    one = e.const(x.type, 1.0)
    y = e.b.fadd(one, x)
    lost = e.b.fsub(x, e.b.fsub(y, one))  # what the sum rounded away
    corrected = e.b.fadd(_log(e, y), e.b.fdiv(lost, y))
    kept = e.b.fcmp_ordered("==", y, one)  # x below half an ulp of 1: log(1 + x) is x
    plain = e.b.select(e.b.fcmp_ordered("==", y, e.const(x.type, 0.0)), _log(e, y), corrected)
    infinite = e.b.fcmp_ordered("==", x, e.const(x.type, math.inf))
    return e.b.select(e.b.or_(kept, infinite), x, plain)


def _tanh(e: Emitter, x: Val) -> Val:
    """t / (t + 2) with t = exp(2 |x|) - 1, which keeps its digits where x is small."""
    magnitude = e.intrinsic("fabs", x)
    t = _grown(e, _at_most(e, e.b.fadd(magnitude, magnitude), 20.0))
    return _copysign(e, e.b.fdiv(t, e.b.fadd(t, e.const(x.type, 2.0))), x)


def _erf(e: Emitter, x: Val) -> Val:
    magnitude, square = e.intrinsic("fabs", x), e.b.fmul(x, x)
    small = e.b.fcmp_ordered("<", magnitude, e.const(x.type, 0.92))
    near_zero = e.fma(_polynomial(e, square, _ERF), x, x)
    complement = _exponential(e, _polynomial(e, _at_most(e, magnitude, 4.0), _LOG_ERFC))
    far = _copysign(e, e.b.fsub(e.const(x.type, 1.0), complement), x)
    return e.b.select(small, near_zero, far)


def _logistic(e: Emitter, x: Val) -> Val:
    one = e.const(x.type, 1.0)
    return e.b.fdiv(one, e.b.fadd(one, apply(e, "exponential", e.b.fneg(x))))


POLYNOMIALS: dict[str, Callable[[Emitter, Val], Val]] = {
    "exponential": _exponential,
    "exponential_minus_one": _exponential_minus_one,
    "log": _log,
    "log_plus_one": _log_plus_one,
    "tanh": _tanh,
    "erf": _erf,
    "logistic": _logistic,
}
