"""Views follow NumPy: they express exactly what NumPy expresses without a copy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.cpu.view import Buffer, View, behind, dense_view, reshape, through
from tilth.ir.graph import make_constant
from tilth.ir.ops import op
from tilth.ir.types import TensorType, f32

MEMORY = np.arange(20_000, dtype=np.float32)


def view_of(array: np.ndarray) -> View:
    start = array.__array_interface__["data"][0] - MEMORY.__array_interface__["data"][0]
    strides = tuple(s // 4 for s in array.strides)
    return View(Buffer("arena", MEMORY.nbytes), f32, array.shape, strides, start)


def read(view: View) -> np.ndarray:
    steps = tuple(4 * s for s in view.strides)
    return np.lib.stride_tricks.as_strided(MEMORY[view.offset // 4 :], view.shape, steps)


@st.composite
def strided_arrays(draw):
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4))
    grown = [d + draw(st.sampled_from([0, 0, 2])) for d in shape]
    array = MEMORY[: math.prod(grown)].reshape(grown)[tuple(slice(0, d) for d in shape)]
    return array.transpose(draw(st.permutations(range(len(shape)))))


@st.composite
def factorisations(draw, size):
    dims = []
    while size > 1:
        dims.append(draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0])))
        size //= dims[-1]
    for _ in range(draw(st.integers(0, 2))):
        dims.insert(draw(st.integers(0, len(dims))), 1)
    return tuple(dims)


@given(st.data())
def test_reshape_is_a_view_exactly_when_numpy_needs_no_copy(data):
    array = data.draw(strided_arrays())
    shape = data.draw(factorisations(array.size))
    got = reshape(view_of(array), shape)
    expected = np.reshape(array, shape)
    if np.shares_memory(expected, array):
        assert got is not None
        np.testing.assert_array_equal(read(got), expected)
    else:
        assert got is None


@pytest.mark.parametrize(
    "build",
    [
        lambda x: op.transpose(x, permutation=(2, 0, 1)),
        lambda x: op.slice(x, start=(1, 0, 2), limit=(3, 4, 5), strides=(1, 2, 1)),
        lambda x: op.reverse(x, axes=(0, 2)),
        lambda x: op.broadcast_in_dim(x, shape=(2, 3, 4, 5), dims=(1, 2, 3)),
        lambda x: op.reshape(x, shape=(12, 5)),
    ],
)
def test_movement_ops_are_seen_through(build):
    array = MEMORY[:60].reshape(3, 4, 5)
    result = build(make_constant(array))
    from tilth.ir.interpreter import evaluate

    expected = evaluate(result.node, [array])[0]
    view = through(result.node, view_of(array))
    np.testing.assert_array_equal(read(view), expected)


def test_behind_is_the_inverse_of_through():
    node = op.transpose(make_constant(np.zeros((3, 4, 5), np.float32)), permutation=(2, 0, 1)).node
    home = dense_view(Buffer("arena", 240), TensorType(f32, (5, 3, 4)))
    assert through(node, behind(node, home)).same_place(home)
