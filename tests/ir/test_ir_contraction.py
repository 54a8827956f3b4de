"""Meaning of dot_general and convolution, against einsum and naive loops."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.types import f32, f64, i8, i32, u8

LETTERS = "abcdefgh"


@given(st.data())
@settings(max_examples=60)
def test_dot_general_matches_einsum(data):
    """Letters name axes: shared ones are batch or contracting, the rest are free."""
    batch, contract, lhs_free, rhs_free = ("ab", "cd", "ef", "gh")
    batch, contract, lhs_free, rhs_free = (
        letters[: data.draw(st.integers(0, 2))] for letters in (batch, contract, lhs_free, rhs_free)
    )
    lhs = "".join(data.draw(st.permutations(batch + contract + lhs_free)))
    rhs = "".join(data.draw(st.permutations(batch + contract + rhs_free)))
    sizes = {c: data.draw(st.integers(1, 3)) for c in LETTERS}
    rng = np.random.default_rng(0)
    x = rng.standard_normal([sizes[c] for c in lhs])
    y = rng.standard_normal([sizes[c] for c in rhs])
    result = run(
        lambda x, y: op.dot_general(
            x,
            y,
            lhs_batch=[lhs.index(c) for c in batch],
            rhs_batch=[rhs.index(c) for c in batch],
            lhs_contract=[lhs.index(c) for c in contract],
            rhs_contract=[rhs.index(c) for c in contract],
        ),
        x,
        y,
    )
    free = [c for c in lhs if c in lhs_free] + [c for c in rhs if c in rhs_free]
    expected = np.einsum(f"{lhs},{rhs}->{batch}{''.join(free)}", x, y)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-12)


def matmul(x, y, **attrs):
    return op.dot_general(x, y, lhs_contract=(1,), rhs_contract=(0,), **attrs)


def test_mixed_integer_products_accumulate_in_the_wider_dtype():
    x, y = np.full((1, 1000), 255, np.uint8), np.full((1000, 1), -128, np.int8)
    result = run(lambda x, y: matmul(x, y, dtype=i32), x, y)
    np.testing.assert_array_equal(result, np.array([[-32_640_000]], np.int32), strict=True)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint64])
def test_integer_products_wrap(dtype):
    x = np.full((1, 3), np.iinfo(dtype).max, dtype)
    with np.errstate(over="ignore"):
        expected = np.sum(x * x, axis=1, dtype=dtype, keepdims=True)
    np.testing.assert_array_equal(run(matmul, x, x.T), expected, strict=True)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn])
def test_small_floats_accumulate_in_float32(dtype, rng):
    x, y = (rng.standard_normal((64, 64)).astype(dtype) for _ in "xy")
    expected = (x.astype(np.float32) @ y.astype(np.float32)).astype(dtype)
    np.testing.assert_array_equal(run(matmul, x, y), expected, strict=True)


def naive_convolution(x, w, strides, padding, lhs_dilation, rhs_dilation, groups):
    """channels_first, one output element at a time."""
    spread = [(d - 1) * b + 1 for d, b in zip(x.shape[2:], lhs_dilation, strict=True)]
    extents = [
        max(0, (n + sum(p) - (k - 1) * d - 1) // s + 1)
        for n, p, k, d, s in zip(spread, padding, w.shape[2:], rhs_dilation, strides, strict=True)
    ]
    result = np.zeros((x.shape[0], w.shape[0], *extents))
    per_group, group = w.shape[0] // groups, w.shape[1]
    for n, o, *index in np.ndindex(*result.shape):
        for c, *offset in np.ndindex(*w.shape[1:]):
            place = [
                i * s + k * d - p[0]
                for i, s, k, d, p in zip(index, strides, offset, rhs_dilation, padding, strict=True)
            ]
            if all(
                0 <= q < m and q % b == 0
                for q, m, b in zip(place, spread, lhs_dilation, strict=True)
            ):
                source = [q // b for q, b in zip(place, lhs_dilation, strict=True)]
                channel = o // per_group * group + c
                result[(n, o, *index)] += x[(n, channel, *source)] * w[(o, c, *offset)]
    return result


@given(st.integers(1, 3), st.data())
@settings(max_examples=60)
def test_convolution_matches_a_naive_loop(rank, data):
    def draw(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(rank))

    groups, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    attrs = {
        "strides": draw(1, 2),
        "padding": tuple(zip(draw(-1, 2), draw(0, 2), strict=True)),
        "lhs_dilation": draw(1, 2),
        "rhs_dilation": draw(1, 2),
        "groups": groups,
    }
    rng = np.random.default_rng(0)
    x = rng.standard_normal((data.draw(st.integers(1, 2)), groups * group, *draw(2, 4)))
    w = rng.standard_normal((groups * data.draw(st.integers(1, 2)), group, *draw(1, 3)))
    expected = naive_convolution(x, w, **attrs)
    first = run(lambda x, w: op.convolution(x, w, **attrs), x, w)
    np.testing.assert_allclose(first, expected, rtol=1e-9, atol=1e-9)
    last = run(
        lambda x, w: op.convolution(x, w, **attrs, layout="channels_last"),
        np.moveaxis(x, 1, -1),
        np.moveaxis(w, (0, 1), (-1, -2)),
    )
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 4])
def test_convolutions_of_narrow_integers_accumulate_in_a_wide_type(groups, rng):
    x = rng.integers(0, 256, (1, 4, 5, 6)).astype(np.uint8)
    w = rng.integers(-128, 128, (8, 4 // groups, 3, 3)).astype(np.int8)
    attrs = {"groups": groups, "padding": ((1, 1), (0, 1))}
    narrow = run(lambda x, w: op.convolution(x, w, dtype=i32, **attrs), x, w)
    wide = run(lambda x, w: op.convolution(x, w, **attrs), x.astype(np.int32), w.astype(np.int32))
    assert narrow.dtype == np.int32
    np.testing.assert_array_equal(narrow, wide)


def test_integer_convolutions_are_exact(rng):
    x, w = (rng.integers(-9, 9, (1, 2, 6)).astype(np.int32) for _ in "xw")
    attrs = {"strides": (1,), "padding": ((2, 2),), "groups": 1}
    dilations = {"lhs_dilation": (1,), "rhs_dilation": (1,)}
    np.testing.assert_array_equal(
        run(lambda x, w: op.convolution(x, w, **attrs), x, w),
        naive_convolution(x, w, **attrs, **dilations),
    )


def test_broken_rules_are_refused():
    x, w = tensor(f32, 1, 4, 8, 8), tensor(f32, 6, 4, 3, 3)
    m = tensor(f32, 2, 3)
    for message, build in {
        "differ in dtype": lambda: matmul(m, tensor(f64, 3, 2)),
        "contracting axes .* differ in size": lambda: matmul(m, m),
        "batch axes": lambda: op.dot_general(
            m,
            tensor(f32, 3, 3),
            lhs_contract=(1,),
            rhs_contract=(0,),
            lhs_batch=(0,),
            rhs_batch=(1,),
        ),
        "repeat": lambda: op.dot_general(m, m, lhs_contract=(1, 1), rhs_contract=(1, 1)),
        "cannot accumulate": lambda: matmul(m, tensor(f32, 3, 2), dtype=i32),
        "mixed": lambda: op.convolution(x, w, layout="mixed"),
        "groups do not divide": lambda: op.convolution(x, w, groups=2),
        "needs 2 entries": lambda: op.convolution(x, w, strides=(1,)),
        "below 1": lambda: op.convolution(x, w, rhs_dilation=(0, 1)),
        "pairs": lambda: op.convolution(x, w, padding=((1, 1),)),
        "one rank": lambda: op.convolution(x, tensor(f32, 6, 4, 3)),
        "differ in dtype: u8 and i8": lambda: matmul(tensor(u8, 2, 3), tensor(i8, 3, 2)),
    }.items():
        with pytest.raises(VerifyError, match=message):
            build()
