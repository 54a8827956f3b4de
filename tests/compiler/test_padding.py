"""Explicit padding, and transposed convolutions."""

import numpy as np
import pytest
from graph_samples import assert_same, count, graph, ops, tensor, weights

from tilth.compiler import padding, transposed_convolution
from tilth.compiler.cse import merge_common_subexpressions
from tilth.ir.graph import constant_of, make_constant
from tilth.ir.ops.table import op
from tilth.ir.rewrite import rewrite


def padded(*outputs):
    before = graph(*outputs)
    after, _ = rewrite(before, padding.RULES)
    after = merge_common_subexpressions(after)
    assert_same(before, after)
    return after


def convolution(x, **attrs):
    attrs = {"padding": ((1, 1), (2, 0)), **attrs}
    return op.convolution(x, weights(3, 3, x.shape[3], 5), layout="channels_last", **attrs)


def max_window(x, **attrs):
    attrs = {"padding": ((0, 0), (1, 1), (2, 0), (0, 0)), **attrs}
    return op.reduce_window(x, kind="max", window=(1, 3, 3, 1), **attrs)


x = tensor(1, 6, 6, 4)


def test_convolution_reads_a_tensor_padded_with_zeros():
    g = padded(convolution(x))
    assert ops(g) == ["pad", "convolution"]
    (pad, conv) = [n for n in g.nodes if n.op in ("pad", "convolution")]
    assert (pad.attrs["low"], pad.attrs["high"]) == ((0, 1, 2, 0), (0, 1, 0, 0))
    assert conv.attrs["padding"] == ((0, 0), (0, 0))


def test_users_of_the_same_padded_tensor_share_it():
    assert count(padded(convolution(x), convolution(x)))["pad"] == 1


def test_max_window_pads_with_the_lowest_value():
    (pad,) = [n for n in padded(max_window(x)).nodes if n.op == "pad"]
    assert constant_of(pad.inputs[1]) == -np.inf


def test_max_window_over_non_negative_values_shares_zero_padding_with_convolutions():
    zero = make_constant(np.float32(0))
    y = op.concatenate(op.maximum(x, zero), op.logistic(x), axis=3)
    assert count(padded(max_window(y), convolution(y)))["pad"] == 1


def test_window_wholly_in_the_padding_keeps_the_neutral_element():
    wide = max_window(op.abs(x), padding=((0, 0), (3, 0), (0, 0), (0, 0)))
    (pad,) = [n for n in padded(wide).nodes if n.op == "pad"]
    assert constant_of(pad.inputs[1]) == -np.inf


@pytest.mark.parametrize("window", [(2, 2), (3, 1), (1, 4)])
def test_transposed_convolution_with_window_equal_to_stride_is_a_dense_layer(window):
    y = op.convolution(
        x,
        weights(*window, 4, 5),
        padding=tuple((n - 1, n - 1) for n in window),
        lhs_dilation=window,
        layout="channels_last",
    )
    before = graph(y)
    after, _ = rewrite(before, transposed_convolution.RULES)
    assert_same(before, after)
    assert ops(after) == ["reverse", "dot_general", "transpose", "reshape"]


def test_other_transposed_convolutions_get_interior_padding():
    y = convolution(x, lhs_dilation=(2, 3), padding=((1, 2), (0, 0)))
    before = graph(y)
    after, _ = rewrite(before, transposed_convolution.RULES)
    assert ops(after) == ["convolution"]
    (pad,) = [n for n in padded(y).nodes if n.op == "pad"]
    assert pad.attrs["interior"] == (0, 1, 2, 0)
