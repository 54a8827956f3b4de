"""The building blocks that decompositions, importers and passes share, against NumPy."""

import ml_dtypes
import numpy as np
import pytest
from ir_samples import run, run_all, tensor

from tilth.ir.graph import constant_of
from tilth.ir.ops import helpers
from tilth.ir.types import bf16, f32, f64

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def test_what_changes_nothing_makes_no_node():
    x = tensor(f32, 2, 3)
    assert helpers.as_dtype(x, f32) is x
    assert helpers.as_shape(x, (2, 3)) is x
    assert helpers.permuted(x, (0, 1)) is x
    assert helpers.broadcast_to(x, (2, 3)) is x


def test_a_scalar_takes_the_dtype_of_the_value():
    half = constant_of(helpers.scalar(0.5, tensor(bf16, 2)))
    np.testing.assert_array_equal(half, np.array(0.5, ml_dtypes.bfloat16), strict=True)


@pytest.mark.parametrize(
    ("helper", "expected"),
    [
        (lambda x: helpers.as_dtype(x, f64), X.astype(np.float64)),
        (lambda x: helpers.as_shape(x, (6, 4)), X.reshape(6, 4)),
        (lambda x: helpers.permuted(x, (2, 0, 1)), X.transpose(2, 0, 1)),
        (lambda x: helpers.broadcast_to(x, (5, 2, 3, 4)), np.broadcast_to(X, (5, 2, 3, 4))),
        (lambda x: helpers.reduce_keepdims(x, "max", (0, 2)), X.max((0, 2), keepdims=True)),
        (lambda x: helpers.mean(x, (1,)), X.mean(1, keepdims=True)),
        (lambda x: helpers.matmul(x, helpers.permuted(x, (0, 2, 1))), X @ X.transpose(0, 2, 1)),
    ],
)
def test_helpers_mean_what_numpy_means(helper, expected):
    np.testing.assert_array_equal(run(helper, X), expected, strict=True)


def test_split_gives_consecutive_slices():
    parts = run_all(lambda x: helpers.split(x, (1, 3), axis=2), X)
    for part, expected in zip(parts, np.split(X, [1], axis=2), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_align_broadcasts_a_vector_along_its_axis():
    result = run(lambda v: helpers.align(v, 1, 3), np.arange(3.0))
    assert result.shape == (1, 3, 1)
