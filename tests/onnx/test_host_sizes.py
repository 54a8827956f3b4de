"""Sizes that the model computes from data: the host gives what the importer gives for constants."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_helpers import model, run

import tilth

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
# An expression of x and of integers, which are the operands a, b, ...
CASES = [
    ("Reshape(x, a)", ([4, -1],)),
    ("Reshape(x, a)", ([0, 12],)),
    ("Reshape<allowzero=1>(x, a)", ([2, 12],)),
    ("Expand(x, a)", ([5, 1, 1, 4],)),
    ("ConstantOfShape(a)", ([2, 0, 3],)),
    ("ConstantOfShape<value=int64[1] {7}>(a)", ([2],)),
    ("Range(a, b, c)", (2, 9, 3)),
    ("Range(a, b, c)", (2, -3, -2)),
    ("Range(a, b, c)", (3, 3, 1)),
    ("Slice(x, a, b)", ([0, 1], [1, 99])),
    ("Slice(x, a, b, c)", ([1], [-1], [-1])),
    ("Slice(x, a, b, c, d)", ([-1, 0], [-99, 3], [2, 1], [-2, 2])),
]


def models(expression: str, numbers: tuple) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """One in which the numbers are constants, and one in which they depend on x."""
    element = "int64" if "int64" in expression or "Range" in expression else "float"
    names = "abcd"[: len(numbers)]
    known = hidden = ""
    for name, value in zip(names, numbers, strict=True):
        array = np.array(value)
        text = ", ".join(map(str, np.atleast_1d(value)))
        shape = f"[{array.size}]" if array.ndim else ""
        constant = f"Constant<value=int64{shape} {{{text}}}>()"
        known += f"{name} = {constant}\n"
        hidden += f"{name}c = {constant} {name} = Add({name}c, zero)\n"
    # how far x is below zero: not at all, but no importer knows that
    zero = """m = Neg(x) below = Relu(m) most = ReduceMax<keepdims=0>(below)
        zero = Cast<to=7>(most)\n"""
    ends = f"g (float[2,3,4] x) => ({element}[k] y)"
    return (
        model(f"{ends} {{ {known} y = {expression} }}"),
        model(f"{ends} {{ {zero} {hidden} y = {expression} }}"),
    )


@pytest.mark.parametrize(("expression", "numbers"), CASES)
def test_the_host_agrees_with_the_importer(expression: str, numbers: tuple):
    known, hidden = models(expression, numbers)
    (expected,) = run(known, X)
    staged = tilth.load(hidden)
    found = staged({"x": X})["y"]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    operator = expression.split("(")[0].split("<")[0]
    assert operator in [h.op for h in staged.report.host_ops]


def test_a_size_that_cannot_be_meant_is_refused():
    text = """g (float[n] x) => (float[k] y) {
        places = NonZero(x)
        first = Constant<value_ints=[0]>()
        list = Squeeze(places, first)
        y = ConstantOfShape(list)
    }"""
    x = np.zeros(50_000, np.float32)
    x[[40_000, 41_000, 42_000]] = 1
    with pytest.raises(tilth.LimitError, match="ConstantOfShape"):
        tilth.load(model(text))({"x": x})
