"""Channels-last layout: how few transposes are left, and where."""

import numpy as np
from graph_samples import assert_same, count, graph, ops, tensor, weights

from tilth.compiler.decompose import decompose
from tilth.compiler.fold import fold_constants
from tilth.compiler.layout import assign_layouts
from tilth.ir.graph import make_constant
from tilth.ir.ops.table import op


def channels_last(*outputs):
    before = graph(*outputs)
    after = fold_constants(assign_layouts(decompose(before, ())))
    assert_same(before, after)
    assert all(n.attrs["layout"] == "channels_last" for n in after.nodes if n.op == "convolution")
    return after


def convolution(x, channels=8, window=3, **attrs):
    w = weights(channels, x.shape[1] // attrs.get("groups", 1), window, window)
    pad = window // 2
    y = op.convolution(x, w, padding=((pad, pad), (pad, pad)), **attrs)
    return op.relu(op.add(y, weights(1, channels, 1, 1)))


x = tensor(2, 3, 8, 8)


def test_a_chain_of_convolutions_is_transposed_once_on_each_side():
    y = convolution(convolution(x))
    assert count(channels_last(op.add(y, convolution(y))))["transpose"] == 2


def test_pooling_to_vectors_needs_no_transpose_at_the_end():
    pooled = op.reduce(convolution(x), kind="sum", axes=(2, 3))
    assert count(channels_last(pooled))["transpose"] == 1


def test_windows_padding_and_concatenation_follow():
    y = convolution(x)
    window = {"window": (1, 1, 2, 2), "strides": (1, 1, 2, 2)}
    both = op.concatenate(
        op.reduce_window(y, kind="max", **window), op.average_pool(y, **window), axis=1
    )
    zero = make_constant(np.float32(0))
    padded = op.pad(both, zero, low=(0, 1, 2, 0), high=(0, 0, 0, 3))
    cut = op.slice(padded, start=(0, 2, 0, 0), limit=(2, 16, 5, 4))
    g = channels_last(op.reduce(convolution(cut), kind="max", axes=(2, 3)))
    assert count(g)["transpose"] == 1


def test_flatten_before_a_dense_layer_permutes_the_weights():
    flat = op.reshape(convolution(x), shape=(2, 512))
    dense = op.dot_general(flat, weights(10, 512), lhs_contract=(1,), rhs_contract=(1,))
    g = channels_last(op.add(dense, weights(10)))
    assert count(g)["transpose"] == 1 and count(g)["dot_general"] == 1


def test_channel_shuffle_stays_within_the_channels():
    y = op.reshape(convolution(x, groups=1), shape=(2, 2, 4, 8, 8))
    y = op.reshape(op.transpose(y, permutation=(0, 2, 1, 3, 4)), shape=(2, 8, 8, 8))
    g = channels_last(op.reduce(convolution(y), kind="sum", axes=(2, 3)))
    shuffle = [n.attrs["permutation"] for n in g.nodes if n.op == "transpose"]
    assert shuffle == [(0, 2, 3, 1), (0, 1, 2, 4, 3)]


def test_squeeze_and_excite_scales_channels_without_a_transpose():
    y = convolution(x)
    gate = op.logistic(op.reduce(y, kind="sum", axes=(2, 3)))
    scaled = op.multiply(y, op.reshape(gate, shape=(2, 8, 1, 1)))
    g = channels_last(op.reduce(scaled, kind="sum", axes=(2, 3)))
    assert count(g)["transpose"] == 1


def test_patches_to_tokens_need_no_transpose():
    y = op.convolution(x, weights(16, 3, 4, 4), strides=(4, 4))
    tokens = op.transpose(op.reshape(y, shape=(2, 16, 4)), permutation=(0, 2, 1))
    assert count(channels_last(op.add(tokens, weights(4, 16))))["transpose"] == 1


def test_attention_heads_keep_their_innermost_dimension():
    heads = op.transpose(tensor(2, 5, 4, 3), permutation=(0, 2, 1, 3))
    y = op.dot_general(
        heads, heads, lhs_batch=(0, 1), rhs_batch=(0, 1), lhs_contract=(2,), rhs_contract=(2,)
    )
    merged = op.reshape(op.transpose(y, permutation=(0, 2, 1, 3)), shape=(2, 3, 12))
    g = channels_last(op.tanh(merged))
    last = [n for n in g.nodes if n.op == "transpose"][-1]
    assert last.attrs["permutation"][-1] == 3


def test_graph_without_convolutions_keeps_its_order():
    g = graph(op.softmax(tensor(2, 3), axis=1))
    assert ops(assign_layouts(g)) == ["softmax"]


def test_one_and_three_dimensional_convolutions():
    for spatial in (1, 3):
        shape = (2, 3, *[5] * spatial)
        w = weights(4, 3, *[3] * spatial)
        y = op.tanh(op.convolution(tensor(*shape), w))
        assert count(channels_last(op.convolution(y, weights(2, 4, *[1] * spatial)))) == {
            "transpose": 2,
            "convolution": 2,
            "tanh": 1,
        }
