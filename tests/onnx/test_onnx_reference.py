"""Operators with many attributes against ONNX's own reference evaluator, on random attributes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx_helpers import run

from tilth.onnx.ops import elementwise

EXAMPLES = settings(max_examples=20, deadline=None)


def one_node(
    op_type: str, inputs: dict[str, np.ndarray], opset: int = 21, outputs: int = 1, **attrs: Any
) -> onnx.ModelProto:
    """A model of one node over these inputs."""
    node = helper.make_node(op_type, list(inputs), [f"y{i}" for i in range(outputs)], **attrs)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in inputs.items()
    ]
    first = infos[0].type.tensor_type.elem_type
    results = [helper.make_tensor_value_info(o, first, None) for o in node.output]
    graph = helper.make_graph([node], "g", infos, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check(model: onnx.ModelProto, inputs: dict[str, np.ndarray], rtol: float = 1e-4) -> None:
    expected = ReferenceEvaluator(model).run(None, inputs)
    results = run(model, *inputs.values())
    for got, want in zip(results, expected, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol, 1e-5)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


small = st.integers(1, 3)
pair = st.tuples(small, small)


@EXAMPLES
@given(st.data(), small, pair, pair, pair, st.sampled_from([1, 2]))
def test_convolution(data, outputs, kernel, strides, dilations, groups):
    pads = data.draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    size = data.draw(st.tuples(st.integers(5, 8), st.integers(5, 8)))
    inputs = {
        "x": floats(2, 2 * groups, *size),
        "w": floats(outputs * groups, 2, *kernel, seed=1),
        "b": floats(outputs * groups, seed=2),
    }
    attrs = {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}
    assume(all((k - 1) * d < n for k, d, n in zip(kernel, dilations, size, strict=True)))
    check(one_node("Conv", inputs, **attrs), inputs)


@EXAMPLES
@given(st.data(), small, pair, pair)
def test_transposed_convolution_is_the_adjoint_of_convolution(data, outputs, kernel, strides):
    """<conv(y), x> = <y, conv_transpose(x)>, with padding and strides but no extra output."""
    pads = data.draw(st.lists(st.integers(0, 1), min_size=4, max_size=4))
    assume(all(k > 1 for k in kernel))
    x, w = floats(1, 3, 4, 5), floats(3, outputs, *kernel, seed=1)
    attrs = {"strides": strides, "pads": pads}
    inputs = {"x": x, "w": w}
    (up,) = run(one_node("ConvTranspose", inputs, **attrs), x, w)
    y = floats(*up.shape, seed=2)
    (down,) = run(one_node("Conv", {"y": y, "w": w}, **attrs), y, w)
    assert down.shape == x.shape
    np.testing.assert_allclose((down * x).sum(), (up * y).sum(), rtol=1e-3, atol=1e-3)


def pooled(x: np.ndarray, reduce, kernel, strides, pads, ceil_mode: bool) -> np.ndarray:
    """Pooling of an image by its definition: the part of each window that lies in the image."""
    starts = []
    for n, k, s, low, high in zip(x.shape, kernel, strides, pads[:2], pads[2:], strict=True):
        steps = (n + low + high - k) / s
        last = (math.ceil if ceil_mode else math.floor)(steps)
        firsts = [i * s - low for i in range(last + 1)]
        starts.append([f for f in firsts if f < n])  # none begins in the padding at the end
    return np.array(
        [
            [reduce(x[max(r, 0) : r + kernel[0], max(c, 0) : c + kernel[1]]) for c in starts[1]]
            for r in starts[0]
        ]
    )


@EXAMPLES
@given(st.data(), st.sampled_from(["MaxPool", "AveragePool"]), pair, pair, st.booleans())
def test_pooling(data, op_type, kernel, strides, ceil_mode):
    pads = [data.draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    attrs = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil_mode)}
    x = floats(1, 1, 6, 7)
    (got,) = run(one_node(op_type, {"x": x}, **attrs), x)
    reduce = np.max if op_type == "MaxPool" else np.mean
    expected = pooled(x[0, 0], reduce, kernel, strides, pads, ceil_mode)
    np.testing.assert_allclose(got[0, 0], expected, 1e-5, 1e-6)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_a_huge_window_pools_the_whole_map(op_type):
    """As EfficientNet's, whose 7x7 maps are pooled by windows of its 1280 channels."""
    x = floats(1, 2, 6, 7)
    attrs = {"kernel_shape": (10**6,) * 2, "strides": (10**6,) * 2, "ceil_mode": 1}
    (got,) = run(one_node(op_type, {"x": x}, **attrs), x)
    reduce = np.max if op_type == "MaxPool" else np.mean
    np.testing.assert_allclose(got, reduce(x, (2, 3), keepdims=True), 1e-5, 1e-6)


@EXAMPLES
@given(st.data())
def test_slicing(data):
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    axes = data.draw(
        st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda a: a % 3)
    )
    bound = st.lists(st.integers(-8, 8), min_size=len(axes), max_size=len(axes))
    step = st.sampled_from([-2, -1, 1, 2, 3])
    steps = data.draw(st.lists(step, min_size=len(axes), max_size=len(axes)))
    starts, ends = data.draw(bound), data.draw(bound)
    inputs = {"x": x}
    for name, values in (("s", starts), ("e", ends), ("a", axes), ("t", steps)):
        inputs[name] = np.array(values)
    check(one_node("Slice", inputs), inputs)


@EXAMPLES
@given(
    st.sampled_from(["constant", "edge", "reflect", "wrap"]),
    st.lists(st.integers(0, 3), min_size=4, max_size=4),
)
def test_padding(mode, pads):
    inputs = {"x": floats(4, 5), "p": np.array(pads)}
    check(one_node("Pad", inputs, mode=mode), inputs)


@EXAMPLES
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
)
def test_resizing(mode, transformation, size):
    inputs = {
        "x": floats(1, 2, 4, 5),
        "roi": np.zeros(0, np.float32),
        "scales": np.zeros(0, np.float32),
        "sizes": np.array([1, 2, *size]),
    }
    attrs = {"mode": mode, "coordinate_transformation_mode": transformation}
    check(one_node("Resize", inputs, **attrs), inputs)


@EXAMPLES
@given(
    st.sampled_from(["LSTM", "GRU", "RNN"]),
    st.sampled_from(["forward", "reverse", "bidirectional"]),
    st.booleans(),
)
def test_recurrent_layers_with_lengths_do_not_see_beyond_them(op_type, direction, full):
    """A sequence padded with noise gives what the short sequence gives, then zeros."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op_type]
    count = 2 if direction == "bidirectional" else 1
    w, r = floats(count, gates * 3, 2, seed=1), floats(count, gates * 3, 3, seed=2)
    bias, x = floats(count, 2 * gates * 3, seed=3), floats(6, 1, 2)
    length = 6 if full else 4
    common = {"w": w, "r": r, "b": bias}
    attrs = {"hidden_size": 3, "direction": direction, "outputs": 2}
    long = {"x": x, **common, "n": np.array([length], np.int32)}
    short = {"x": x[:length], **common}
    y, last = run(one_node(op_type, long, **attrs), *long.values())
    y_short, last_short = run(one_node(op_type, short, **attrs), *short.values())
    np.testing.assert_allclose(y[:length], y_short, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(last, last_short, rtol=1e-5, atol=1e-6)
    assert not y[length:].any()


@pytest.mark.parametrize(
    "equation", ["ij,jk->ik", "bij,bjk->bik", "ii->i", "i,j->ij", "ij->", "...ij->...ji"]
)
def test_einsum_is_numpys(equation):
    shapes = {"i": 2, "j": 3, "k": 4, "b": 2}
    terms = equation.split("->")[0].replace("...", "b").split(",")
    xs = [floats(*(shapes[c] for c in t), seed=i) for i, t in enumerate(terms)]
    inputs = {f"x{i}": x for i, x in enumerate(xs)}
    (got,) = run(one_node("Einsum", inputs, equation=equation), *xs)
    np.testing.assert_allclose(got, np.einsum(equation, *xs), rtol=1e-5, atol=1e-6)


# What early opsets meant


def test_before_opset_7_an_axis_says_where_the_second_operand_lies():
    x, y = floats(2, 3, 4), floats(3, seed=1)
    (got,) = run(one_node("Add", {"x": x, "y": y}, opset=6, broadcast=1, axis=1), x, y)
    np.testing.assert_array_equal(got, x + y[:, None])


def test_before_opset_13_softmax_runs_over_all_dimensions_from_its_axis():
    x = floats(2, 3, 4)
    (got,) = run(one_node("Softmax", {"x": x}, opset=9, axis=1), x)
    powers = np.exp(x)
    np.testing.assert_allclose(got, powers / powers.sum((1, 2), keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("op_type", sorted(elementwise.UNARY))
def test_every_name_in_the_table_of_unary_operators_is_an_operator_of_onnx(op_type):
    assert onnx.defs.get_schema(op_type).min_input == 1
