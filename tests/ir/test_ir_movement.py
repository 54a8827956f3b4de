"""Meaning of the ops that move elements, on random shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_samples import run, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.ops import op
from tilth.ir.types import f32, i8

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def numbered(shape):
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


@given(SHAPES.flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))))
def test_transpose_permutes_axes(case):
    shape, permutation = case
    x = numbered(shape)
    result = run(lambda x: op.transpose(x, permutation=permutation), x)
    np.testing.assert_array_equal(result, np.transpose(x, permutation))


@given(SHAPES, st.data())
def test_slice_is_a_python_slice_per_axis(shape, data):
    start = [data.draw(st.integers(0, d)) for d in shape]
    limit = [data.draw(st.integers(a, d)) for a, d in zip(start, shape, strict=True)]
    strides = [data.draw(st.integers(1, 3)) for _ in shape]
    x = numbered(shape)
    result = run(lambda x: op.slice(x, start=start, limit=limit, strides=strides), x)
    np.testing.assert_array_equal(result, x[tuple(map(slice, start, limit, strides))])


@given(st.lists(st.integers(1, 4), max_size=3).map(tuple), st.data())
def test_pad_spaces_out_frames_and_crops(shape, data):
    interior = [data.draw(st.integers(0, 2)) for _ in shape]
    spread = [(d - 1) * (i + 1) + 1 for d, i in zip(shape, interior, strict=True)]
    low = [data.draw(st.integers(-n // 2, 2)) for n in spread]
    high = [data.draw(st.integers(-n // 2, 2)) for n in spread]
    if any(n + a + b < 0 for n, a, b in zip(spread, low, high, strict=True)):
        return
    x = numbered(shape) + 1
    result = run(
        lambda x, v: op.pad(x, v, low=low, high=high, interior=interior), x, np.float32(-1)
    )
    for index in np.ndindex(result.shape):
        place = [i - a for i, a in zip(index, low, strict=True)]
        inside = all(
            0 <= p < n and p % (i + 1) == 0 for p, n, i in zip(place, spread, interior, strict=True)
        )
        source = tuple(p // (i + 1) for p, i in zip(place, interior, strict=True))
        assert result[index] == (x[source] if inside else -1)


def test_broadcast_in_dim_places_axes_in_any_order():
    x = numbered((3, 1))
    result = run(lambda x: op.broadcast_in_dim(x, shape=(2, 5, 3), dims=(2, 1)), x)
    np.testing.assert_array_equal(result, np.broadcast_to(x.T[None], (2, 5, 3)))


@given(SHAPES.filter(len), st.data())
def test_concatenate_and_reverse(shape, data):
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = numbered(shape)
    np.testing.assert_array_equal(
        run(lambda x: op.concatenate(x, op.reverse(x, axes=(axis,)), axis=axis), x),
        np.concatenate([x, np.flip(x, axis)], axis),
    )


def test_iota_counts_along_one_axis():
    result = run(lambda: op.iota(dtype=i8, shape=(2, 3), axis=1))
    np.testing.assert_array_equal(result, np.array([[0, 1, 2], [0, 1, 2]], np.int8), strict=True)


def test_broken_rules_are_refused():
    x, scalar = tensor(f32, 2, 3), tensor(f32)
    for message, build in {
        "has 6 elements": lambda: op.reshape(x, shape=(4, 2)),
        "repeat": lambda: op.transpose(x, permutation=(1, 1)),
        "needs 2 entries": lambda: op.transpose(x, permutation=(0,)),
        r"not an int in \[0, 2\)": lambda: op.reverse(x, axes=(-1,)),
        "not a range": lambda: op.slice(x, start=(0, 2), limit=(2, 4)),
        "below 1": lambda: op.slice(x, start=(0, 0), limit=(2, 3), strides=(0, 1)),
        "cannot become": lambda: op.broadcast_in_dim(x, shape=(2, 4), dims=(0, 1)),
        "expected a scalar": lambda: op.pad(x, x),
        "below 0": lambda: op.pad(x, scalar, low=(-3, 0)),
        "differ off axis": lambda: op.concatenate(x, tensor(f32, 2, 4), axis=0),
        "differ in dtype": lambda: op.concatenate(x, tensor(i8, 2, 3), axis=0),
        "at least one": lambda: op.concatenate(axis=0),
    }.items():
        with pytest.raises(VerifyError, match=message):
            build()
