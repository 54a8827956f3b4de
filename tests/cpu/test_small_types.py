"""Floats of four, eight and sixteen bits, integers of two and four: every value, exactly."""

import numpy as np
import pytest
from kernel_check import body_of
from program_check import check_program

from tilth.cpu.harness import CompiledKernel, operand
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.kernel import Task
from tilth.cpu.kernels import elementwise
from tilth.ir.interpreter import interpret
from tilth.ir.ops import op
from tilth.ir.types import (
    DTYPES,
    TensorType,
    bf16,
    bool_,
    dtype_of,
    f16,
    f32,
    f64,
    i8,
    i32,
    u8,
    u64,
)

FLOATS = [DTYPES[n] for n in DTYPES if n.startswith(("f8", "f4"))]
INTEGERS = [DTYPES[n] for n in ("i4", "u4", "i2", "u2")]


def same_bits(build, *arrays, isa=None):
    """A kernel gives the interpreter's results, bit by bit (NaN may be any NaN)."""
    body = body_of(build, *(TensorType(dtype_of(a.dtype), a.shape) for a in arrays))
    (expected,) = interpret(body, arrays)
    result = np.empty_like(expected)
    isa = isa or host_isa()
    kernel = elementwise.lower(Task(body, tuple(map(operand, arrays)), (operand(result),), isa, 2))
    CompiledKernel(kernel, isa)(arrays, [result])
    if dtype_of(result.dtype).is_float:
        both_nan = np.isnan(result.astype(np.float32)) & np.isnan(expected.astype(np.float32))
        result[both_nan] = expected[both_nan] = 0
    np.testing.assert_array_equal(result.view(np.uint8), expected.view(np.uint8))


def all_codes(dtype):
    """Every bit pattern of a small float; one of four bits lies in the low half of its byte."""
    return np.arange(2**dtype.bits, dtype=np.dtype(f"u{dtype.nbytes}")).view(dtype.numpy)


def many_floats(dtype):
    """Every value of a small float, its neighbours in f32, ties between values, and specials."""
    values = np.unique(all_codes(dtype).astype(np.float32))
    values = values[np.isfinite(values)]
    with np.errstate(over="ignore"):
        middles = (values[1:].astype(np.float64) + values[:-1]) / 2
        points = np.concatenate([values, middles.astype(np.float32), values * 1.5, values * 3])
        around = [np.nextafter(points, np.float32(s)) for s in (np.inf, -np.inf)]
    specials = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e38, -1e38]
    return np.concatenate([points, *around, np.array(specials, np.float32)])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_float_is_read(dtype):
    same_bits(lambda x: op.convert(x, dtype=f32), all_codes(dtype))
    same_bits(lambda x: op.convert(x, dtype=f64), all_codes(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_float_is_written_after_rounding_to_nearest(dtype):
    same_bits(lambda x: op.convert(x, dtype=dtype), many_floats(dtype))


@pytest.mark.skipif(not host_isa().triple.startswith("x86"), reason="needs an x86-64 machine")
def test_every_half_float_without_instructions_for_it():
    isa = ISAS["x86-64-v2"]
    same_bits(lambda x: op.convert(x, dtype=f32), all_codes(f16), isa=isa)
    same_bits(lambda x: op.convert(x, dtype=f16), many_floats(f16), isa=isa)


@pytest.mark.parametrize("source", FLOATS, ids=str)
@pytest.mark.parametrize("target", [*FLOATS, *INTEGERS, i8, u64, bool_, f16, bf16], ids=str)
def test_conversions_of_floats(source, target):
    same_bits(lambda x: op.convert(x, dtype=target), all_codes(source))


@pytest.mark.parametrize("name", ["negate", "abs", "ceil", "sqrt", "exponential", "floor"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_functions_of_floats(name, dtype):
    if dtype.name == "f8e8m0fnu" and name == "negate":
        pytest.skip("it has no sign")
    same_bits(lambda x: getattr(op, name)(x), all_codes(dtype))


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum"])
@pytest.mark.parametrize("dtype", FLOATS[:3], ids=str)
def test_arithmetic_on_floats(name, dtype):
    x, y = np.meshgrid(all_codes(dtype), all_codes(dtype))
    same_bits(lambda x, y: getattr(op, name)(x, y), x.copy(), y.copy())


@pytest.mark.parametrize("source", INTEGERS, ids=str)
@pytest.mark.parametrize("target", [*FLOATS[:2], *INTEGERS, i8, u8, i32, u64, bool_, f32], ids=str)
def test_conversions_of_integers(source, target):
    codes = np.arange(1 << source.bits, dtype=np.uint8).view(source.numpy)
    same_bits(lambda x: op.convert(x, dtype=target), codes)


@pytest.mark.parametrize("source", [i8, u8, i32, f32, f16], ids=str)
@pytest.mark.parametrize("target", INTEGERS, ids=str)
def test_conversions_to_integers(source, target):
    x = np.arange(256).astype(np.uint8).view(np.int8) if source == i8 else np.arange(256)
    x = (x - (0 if source in (i8, u8) else 128)).astype(source.numpy)
    same_bits(lambda x: op.convert(x, dtype=target), x)


ARITHMETIC = ("add", "subtract", "multiply", "divide", "remainder", "power", "maximum", "minimum")
BITWISE = ("and", "or", "xor", "shift_left", "shift_right_logical", "shift_right_arithmetic")


@pytest.mark.parametrize("name", [*ARITHMETIC, *BITWISE])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_arithmetic_on_integers_wraps(name, dtype):
    codes = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)
    x, y = np.meshgrid(codes, codes)
    same_bits(lambda x, y: getattr(op, f"{name}_")(x, y), x.copy(), y.copy())


@pytest.mark.parametrize("name", ["negate", "abs", "sign", "not", "popcnt"])
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_functions_of_integers(name, dtype):
    codes = np.arange(1 << dtype.bits, dtype=np.uint8).view(dtype.numpy)
    same_bits(lambda x: getattr(op, f"{name}_")(x), codes)


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS[:5]], ids=str)
def test_quantised_weights_of_small_types(dtype, rng):
    """Blocks are dequantised, multiplied, and the result is quantised again."""
    codes = rng.integers(0, 1 << dtype.bits, (20, 30), dtype=np.uint8).view(dtype.numpy)
    codes = np.where(np.isfinite(codes.astype(np.float32)), codes, codes.dtype.type(1))
    scale, zero = np.full(20, 0.125, np.float32), np.ones(20).astype(dtype.numpy)
    x = rng.standard_normal((4, 30)).astype(np.float32)

    def build(x, w, s, z):
        real = op.uniform_dequantize(w, s, z, dtype=f32, axis=0)
        y = op.dot_general(x, real, lhs_contract=(1,), rhs_contract=(1,))
        return y, op.uniform_quantize(w_of(real), s, z, dtype=dtype, axis=0)

    def w_of(real):
        return op.multiply(real, real)

    check_program(build, x, codes, scale, zero)
