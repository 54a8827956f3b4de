"""Layers of quantised tensors become contractions of bytes, and stay exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from graph_samples import count, graph, ops, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.compiler.integer_products import RULES
from tilth.compiler.pipeline import run_pipeline
from tilth.cpu.target import CpuTarget
from tilth.ir.graph import make_constant
from tilth.ir.interpreter import interpret
from tilth.ir.ops.helpers import as_dtype, scalar
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite
from tilth.ir.types import f32, i8, i32, u8
from tilth.runtime.target import Options, Traits

RNG = np.random.default_rng(5)


def constant(array):
    return make_constant(np.asarray(array))


def integers(dtype, *shape):
    limits = np.iinfo(dtype.numpy)
    return RNG.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)


def rewritten(*outputs):
    """The graph after the rules, which gives the same integers, and floats but for rounding.

    Operands come from the whole range of their type.
    """
    before = graph(*outputs)
    after, _ = rewrite(before, RULES)
    inputs = [integers(v.tensor.dtype, *v.shape) for v in before.inputs]
    for want, got in zip(interpret(before, inputs), interpret(after, inputs), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, 1e-5, 1e-5 * abs(want).max())
        else:
            np.testing.assert_array_equal(got, want)
    return after


def centred(x, zero):
    return op.subtract(op.convert(x, dtype=i32), constant(np.int32(zero)))


def product(x, w, **attrs):
    return op.dot_general(x, w, lhs_contract=(1,), rhs_contract=(0,), **attrs)


def hero(g):
    """The only contraction of a graph: types of its operands and of the result."""
    (node,) = (n for n in g.nodes if n.op in ("convolution", "dot_general"))
    return (*(v.tensor.dtype for v in node.inputs), node.outputs[0].tensor.dtype)


@settings(max_examples=10)
@given(dtype=st.sampled_from([u8, i8]), depth=st.integers(1, 9), zero=st.integers(0, 127))
def test_products_of_centred_integers_are_taken_from_bytes(dtype, depth, zero):
    w = constant(RNG.integers(-128, 128, (depth, 5)).astype(np.int32))
    g = rewritten(product(centred(tensor(3, depth, dtype=dtype), zero), w))
    assert hero(g) == (u8, i8, i32)


@settings(max_examples=10)
@given(
    dtype=st.sampled_from([u8, i8]),
    channels=st.sampled_from([3, 4]),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    stride=st.integers(1, 2),
)
def test_padding_of_convolutions_is_made_of_zero_points(dtype, channels, padding, stride):
    w = constant(RNG.integers(-128, 128, (5, channels, 3, 3)).astype(np.int32))
    x = centred(tensor(2, channels, 6, 7, dtype=dtype), 17)
    y = op.convolution(x, w, padding=(padding, padding[::-1]), strides=(stride, stride))
    g = rewritten(y)
    assert hero(g) == (u8, i8, i32)
    (node,) = (n for n in g.nodes if n.op == "convolution")
    assert node.inputs[0].shape[-1] == 4 and node.attrs["padding"] == ((0, 0), (0, 0))


def test_a_zero_point_that_is_computed():
    zero = tensor(dtype=u8)
    x = op.subtract(op.convert(tensor(3, 8, dtype=u8), dtype=i32), op.convert(zero, dtype=i32))
    g = rewritten(product(x, constant(integers(i8, 8, 5).astype(np.int32))))
    assert hero(g) == (u8, i8, i32)


def test_weights_beyond_a_byte_are_summed_in_two_parts():
    w = constant(RNG.integers(-255, 256, (8, 5)).astype(np.int32))
    g = rewritten(product(centred(tensor(3, 8, dtype=u8), 9), w))
    assert count(g)["dot_general"] == 2


def test_operands_that_were_moved_after_their_conversion():
    x = op.reshape(centred(tensor(2, 2, 4, dtype=u8), 3), shape=(2, 8))
    g = rewritten(product(x, constant(integers(i8, 8, 5).astype(np.int32))))
    assert hero(g) == (u8, i8, i32)


def dequantized(x, scale, zero, axis=None):
    scale = np.asarray(scale, np.float32)
    zero = np.broadcast_to(np.asarray(zero, x.tensor.dtype.numpy), scale.shape)
    return op.uniform_dequantize(x, constant(scale), constant(zero.copy()), dtype=f32, axis=axis)


def quantized(x, scale, zero, dtype=u8):
    return op.uniform_quantize(
        x, constant(np.float32(scale)), constant(np.array(zero, dtype.numpy)), dtype=dtype
    )


def layer(x, w, scales, axis, bias=None):
    """A dequantised dense layer, its bias in units of both scales."""
    y = product(dequantized(x, 0.02, 5), dequantized(constant(w), scales, 0, axis))
    if bias is not None:
        units = np.float32(0.02) * np.asarray(scales, np.float32)
        y = op.add(y, dequantized(constant(bias), units, 0, None if axis is None else 0))
    return y


@pytest.mark.parametrize("dtype", [u8, i8], ids=str)
@pytest.mark.parametrize("scales, axis", [(0.03, None), ([0.01, 0.02, 0.03], 1)])
def test_dequantised_layers_are_one_integer_product_scaled_once(dtype, scales, axis):
    bias = np.array([100, -200, 3000], np.int32)
    y = layer(tensor(4, 8, dtype=dtype), integers(i8, 8, 3), scales, axis, bias)
    g = rewritten(quantized(op.relu(y), 0.5, 3))
    assert hero(g) == (u8, i8, i32)
    assert count(g)["multiply"] == 2  # the zero point's correction, and one factor
    assert "uniform_dequantize" not in ops(g)


def test_dequantised_convolutions_with_scales_per_channel():
    w = dequantized(constant(integers(i8, 6, 4, 3, 3)), np.linspace(0.01, 0.06, 6), 0, 0)
    y = op.convolution(dequantized(tensor(1, 4, 5, 5, dtype=i8), 0.02, -7), w)
    assert hero(rewritten(quantized(y, 0.8, 0, i8))) == (u8, i8, i32)


def test_the_answer_is_that_of_integer_arithmetic():
    """Bit for bit that of (sum of integers) * (scale of x * scale of w / scale of y)."""
    x, w = tensor(4, 8, dtype=u8), integers(i8, 8, 3)
    after, _ = rewrite(graph(quantized(layer(x, w, 0.03, None), 0.37, 100)), RULES)
    q = integers(u8, 4, 8)
    total = (q.astype(np.int64) - 5) @ w.astype(np.int64)
    factor = np.float32(0.02) * np.float32(0.03) / np.float32(0.37)
    want = np.clip(np.rint(total.astype(np.float32) * factor) + 100, 0, 255)
    np.testing.assert_array_equal(interpret(after, [q])[0], want)


def test_channels_in_groups_are_exact_in_float():
    w = dequantized(constant(integers(i8, 6, 1, 3, 3)), 0.02, 0)
    x = dequantized(tensor(1, 6, 5, 5, dtype=u8), 0.01, 8)
    g = rewritten(op.convolution(x, w, groups=6))
    assert hero(g) == (f32, f32, f32)
    assert ops(g).index("convert") < ops(g).index("convolution")


def test_a_bias_in_other_units_stays_a_float():
    y = product(dequantized(tensor(4, 8, dtype=u8), 0.02, 5),
                dequantized(constant(integers(i8, 8, 3)), 0.03, 0))  # fmt: skip
    bias = dequantized(constant(np.array([1, 2, 3], np.int32)), 0.5, 0)
    assert "uniform_dequantize" in ops(rewritten(op.add(y, bias)))


def test_what_is_no_layer_of_bytes_stays():
    x, other = tensor(4, 8, dtype=u8), tensor(8, 3, dtype=i8)
    per_row = dequantized(x, np.full(4, 0.02), 5, 0)
    w = constant(integers(i8, 8, 3))
    wide = tensor(4, 8, dtype=i32)
    kept = [
        product(dequantized(x, 0.02, 5), dequantized(other, 0.1, 0)),  # no constant
        product(per_row, dequantized(w, 0.1, 0)),  # a scale per row
        product(dequantized(x, 0.02, 5), dequantized(w, np.full(8, 0.1), 0, 0)),  # along the depth
        product(wide, constant(integers(i8, 8, 3).astype(np.int32))),  # 32 bits
        product(centred(x, 300), constant(np.full((8, 3), 7, np.int32))),  # no zero point of a byte
        product(centred(x, 3), constant(np.full((8, 3), 300, np.int32))),  # weights of 10 bits
    ]
    for value in kept:
        assert ops(rewritten(value)) == ops(graph(value))


def test_quantising_what_was_just_dequantised_does_nothing():
    x = tensor(4, 8, dtype=u8)
    assert ops(rewritten(quantized(dequantized(x, 0.02, 5), 0.02, 5))) == []
    assert len(ops(rewritten(quantized(dequantized(x, 0.02, 5), 0.02, 6)))) == 2


def test_only_targets_that_profit_get_them():
    y = layer(tensor(4, 8, dtype=u8), integers(i8, 8, 3), 0.03, None)
    g = graph(quantized(as_dtype(y, f32), 0.5, 3))
    traits = CpuTarget().traits
    for profits in (True, False):
        result = run_pipeline(g, replace(traits, fuses=False, byte_products=profits), Options())
        assert hero(result.graph) == ((u8, i8, i32) if profits else (f32, f32, f32))
    assert not Traits().byte_products


def test_weights_are_kept_in_bytes_until_the_target_is_known():
    w = dequantized(constant(integers(i8, 8, 3)), 0.03, 0)
    y = op.add(product(tensor(4, 8), w), scalar(1, w))
    result = run_pipeline(graph(y), replace(CpuTarget().traits, fuses=False), Options())
    assert ops(result.graph) == ["dot_general", "add"]
