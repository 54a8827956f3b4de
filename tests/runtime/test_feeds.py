"""Feeds are checked strictly, and every refusal says what was expected."""

import numpy as np
import pytest

from tilth import InputError
from tilth.ir.types import TensorType, f32, i64, string
from tilth.runtime.feeds import Port, check_feeds

X = Port("x", TensorType(f32, (2, 3)))
Y = Port("y", TensorType(i64, ("batch",)))
Z = Port("z", TensorType(i64, ("batch", 4)))


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_right_array_is_passed_on_uncopied():
    array = ones(2, 3)
    assert check_feeds([X], {"x": array})[0] is array


def test_arrays_come_in_the_order_of_the_ports():
    y = np.zeros(5, np.int64)
    assert [a.shape for a in check_feeds([X, Y], {"y": y, "x": ones(2, 3)})] == [(2, 3), (5,)]


def test_a_missing_input_is_named_with_its_type():
    with pytest.raises(InputError, match=r"missing input x: f32\[2,3\]; fed: 'w'"):
        check_feeds([X], {"w": ones(2, 3)})


def test_an_unknown_input_is_named_with_what_there_is():
    with pytest.raises(InputError, match=r"unknown input 'w'; the inputs are: x: f32\[2,3\]"):
        check_feeds([X], {"x": ones(2, 3), "w": ones(1)})


def test_a_wrong_dtype_is_not_converted():
    with pytest.raises(
        InputError, match=r"'x': expected dtype f32, got f64; .*astype\('float32'\)"
    ):
        check_feeds([X], {"x": np.ones((2, 3))})


def test_a_wrong_rank_is_refused():
    with pytest.raises(InputError, match=r"'x': expected 2 dimensions, got 1 .*got shape \(3,\)"):
        check_feeds([X], {"x": ones(3)})


def test_a_wrong_dimension_is_refused_with_the_hint():
    with pytest.raises(InputError, match=r"'x': dimension 1 must be 3, not 4 .*; do this"):
        check_feeds([X], {"x": ones(2, 4)}, hint="; do this")


def test_a_symbol_takes_any_extent_but_the_same_everywhere():
    y, z = np.zeros(5, np.int64), np.zeros((5, 4), np.int64)
    check_feeds([Y, Z], {"y": y, "z": z})
    with pytest.raises(InputError, match="'z': dimension 0 is 6, but 'batch' is 5 in input 'y'"):
        check_feeds([Y, Z], {"y": y, "z": np.zeros((6, 4), np.int64)})


def test_strided_arrays_are_made_contiguous():
    array = np.arange(6, dtype=np.float32).reshape(3, 2).T
    found = check_feeds([X], {"x": array})[0]
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, array)


def test_misaligned_arrays_are_made_aligned():
    array = np.frombuffer(b"\0" + ones(2, 3).tobytes(), np.float32, offset=1).reshape(2, 3)
    assert not array.flags.aligned
    assert check_feeds([X], {"x": array})[0].flags.aligned


def test_the_other_byte_order_is_turned_round():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = check_feeds([X], {"x": array.astype(">f4")})[0]
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array)


def test_lists_count_as_arrays_of_the_dtype_that_numpy_gives_them():
    np.testing.assert_array_equal(check_feeds([Y], {"y": [1, 2]})[0], [1, 2])
    with pytest.raises(InputError, match="expected dtype f32, got f64"):
        check_feeds([X], {"x": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]})


def test_a_numpy_scalar_is_a_tensor_of_rank_0():
    scalar = Port("s", TensorType(f32, ()))
    assert check_feeds([scalar], {"s": np.float32(3)})[0].shape == ()


@pytest.mark.parametrize("what", [[[1], [2, 3]], "text", None, object(), np.zeros(2, "M8[s]")])
def test_what_is_no_tensor_is_refused(what: object):
    with pytest.raises(InputError, match="input 'y'"):
        check_feeds([Y], {"y": what})


@pytest.mark.parametrize("feeds", [None, [1], 3])
def test_feeds_must_be_a_mapping(feeds: object):
    with pytest.raises(InputError, match="feeds must map input names to arrays"):
        check_feeds([X], feeds)  # type: ignore[arg-type]


def test_strings_are_taken_in_any_form():
    words = Port("w", TensorType(string, (2,)))
    found = check_feeds([words], {"w": np.array(["a", "b"])})[0]
    assert found.dtype == object
    assert found.tolist() == ["a", "b"]
