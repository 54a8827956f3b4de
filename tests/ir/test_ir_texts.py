"""Numbers as text and back, by `convert`."""

from __future__ import annotations

import numpy as np
import pytest

from tilth.ir.errors import InputError
from tilth.ir.graph import make_input
from tilth.ir.interpreter import evaluate
from tilth.ir.ops import make
from tilth.ir.types import DType, TensorType, bf16, bool_, dtype_of, f16, f32, f64, i64, string, u8


def converted(array: np.ndarray, dtype: DType) -> np.ndarray:
    x = make_input(TensorType(dtype_of(array.dtype), array.shape), "x")
    return evaluate(make("convert", x, dtype=dtype), [array])[0]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        *[(0.1, "0.1"), (1.0, "1"), (3.14159265358979, "3.1415927"), (1e10, "1e+10")],
        *[(float("nan"), "NaN"), (float("inf"), "INF"), (-float("inf"), "-INF"), (-0.0, "-0")],
    ],
)
@pytest.mark.parametrize("dtype", [f32, f64])
def test_floats_have_eight_digits(number, text, dtype):
    assert converted(np.array([number], dtype.numpy), string).tolist() == [text]


@pytest.mark.parametrize(
    ("number", "dtype", "text"), [(2**62, i64, str(2**62)), (250, u8, "250"), (True, bool_, "1")]
)
def test_integers_are_exact(number, dtype, text):
    assert converted(np.array(number, dtype.numpy), string).item() == text


@pytest.mark.parametrize("dtype", [f16, bf16, f32, f64])
def test_texts_are_read_as_floats(dtype):
    texts = np.array([["1.5", " -2 "], ["1e2", "+INF"]], object)
    assert converted(texts, dtype).astype(np.float64).tolist() == [[1.5, -2], [100, np.inf]]
    assert np.isnan(converted(np.array("nan", object), dtype).astype(np.float64))


def test_texts_are_read_as_integers():
    texts = np.array(["7", str(2**62 + 1), "1.9", "1e3"], object)
    assert converted(texts, i64).tolist() == [7, 2**62 + 1, 1, 1000]
    assert converted(np.array(["0", "2"], object), bool_).tolist() == [False, True]


@pytest.mark.parametrize(("text", "dtype"), [("one", f32), ("", f32), ("one", i64), ("inf", i64)])
def test_what_is_no_number_is_an_error(text, dtype):
    with pytest.raises(InputError, match="is no"):
        converted(np.array(text, object), dtype)
