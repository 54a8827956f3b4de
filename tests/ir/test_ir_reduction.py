"""Meaning of reductions, windows, running reductions and ordering, against naive loops."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_samples import run, run_all, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.types import bool_, f32

REDUCE = {
    "sum": np.sum,
    "product": np.prod,
    "max": np.max,
    "min": np.min,
    "and": np.bitwise_and.reduce,
    "or": np.bitwise_or.reduce,
}


@pytest.mark.parametrize("kind", REDUCE)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    dtype=st.sampled_from([np.int8, np.int32, np.uint8]),
)
@settings(max_examples=25)
def test_reduce_matches_numpy(kind, shape, data, dtype):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1))))
    x = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    ufunc = getattr(REDUCE[kind], "reduce", None)
    expected = x
    for axis in sorted(axes, reverse=True):
        if kind in ("sum", "product"):
            expected = REDUCE[kind](expected, axis=axis, dtype=dtype)
        else:
            expected = (ufunc or REDUCE[kind])(expected, axis=axis)
    result = run(lambda x: op.reduce(x, kind=kind, axes=axes), x)
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
def test_float_sums_round_once(dtype):
    x = np.array([1.0] + [1e-3] * 1000).astype(dtype)
    expected = x.astype(np.float64).sum().astype(dtype)
    assert run(lambda x: op.reduce(x, kind="sum", axes=(0,)), x) == expected


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [
        ("sum", np.float32, 0),
        ("product", np.int32, 1),
        ("max", np.float32, -np.inf),
        ("min", np.float32, np.inf),
        ("max", np.int8, -128),
        ("max", ml_dtypes.int4, -8),
        ("max", ml_dtypes.float8_e4m3fn, -448),
        ("and", np.uint8, 255),
        ("and", np.bool_, True),
        ("or", np.bool_, False),
        ("min", np.bool_, True),
    ],
)
def test_an_empty_reduction_gives_the_neutral_element(kind, dtype, expected):
    result = run(lambda x: op.reduce(x, kind=kind, axes=(0,)), np.zeros((0,), dtype))
    assert result == np.array(expected).astype(dtype)


def test_max_propagates_nan():
    x = np.array([1, np.nan, 2], np.float32)
    assert np.isnan(run(lambda x: op.reduce(x, kind="max", axes=(0,)), x))


def test_arg_reduce_of_equals_gives_the_first_or_the_last():
    x = np.array([[1, 5, 5, 0], [7, 7, 7, 7]], np.float32)
    np.testing.assert_array_equal(run(lambda x: op.arg_reduce(x, kind="max", axis=1), x), [1, 0])
    last = run(lambda x: op.arg_reduce(x, kind="max", axis=1, last=True), x)
    np.testing.assert_array_equal(last, np.array([2, 3]), strict=True)
    np.testing.assert_array_equal(run(lambda x: op.arg_reduce(x, kind="min", axis=1), x), [3, 0])


def naive_window(x, kind, window, strides, padding, base_dilation, window_dilation):
    """Every output element from every element its window meets."""
    spread = [(d - 1) * b + 1 if d else 0 for d, b in zip(x.shape, base_dilation, strict=True)]
    extents = [
        max(0, (n + sum(p) - (w - 1) * d - 1) // s + 1)
        for n, p, w, d, s in zip(spread, padding, window, window_dilation, strides, strict=True)
    ]
    result = np.zeros(extents)
    for index in np.ndindex(*extents):
        met = []
        for offset in itertools.product(*map(range, window)):
            place = [
                i * s + o * d - p[0]
                for i, s, o, d, p in zip(
                    index, strides, offset, window_dilation, padding, strict=True
                )
            ]
            if all(
                0 <= q < n and q % b == 0
                for q, n, b in zip(place, spread, base_dilation, strict=True)
            ):
                source = tuple(q // b for q, b in zip(place, base_dilation, strict=True))
                met.append(x[source])
        neutral = {"sum": 0, "product": 1, "max": -np.inf, "min": np.inf}[kind]
        result[index] = REDUCE[kind]([neutral, *met])
    return result


@given(st.sampled_from(["sum", "product", "max", "min"]), st.integers(1, 3), st.data())
@settings(max_examples=60)
def test_reduce_window_matches_a_naive_loop(kind, rank, data):
    def draw(low, high):
        return tuple(data.draw(st.integers(low, high)) for _ in range(rank))

    attrs = {
        "window": draw(1, 3),
        "strides": draw(1, 3),
        "padding": tuple(zip(draw(-1, 2), draw(-1, 2), strict=True)),
        "base_dilation": draw(1, 2),
        "window_dilation": draw(1, 2),
    }
    x = np.random.default_rng(0).uniform(0.5, 1.5, draw(2, 6)).astype(np.float32)
    result = run(lambda x: op.reduce_window(x, kind=kind, **attrs), x)
    np.testing.assert_allclose(result, naive_window(x, kind, **attrs), rtol=1e-6)


@given(
    st.sampled_from(["sum", "product", "max", "min"]),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
def test_cumulative_matches_a_loop(kind, size, exclusive, reverse):
    x = np.random.default_rng(0).integers(-3, 4, (2, size)).astype(np.int32)
    result = run(
        lambda x: op.cumulative(x, kind=kind, axis=1, exclusive=exclusive, reverse=reverse), x
    )
    limits = np.iinfo(np.int32)
    neutral = {"sum": 0, "product": 1, "max": limits.min, "min": limits.max}[kind]
    for i in range(size):
        met = x[:, i + exclusive :] if reverse else x[:, : i + 1 - exclusive]
        np.testing.assert_array_equal(result[:, i], REDUCE[kind](met, axis=1, initial=neutral))


@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable_and_carries_other_operands(descending):
    keys, order = np.array([2, 1, 2, 1], np.float32), np.arange(4, dtype=np.int32)
    sorted_keys, positions = run_all(
        lambda k, p: op.sort(k, p, axis=0, descending=descending), keys, order
    )
    np.testing.assert_array_equal(sorted_keys, [2, 2, 1, 1] if descending else [1, 1, 2, 2])
    np.testing.assert_array_equal(positions, [0, 2, 1, 3] if descending else [1, 3, 0, 2])


def test_nan_sorts_as_the_greatest():
    x = np.array([1, np.nan, 2], np.float32)
    np.testing.assert_array_equal(run(lambda x: op.sort(x, axis=0), x), [1, 2, np.nan])
    down = run(lambda x: op.sort(x, axis=0, descending=True), x)
    np.testing.assert_array_equal(down, [np.nan, 2, 1])


@given(st.integers(0, 5), st.booleans())
def test_top_k_takes_the_extremes_in_order(k, largest):
    x = np.random.default_rng(0).integers(0, 4, (3, 5)).astype(np.float32)
    values, indices = run_all(lambda x: op.top_k(x, k=k, axis=1, largest=largest), x)
    order = np.argsort(-x if largest else x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order, strict=True)
    np.testing.assert_array_equal(values, np.take_along_axis(x, order, 1))


def test_broken_rules_are_refused():
    x = tensor(f32, 2, 3)
    for message, build in {
        "is not one of": lambda: op.reduce(x, kind="median", axes=(0,)),
        "not bool or int": lambda: op.reduce(x, kind="and", axes=(0,)),
        "not int or uint": lambda: op.reduce(tensor(bool_, 2), kind="sum", axes=(0,)),
        "repeat": lambda: op.reduce(x, kind="sum", axes=(0, 0)),
        "is empty": lambda: op.arg_reduce(tensor(f32, 0), kind="max", axis=0),
        "needs 2 entries": lambda: op.reduce_window(x, kind="sum", window=(2,)),
        "pairs": lambda: op.reduce_window(x, kind="sum", window=(2, 2), padding=(1, 1, 1)),
        "shape of the keys": lambda: op.sort(x, tensor(f32, 3, 2), axis=0),
        r"not in \[0, 3\]": lambda: op.top_k(x, k=4, axis=1),
    }.items():
        with pytest.raises(VerifyError, match=message):
            build()
