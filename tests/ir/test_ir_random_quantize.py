"""Random bits reproduce the published vectors; quantisation rounds, saturates and inverts."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.ops.random import philox_4x32_10
from tilth.ir.types import DTYPES, f8e4m3fn, f32, i8, i32, u8, u64


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000" * 4, "00000000" * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff" * 4, "ffffffff" * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "243f6a8885a308d313198a2e03707344",
            "a4093822299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_reproduces_the_vectors_of_its_authors(counter, key, expected):
    words = [np.array([int(counter[i : i + 8], 16)], np.uint64) for i in range(0, 32, 8)]
    result = philox_4x32_10(words, (int(key[:8], 16), int(key[8:], 16)))
    assert [f"{int(w[0]):08x}" for w in result] == expected.split()


def bits(shape, width, key=(1, 2)):
    return run(lambda k: op.rng_bits(k, shape=shape, bits=width), np.array(key, np.uint64))


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_random_bits_depend_on_key_and_element_index_only(width):
    whole = bits((4, 25), width).reshape(-1)
    assert whole.dtype == np.dtype(f"u{width // 8}")
    np.testing.assert_array_equal(bits((7,), width), whole[:7])
    assert (bits((100,), width, (1, 3)) != whole).any()
    assert (bits((100,), width, (2, 2)) != whole).any()


def test_wider_random_bits_are_made_of_the_same_words():
    np.testing.assert_array_equal(bits((10,), 64).view(np.uint32), bits((20,), 32))
    np.testing.assert_array_equal(bits((20,), 8), bits((20,), 32).astype(np.uint8))


def test_random_bits_are_balanced():
    ones = np.bitwise_count(bits((1000,), 64)).mean()
    assert abs(ones - 32) < 0.5


def quantize(dtype, axis=None):
    return lambda x, s, z: op.uniform_quantize(x, s, z, dtype=dtype, axis=axis)


def dequantize(axis=None):
    return lambda x, s, z: op.uniform_dequantize(x, s, z, dtype=f32, axis=axis)


def test_quantize_rounds_to_even_and_saturates():
    x = np.array([0.25, 0.75, -0.25, 1e9, -1e9], np.float32)
    result = run(quantize(i8), x, np.float32(0.5), np.int8(10))
    np.testing.assert_array_equal(result, np.array([10, 12, 10, 127, -128], np.int8))


def test_quantize_to_float8_saturates():
    x = np.array([1.0, 1e9, -1e9], np.float32)
    zero = np.zeros((), ml_dtypes.float8_e4m3fn)
    result = run(quantize(f8e4m3fn), x, np.float32(1), zero)
    np.testing.assert_array_equal(result.astype(np.float32), [1, 448, -448])


@given(
    st.sampled_from(["i8", "u8", "i16", "u16", "i4", "u4", "i32"]), st.sampled_from([None, 0, 1])
)
def test_dequantize_inverts_quantize_to_half_a_step(name, axis):
    dtype = DTYPES[name]
    rng = np.random.default_rng(0)
    shape = () if axis is None else ((3, 4)[axis],)
    scale = rng.uniform(0.1, 1, shape).astype(np.float32)
    zero = rng.integers(0, 4, shape).astype(dtype.numpy)
    x = rng.uniform(0, 0.3, (3, 4)).astype(np.float32)
    quantized = run(quantize(dtype, axis), x, scale, zero)
    back = run(dequantize(axis), quantized, scale, zero)
    step = scale if axis is None else np.expand_dims(scale, 1 - axis)
    assert (abs(back - x) <= step * 0.5001).all()


def test_broken_rules_are_refused():
    key = tensor(u64, 2)
    with pytest.raises(VerifyError, match=r"must be u64\[2\]"):
        op.rng_bits(tensor(u64, 3), shape=(2,), bits=32)
    with pytest.raises(VerifyError, match="not one of 8, 16, 32, 64"):
        op.rng_bits(key, shape=(2,), bits=12)
    x, scale, zero = tensor(f32, 2, 3), tensor(f32, 3), tensor(u8, 3)
    with pytest.raises(VerifyError, match="zero point must be i8"):
        quantize(i8, 1)(x, scale, zero)
    with pytest.raises(VerifyError, match=r"must have shape \(2,\)"):
        quantize(u8, 0)(x, scale, zero)
    with pytest.raises(VerifyError, match="is not float"):
        quantize(u8, 1)(tensor(i32, 2, 3), scale, zero)
