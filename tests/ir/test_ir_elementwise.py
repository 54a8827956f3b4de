"""Meaning of the elementwise ops, at the corners where implementations differ."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.ops.special import erf
from tilth.ir.types import (
    DTYPES,
    bf16,
    bool_,
    f8e4m3fn,
    f16,
    f32,
    f64,
    i2,
    i4,
    i8,
    i32,
    i64,
    u4,
    u8,
    u64,
)

NAN, INF = math.nan, math.inf


def f32s(*xs):
    return np.array(xs, np.float32)


def same(actual, *expected):
    expected = np.array(expected).astype(actual.dtype).reshape(actual.shape)
    np.testing.assert_array_equal(actual, expected, strict=True)


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=3))
@settings(max_examples=50)
def test_operands_broadcast_like_numpy(shapes):
    x, y = (np.ones(s, np.float32) for s in shapes.input_shapes)
    assert run(op.add, x, y).shape == shapes.result_shape


def test_operands_must_share_a_dtype():
    with pytest.raises(VerifyError, match="differ in dtype: f32 and f64"):
        op.add(tensor(f32, 2), tensor(f64, 2))


def test_operands_must_broadcast():
    with pytest.raises(VerifyError, match="do not broadcast"):
        op.add(tensor(f32, 2), tensor(f32, 3))


def test_integer_division_truncates_toward_zero():
    x, y = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    same(run(op.divide, x, y), 3, -3, -3, 3)
    same(run(op.remainder, x, y), 1, -1, 1, -1)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**31), 2**31 - 1).filter(lambda y: y != 0))
def test_dividend_is_quotient_times_divisor_plus_remainder(x, y):
    x, y = np.array(x, np.int32), np.array(y, np.int32)
    back = run(lambda x, y: op.add(op.multiply(op.divide(x, y), y), op.remainder(x, y)), x, y)
    same(back, x)


def test_float_remainder_has_the_sign_of_the_dividend():
    same(run(op.remainder, f32s(5.5, -5.5, 5.5), f32s(2, 2, -2)), 1.5, -1.5, 1.5)


def test_maximum_and_minimum_propagate_nan():
    assert np.isnan(run(op.maximum, f32s(NAN, 1), f32s(1, NAN))).all()
    assert np.isnan(run(op.minimum, f32s(NAN, 1), f32s(1, NAN))).all()
    assert np.isnan(run(lambda x: op.clamp(x, x, x), f32s(NAN))).all()


def test_comparisons_with_nan_are_false_but_not_equal():
    x = f32s(NAN)
    results = {d: bool(run(lambda x, d=d: op.compare(x, x, direction=d), x)) for d in COMPARISONS}
    assert results == dict.fromkeys(COMPARISONS, False) | {"NE": True}


COMPARISONS = ("EQ", "NE", "LT", "LE", "GT", "GE")


def test_rounding_goes_to_even():
    same(run(op.round_nearest_even, f32s(0.5, 1.5, 2.5, -0.5)), 0.0, 2.0, 2.0, -0.0)


@pytest.mark.parametrize("dtype", [i4, i8, u8, i32, i64, u64])
def test_shifts_by_the_width_or_more_leave_nothing_but_the_sign(dtype):
    x = np.array([-2, 5, 1]).astype(dtype.numpy)
    width = np.full(3, -1).astype(dtype.numpy)  # read as unsigned: beyond any width
    sign = np.where(x.astype(np.int64) < 0, -1, 0) if dtype.kind == "int" else 0 * x
    same(run(op.shift_left, x, width), 0, 0, 0)
    same(run(op.shift_right_logical, x, width), 0, 0, 0)
    same(run(op.shift_right_arithmetic, x, width), *sign)


def test_logical_shifts_fill_with_zeros_and_arithmetic_ones_with_the_sign():
    x, y = np.array([-8], np.int8), np.array([1], np.int8)
    same(run(op.shift_right_logical, x, y), 124)
    same(run(op.shift_right_arithmetic, x, y), -4)
    x, y = x.astype(ml_dtypes.int4), y.astype(ml_dtypes.int4)
    same(run(op.shift_right_logical, x, y), 4)


def test_integers_wrap():
    same(run(op.add, np.array([127], np.int8), np.array([1], np.int8)), -128)
    same(run(op.negate, np.array([1], np.uint8)), 255)
    seven = np.array([7]).astype(ml_dtypes.int4)
    same(run(op.multiply, seven, seven), 1)


def test_integer_powers():
    x, y = np.array([2, 2, 1, -1, -1, 0], np.int32), np.array([5, -1, -3, -3, -2, 0], np.int32)
    same(run(op.power, x, y), 32, 0, 1, -1, 1, 1)


def test_not_is_logical_for_bool_and_bitwise_for_integers():
    same(run(op.not_, np.array([True, False])), False, True)
    same(run(op.not_, np.array([0, 5], np.int8)), -1, -6)
    same(run(op.not_, np.array([0, 5]).astype(ml_dtypes.uint4)), 15, 10)


def test_popcnt_counts_the_bits_of_the_width():
    same(run(op.popcnt, np.array([0, 1, -1, 7], np.int8)), 0, 1, 8, 3)
    same(run(op.popcnt, np.array([-1]).astype(ml_dtypes.int4)), 4)


def test_abs_of_complex_is_its_real_modulus():
    same(run(op.abs, np.array([3 + 4j], np.complex64)), np.float32(5))


def test_logistic_does_not_overflow():
    same(run(op.logistic, f32s(-200, 0, 200, -INF, INF)), np.float32(math.exp(-200)), 0.5, 1, 0, 1)


@given(hnp.arrays(np.float64, 20, elements=st.floats(-8, 8)))
@settings(max_examples=50)
def test_erf_is_right_to_a_few_ulp(x):
    np.testing.assert_allclose(erf(x), [math.erf(v) for v in x], rtol=5e-16, atol=5e-324)


def test_erf_at_the_edges():
    result = erf(np.array([0.0, -0.0, INF, -INF, NAN]))
    np.testing.assert_array_equal(result, [0, 0, 1, -1, NAN])
    assert np.signbit(result[1])


@pytest.mark.parametrize("name", ["exponential", "tanh", "log", "rsqrt", "erf", "cbrt"])
@pytest.mark.parametrize("dtype", [f32, bf16, f16, f8e4m3fn])
def test_functions_of_small_floats_round_the_precise_value_once(name, dtype, rng):
    x = rng.uniform(0.1, 3, 50).astype(dtype.numpy)
    precise = run(getattr(op, name), x.astype(np.float64))
    np.testing.assert_array_equal(run(getattr(op, name), x), precise.astype(dtype.numpy))


def convert(dtype):
    return lambda x: op.convert(x, dtype=dtype)


def test_convert_of_floats_to_integers_truncates_saturates_and_maps_nan_to_zero():
    x = f32s(1.9, -1.9, 300, -300, INF, -INF, NAN)
    same(run(convert(i8), x), 1, -1, 127, -128, 127, -128, 0)
    same(run(convert(u8), x), 1, 0, 255, 0, 255, 0, 0)
    same(run(convert(i4), x), 1, -1, 7, -8, 7, -8, 0)
    limits = np.iinfo(np.int64)
    same(run(convert(i64), f32s(1e30, -1e30)), limits.max, limits.min)


def test_convert_of_integers_wraps():
    same(run(convert(i8), np.array([200, -200], np.int32)), -56, 56)
    same(run(convert(u4), np.array([-1, 17], np.int32)), 15, 1)


def test_convert_to_bool_asks_for_nonzero():
    same(run(convert(bool_), f32s(0, -0.0, 0.5, NAN)), False, False, True, True)
    same(run(convert(i32), np.array([True, False])), 1, 0)


@pytest.mark.parametrize("source", [d for d in DTYPES.values() if d.kind != "string"])
def test_every_dtype_converts_to_every_other(source, rng):
    x = rng.integers(0, 2, 5).astype(bool).astype(np.float32).astype(source.numpy)
    for target in DTYPES.values():
        if target.kind != "string":
            back = run(lambda x, t=target: op.convert(op.convert(x, dtype=t), dtype=source), x)
            if "f8e8m0fnu" not in (source.name, target.name) and target is not i2:
                np.testing.assert_array_equal(back, x)


def test_bitcast_keeps_the_bits():
    same(run(lambda x: op.bitcast_convert(x, dtype=i32), f32s(1.0)), 0x3F800000)
    negative = np.array([-1, 7]).astype(ml_dtypes.int4)
    same(run(lambda x: op.bitcast_convert(x, dtype=u4), negative), 15, 7)


def test_bitcast_needs_equal_widths():
    with pytest.raises(VerifyError, match="f32 has 32 bits, i8 has 8"):
        op.bitcast_convert(tensor(f32, 2), dtype=i8)
